"""Folder jobs: every picture of some folders segmented by one context, masks and a report on disk.

The public names, nothing else: `plan` finds the pictures and refuses what cannot end well, `segment_folder` runs it.
"""

from incontext.folder.plan import FileReport, FolderJob, Query, plan
from incontext.folder.run import REPORT_NAME, FolderReport, segment_folder

__all__ = ["REPORT_NAME", "FileReport", "FolderJob", "FolderReport", "Query", "plan", "segment_folder"]
