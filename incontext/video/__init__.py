"""Video: objects followed from frame to frame.

The public names, nothing else: `track` for a sequence of frames, `Tracker` for one frame at a time, `MemoryBank` for
what they remember.
"""

from incontext.video.bank import MemoryBank
from incontext.video.tracker import Tracker, track

__all__ = ["MemoryBank", "Tracker", "track"]
