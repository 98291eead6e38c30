"""The Track tab: load a video, paint on a frame, follow, look at any frame, correct it and go on from there.

Lays out components and passes values on. Refuses to know the tracker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from incontext.images.masks import read_mask
from incontext.ui import follow
from incontext.ui.model import Model
from incontext.ui.page import Answers, address, legend, note
from incontext.ui.segment_tab import download, editor, editor_value, follow_again, job, painted
from incontext.ui.sessions import Followed, Following, Session

if TYPE_CHECKING:
    from gradio.components.image_editor import EditorValue

_MEMORY = 4


class TrackTab:
    """The tab, built in the present Blocks. prompt_tensors: what other tabs change as well."""

    def __init__(self, answers: Answers, model: Model) -> None:
        self._answers, self._model = answers, model
        gr.Markdown("### 1. Load a video, and paint what to follow on its first frame or any other")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=260):
                self.video = gr.File(
                    label="A video or an animated image",
                    file_types=["video", "image"],
                    height=150,
                    elem_id="video",
                )
                videos = model.places.listed(follow.is_video)
                self.path = gr.Dropdown(
                    label="or one in a folder", choices=videos, value=None, visible=bool(videos), elem_id="video-path"
                )
                self.about = gr.HTML(note("No video so far."), elem_id="about-video")
                self.frame = gr.Slider(0, 1, 0, step=1, label="Frame to paint on", elem_id="frame")
            with gr.Column(scale=3, min_width=300):
                self.editor = editor("frame-editor")
                gr.HTML(legend())
                self.use = gr.Button("Use this mask", variant="primary", elem_id="use-mask")
        self.given = gr.HTML(note("No masks so far."), elem_id="given-masks")
        gr.Markdown("### 2. Follow")
        with gr.Row():
            self.memory = gr.Slider(0, 32, _MEMORY, step=1, label="Frames to remember", elem_id="memory")
            self.examples = gr.Checkbox(False, label="Use the examples of the Segment tab", elem_id="use-examples")
        self.prompt_tensors = gr.CheckboxGroup(
            label="Prompt tensors to use as well", choices=[], visible=False, elem_id="track-prompt-tensors"
        )
        with gr.Row():
            self.run = gr.Button("Track", variant="primary", elem_id="track", scale=4)
            self.stop = gr.Button("Stop", elem_id="stop-track", scale=1, min_width=80)
        self.status = gr.HTML(note(""), elem_id="track-status")
        self.shown = gr.Slider(0, 1, 0, step=1, label="Look at frame", elem_id="scrub")
        self.view = gr.HTML("", elem_id="view-frame")
        with gr.Row():
            self.correct = gr.Button("Correct this frame", elem_id="correct")
            self.film = gr.Button("Download the video (MP4)", elem_id="mp4")
            self.zip = gr.Button("Download the masks (ZIP)", elem_id="track-zip")
        self.film_file = gr.DownloadButton("overlay.mp4", visible="hidden", elem_id="mp4-file")
        self.zip_file = gr.DownloadButton("masks.zip", visible="hidden", elem_id="track-zip-file")

    def connect(self) -> None:
        """Connect what happens on clicks."""
        once = self._answers.once
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        loaded = [self.editor, self.about, self.frame, self.given, self.shown, self.view]
        self.video.upload(once(self._upload), [self.video], loaded, **quick)
        self.path.input(once(self._open), [self.path], loaded, **quick)
        self.frame.release(once(self._show_to_paint), [self.frame], [self.editor], **quick)
        self.use.click(once(self._use), [self.editor], [self.given, self.view], **quick)
        self.editor.clear(once(self._clear), None, [self.editor], **quick)
        context, shown = [self.memory, self.examples, self.prompt_tensors], [self.view, self.status, self.shown]
        job(self._answers, "track", (self.run, self.stop), self._track, context, shown, self.status, quick)
        self.shown.input(once(self._look), [self.shown], [self.view], trigger_mode="always_last", **quick)
        self.correct.click(once(self._correct), [self.shown], [self.editor, self.frame, self.status], **quick)
        download(self.film, once(self._film), [], self.film_file, quick)
        download(self.zip, once(self._zip), [], self.zip_file, quick)

    # ----------------------------------------------------------------------------------------- handlers

    def _upload(self, session: Session, path: str | None) -> tuple[Any, ...]:
        if path is None:
            raise ValueError("expected a video, got none; choose one")
        return self._loaded(session, session.kept(path))

    def _open(self, session: Session, path: str | None) -> tuple[Any, ...]:
        if not path:
            raise ValueError("expected a video, got none; choose one")
        return self._loaded(session, self._model.places.check(path))

    def _loaded(self, session: Session, path: Path) -> tuple[Any, ...]:
        video = follow.open_video(session, path)
        slider = gr.Slider(maximum=max(1, video.last), value=0)
        image = follow.frame_of(video, 0)
        return editor_value(image), _about(video), slider, note("No masks so far."), slider, ""

    def restored(self, session: Session) -> tuple[Any, ...]:
        """Show what a session has on a page that is opened."""
        names = list(session.prompt_tensors)
        group = gr.CheckboxGroup(choices=names, visible=bool(names))
        video = session.following
        if video is None:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip(), group
        slider = gr.Slider(maximum=max(1, video.last), value=video.painted)
        given = _masks_of(video) if video.masks else gr.skip()
        return _to_paint(video, video.painted), _about(video), slider, given, group

    def found(self, session: Session) -> tuple[Any, ...]:
        """Show what was tracked in a session on a page that is opened."""
        video = session.following
        if video is None or not video.done:
            return gr.skip(), gr.skip(), gr.skip()
        last = video.done[-1]
        shown = gr.Slider(maximum=max(1, video.last), value=last.number)
        return _image(last), note(f"{len(video.done)} frames tracked."), shown

    def connect_again(self, blocks: gr.Blocks) -> None:
        """Connect what happens when a page is opened: what the session has is shown, and what runs goes on."""
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        places = [self.editor, self.about, self.frame, self.given, self.prompt_tensors]
        blocks.load(self._answers.again(self.restored, len(places)), None, places, **quick)
        follow_again(self._answers, "track", blocks, [self.view, self.status, self.shown], self.found, quick)

    def _show_to_paint(self, session: Session, number: float) -> dict[str, Any]:
        return _to_paint(_video(session), int(number))

    def _use(self, session: Session, value: EditorValue | None) -> tuple[str, Any]:
        video = _video(session)
        corrected = follow.give_mask(video, video.painted, painted(value, video.size))
        return _masks_of(video), gr.skip() if corrected is None else _image(corrected)

    def _clear(self, session: Session) -> dict[str, Any]:
        """Take the paint away, and leave the frame."""
        video = session.following
        return gr.skip() if video is None else editor_value(follow.frame_of(video, video.painted))

    def _track(
        self, session: Session, memory: float, examples: bool, prompt_tensors: list[str]
    ) -> Iterator[tuple[Any, ...]]:
        video, stop = _video(session), session.stops["track"]
        prompts = [each.prompt for each in session.examples] if examples else []
        chosen = [session.prompt_tensors[name] for name in prompt_tensors if name in session.prompt_tensors]
        come = follow.follow(
            session,
            video,
            self._model.segmenter,
            prompts=prompts,
            prompt_tensors=chosen,
            memory=int(memory),
            options=replace(self._model.options, tiles=None),  # frames are seen whole
        )
        for frame in come:
            told = note(f"Frame {frame.number} of {video.last}: {_ids(frame)}")
            yield _image(frame), told, gr.Slider(maximum=max(1, video.last), value=frame.number)
        end = "stopped" if stop.is_set() else "done"
        problems = "".join(f" {self._answers.plain(problem)}." for problem in video.problems)
        yield gr.skip(), note(f"{len(video.done)} frames tracked, {end}.{problems}"), gr.skip()

    def _look(self, session: Session, number: float) -> str:
        frame = _video(session).at(int(number))
        return note(f"Frame {int(number)} is not tracked so far.") if frame is None else _image(frame)

    def _correct(self, session: Session, number: float) -> tuple[Any, ...]:
        value = _to_paint(_video(session), int(number))
        sentence = f"Frame {int(number)} is in the editor above. Correct it, press 'Use this mask', then 'Track'."
        return value, int(number), note(sentence)

    def _film(self, session: Session) -> str:
        return str(follow.movie_of(_video(session), session.new_folder() / "overlay.mp4"))

    def _zip(self, session: Session) -> str:
        return str(follow.zip_of(_video(session), session.new_folder() / "masks.zip"))


def _about(video: Following) -> str:
    height, width = video.size
    length = "an unknown number of" if video.count is None else str(video.count)
    return note(f"{video.name}: {length} frames of {width} x {height}, {video.rate:.3g} per second.")


def _masks_of(video: Following) -> str:
    frames = ", ".join(map(str, sorted(video.masks)))
    return note(f"Masks of frames {frames}. Tracking goes on from frame {video.changed}.")


def _video(session: Session) -> Following:
    if session.following is None:
        raise ValueError("expected a video, got none; load one first")
    return session.following


def _to_paint(video: Following, number: int) -> dict[str, Any]:
    """Put a frame into the editor, with the mask that was given of it, or else what was found in it."""
    found, given = video.at(number), video.masks.get(number)
    ids = given if given is not None else None if found is None else read_mask(found.mask).ids
    value = editor_value(follow.frame_of(video, number), ids)
    video.painted = number
    return value


def _image(frame: Followed) -> str:
    alt = f"Frame {frame.number}: {_ids(frame)}"
    return f'<div class="ic-frame"><img src="{address(frame.miniature)}" alt="{alt}"></div>'


def _ids(frame: Followed) -> str:
    return f"found {', '.join(map(str, frame.ids))}" if frame.ids else "nothing found"
