"""The Segment tab: click on an example or paint it, give images, correct what is found by clicks, accept it.

Lays out components and passes values on. Refuses to know the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
import numpy as np

from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.images.read import read_image
from incontext.images.resize import shrunk
from incontext.ui import hinting, results
from incontext.ui.editor import editor, editor_value, painted, ready
from incontext.ui.hint_panel import (
    ANSWERED,
    NOT_THIS,
    POINTING,
    Tools,
    image_address,
    prepared,
    said_of,
    shown_answer,
)
from incontext.ui.hinting import IMAGE, Said
from incontext.ui.jobs import download, job, refused
from incontext.ui.model import Model
from incontext.ui.page import (
    CARD_CLICKS,
    SET_OPACITY,
    SET_VIEW,
    Answers,
    example_cards,
    forget,
    legend,
    note,
    result_card,
    result_found,
)
from incontext.ui.paint import is_paintable
from incontext.ui.sessions import Session

if TYPE_CHECKING:
    from gradio.components.image_editor import EditorValue

OPEN_EXAMPLE: Final = "Add as example"
SAVE: Final = "Save the correction"
_CLICK: Final = "Click on what you mean; click again where the answer is wrong."


class SegmentTab:
    """The tab, built in the present Blocks. prompt_tensors, examples: what other tabs change as well."""

    def __init__(self, answers: Answers, model: Model) -> None:
        self._answers, self._model = answers, model
        gr.Markdown("### 1. Show one example")
        with gr.Row(equal_height=True):
            self.image = gr.File(label="An image", file_types=["image"], height=150, elem_id="image")
            self.mask = gr.File(label="Its mask, if you have one", file_types=["image"], height=150, elem_id="mask")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                self.tools = Tools()
                self.clicked = gr.HTML(note(_CLICK), js_on_load=POINTING, elem_id="clicked")
                with gr.Row():
                    off: dict[str, Any] = {"interactive": False}  # until there is an image
                    self.accept = gr.Button("Accept", variant="primary", elem_id="accept-image", scale=3, **off)
                    self.brush = gr.Button("Go on with a brush", elem_id="to-brush", scale=1, min_width=160, **off)
            with gr.Column(scale=1, min_width=300):
                self.editor = editor("editor")
                gr.HTML(legend())
                with gr.Row():
                    self.add = gr.Button(OPEN_EXAMPLE, variant="primary", elem_id="add", **off)
                    self.clear = gr.Button("Clear the paint", elem_id="clear-paint", min_width=120, **off)
                    self.save = gr.Button(SAVE, variant="primary", visible="hidden", elem_id="save-correction")
        self.examples = gr.HTML(note("No examples so far."), js_on_load=CARD_CLICKS, elem_id="examples")
        self.prompt_tensors = gr.CheckboxGroup(
            label="Prompt tensors to use as well", choices=[], visible=False, elem_id="prompt-tensors"
        )
        gr.Markdown("### 2. Give images, and segment them")
        with gr.Row(equal_height=False):
            self.images = gr.File(
                label="Images", file_count="multiple", file_types=["image"], height=140, elem_id="images", scale=2
            )
            folders = model.places.listed(Path.is_dir)
            self.folder = gr.Dropdown(
                label="or a folder", choices=folders, value=None, visible=bool(folders), elem_id="folder", scale=1
            )
        self.given = gr.HTML(note("No images so far."))
        with gr.Row():
            self.run = gr.Button("Segment", variant="primary", elem_id="segment", scale=4)
            self.stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80, **off)
        self.status = gr.HTML(note(""), elem_id="status")
        with gr.Row():
            self.opacity = gr.Slider(0, 100, 50, step=1, label="Opacity of the masks (%)", elem_id="opacity")
            self.view = gr.Radio(["Mask", "Confidence"], value="Mask", label="Show", elem_id="view")
        self.results = gr.HTML("", js_on_load=CARD_CLICKS + POINTING, elem_id="results")
        with gr.Row(equal_height=True):
            kinds = results.formats()
            self.kind = gr.Dropdown(kinds, value=kinds[0][1], label="Format", elem_id="kind", scale=2)
            self.apart = gr.Checkbox(False, label="Each connected region is an object", elem_id="apart")
            self.zip = gr.Button("Download the masks (ZIP)", elem_id="zip")
        self.file = gr.DownloadButton("masks.zip", visible="hidden", elem_id="zip-file")

    def connect(self) -> None:
        """Connect what happens on clicks."""
        once, event = self._answers.once, self._answers.event
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        opened = [self.editor, self.clicked, self.accept, self.brush, self.add, self.clear, self.save]
        open_editor: dict[str, Any] = {"fn": None, "js": ready("editor"), "queue": False}
        chosen = self.image.upload(once(self._choose), [self.image], opened, **quick)
        chosen.success(**open_editor)
        refused(chosen, self.image, quick)
        loaded = self.mask.upload(once(self._load_mask), [self.mask], [self.editor, self.examples], **quick)
        refused(loaded, self.mask, quick)
        self.clear.click(once(self._cleared), None, [self.editor], **quick)
        self.save.click(once(self._save), [self.editor], [self.results, self.status], **quick)
        self.add.click(once(self._add), [self.editor], [self.examples], **quick)
        self.examples.remove(event(self._remove), None, [self.examples], **quick)
        refused(self.images.change(once(self._take_files), [self.images], [self.given], **quick), self.images, quick)
        self.folder.input(once(self._take_folder), [self.folder], [self.given], **quick)
        buttons, shown = (self.run, self.stop), [self.results, self.status]
        job(self._answers, "segment", buttons, self._segment, [self.prompt_tensors], shown, self.status, quick)
        self.opacity.change(None, [self.opacity], None, js=SET_OPACITY, queue=False)
        self.view.change(None, [self.view], None, js=SET_VIEW, queue=False)
        self.results.accept(event(self._accept), None, [self.examples, self.status], **quick)
        edited = self.results.edit(event(self._edit), None, [*opened, self.status], **quick)
        edited.success(**open_editor)
        self._connect_hints(quick)
        download(self.zip, once(self._zip), [self.kind, self.apart], self.file, quick)

    def _connect_hints(self, quick: dict[str, Any]) -> None:
        """Connect clicks on the image and on results: they are answered one after the other; none is lost."""
        once, event, answer = self._answers.once, self._answers.event, self.tools.answer
        how: dict[str, Any] = {"concurrency_id": "hints", "concurrency_limit": 1, "trigger_mode": "multiple", **quick}
        self.tools.connect()
        for shown in (self.clicked, self.results):
            asked = shown.hint(event(self._hint, said_of), [self.tools.what, self.tools.id], [answer], **how)
            asked.success(None, [answer], None, js=ANSWERED, queue=False)
        changed = [answer, self.examples, self.status, self.results]
        for button, call in (
            (self.tools.undo, self._undo),
            (self.tools.redo, self._redo),
            (self.accept, self._accept_image),
        ):
            button.click(once(call), None, changed, **how).success(None, [answer], None, js=ANSWERED, queue=False)
        self.brush.click(once(self._to_brush), None, [self.editor, self.status], **quick)

    # ----------------------------------------------------------------------------------------- handlers

    def _choose(self, session: Session, path: str | None) -> tuple[Any, ...]:
        if path is None:
            raise ValueError("expected an image, got none; choose one")
        return editor_value(self._take(session, Path(path).name, read_image(path))), *self._opened(session)

    def _take(self, session: Session, name: str, image: Pixels) -> Pixels:
        """Prepare this image as an example from now on."""
        session.image, session.correcting = (name, image), None
        hinting.history_of(session).forget(lambda key: key == IMAGE)
        return image

    def _opened(self, session: Session) -> tuple[Any, ...]:
        """Show what can be done with the image in the editor."""
        usable = (gr.Button(interactive=True) for _ in range(4))
        return self._panel(session), *usable, gr.Button(visible=True if session.correcting else "hidden")

    def _cleared(self, session: Session) -> Any:
        """Take the paint away; the image stays."""
        return gr.skip() if session.image is None else editor_value(session.image[1])

    def _panel(self, session: Session) -> str:
        """Show the image to click on."""
        assert session.image is not None
        name, image = session.image
        return prepared(image_address(shrunk(image, hinting.SMALL, quick=True)), name) + note(_CLICK)

    def _hint(self, session: Session, done: tuple[Said, bool], what: str, i: int | None) -> dict[str, Any]:
        said, negative = done
        hinting.say(session, self._model.segmenter, said, 0 if negative or what == NOT_THIS else int(i or 1))
        return self._shown(session, said.key)

    def _shown(self, session: Session, key: str) -> dict[str, Any]:
        """Describe what the page shows of an image that was clicked on."""
        history = hinting.history_of(session)
        target, found = history.targets.get(key), ""
        answer = None if target is None else target.answer()
        if target is not None and answer is not None and key != IMAGE:
            whole, seen = target.image.shape[0] * target.image.shape[1], answer.mask.size
            counts = np.bincount(answer.mask.ravel(), minlength=256)
            areas = {i: round(int(counts[i]) * whole / seen) for i in answer.ids}
            found = result_found(int(key), areas, target.image.shape[:2], float(answer.confidence.mean()))
        session.answers += 1
        return shown_answer(key, target, found, session.answers)

    def _undo(self, session: Session) -> tuple[Any, ...]:
        key = hinting.undo(session)
        return self._changed(session, key, "Taken back.")

    def _redo(self, session: Session) -> tuple[Any, ...]:
        key = hinting.redo(session)
        return self._changed(session, key, "Done again.")

    def _changed(self, session: Session, key: str, sentence: str) -> tuple[Any, ...]:
        cards = gr.skip() if key == IMAGE or not session.replaced else self._cards(session)
        return self._shown(session, key), example_cards(session.examples), note(sentence), cards

    def _accept_image(self, session: Session) -> tuple[Any, ...]:
        example = hinting.accept(session, self._model.segmenter, IMAGE)
        sentence = f"{example.name} is an example now. Ctrl-Z takes it back."
        return self._shown(session, IMAGE), example_cards(session.examples), note(sentence), gr.skip()

    def _to_brush(self, session: Session) -> tuple[dict[str, Any], str]:
        target = hinting.target_of(session, self._model.segmenter, IMAGE)
        value = editor_value(target.image, target.whole(self._model.segmenter).mask)
        return value, note("What was found is in the editor; correct it there.")

    def _load_mask(self, session: Session, path: str | None) -> tuple[Any, str]:
        """Put a mask that brushes can go on with into the editor; add another as it is."""
        if path is None or session.image is None:
            raise ValueError("expected the image first and then its mask, got no image; choose one")
        name, image = session.image
        ids = read_mask(path).ids
        if ids.shape != image.shape[:2]:
            (height, width), (mask_height, mask_width) = image.shape[:2], ids.shape
            raise ValueError(
                f"{path}: expected a mask of the image's size, {width} x {height}, got {mask_width} x {mask_height}"
            )
        if is_paintable(ids):
            return editor_value(image, ids), example_cards(session.examples)
        results.add_example(session, name, image, ids)
        return gr.skip(), example_cards(session.examples)

    def _add(self, session: Session, value: EditorValue | None) -> str:
        if session.image is None:
            raise ValueError("expected an image to paint on, got none; choose one first")
        name, image = session.image
        results.add_example(session, name, image, painted(value, image.shape[:2]))
        return example_cards(session.examples)

    def _remove(self, session: Session, number: int) -> str:
        forget(session, number)
        return example_cards(session.examples)

    def _take_files(self, session: Session, paths: Sequence[str] | None) -> str:
        results.take_files(session, paths or [])
        return note(_count(len(session.images)))

    def _take_folder(self, session: Session, folder: str | None) -> str:
        if folder:
            results.take_folder(session, self._model.places, folder)
        return note(_count(len(session.images)))

    def _segment(self, session: Session, prompt_tensors: list[str]) -> Iterator[tuple[Any, str]]:
        if not session.images:
            raise ValueError("expected images to segment, got none; drop some, or choose a folder")
        context = self._model.prepared(session, prompt_tensors)
        hinting.history_of(session).forget(lambda key: key != IMAGE)
        total = len(session.images)
        for number, _ in enumerate(results.segment_images(session, self._model.segmenter, context), start=1):
            yield self._cards(session), note(f"{number} of {total} images")
        yield gr.skip(), note(summary(session, total))

    def _cards(self, session: Session) -> str:
        """Show all results as they are now; some may have been corrected while others are still to come."""
        cards = (result_card(number, each, self._answers.plain) for number, each in enumerate(session.results))
        return f'<div class="ic-grid">{"".join(cards)}</div>'

    def _accept(self, session: Session, number: int) -> tuple[str, str]:
        example = hinting.accept(session, self._model.segmenter, str(number))
        sentence = f"{example.name} is an example now. Press Segment again for the next round."
        return example_cards(session.examples), note(sentence)

    def _edit(self, session: Session, number: int) -> tuple[Any, ...]:
        hinting.settle(session, self._model.segmenter)
        result = results.result_of(session, number)
        if result.mask is None:
            raise ValueError(f"{result.image.name}: expected a result to correct, got an image without one")
        image, ids = read_image(result.image.path), read_mask(result.mask).ids
        value = editor_value(image, ids)  # first, as it refuses ids without a brush
        self._take(session, result.image.name, image)
        session.correcting = result
        sentence = f"{result.image.name} is in the editor above. Correct its mask and press '{SAVE}'."
        return value, *self._opened(session), note(sentence)

    def _save(self, session: Session, value: EditorValue | None) -> tuple[str, str]:
        if session.image is None:
            raise ValueError("expected a result that is being corrected, got none; press Correct on it")
        ids = painted(value, session.image[1].shape[:2], may_be_empty=True)
        made = hinting.correct(session, self._model.segmenter, ids)
        sentence = f"{made.image.name} is corrected by hand, here and in downloads. Ctrl-Z takes it back."
        return self._cards(session), note(sentence)

    def _zip(self, session: Session, kind: str, apart: bool) -> str:
        hinting.settle(session, self._model.segmenter)
        return str(results.zip_masks(session, str(kind), apart=apart, on_problem=self._answers.warn))


def summary(session: Session, total: int) -> str:
    """Say how a round ended."""
    done = session.results
    failed = sum(result.problem is not None for result in done)
    empty = sum(result.problem is None and not result.areas for result in done)
    parts = [f"{len(done) - failed} of {total} images segmented"]
    parts += [f"nothing found in {empty}"] if empty else []
    parts += [f"{failed} could not be read"] if failed else []
    parts += ["stopped"] if len(done) < total else []
    return ", ".join(parts) + "."


def _count(number: int) -> str:
    return "No images so far." if number == 0 else f"{number} image{'' if number == 1 else 's'} to segment."
