"""From labelled images to mask tokens for a namer, everything else of it frozen (OVSeg, arXiv 2210.04150, 3.3).

Learned is what the network is shown in place of patches in which nothing of the mask is. Refuses to know files of
images and terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.images.ids import Pixels
from incontext.prompters.crops import Crop
from incontext.prompters.mask_tokens import MaskTokens, TokensOrigin
from incontext.prompters.namer import Namer
from incontext.version import __version__

STEPS: Final = 200
RATE: Final = 1e-2
HELD_OUT: Final = 0.25  # of the crops
BATCH: Final = 32  # crops in a step

_LEAST_HELD_OUT = 4  # crops, below which all learn and all judge


@dataclass(frozen=True, eq=False)
class NamedMask:
    """A mask (H, W) bool of an image (H, W, 3) uint8, and what it shows."""

    image: Pixels
    inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    name: str


@dataclass(frozen=True)
class NamerStep:
    """What a step did. loss: mean cross-entropy of its crops in nats; best: the least on those that judge so far."""

    step: int
    steps: int
    loss: float
    best: float


def tune_namer(
    namer: Namer,
    masks: Iterable[NamedMask],
    *,
    steps: int = STEPS,
    lr: float = RATE,
    held_out: float = HELD_OUT,
    seed: int = 0,
    on_step: Callable[[NamerStep], None] | None = None,
) -> MaskTokens:
    """Learn mask tokens with which a namer gives these masks their names; no weight of it changes.

    Learning starts from what the network makes of patches in the mean colour by itself, so that nothing is lost, and
    returns what did best on the crops that were held out.

    Args:
        namer: The namer, without mask tokens.
        masks: At least two names among them. They are cut out at once, and their images are not kept.
        steps: Of Adam, with a batch of 32 crops each.
        lr: How far a value moves in a step, at the beginning.
        held_out: Share of the crops that judge and do not learn; with fewer than four of them all do both.
        seed: Of the split and the batches.
        on_step: Called after each step.

    Raises:
        ValueError: There are not two names, no patch of any crop is empty, or an option cannot be used.
    """
    if steps < 1 or not 0 < lr <= 10 or not 0 <= held_out < 1:
        raise ValueError(
            f"expected at least 1 step, lr above 0 and at most 10, held_out from 0 to below 1; got {steps}, {lr}, "
            f"{held_out}"
        )
    crops, names = _cut(namer, masks)
    listed = sorted(set(names))
    if len(listed) < 2:
        raise ValueError(f"expected masks of at least two names to learn from, got {', '.join(listed) or 'none'}")
    if not any(crop.empty(namer.patch).any() for crop in crops):
        raise ValueError("expected masks that leave some patches of their boxes empty, got none that do")
    wanted = torch.tensor([listed.index(name) for name in names])
    lesson = _Lesson(namer, *namer.inputs(crops), wanted, namer.text_features([*listed, *namer.others]))
    learning, judging = _split(wanted, held_out, seed)
    rng = np.random.default_rng([seed, 1])
    tokens = namer.empty_tokens().float().requires_grad_(True)
    optimizer = torch.optim.Adam([tokens], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    before = best = lesson.judged(tokens, judging)
    kept = tokens.detach().clone()
    for step in range(1, steps + 1):
        chosen = rng.permutation(learning)[:BATCH].tolist()
        loss = lesson.loss(tokens, chosen)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 20) == 0 or step == steps:
            judged = lesson.judged(tokens, judging)
            if judged < best:
                best, kept = judged, tokens.detach().clone()
        if on_step is not None:
            on_step(NamerStep(step, steps, loss.item(), best))
    apart = 0 if judging == learning else len(judging)
    origin = TokensOrigin(
        namer=namer.weights,
        sha256=namer.sha256,
        names=tuple(listed),
        crops=(len(learning), apart),
        before=before,
        after=best,
        date=date.today().isoformat(),  # noqa: DTZ011  the user's own day
        version=__version__,
    )
    return MaskTokens(kept.cpu().numpy(), origin)


@dataclass(frozen=True, eq=False)
class _Lesson:
    """Crops as the network takes them, what each is, (n,) of the texts, and the features of these."""

    namer: Namer
    pixels: Tensor
    empty: Tensor
    wanted: Tensor
    texts: Tensor

    def loss(self, tokens: Tensor, chosen: Sequence[int]) -> Tensor:
        """Mean cross-entropy of these crops in nats."""
        rows = torch.tensor(list(chosen), device=self.pixels.device)
        with self.namer.learning(tokens):
            images = self.namer.image_features(self.pixels[rows], self.empty[rows])
        return F.cross_entropy(self.namer.compare(images, self.texts), self.wanted.to(rows.device)[rows])

    @torch.no_grad()
    def judged(self, tokens: Tensor, chosen: Sequence[int]) -> float:
        """Return the same over any number of crops, a batch at a time."""
        parts = [chosen[first : first + BATCH] for first in range(0, len(chosen), BATCH)]
        return sum(float(self.loss(tokens, part)) * len(part) for part in parts) / len(chosen)


def _cut(namer: Namer, masks: Iterable[NamedMask]) -> tuple[list[Crop], list[str]]:
    crops: list[Crop] = []
    names: list[str] = []
    for each in masks:
        crop = namer.cut(each.image, each.inside)
        if crop is not None:
            crops.append(crop)
            names.append(each.name)
    return crops, names


def _split(wanted: Tensor, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split into the crops that learn and those that judge: of each name about that share."""
    everyone = list(range(len(wanted)))
    order = np.random.default_rng([seed, 0]).permutation(len(wanted)).tolist()
    judging: list[int] = []
    for kind in sorted(set(wanted.tolist())):
        mine = [n for n in order if int(wanted[n]) == kind]
        judging += mine[: min(len(mine) - 1, round(share * len(mine)))]
    if len(judging) < _LEAST_HELD_OUT:
        return everyone, everyone
    return [n for n in everyone if n not in set(judging)], sorted(judging)
