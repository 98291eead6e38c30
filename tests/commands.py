"""Running command lines in the process of the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from incontext import cli


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    status: int
    out: str
    err: str


def runner(capsys: pytest.CaptureFixture[str], *first: str) -> Callable[..., Done]:
    """A function that runs a command line, of which `first` is the beginning."""

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*first, *(str(each) for each in arguments)])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Done(stopped.value.code, captured.out, captured.err)

    return call
