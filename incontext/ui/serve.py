"""The server of the page: an address of this machine, a folder for uploads that goes when it ends, a guard before it.

Refuses to know what is on the page.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from incontext.images.alone import lock, open_alone
from incontext.images.opening import promised_formats_only
from incontext.options import DEFAULTS, LOADING, LoadOptions, SegmentOptions
from incontext.prompting import open_prompter
from incontext.ui.guard import LOOPBACK, Guard
from incontext.ui.model import Model
from incontext.ui.places import Places
from incontext.ui.sessions import GRACE, Sessions

PORT: Final = 7860
_TRIED: Final = 20  # ports, where none was asked for
_WAITING: Final = 64  # jobs in the queue at most
_UPLOAD: Final = "2gb"  # one file at most
_PREFIX: Final = "incontext-ui-"  # of folders of uploads
_IN_USE: Final = ".in-use"  # a file in them that their process keeps locked
_NEW_SECONDS: Final = 60.0  # that a process has to lock it


@dataclass(frozen=True)
class PageOptions:
    """What the page is made of.

    Attributes:
        host: The address to listen on.
        port: None takes the first free one from 7860 on, 0 any.
        folders: What the page may read from disk.
        loading: The network.
        options: How visitors' images are segmented.
        prompter: Another model that marks examples by text and clicks, as `load_prompter` takes it; nothing is fetched.
        grace: See `Sessions`.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    folders: Sequence[str | os.PathLike[str]] = ()
    loading: LoadOptions = LOADING
    options: SegmentOptions = DEFAULTS
    prompter: str | None = None
    grace: float = GRACE


def serve(asked: PageOptions, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Show the page until Ctrl-C.

    Nothing is asked of other machines: no fonts, no scripts, no telemetry. Who asks from another machine needs the
    token; names of this machine that lead here from elsewhere are refused.

    Args:
        on_ready: Told the address, with its token where there is one.

    Raises:
        ValueError, FileNotFoundError: an option cannot be used, or Gradio is not installed.
    """
    places = Places.open(asked.folders)
    token = None if asked.host in LOOPBACK else secrets.token_urlsafe(24)
    with (
        _ended_by_signals(),
        promised_formats_only(),
        _listening(asked.host, asked.port) as listening,
        _uploads() as root,
    ):
        _require_gradio()
        from incontext.engine import load_with

        prompter = None if asked.prompter is None else open_prompter(asked.prompter, asked.loading)
        model = Model(load_with(asked.loading), places, asked.loading, asked.options, prompter)
        sessions = Sessions(root / "sessions", grace=asked.grace)
        port = listening.getsockname()[1]
        host = f"[{asked.host}]" if ":" in asked.host else asked.host
        address = f"http://{host}:{port}/" + (f"?token={token}" if token else "")
        try:
            _run(model, sessions, root, listening, token, lambda: on_ready(address) if on_ready else None)
        finally:
            sessions.close()


def _run(
    model: Model,
    sessions: Sessions,
    root: Path,
    listening: socket.socket,
    token: str | None,
    on_ready: Callable[[], None],
) -> None:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    from incontext.ui import hint_panel
    from incontext.ui import page as look
    from incontext.ui.app import page, theme
    from incontext.ui.connections import Connection

    blocks = page(model, sessions, root).queue(max_size=_WAITING, default_concurrency_limit=4, api_open=False)
    with _without_warnings():
        app = gr.mount_gradio_app(
            FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
            blocks,
            path="/",
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            pwa=False,
            show_error=False,
            max_file_size=_UPLOAD,
            theme=theme(),
            css=look.CSS + hint_panel.CSS,
        )
    guarded = Guard(app, token=token, uploads=root, on_heartbeat=sessions.hear)
    config = uvicorn.Config(
        guarded,
        http=Connection,
        ws="none",
        log_level="warning",
        timeout_graceful_shutdown=1,  # a page keeps a connection open; ending waits for none of them
        server_header=False,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready()

    Server(config).run(sockets=[listening])


@contextmanager
def _listening(host: str, port: int | None) -> Iterator[socket.socket]:
    """Open a socket that listens.

    Raises:
        ValueError: The host or the port is not to be had.
    """
    tried = [port] if port is not None else [*range(PORT, PORT + _TRIED), 0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in tried:
        listening = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
        except (OSError, OverflowError) as error:
            listening.close()
            if number != tried[-1] and getattr(error, "errno", None) is not None and _is_taken(error):
                continue
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"expected a host and a port of this machine, got {host} and {number} ({reason}); give others with "
                "--host and --port"
            ) from None
        with listening:
            yield listening
        return


def _is_taken(error: BaseException) -> bool:
    import errno

    return getattr(error, "errno", None) == errno.EADDRINUSE


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, a terminal that was closed, end the block like Ctrl-C.

    So what was uploaded is removed; else they would end the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        del frame
        sys.exit(128 + number)

    kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {kind: signal.signal(kind, end) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def _uploads() -> Iterator[Path]:
    """Make the folder of everything that is uploaded and made, which Gradio reads from the environment."""
    settings = ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE", "GRADIO_ANALYTICS_ENABLED")
    before = {name: os.environ.get(name) for name in settings}
    remove_abandoned(Path(tempfile.gettempdir()))
    root = Path(os.path.realpath(tempfile.mkdtemp(prefix=_PREFIX)))
    os.environ.update({name: str(root) for name in settings[:2]}, GRADIO_ANALYTICS_ENABLED="False")
    try:
        with open_alone(root / _IN_USE):
            yield root
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(root, ignore_errors=True)


def remove_abandoned(temporary: Path) -> None:
    """Remove the folders of uploads of this user whose process is dead: it was killed before it could do so itself."""
    for folder in temporary.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another one is at it, or it is in use
            about = folder.lstat()
            mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
            if not stat.S_ISDIR(about.st_mode) or not mine or time.time() - about.st_mtime < _NEW_SECONDS:
                continue
            with (folder / _IN_USE).open("ab") as stream:
                if lock(stream):
                    shutil.rmtree(folder, ignore_errors=True)


def _require_gradio() -> None:
    try:
        with _without_warnings():
            import gradio  # noqa: F401
    except ImportError:
        raise ValueError("expected gradio to be installed for the page; run: pip install 'incontext[ui]'") from None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave Gradio's own warnings out, which are about its own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
