"""Tuning: a prompt tensor from labelled images, the network frozen.

The public names, nothing else. Not called "tune", so that the function of that name in `incontext` is never hidden.
"""

from incontext.tuning.group import TuningStep
from incontext.tuning.job import HELD_OUT, RATE, STEPS, tune

__all__ = ["HELD_OUT", "RATE", "STEPS", "TuningStep", "tune"]
