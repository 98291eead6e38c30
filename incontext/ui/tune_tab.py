"""The Tune tab: labelled images in, a prompt tensor out; the curve and the images that judge are shown as it learns.

Lays out components and passes values on. Refuses to know how anything is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from incontext.evaluation.pages.charts import timeline
from incontext.images.ids import Pixels
from incontext.images.resize import resized_mask, shrunk
from incontext.images.write import write_image
from incontext.prompt_tensor import PromptTensor
from incontext.types import Segmentation
from incontext.ui import learn
from incontext.ui.model import Model
from incontext.ui.page import Answers, address, note, table
from incontext.ui.paint import palette_for
from incontext.ui.segment_tab import download, follow_again, job
from incontext.ui.sessions import Session

if TYPE_CHECKING:
    from incontext.tuning import TuningStep

_ACCEPTED, _UPLOADED, _FOLDER = "The examples of the Segment tab", "Files", "A folder"
_SHOWN = 4  # images that judge
_SIDE = 200  # pixels along the longer side of these
_TELL = 2  # steps


class TuneTab:
    """The tab, built in the present Blocks. groups: the groups of check boxes in other tabs, which show a new one."""

    def __init__(self, answers: Answers, model: Model) -> None:
        self._answers, self._model = answers, model
        gr.Markdown(
            "### Learn a prompt tensor from labelled images\n"
            "The network stays as it is; what is learned is a small file."
        )
        folders = model.places.listed(Path.is_dir)
        kinds = [_ACCEPTED, _UPLOADED, *([_FOLDER] if folders else [])]
        self.kind = gr.Radio(kinds, value=_ACCEPTED, label="Learn from", elem_id="tune-from")
        with gr.Row(equal_height=False):
            self.files = gr.File(
                label="Images and masks: NAME.jpg and NAME_mask.png",
                file_count="multiple",
                file_types=["image"],
                height=140,
                elem_id="labelled",
            )
            self.folder = gr.Dropdown(
                label="Folder with images/ and masks/", choices=folders, value=None, visible=bool(folders)
            )
        with gr.Row():
            self.steps = gr.Slider(10, 1000, 100, step=10, label="Steps at most", elem_id="steps")
            self.shots = gr.Slider(1, 4, 1, step=1, label="As many examples in one prompt tensor", elem_id="shots")
            self.name = gr.Textbox(
                "prompt tensor", label="Name of the prompt tensor", max_lines=1, elem_id="prompt-tensor-name"
            )
        with gr.Row():
            self.run = gr.Button("Tune", variant="primary", elem_id="tune", scale=4)
            self.stop = gr.Button("Stop", elem_id="stop-tune", scale=1, min_width=80)
        self.status = gr.HTML(note(""), elem_id="tune-status")
        self.curve = gr.HTML("", elem_id="curve")
        self.images = gr.HTML("", elem_id="judges")
        gr.Markdown("### Prompt tensors of this page")
        self.listed = gr.HTML(note("No prompt tensors so far."), elem_id="prompt-tensor-list")
        with gr.Row():
            self.load = gr.File(
                label="Load a prompt tensor", file_types=[".safetensors"], height=150, elem_id="load-prompt-tensor"
            )
            with gr.Column():
                self.chosen = gr.Dropdown(label="Prompt tensor", choices=[], elem_id="chosen-prompt-tensor")
                self.save = gr.Button("Save the prompt tensor", elem_id="save-prompt-tensor")
        self.file = gr.DownloadButton("prompt_tensor.safetensors", visible="hidden", elem_id="prompt-tensor-file")

    def connect(self, groups: Sequence[gr.CheckboxGroup]) -> None:
        """Connect what happens on clicks.

        Args:
            groups: Where other tabs choose among the prompt tensors.
        """
        once = self._answers.once
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        known = [self.listed, self.chosen, *groups]
        given = [self.kind, self.files, self.folder, self.steps, self.shots, self.name]
        buttons, shown = (self.run, self.stop), [self.status, self.curve, self.images]
        tuned = job(self._answers, "tune", buttons, self._tune, given, shown, self.status, quick)
        tuned.success(once(self._known), None, known, **quick)
        self.load.upload(once(self._load), [self.load], [self.status], **quick).success(
            once(self._known), None, known, **quick
        )
        download(self.save, once(self._save), [self.chosen], self.file, quick)

    # ----------------------------------------------------------------------------------------- handlers

    def connect_again(self, blocks: gr.Blocks, groups: Sequence[gr.CheckboxGroup]) -> None:
        """Connect what happens when a page is opened: what the session has is shown, and what runs goes on."""
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        places = [self.listed, self.chosen, *groups]
        blocks.load(self._answers.again(self._known, len(places)), None, places, **quick)
        follow_again(
            self._answers, "tune", blocks, [self.status, self.curve, self.images], lambda _: (gr.skip(),) * 3, quick
        )

    def _tune(
        self,
        session: Session,
        kind: str,
        files: list[str] | None,
        folder: str | None,
        steps: float,
        shots: float,
        name: str,
    ) -> Iterator[tuple[Any, ...]]:
        labelled = self._labelled(session, kind, files or [], folder)
        told: list[TuningStep] = []
        yield note("Choosing where to start ..."), "", ""
        task = self._model.options.task
        for came in learn.tuning(
            session, self._model.segmenter, labelled, steps=int(steps), shots=int(shots), task=task
        ):
            if isinstance(came, PromptTensor):
                called = _free_name(session, name)
                session.prompt_tensors[called] = came
                made = came.origin
                told_of = f"{len(told)} steps. Mean IoU {made.before:.3f} before, {made.after:.3f} after: {called}"
                yield note(f"{told_of} is ready, in the other tabs, too."), gr.skip(), gr.skip()
                return
            if isinstance(came, learn.Tried):
                where = f"example {came.done} of {came.total}"
                yield note(f"Choosing where to start: {where}"), gr.skip(), gr.skip()
                continue
            told.append(came)
            if came.found is not None:
                yield _status(came), _curves(told), _judged(session, labelled, came.found)
            elif len(told) % _TELL == 1:
                yield _status(came), gr.skip(), gr.skip()
        yield note(f"Stopped after {len(told)} steps; there is no prompt tensor."), gr.skip(), gr.skip()

    def _labelled(self, session: Session, kind: str, files: list[str], folder: str | None) -> learn.LabelledSet:
        if kind == _ACCEPTED:
            return learn.accepted(session)
        if kind == _UPLOADED:
            return learn.uploaded(session, files)
        if not folder:
            raise ValueError("expected a folder with labelled images, got none; choose one")
        return learn.in_folder(self._model.places, folder)

    def _load(self, session: Session, path: str | None) -> str:
        if path is None:
            raise ValueError("expected a prompt tensor, got none; choose a file")
        name = _free_name(session, Path(path).stem)
        session.prompt_tensors[name] = PromptTensor.load(path)
        return note(f"{name} is loaded.")

    def _known(self, session: Session) -> tuple[Any, ...]:
        """Show the session's prompt tensors wherever they can be chosen: in the Segment and the Track tab."""
        names = list(session.prompt_tensors)
        rows = "".join(
            f"<h4>{escape(name)}</h4>{table(each.describe())}" for name, each in session.prompt_tensors.items()
        )
        groups = [gr.CheckboxGroup(choices=names, visible=bool(names)) for _ in range(2)]
        return (
            rows or note("No prompt tensors so far."),
            gr.Dropdown(choices=names, value=names[-1] if names else None),
            *groups,
        )

    def _save(self, session: Session, name: str | None) -> str:
        if name not in session.prompt_tensors or name is None:
            raise ValueError("expected a prompt tensor to save, got none; tune or load one first")
        path = session.new_folder() / f"{name}.safetensors"
        session.prompt_tensors[name].save(path)
        return str(path)


