"""Folder jobs: every picture of some folders segmented by one context, masks and a report on disk.

The public names, nothing else: `gather` and `open_prompts` make a context of files, `plan` finds the pictures and
refuses what cannot end well, `segment_folder` runs it.
"""

from incontext.folder.pairs import PromptFiles, PromptWarning, gather, read_context, write_context
from incontext.folder.plan import FileReport, FolderJob, Query, plan
from incontext.folder.prompts import OpenedPrompts, open_prompts, read_empty
from incontext.folder.run import REPORT_NAME, FolderReport, segment_folder

__all__ = [
    "REPORT_NAME",
    "FileReport",
    "FolderJob",
    "FolderReport",
    "OpenedPrompts",
    "PromptFiles",
    "PromptWarning",
    "Query",
    "gather",
    "open_prompts",
    "plan",
    "read_context",
    "read_empty",
    "segment_folder",
    "write_context",
]
