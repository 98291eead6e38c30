"""Validation of a run on held-out images: one number for the log and one image for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from incontext.canvas.paint import unpaint
from incontext.canvas.read import reading_logits
from incontext.images.ids import IGNORED
from incontext.images.write import write_image
from incontext.learning.augmentation import NO_AUGMENTATION, Cut
from incontext.learning.losses import Batch, Stacked, paint_batch
from incontext.network.devices import choose_dtype, products_in
from incontext.network.model import SegGPT
from incontext.training.coloring import Coloring, collate, paint, paint_episode
from incontext.training.episodes import EpisodeSource, Sampling
from incontext.training.sets import ImageSet

AS_USED = Sampling(  # two whole images as they are, one id, the query's whole mask hidden
    rendered=0.0,
    two_views=0.0,
    absent=0.0,
    mosaic=0.0,
    single_id=1.0,
    whole_images=1.0,
    cut=Cut(zoom=0.0),
    augmentation=NO_AUGMENTATION,
)


@dataclass(frozen=True)
class Validation:
    """Fixed episodes of held-out images, whole images with the whole query mask hidden, one id each."""

    batches: tuple[Stacked, ...]

    @classmethod
    def draw(cls, sets: Sequence[ImageSet], *, side: int, patch: int, count: int = 128) -> Validation:
        """Draw ``count`` episodes; the same sets and numbers always give the same ones, whatever the recipe."""
        source = EpisodeSource(sets, AS_USED, side=side, seed=20_230_406)
        coloring = Coloring(corner_colors=1.0, hide_query=1.0)
        painted = [
            paint_episode(source[i], np.random.default_rng([7, i]), patch=patch, coloring=coloring)
            for i in range(count)
        ]
        return cls(tuple(collate(painted[i : i + 16]) for i in range(0, count, 16)))

    @torch.no_grad()
    def score(self, model: SegGPT, device: torch.device, image: Path | None = None) -> float:
        """Score mean IoU over the episodes, 0..1; ``image``: a sheet of the first 16 is written there."""
        was_training = model.training
        model.eval()
        ious: list[Tensor] = []
        for number, stacked in enumerate(self.batches):
            batch = paint_batch(stacked, device)
            with products_in(choose_dtype("auto", device), device):
                answer = paint(model, batch.image_canvas, batch.mask_canvas, batch.masked)
            answer = answer.float()
            ious.append(_iou(answer, batch))
            if image is not None and number == 0:
                write_image(image, _sheet(answer, batch))
        model.train(was_training)
        return float(torch.cat(ious).mean())


def _iou(answer: Tensor, batch: Batch) -> Tensor:
    """Compute IoU of id 1 in the query half of each episode, (B,)."""
    read = reading_logits(answer, batch.colors, batch.used, sharpness=1.0).argmax(dim=1)
    found, truth, valid = ((t.chunk(2, dim=1)[1]) for t in (read == 1, batch.ids == 1, batch.ids != IGNORED))
    overlap = (found & truth & valid).sum((1, 2))
    union = ((found | truth) & valid).sum((1, 2))
    return torch.where(union > 0, overlap / union.clamp_min(1), torch.ones_like(overlap))


def _sheet(answer: Tensor, batch: Batch) -> np.ndarray:
    """Draw a row per episode: prompt, its mask, query, its mask, the answer; two columns; (H, W, 3) uint8."""
    shown = [unpaint(t) for t in (batch.image_canvas, batch.mask_canvas, answer)]
    (prompts, queries), (prompt_masks, truths), (_, answers) = (t.chunk(2, dim=1) for t in shown)
    rows = torch.cat([prompts, prompt_masks, queries, truths, answers], dim=2)
    sheet = rearrange(rows, "(r two) h w c -> (r h) (two w) c", two=2)
    return sheet.round().to(torch.uint8).cpu().numpy()