def _free_name(session: Session, wanted: str) -> str:
    """Choose a name for a prompt tensor that is also a file's, and not taken."""
    plain = "".join(c if c.isalnum() or c in "-_ " else "_" for c in wanted).strip()[:60] or "prompt tensor"
    number, name = 2, plain
    while name in session.prompt_tensors:
        number, name = number + 1, f"{plain}_{number}"
    return name


def _status(step: TuningStep) -> str:
    return note(
        f"Step {step.step} of {step.steps}, loss {step.loss:.3f}, best mean IoU {step.best:.3f}, "
        f"{step.seconds:.2f} s a step"
    )


def _curves(told: Sequence[TuningStep]) -> str:
    """Draw mean IoU where it was measured, and the loss as a share of its largest value."""
    most = max(step.loss for step in told) or 1.0
    scores = [(step.step, step.score) for step in told if step.score is not None]
    losses = [(step.step, step.loss / most) for step in told]
    drawn = timeline([("mean IoU", "a", scores), ("loss", "b", losses)], "Mean IoU and loss over the steps")
    words = f"Blue: mean IoU on the images that judge. Orange: loss, 1 is {most:.3g}."
    return f'<div class="ic-chart">{drawn}</div><p class="ic-note">{words}</p>'


def _judged(session: Session, labelled: learn.LabelledSet, found: Mapping[int, Pixels]) -> str:
    """Show each image that judges: with its own mask, and with what is found in it now."""
    figures = []
    for number, ids in islice(found.items(), _SHOWN):
        prompt, name = labelled.prompts[number], escape(labelled.names[number])
        image = shrunk(prompt.image, _SIDE, quick=True)
        shown = []
        for mask in (prompt.mask, ids):
            path = session.new_file(".jpg")
            write_image(path, _overlaid(image, mask))
            shown.append(address(path))
        figures.append(
            f'<figure><img src="{shown[0]}" alt="{name} with its own mask">'
            f'<img src="{shown[1]}" alt="{name} with what is found now"><figcaption>{name}: its mask, and what is '
            "found now</figcaption></figure>"
        )
    return f'<div class="ic-row">{"".join(figures)}</div>'


def _overlaid(image: Pixels, mask: Pixels) -> Pixels:
    ids = resized_mask(mask, image.shape[:2])
    return Segmentation(ids, np.ones(ids.shape, np.float32), palette_for(np.unique(ids).tolist())).overlay(image)
