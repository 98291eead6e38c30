"""How tuning went, as one HTML page: the curve, what a step cost, and what is found in the images that judged.

Refuses to know how anything in it was learned.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from incontext.engine import Segmenter
from incontext.evaluation.pages.charts import HUES, TONES, timeline
from incontext.evaluation.pages.page import document, section
from incontext.evaluation.pages.tables import Table
from incontext.images.ids import IGNORED, Pixels
from incontext.images.resize import shrunk
from incontext.images.write import whole_file
from incontext.prompt_tensor import PromptTensor
from incontext.tuning import TuningStep
from incontext.types import Prompt, Segmentation

MOST_SHOWN = 12  # images
_SIDE = 320  # pixels along the longer side of an image
_QUALITY = 82
_FACTS = ("weights", "side", "task", "shots", "ids", "prompt tensor")


def write_page(
    path: Path,
    segmenter: Segmenter,
    prompt_tensor: PromptTensor,
    steps: Sequence[TuningStep],
    prompts: Sequence[Prompt],
    images: Sequence[str],
) -> Path:
    """Write the page of a tuning; the file appears whole or not at all.

    Returns its path.

    Args:
        steps: What `tune` reported.
        prompts, images: What it was given, of which those that judged are shown, with what is found in them now.
    """
    judged = set(prompt_tensor.origin.held_out or images)
    shown = [(name, prompt) for name, prompt in zip(images, prompts, strict=True) if name in judged][:MOST_SHOWN]
    answers = segmenter.segment_many(
        (prompt.image for _, prompt in shown), prompt_tensor, task=prompt_tensor.origin.task
    )
    figures = [
        _figure(name, prompt, answer, prompt_tensor) for (name, prompt), answer in zip(shown, answers, strict=True)
    ]
    facts = " · ".join(f"{name} {value}" for name, value in prompt_tensor.describe().items() if name in _FACTS)
    body = [
        "<h1>Tuning</h1>",
        f'<p class="quiet">{escape(facts)}</p>',
        f"<p>{escape(_sentence(prompt_tensor, steps))}</p>",
        f'<div class="wide">{_curve(steps)}</div>' if steps else "",
        section(_table(steps)) if steps else "",
        "<h2>What is found</h2>",
        '<p class="note">Left the image with its own mask, right with what the prompt tensor finds.</p>',
        *figures,
    ]
    with whole_file(path) as stream:
        stream.write(document("Tuning", body).encode())
    return path


def _sentence(prompt_tensor: PromptTensor, steps: Sequence[TuningStep]) -> str:
    made = prompt_tensor.origin
    judges = f"{len(made.held_out)} held-out images" if made.held_out else "the images that it learned from"
    text = f"Mean IoU {made.before:.3f} before and {made.after:.3f} after tuning, on {judges}."
    if not steps:
        return text
    cost = f"{median(step.seconds for step in steps):.2f} s a step, {max(step.memory for step in steps) >> 20} MiB"
    return f"{text} {len(steps)} steps, {cost}."


def _curve(steps: Sequence[TuningStep]) -> str:
    """Draw mean IoU on the judging images over the steps, a line for each group of ids."""
    lines = []
    for number, ids in enumerate(dict.fromkeys(step.ids for step in steps)):
        of_group = [step for step in steps if step.ids == ids]
        points = [(step.step, step.score) for step in of_group if step.score is not None]
        if of_group[0].score is None:  # the best so far is then what was begun with
            points = [(of_group[0].step - 1, of_group[0].best), *points]
        kind = f"{HUES[number % len(HUES)]}{TONES - number // len(HUES) % TONES}"
        lines.append((f"ids {', '.join(map(str, ids))}", kind, points))
    return timeline(lines, "Mean IoU on the judging images over the steps")


def _table(steps: Sequence[TuningStep]) -> Table:
    rows = tuple(
        (str(step.step), ", ".join(map(str, step.ids)), f"{step.loss:.3f}", f"{step.score:.3f}", f"{step.best:.3f}")
        for step in steps
        if step.score is not None
    )
    note = "Loss of the step itself; mean IoU of its group of ids on the judging images."
    return Table("Steps", note, ("step", "ids", "loss", "mean IoU", "best so far"), rows)


def _figure(name: str, prompt: Prompt, answer: Segmentation, prompt_tensor: PromptTensor) -> str:
    """Show the image under its own mask, and under the answer."""
    known = np.where(np.isin(prompt.mask, [*prompt_tensor.ids, IGNORED]), prompt.mask, 0)
    truth = Segmentation(known, np.ones(known.shape, np.float32), prompt_tensor.palette)
    images = "".join(
        f'<img alt="{escape(what, quote=True)}" src="data:image/jpeg;base64,{b64encode(_jpeg(each)).decode()}">'
        for what, each in (("its mask", truth.overlay(prompt.image)), ("found", answer.overlay(prompt.image)))
    )
    return f'<figure class="side">{images}<figcaption>{escape(name)}</figcaption></figure>'


def _jpeg(image: Pixels) -> bytes:
    small, stream = Image.fromarray(shrunk(image, _SIDE, quick=True)), io.BytesIO()
    small.save(stream, format="JPEG", quality=_QUALITY)
    return stream.getvalue()
