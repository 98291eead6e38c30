"""Folder jobs: every image of some folders segmented by one context, masks and a report on disk.

The public names, nothing else: `plan` finds the images and refuses what cannot end well, `segment_folder` runs it.
"""

from incontext.folder.hinted import with_hints
from incontext.folder.job import run_job, segment_by_prompter, segment_folder
from incontext.folder.journal import JOURNAL_NAME
from incontext.folder.outputs import Outputs
from incontext.folder.plan import STDIN, FolderJob, Query, plan
from incontext.folder.prompted import EXAMPLES, MarkedExamples, mark_examples
from incontext.folder.rehearsal import Rehearsal, rehearse, rehearse_by_prompter
from incontext.folder.report import REPORT_NAME, FileReport, FolderReport, open_report
from incontext.folder.watch import arrivals
from incontext.folder.work import UnwritableError

__all__ = [
    "EXAMPLES",
    "JOURNAL_NAME",
    "REPORT_NAME",
    "STDIN",
    "FileReport",
    "FolderJob",
    "FolderReport",
    "MarkedExamples",
    "Outputs",
    "Query",
    "Rehearsal",
    "UnwritableError",
    "arrivals",
    "mark_examples",
    "open_report",
    "plan",
    "rehearse",
    "rehearse_by_prompter",
    "run_job",
    "segment_by_prompter",
    "segment_folder",
    "with_hints",
]
