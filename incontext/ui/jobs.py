"""Buttons that ask for jobs and end them, and those that make a file and save it: the same in all tabs.

Refuses to know what the jobs do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import gradio as gr

from incontext.ui.page import QUEUE, Answers, note
from incontext.ui.sessions import Job, Session

# At once, on the page: an answer of the server might come after the job's last word, and stay.
_STOPPING: Final = f"() => {note('Stopping ...')!r}"


def job(
    answers: Answers,
    kind: Job,
    buttons: tuple[gr.Button, gr.Button],
    call: Callable[..., Iterator[Any]],
    inputs: list[Any],
    outputs: list[Any],
    status: gr.HTML,
    how: dict[str, Any],
) -> Any:
    """Connect a button that asks for a job, which waits until the network is free, and one that ends it.

    While a job waits or runs only the second can be pressed, and else only the first.
    """

    def ask(session: Session) -> tuple[gr.Button, gr.Button]:
        session.begin(kind)
        return gr.Button(interactive=False), gr.Button(interactive=True)

    def run(session: Session, *values: Any) -> Iterator[Any]:
        if session.stops[kind].is_set():
            yield {status: note("Stopped before it began.")}
        else:
            yield from call(session, *values)

    def stop(session: Session) -> None:
        session.stops[kind].set()

    def ended() -> tuple[gr.Button, gr.Button]:
        return gr.Button(interactive=True), gr.Button(interactive=False)

    buttons[1].click(None, None, [status], js=_STOPPING, queue=False)
    buttons[1].click(answers.once(stop), None, None, **how)
    slow: dict[str, Any] = {"concurrency_id": QUEUE, "concurrency_limit": 1, **how}
    asked = buttons[0].click(answers.once(ask), None, list(buttons), **how)
    running = asked.success(answers.stream(run), inputs, outputs, trigger_mode="once", **slow)
    running.failure(lambda: note(""), None, [status], **how)
    running.then(ended, None, list(buttons), **how)
    return running


def refused(asked: Any, file: gr.File, how: dict[str, Any]) -> None:
    """Do not show a file as taken that was refused."""
    asked.failure(lambda: None, None, [file], **how)


def download(
    button: gr.Button, make: Callable[..., Any], inputs: list[Any], file: gr.DownloadButton, how: dict[str, Any]
) -> None:
    """Let one click make a file and save it: `file` is a hidden link to it that is followed once it is there."""
    follow = f"() => {{ setTimeout(() => document.querySelector('#{file.elem_id}')?.click(), 100); }}"
    button.click(make, inputs, [file], **how).success(None, None, None, js=follow, queue=False)
