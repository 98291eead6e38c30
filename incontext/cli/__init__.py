"""The command line: thin commands over the Python API, progress on stderr, one sentence for whatever a user gets wrong.

Each command imports what it needs when it runs, so that help costs no import of torch. Exit status: 0 nothing of
what was given was left out, 1 something was, as stderr and the report say, 2 nothing was done, or not all, for a reason
that stderr names, 130 Ctrl-C.
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
    name,
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
from incontext.left_out import LeftOutWarning
from incontext.progress import printable


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (None: the process's arguments) and exit.

    Errors of the user and warnings become one sentence each; Python's own ``-X dev`` shows the traceback as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name must not be what stops a run
    left_out = False

    def tell(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        nonlocal left_out
        left_out |= issubclass(category, LeftOutWarning)
        print(f"Warning: {printable(str(message))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = tell
        try:
            app(arguments, prog_name="incontext")
        except SystemExit as ended:
            if left_out and not ended.code:
                sys.exit(1)
            raise
        except LeftOutWarning as error:
            print(f"Error: {printable(str(error))} (--strict)", file=sys.stderr)
            sys.exit(2)
        except (ValueError, OSError) as error:
            if sys.flags.dev_mode:
                raise
            print(f"Error: {printable(_sentence(error))}", file=sys.stderr)
            sys.exit(2)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
