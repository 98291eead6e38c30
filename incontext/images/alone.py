"""Files that one run has to itself, so that two runs do not write to one folder.

Refuses to know what is in them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_alone(path: Path, *, buffering: int = -1) -> BinaryIO:
    """Open a file to read and write, locked for this process as long as it is open where the system can do so.

    It is made where there is none, and not emptied.

    Raises:
        ValueError: Another run has it, or there is a link, a pipe or the like in its place.
        OSError: It cannot be opened.
    """
    if path.is_symlink():
        raise ValueError(f"{path}: expected a file, got a link; remove it, or choose another folder")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ValueError(f"{path}: expected a file, got a pipe or a device; remove it, or choose another folder")
    stream: BinaryIO = os.fdopen(number, "r+b", buffering=buffering)
    try:
        if lock(stream) is False or not _is_there(path, stream):
            raise ValueError(
                f"{path.parent}: another run is writing to this folder; wait until it ends, or choose another folder"
            )
    except BaseException:
        stream.close()
        raise
    return stream


def lock(stream: BinaryIO) -> bool | None:
    """Lock an open file for as long as it stays open.

    Whether it could be; None where the system or the disk knows no locks.
    """
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _is_there(path: Path, stream: BinaryIO) -> bool:
    """Tell whether the path still leads to the open file: another run may have ended, and removed it, meanwhile."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
