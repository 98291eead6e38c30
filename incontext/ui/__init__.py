"""The browser app: all jobs on one local page, for people who would rather look than type.

Calls the engine, the trackers, tuning and folders through their public functions; nothing else knows it. The public
names, nothing else.
"""

from incontext.ui.serve import PageOptions, serve

__all__ = ["PageOptions", "serve"]
