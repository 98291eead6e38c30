"""The Segment tab: click on an example or paint it, give images, correct what is found by clicks, accept it.

Lays out components and passes values on. Refuses to know the network.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
import numpy as np

from incontext.demo import JOBS, write_files
from incontext.images.ids import MOST_IDS, Pixels
from incontext.images.masks import read_mask
from incontext.images.read import read_image
from incontext.images.resize import shrunk
from incontext.prompters.phrases import phrases_of
from incontext.ui import hinting, results
from incontext.ui.hint_panel import (
    ANSWERED,
    NOT_THIS,
    POINTING,
    Tools,
    image_address,
    prepared,
    said_of,
    shown_answer,
    shown_result,
)
from incontext.ui.hinting import IMAGE, Said
from incontext.ui.model import Model
from incontext.ui.page import (
    CARD_CLICKS,
    SET_OPACITY,
    SET_VIEW,
    Answers,
    example_cards,
    file_address,
    forget,
    found_in,
    legend,
    note,
    result_card,
    result_cards,
    result_found,
)
from incontext.ui.paint import (
    CANVAS,
    brush_names,
    ids_from_canvas,
    ids_of_strokes,
    ids_on_canvas,
    image_on_canvas,
    is_paintable,
    strokes_of_ids,
)
from incontext.ui.sessions import Job, Session
from incontext.ui.work import Work

if TYPE_CHECKING:
    from gradio.components.image_editor import EditorValue

OPEN_EXAMPLE: Final = "Add as example"
SAVE: Final = "Save the correction"
_FOUND: Final = "Found. Click where it is wrong, then press Accept."
_CLICK: Final = "Click on what you mean; click again where the answer is wrong."
_BRUSH = 20  # pixels of the canvas: the radius to begin with


def editor(name: str) -> gr.ImageEditor:
    """Make an editor: brushes for seven ids, eraser, undo, zoom. Images come from the server alone."""
    return gr.ImageEditor(
        label="Paint",
        elem_id=name,
        type="numpy",
        image_mode="RGBA",
        format="png",  # layers must come back as they went
        sources=(),
        transforms=(),
        buttons=[],
        brush=gr.Brush(
            default_size=_BRUSH, colors=list(brush_names()), default_color=brush_names()[0], color_mode="fixed"
        ),
        layers=gr.LayerOptions(allow_additional_layers=False),
        height=480,
        canvas_size=(CANVAS[1], CANVAS[0]),
    )


def editor_value(image: Pixels, ids: Pixels | None = None) -> dict[str, Any]:
    """Describe what an editor shows: an image (H, W, 3), and ids (H, W) over it.

    Raises:
        ValueError: An id has no brush.
    """
    layers = [strokes_of_ids(ids_on_canvas(ids))] if ids is not None and ids.any() else []
    return {"background": image_on_canvas(image), "layers": layers, "composite": None}


def painted(value: EditorValue | None, shape: tuple[int, int], *, needed: bool = True) -> Pixels:
    """Read the ids (H, W) that were painted on an image of this shape.

    Raises:
        ValueError: There are none, and some are needed.
    """
    layers = [np.asarray(layer) for layer in value["layers"]] if value is not None else []
    ids = ids_from_canvas(ids_of_strokes(layers, CANVAS), shape)
    if needed and not ids.any():
        raise ValueError("expected something painted on the image, got nothing; paint what you mean with a brush")
    return ids


class SegmentTab:
    """The tab, built in the present Blocks. prompt_tensors, examples: what other tabs change as well."""

    def __init__(self, answers: Answers, model: Model) -> None:
        self._answers, self._model = answers, model
        with gr.Row(equal_height=True):
            gr.Markdown("### 1. Show one example")
            self.samples = gr.Button("Try it with sample images", elem_id="samples", size="sm", min_width=200)
        with gr.Row(equal_height=True):
            self.image = gr.File(label="An image", file_types=["image"], height=150, elem_id="image")
            self.mask = gr.File(label="Its mask, if you have one", file_types=["image"], height=150, elem_id="mask")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                with gr.Row(visible=model.prompter is not None and model.prompter.takes_text, equal_height=True):
                    self.text = gr.Textbox(
                        label="Or say what you mean; several things with commas", max_lines=1, elem_id="text", scale=3
                    )
                    self.find = gr.Button("Find it", elem_id="find", scale=1, min_width=100)
                self.tools = Tools()
                self.clicked = gr.HTML(note(_CLICK), js_on_load=POINTING, elem_id="clicked")
                with gr.Row():
                    self.accept = gr.Button("Accept", variant="primary", elem_id="accept-image", scale=3)
                    self.brush = gr.Button("Go on with a brush", elem_id="to-brush", scale=1, min_width=160)
            with gr.Column(scale=1, min_width=300):
                self.editor = editor("editor")
                gr.HTML(legend())
                self.add = gr.Button(OPEN_EXAMPLE, variant="primary", elem_id="add")
        self.names = gr.Textbox(
            label="What ids 1, 2, ... mean, with commas between; exports carry these names",
            placeholder="nucleus, cell",
            max_lines=1,
            elem_id="id-names",
        )
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
            self.stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
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
        self.image.upload(once(self._choose), [self.image], [self.editor, self.clicked, self.add], **quick)
        taken = self.mask.upload(once(self._load_mask), [self.mask], [self.editor, self.examples], **quick)
        taken.failure(lambda: None, None, [self.mask], **quick)  # what was refused is not shown as taken
        saved = [self.add, self.examples, self.tools.answer, self.status]
        added = self.add.click(once(self._add), [self.editor], saved, **quick)
        added.success(None, [self.tools.answer], None, js=ANSWERED, queue=False)
        self.editor.clear(once(self._clear), None, [self.editor], **quick)
        for told in (self.names.blur, self.names.submit):
            told(once(self._name), [self.names], [self.examples, self.results], **quick)
        tried = [self.editor, self.clicked, self.add, self.examples, self.given, self.status]
        self.samples.click(once(self._sample), None, tried, **quick)
        self.examples.remove(event(self._remove), None, [self.examples], **quick)
        self.images.change(once(self._take_files), [self.images], [self.given], **quick)
        self.folder.input(once(self._take_folder), [self.folder], [self.given], **quick)
        buttons, shown = (self.run, self.stop), [self.results, self.status]
        job(self._answers, "segment", buttons, self._segment, [self.prompt_tensors], shown, self.status, quick)
        self.opacity.change(None, [self.opacity], None, js=SET_OPACITY, queue=False)
        self.view.change(None, [self.view], None, js=SET_VIEW, queue=False)
        self.results.accept(event(self._accept), None, [self.examples, self.status], **quick)
        self.results.edit(event(self._edit), None, [self.editor, self.clicked, self.add, self.status], **quick)
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
        changed = [answer, self.examples, self.status]
        for asked in (self.find.click, self.text.submit):
            found = asked(once(self._find), [self.text], [answer, self.status], **how)
            found.success(None, [answer], None, js=ANSWERED, queue=False)
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
        image = self._take(session, Path(path).name, read_image(path))
        return editor_value(image), self._panel(session), gr.Button(OPEN_EXAMPLE)

    def _take(self, session: Session, name: str, image: Pixels) -> Pixels:
        """Prepare this image as an example from now on."""
        session.image, session.correcting = (name, image), None
        history = hinting.history_of(session)
        history.forget(keep=[key for key in history.targets if key != IMAGE])
        return image

    def _panel(self, session: Session) -> str:
        """Show the image to click on."""
        assert session.image is not None
        name, image = session.image
        return prepared(image_address(shrunk(image, hinting.SMALL, quick=True)), name) + note(_CLICK)

    def _hint(self, session: Session, done: tuple[Said, bool], what: str, i: int | None) -> dict[str, Any]:
        said, negative = done
        prompter = self._model.prompter
        if prompter is not None and prompter.takes_hints and said.key == IMAGE:
            hinting.answered_by(session, self._model.segmenter, prompter)
        hinting.say(session, self._model.segmenter, said, 0 if negative or what == NOT_THIS else int(i or 1))
        return self._shown(session, said.key)

    def _find(self, session: Session, text: str | None) -> tuple[dict[str, Any], str]:
        """Have the prompter look for a text in the image that is being prepared."""
        prompter = self._model.prompter
        phrases = [part.strip() for part in (text or "").split(",") if part.strip()]
        if prompter is None or not phrases:
            raise ValueError('expected a text to look for, such as "a red car", got none')
        answer = hinting.begin_by(session, self._model.segmenter, prompter, phrases_of(phrases)).answer()
        lost = [phrase for i, phrase in enumerate(phrases, start=1) if answer is None or i not in answer.ids]
        told = f"Nothing found for {', '.join(lost)}; try other words, or click on it." if lost else _FOUND
        return self._shown(session, IMAGE), note(told)

    def _shown(self, session: Session, key: str) -> dict[str, Any]:
        """Describe what the page shows of an image that was clicked on."""
        history = hinting.history_of(session)
        target, found = history.targets.get(key), ""
        if target is None and key != IMAGE:
            return self._shown_result(session, int(key))
        answer = None if target is None else target.answer()
        if target is not None and answer is not None and key != IMAGE:
            whole, seen = target.image.shape[0] * target.image.shape[1], answer.mask.size
            counts = np.bincount(answer.mask.ravel(), minlength=256)
            areas = {i: round(int(counts[i]) * whole / seen) for i in answer.ids}
            size, sure = target.image.shape[:2], float(answer.confidence.mean())
            found = result_found(int(key), areas, size, sure, names=session.names)
        session.answers += 1
        return shown_answer(key, target, found, session.answers)

    def _shown_result(self, session: Session, number: int) -> dict[str, Any]:
        """Describe what the page shows of a result that was put in the place of another."""
        result = results.result_of(session, number)
        assert result.miniatures is not None
        found = found_in(number, result, session.names)
        session.answers += 1
        _, mask, sure = map(file_address, result.miniatures)
        return shown_result(str(number), mask, sure, found, session.answers)

    def _undo(self, session: Session) -> tuple[dict[str, Any], str, str]:
        key = hinting.undo(session)
        return self._shown(session, key), example_cards(session.examples, session.names), note("Taken back.")

    def _redo(self, session: Session) -> tuple[dict[str, Any], str, str]:
        key = hinting.redo(session)
        return self._shown(session, key), example_cards(session.examples, session.names), note("Done again.")

    def _accept_image(self, session: Session) -> tuple[dict[str, Any], str, str]:
        example = hinting.accept(session, self._model.segmenter, IMAGE)
        sentence = f"{example.name} is an example now. Ctrl-Z takes it back."
        return self._shown(session, IMAGE), example_cards(session.examples, session.names), note(sentence)

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
            return editor_value(image, ids), example_cards(session.examples, session.names)
        results.add_example(session, name, image, ids)
        return gr.skip(), example_cards(session.examples, session.names)

    def _add(self, session: Session, value: EditorValue | None) -> tuple[Any, ...]:
        """Make an example of what was painted; or save it in the place of the result that is being corrected."""
        if session.image is None:
            raise ValueError("expected an image to paint on, got none; choose one first")
        name, image = session.image
        if session.correcting is None:
            results.add_example(session, name, image, painted(value, image.shape[:2]))
            return gr.skip(), example_cards(session.examples, session.names), gr.skip(), gr.skip()
        number, ids = session.correcting, painted(value, image.shape[:2], needed=False)
        hinting.correct(session, number, image, ids)
        session.correcting = None
        told = note(f"{name} has the corrected mask now, in downloads, too. Ctrl-Z takes it back.")
        return gr.Button(OPEN_EXAMPLE), gr.skip(), self._shown_result(session, number), told

    def _clear(self, session: Session) -> dict[str, Any]:
        """Take the paint away, and leave the image."""
        return gr.skip() if session.image is None else editor_value(session.image[1])

    def restored(self, session: Session) -> tuple[Any, ...]:
        """Show what a session has on a page that is opened."""
        image, panel, label = gr.skip(), gr.skip(), gr.skip()
        if session.image is not None:
            ids = None
            if session.correcting is not None:
                mask = results.result_of(session, session.correcting).mask
                ids, label = None if mask is None else read_mask(mask).ids, gr.Button(SAVE)
            image, panel = editor_value(session.image[1], ids), self._panel(session)
        names = list(session.prompt_tensors)
        return (
            image,
            panel,
            label,
            self._shown(session, IMAGE) if IMAGE in hinting.history_of(session).targets else gr.skip(),
            example_cards(session.examples, session.names),
            note(_count(len(session.images))),
            gr.CheckboxGroup(choices=names, visible=bool(names)),
            ", ".join(session.names.get(i, "") for i in range(1, max(session.names, default=0) + 1)),
        )

    def found(self, session: Session) -> tuple[Any, ...]:
        """Show the results of a session on a page that is opened."""
        if not session.results:
            return gr.skip(), gr.skip()
        cards = result_cards(session.results, self._answers.plain, session.names)
        return cards, note(summary(session, len(session.segmented)))

    def connect_again(self, blocks: gr.Blocks) -> None:
        """Connect what happens when a page is opened: what the session has is shown, and what runs goes on."""
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        places = [
            *(self.editor, self.clicked, self.add, self.tools.answer, self.examples, self.given),
            *(self.prompt_tensors, self.names),
        ]
        shown = blocks.load(self._answers.again(self.restored, len(places)), None, places, **quick)
        shown.success(None, [self.tools.answer], None, js=ANSWERED, queue=False)
        follow_again(self._answers, "segment", blocks, [self.results, self.status], self.found, quick)

    def _remove(self, session: Session, number: int) -> str:
        forget(session, number)
        return example_cards(session.examples, session.names)

    def _name(self, session: Session, text: str | None) -> tuple[str, str]:
        """Call ids by these names from now on."""
        called = [part.strip() for part in (text or "").split(",")]
        session.names = {i: name for i, name in enumerate(called, start=1) if name and i <= MOST_IDS}
        cards = result_cards(session.results, self._answers.plain, session.names)
        return example_cards(session.examples, session.names), cards

    def _sample(self, session: Session) -> tuple[Any, ...]:
        """Take an example and images of the demo."""
        (coins,) = (job for job in JOBS if job.name == "coins")
        try:
            files = write_files(coins, session.new_folder())
        except FileNotFoundError as error:
            raise ValueError(str(error)) from None
        image = self._take(session, files.image.name, read_image(files.image))
        results.add_example(session, "coins.png", image, read_mask(files.mask).ids)
        results.take_files(session, [str(path) for path in sorted(files.queries.iterdir())])
        return (
            editor_value(image),
            self._panel(session),
            gr.Button(OPEN_EXAMPLE),
            example_cards(session.examples, session.names),
            note(_count(len(session.images))),
            note("The coins of one corner are the example. Press Segment to find the others."),
        )

    def _take_files(self, session: Session, paths: Sequence[str] | None) -> str:
        results.take_files(session, paths or [])
        return note(_count(len(session.images)))

    def _take_folder(self, session: Session, folder: str | None) -> str:
        if folder:
            results.take_folder(session, self._model.places, folder)
        return note(_count(len(session.images)))

    def _segment(self, session: Session, prompt_tensors: list[str]) -> Iterator[tuple[Any, ...]]:
        if not session.images:
            raise ValueError("expected images to segment, got none; drop some, or choose a folder")
        context = self._model.prepared(session, prompt_tensors)
        history = hinting.history_of(session)
        history.forget(keep=[key for key in history.targets if key == IMAGE])
        cards, total, began = '<div class="ic-grid">', len(session.images), time.monotonic()
        for number, result in enumerate(results.segment_images(session, self._model.segmenter, context)):
            cards += result_card(number, result, self._answers.plain, session.names)
            left = (time.monotonic() - began) / (number + 1) * (total - number - 1)
            yield cards, note(f"{number + 1} of {total} images, {timedelta(seconds=round(left))} left")
        yield gr.skip(), note(summary(session, total))

    def _accept(self, session: Session, number: int) -> tuple[str, str]:
        example = hinting.accept(session, self._model.segmenter, str(number))
        sentence = f"{example.name} is an example now. Press Segment again for the next round."
        return example_cards(session.examples, session.names), note(sentence)

    def _edit(self, session: Session, number: int) -> tuple[Any, ...]:
        hinting.settle(session, self._model.segmenter)
        result = results.result_of(session, number)
        if result.mask is None:
            raise ValueError(f"{result.image.name}: expected a result to correct, got an image without one")
        image, ids = read_image(result.image.path), read_mask(result.mask).ids
        value = editor_value(image, ids)  # first, as it refuses ids without a brush
        self._take(session, result.image.name, image)
        session.correcting = number
        sentence = f"{result.image.name} is in the editor above. Correct its mask and press '{SAVE}'."
        return value, self._panel(session), gr.Button(SAVE), note(sentence)

    def _zip(self, session: Session, kind: str, apart: bool) -> str:
        hinting.settle(session, self._model.segmenter)
        return str(results.zip_masks(session, str(kind), apart=apart, on_problem=self._answers.warn))


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

    The job goes on when its page is closed: see `follow_again`.
    """

    def ask(session: Session) -> str:
        session.begin(kind)
        return note("Starting; it waits until no other job uses the network.")

    async def run(session: Session, *values: Any) -> AsyncIterator[Any]:
        work = session.works.get(kind)
        if work is None or work.is_done:
            work = session.works[kind] = Work(gr.skip())
            stopped = tuple(note("Stopped before it began.") if each is status else gr.skip() for each in outputs)
            work.start(lambda: call(session, *values), session.stops[kind], stopped)
        try:
            async for told in work.follow():
                yield told
        except (ValueError, OSError):
            yield {status: note("")}
            raise

    def stop(session: Session) -> str:
        session.stops[kind].set()
        return note("Stopping ...")

    buttons[1].click(answers.once(stop), None, [status], **how)
    slow: dict[str, Any] = {"concurrency_limit": None, **how}  # it only looks on: `work.NETWORK` is the queue
    asked = buttons[0].click(answers.once(ask), None, [status], **how)
    return asked.success(answers.stream(run), inputs, outputs, trigger_mode="once", **slow)


def follow_again(
    answers: Answers,
    kind: Job,
    blocks: gr.Blocks,
    outputs: list[Any],
    found: Callable[[Session], tuple[Any, ...]],
    how: dict[str, Any],
) -> None:
    """Go on showing a job of the session that runs while a page is opened; else what came of the last one.

    found: what the session has of this kind, for the same outputs.
    """

    async def run(session: Session) -> AsyncIterator[Any]:
        work = session.works.get(kind)
        if work is not None and not work.is_done:
            async for told in work.follow():
                yield told
        else:
            yield found(session)

    blocks.load(answers.stream(run), None, outputs, concurrency_limit=None, **how)


def download(
    button: gr.Button, make: Callable[..., Any], inputs: list[Any], file: gr.DownloadButton, how: dict[str, Any]
) -> None:
    """Let one click make a file and save it: `file` is a hidden link to it that is followed once it is there."""
    follow = f"() => {{ setTimeout(() => document.querySelector('#{file.elem_id}')?.click(), 100); }}"
    button.click(make, inputs, [file], **how).success(None, None, None, js=follow, queue=False)


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
