"""Other models as prompters and namers: what they mark becomes examples for our own network.

The public names, nothing else. Importing this package imports none of their libraries.
"""

from incontext.prompters.load import load_prompter
from incontext.prompters.mask_tokens import MaskTokens
from incontext.prompters.namer import Namer, load_namer
from incontext.prompters.prompter import NothingFoundError, Prompter

__all__ = ["MaskTokens", "Namer", "NothingFoundError", "Prompter", "load_namer", "load_prompter"]
