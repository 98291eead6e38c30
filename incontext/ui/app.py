"""The page itself: its tabs, and what they share.

Refuses to know servers and ports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gradio as gr

from incontext.ui.hint_panel import SHOWING
from incontext.ui.model import Model
from incontext.ui.model_tab import ModelTab
from incontext.ui.page import Answers
from incontext.ui.segment_tab import SegmentTab
from incontext.ui.sessions import Sessions
from incontext.ui.track_tab import TrackTab
from incontext.ui.tune_tab import TuneTab

TITLE: Final = "incontext"
_FONTS: Final = ("system-ui", "sans-serif")  # of the machine: a page without network has no others
_UPLOADS_KEPT: Final = 6 * 3600  # seconds, and looked after every hour


def theme() -> gr.themes.Base:
    """Make Gradio's plain theme without fonts from elsewhere; light or dark as the browser is."""
    return gr.themes.Default(font=list(_FONTS), font_mono=["ui-monospace", "monospace"])


def page(model: Model, sessions: Sessions, root: Path) -> gr.Blocks:
    """Build the page for a model.

    Args:
        root: The folder of all uploads and sessions.
    """
    answers = Answers(sessions, root)
    blocks = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, _UPLOADS_KEPT), fill_width=False)
    with blocks:
        gr.Markdown("# incontext\nShow one example, segment everything like it.")
        with gr.Tabs():
            with gr.Tab("Segment", id="segment"):
                segment = SegmentTab(answers, model)
            with gr.Tab("Track", id="track"):
                track = TrackTab(answers, model)
            with gr.Tab("Tune", id="tune"):
                tune = TuneTab(answers, model)
            with gr.Tab("Model", id="model") as tab:
                about = ModelTab(answers, model, sessions)
        segment.connect()
        track.connect()
        tune.connect([segment.prompt_tensors, track.prompt_tensors])
        about.connect()
        tab.select(answers.once(about.refresh), None, [about.about], show_progress="hidden", api_visibility="private")
        blocks.load(None, None, None, js=SHOWING, queue=False)
        segment.connect_again(blocks)
        track.connect_again(blocks)
        tune.connect_again(blocks, [segment.prompt_tensors, track.prompt_tensors])
        blocks.unload(answers.leave())
    return blocks
