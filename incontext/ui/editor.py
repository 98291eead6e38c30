"""The editor in which masks are painted: what it shows, what was painted in it, and when there is nothing to paint on.

Knows Gradio's editor. Refuses to know sessions and the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import gradio as gr
import numpy as np

from incontext.images.ids import Pixels
from incontext.ui.paint import (
    CANVAS,
    brush_names,
    ids_from_canvas,
    ids_of_strokes,
    ids_on_canvas,
    image_on_canvas,
    strokes_of_ids,
)

if TYPE_CHECKING:
    from gradio.components.image_editor import EditorValue

_BRUSH = 20  # pixels of the canvas: the radius to begin with

# An editor without an image takes neither mouse nor keys; its place says what to do first.
# The editor's own bin takes the image away with the paint; the page has a button that leaves it.
CSS: Final = """
#editor [aria-label='Clear canvas'], #frame-editor [aria-label='Clear canvas'] { display: none }
:root:not(.ic-editor) #editor, :root:not(.ic-frame-editor) #frame-editor { visibility: hidden; position: relative }
:root:not(.ic-editor) #editor::before, :root:not(.ic-frame-editor) #frame-editor::before {
  content: 'Choose an image first; then paint on it here.'; visibility: visible;
  position: absolute; inset: 0; display: grid; place-items: center; padding: 2em; text-align: center;
  border: 1px dashed var(--border-color-primary); border-radius: 6px; color: var(--body-text-color) }
:root:not(.ic-frame-editor) #frame-editor::before { content: 'Load a video first; then paint on a frame of it here.' }
"""


def ready(name: str) -> str:
    """Write the JavaScript that opens an editor, once there is an image in it."""
    return f"() => {{ document.documentElement.classList.add('ic-{name}'); }}"


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


def painted(value: EditorValue | None, shape: tuple[int, int], *, may_be_empty: bool = False) -> Pixels:
    """Read the ids (H, W) that were painted on an image of this shape.

    Args:
        may_be_empty: Nothing painted says that there is nothing.

    Raises:
        ValueError: Nothing was painted where something is expected.
    """
    layers = [np.asarray(layer) for layer in value["layers"]] if value is not None else []
    ids = ids_from_canvas(ids_of_strokes(layers, CANVAS), shape)
    if not may_be_empty and not ids.any():
        raise ValueError("expected something painted on the image, got nothing; paint what you mean with a brush")
    return ids
