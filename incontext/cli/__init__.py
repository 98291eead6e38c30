"""The command line: thin commands over the Python API, progress on stderr, one sentence for whatever a user gets wrong.

Each command imports what it needs when it runs, so that help costs no import of torch. Exit status: 0 all is well,
1 some images failed (the report says which), 2 nothing was done, or not all, for a reason that stderr names, 130
Ctrl-C.
"""

import io
import sys
import warnings
from collections.abc import Sequence

from incontext.cli import (  # noqa: F401  each adds its commands
    backbone,
    bench,
    convert,
    demo,
    evaluate,
    evaluate_clicks,
    evaluate_protocol,
    evaluate_video,
    mark,
    prompters,
    propose,
    rank,
    segment,
    track,
    train,
    tune,
    ui,
    weights,
)
from incontext.cli.options import app
from incontext.progress import printable


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (None: the process's arguments) and exit.

    Errors of the user and warnings become one sentence each; Python's own ``-X dev`` shows the traceback as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name must not be what stops a run
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"Warning: {printable(str(message))}", file=sys.stderr)
        try:
            app(arguments, prog_name="incontext")
        except (ValueError, OSError) as error:
            if sys.flags.dev_mode:
                raise
            print(f"Error: {printable(_sentence(error))}", file=sys.stderr)
            sys.exit(2)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
