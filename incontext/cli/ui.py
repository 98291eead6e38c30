"""`incontext ui`."""

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from incontext.cli.options import PrompterName, app, with_options
from incontext.options import DEFAULTS, LOADING, LoadOptions, SegmentOptions


@app.command()
@with_options()
def ui(
    folder: Annotated[
        list[Path] | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            help="A folder that the page may read: images, videos, labelled sets, weights. May be given several "
            "times. Without one it sees what is uploaded and no more.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", help="The address to listen on. Beside 127.0.0.1, who asks needs a token."),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Default: the first free one from 7860 on. 0: any."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    prompter: PrompterName = None,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
) -> None:
    """Open a local page in the browser: paint one example, see all your images segmented.

    Track videos and tune prompt tensors there, too. Nothing leaves this machine. Ctrl-C ends it and removes what was
    uploaded.
    """
    from incontext.ui import PageOptions, serve

    def ready(address: str) -> None:
        print(f"The page is at {address} (Ctrl-C ends it)", flush=True)
        if open_browser:
            webbrowser.open(address)

    print("Starting the page; this takes some seconds.", file=sys.stderr, flush=True)
    try:
        serve(PageOptions(host, port, folder or (), loading, options, prompter), on_ready=ready)
    except KeyboardInterrupt:
        print("Ended.", file=sys.stderr)
        raise typer.Exit(130) from None
