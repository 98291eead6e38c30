"""The Model tab: what runs, how fast, and other weights.

Lays out components and passes values on.
"""

from __future__ import annotations

from typing import Any, Final

import gradio as gr

from incontext.ui.model import Model
from incontext.ui.page import Answers, note, table
from incontext.ui.sessions import Session, Sessions
from incontext.ui.work import NETWORK

NO_BACKBONE: Final = "none"


class ModelTab:
    """The tab, built in the present Blocks."""

    def __init__(self, answers: Answers, model: Model, sessions: Sessions) -> None:
        self._answers, self._model, self._sessions = answers, model, sessions
        gr.Markdown("### What runs")
        self.about = gr.HTML(table(model.describe()), elem_id="about-model")
        self.measure = gr.Button("Measure the speed", elem_id="measure")
        gr.Markdown("### Other weights\nFor everyone who uses this page at the moment.")
        choices = model.choices()
        self.weights = gr.Dropdown(choices, value=None, label="Weights on this machine", elem_id="weights")
        self.load = gr.Button("Load them", elem_id="load-weights")
        gr.Markdown("### A second opinion\nA network that knows what things are votes beside the weights.")
        asked = model.loading.backbone
        known = list(dict.fromkeys([NO_BACKBONE, *([asked] if asked else []), *model.backbones()]))
        self.backbone = gr.Dropdown(
            known, value=asked or NO_BACKBONE, label="Backbones on this machine", elem_id="backbone"
        )
        self.use = gr.Button("Use it", elem_id="use-backbone")
        self.status = gr.HTML(note(""), elem_id="model-status")

    def connect(self) -> None:
        """Connect what happens on clicks."""
        how: dict[str, Any] = {
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        self.measure.click(self._answers.once(self._measure), None, [self.status], **how)
        self.load.click(self._answers.once(self._load), [self.weights], [self.about, self.status], **how)
        self.use.click(self._answers.once(self._ask_beside), [self.backbone], [self.about, self.status], **how)

    def refresh(self, session: Session) -> str:
        """Say what runs by now."""
        del session
        return table(self._model.describe())

    def _measure(self, session: Session) -> str:
        del session
        with NETWORK:
            seconds = self._model.seconds_per_image()
        return note(f"{seconds:.3f} s for an image of 640 x 480 by one example.")

    def _load(self, session: Session, name: str | None) -> tuple[str, str]:
        if not name:
            raise ValueError("expected weights to load, got none; choose some")
        with NETWORK:
            self._model.switch(name, self._sessions)
        return self.refresh(session), note(
            "Loaded. Examples stay; prompt tensors belong to the weights that they were tuned for."
        )

    def _ask_beside(self, session: Session, name: str | None) -> tuple[str, str]:
        backbone = None if name in (None, NO_BACKBONE) else name
        with NETWORK:
            self._model.ask_beside(backbone, self._sessions)
        told = "The weights decide alone." if backbone is None else f"{backbone} votes from now on."
        return self.refresh(session), note(told)
