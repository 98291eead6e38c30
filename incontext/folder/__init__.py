"""Folder jobs: every picture of some folders segmented by one context, masks and a report on disk.

The public names, nothing else: `gather` and `open_prompts` make a context of files, `plan` finds the pictures and
refuses what cannot end well, `segment_folder` runs it.
"""

from incontext.examples.pairs import PromptFiles, PromptWarning, gather, read_context, write_context
from incontext.examples.prompts import OpenedPrompts, open_prompts, read_empty
from incontext.folder.job import run_job, segment_folder
from incontext.folder.journal import JOURNAL_NAME
from incontext.folder.outputs import Outputs
from incontext.folder.plan import STDIN, FolderJob, Query, plan
from incontext.folder.rehearsal import Rehearsal, rehearse
from incontext.folder.report import REPORT_NAME, FileReport, FolderReport, open_report
from incontext.folder.watch import arrivals
from incontext.folder.work import UnwritableError
from incontext.sources.find import read_list

__all__ = [
    "JOURNAL_NAME",
    "REPORT_NAME",
    "STDIN",
    "FileReport",
    "FolderJob",
    "FolderReport",
    "OpenedPrompts",
    "Outputs",
    "PromptFiles",
    "PromptWarning",
    "Query",
    "Rehearsal",
    "UnwritableError",
    "arrivals",
    "gather",
    "open_prompts",
    "open_report",
    "plan",
    "read_context",
    "read_empty",
    "read_list",
    "rehearse",
    "run_job",
    "segment_folder",
    "write_context",
]
