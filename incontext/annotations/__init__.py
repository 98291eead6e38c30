"""Labelled images as other tools write and read them: COCO, YOLO, LabelMe and more, in and out.

The public names, nothing else: `open_labels` reads what lies at a path, whatever it is; `FORMATS` are the formats.
"""

from incontext.annotations.core import Categories, Labelled, Labels, Result, Thing
from incontext.annotations.known import FORMATS, open_labels

__all__ = ["FORMATS", "Categories", "Labelled", "Labels", "Result", "Thing", "open_labels"]
