"""Files of JSON lines after a kill, a full disk, and another run."""

import errno
import io
from pathlib import Path
from typing import Any

import pytest

from incontext.jsonlines import JsonLines, begin, head_of, whole_lines


def test_lines_are_added_found_again_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    begin(path, {"format": 1}, [b'{"a": 0}'])
    with JsonLines(path) as lines:
        place = lines.add(b'{"a": 1}')
        assert lines.at(place) == b'{"a": 1}'
        assert [*lines] == [b'{"format": 1}', b'{"a": 0}', b'{"a": 1}']
        assert lines.size == path.stat().st_size
    assert head_of(path) == {"format": 1}


def test_what_a_killed_run_wrote_half_goes(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"format": 1}\n{"a": 0}\n{"a":')
    assert [line for _, line in whole_lines(path)] == [b'{"format": 1}', b'{"a": 0}']
    with JsonLines(path) as lines:
        lines.add(b'{"a": 2}')
    assert path.read_bytes() == b'{"format": 1}\n{"a": 0}\n{"a": 2}\n'
    with JsonLines(path, keep=len(b'{"format": 1}\n')):
        pass
    assert path.read_bytes() == b'{"format": 1}\n'


def test_a_head_that_is_missing_or_none(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert head_of(path) is None
    path.write_bytes(b'{"format"')
    assert head_of(path) is None
    path.write_bytes(b"[1]\n")
    with pytest.raises(ValueError, match="expected a JSON object as the first line"):
        head_of(path)


class FullDisk(io.FileIO):
    """Takes three bytes of each line, then nothing more."""

    full = False

    def write(self, content: Any) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.full = True
        return super().write(content[:3])


def test_a_line_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    begin(path, {"format": 1})
    before = path.read_bytes()
    stream = FullDisk(path, "r+b")
    with JsonLines(path, stream=stream) as lines:  # type: ignore[arg-type]
        with pytest.raises(OSError, match="No space left"):
            lines.add(b'{"a": 1}')
        assert path.read_bytes() == before
        assert lines.size == len(before)
