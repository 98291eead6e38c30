"""From what the network painted back to ids: the nearest colours, how sure they are, and what is not there at all.

Refuses to know files, devices and the network. Tensors stay on the device that they come on.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.canvas import votes
from incontext.canvas.paint import normalise_colors, unpaint
from incontext.images.ids import Pixels
from incontext.types import Palette

SHARPNESS: Final = 6.0  # of the nearest-colour posterior, see `reading_logits`

_MOST_MARGIN = 0.9999  # so that logits stay finite
_LEAST_SHARE = 1e-4  # of a patch, so that an id that nothing is painted of still is looked for everywhere


class SecondVotes(NamedTuple):
    """What a backbone says of a batch beside the network."""

    leads: Tensor  # (B, K + 1, h, w), of each id of the palette over the best other one, in units of the network's
    sharpness: float  # how much surer a pixel is by a lead of both together


class Paint(NamedTuple):
    """What the network painted of a batch in one pass, and in which colours."""

    painted: Tensor  # (B, 3, side, side) normalised
    palette: Palette
    presence: Tensor | None = None  # (B, K + 1) of each id of the palette in 0..1; None: the network does not say
    second: SecondVotes | None = None  # None: the network decides alone

    def part(self, first: int, last: int) -> "Paint":
        """Take only these of the batch."""
        presence = None if self.presence is None else self.presence[first:last]
        second = None if self.second is None else self.second._replace(leads=self.second.leads[first:last])
        return Paint(self.painted[first:last], self.palette, presence, second)

    @classmethod
    def joined(cls, parts: Sequence["Paint"]) -> "Paint":
        """Join parts of a batch in one pass."""
        known = [each.presence for each in parts if each.presence is not None]
        votes = [each.second for each in parts if each.second is not None]
        return cls(
            torch.cat([each.painted for each in parts]),
            parts[0].palette,
            torch.cat(known) if known else None,
            votes[0]._replace(leads=torch.cat([each.leads for each in votes])) if votes else None,
        )


def read_colors(colors: Tensor, palette: Palette) -> tuple[Tensor, Tensor]:
    """Read ids from colours: each pixel is the id of the nearest colour of the palette.

    Args:
        colors: (..., 3) in 0..255, of any dtype, on any device.
        palette: The colours that were asked for. Of equally near ones the first row wins.

    Returns:
        Ids (...) uint8, and confidence (...) float32 in 0..1: the colour margin (d2 - d1) / (d2 + d1), d1 and d2 the
        distances to the nearest and the second nearest colour; 1 on a colour, 0 half way between two.
    """
    red, green, blue = colors.float().unbind(dim=-1)  # planes: a sum over an axis of three is many times slower
    nearest, second = torch.full_like(red, torch.inf), torch.full_like(red, torch.inf)
    ids = torch.zeros_like(red, dtype=torch.uint8)
    for i, (r, g, b) in zip(palette.ids.tolist(), palette.colors.tolist(), strict=True):
        distance = (red - r).square() + (green - g).square() + (blue - b).square()
        ids.masked_fill_(distance < nearest, i)
        second = torch.minimum(second, torch.maximum(nearest, distance))
        nearest = torch.minimum(nearest, distance)
    if len(palette.ids) == 1:
        return ids, torch.ones_like(nearest)
    nearest, second = nearest.sqrt(), second.sqrt()
    return ids, (second - nearest) / (second + nearest)


def read_both(colors: Tensor, palette: Palette, second: SecondVotes) -> tuple[Tensor, Tensor]:
    """Read ids from colours and a backbone's votes together.

    For each id the network's lead is the colour margin to the nearest other colour, -1..1. The backbone's lead, spread
    bilinearly, is added to it, and the id with the greatest sum wins. Where the backbone leads by nothing, ids are
    those of :func:`read_colors`, so that edges stay the network's.

    Args:
        colors: (B, H, W, 3) in 0..255.
        palette: The colours that were asked for, two or more.
        second: The backbone's votes.

    Returns:
        Ids (B, H, W) uint8, and confidence (B, H, W) float32 in 0..1: the hyperbolic tangent of half the lead of the
        sum over the next one, times the sharpness: the difference of two probabilities by logistic regression.
    """
    table = torch.tensor(palette.colors, device=colors.device).float()
    distances = torch.stack([(colors.float() - color).square().sum(-1).sqrt() for color in table], dim=1)
    two = distances.topk(2, dim=1, largest=False).values
    other = torch.where(distances == two[:, :1], two[:, 1:], two[:, :1])
    spread = F.interpolate(second.leads, colors.shape[1:3], mode="bilinear", align_corners=False)
    sums = (other - distances) / (other + distances) + spread
    best = sums.topk(2, dim=1)
    ids = torch.tensor(palette.ids, device=colors.device)[best.indices[:, 0]]
    lead = (best.values[:, 0] - best.values[:, 1]) / 2
    return ids, torch.tanh(second.sharpness * lead)


def read_logits(painted: Tensor, palette: Palette) -> Tensor:
    """Read paint (B, 3, H, W) of one id as logits of it (B, H, W) float32: 0 half way between its colour and black.

    The colour margin is taken for twice the probability less one, so that of 1 in 4 pixels read with a margin of 0.5
    another id is right.
    """
    ids, margin = read_colors(unpaint(painted), palette)
    signed = torch.where(ids == 0, -margin, margin)
    return 2 * torch.atanh(signed.clamp(-_MOST_MARGIN, _MOST_MARGIN))


def reading_logits(painted: Tensor, colors: Tensor, used: Tensor, *, sharpness: float = SHARPNESS) -> Tensor:
    """Compute the logits of the nearest-colour posterior: answers (B, 3, H, W), colours (B, K, 3) -> (B, K, H, W).

    Args:
        used: (B, K) bool, the colours that count.
        sharpness: Nats by which an answer that hits a colour prefers it to the one nearest to that.
    """
    between = torch.cdist(colors, colors).square()
    others = used.unsqueeze(1) & used.unsqueeze(2) & ~torch.eye(colors.shape[1], dtype=torch.bool, device=used.device)
    nearest = between.masked_fill(~others, torch.inf).amin(dim=(1, 2))  # of any two colours of the palette, (B,)
    # The answer's own squared length is common to all colours and cancels in the softmax.
    product = torch.einsum("bkc,bchw->bkhw", colors, painted)
    logits = (2 * product - colors.square().sum(-1)[:, :, None, None]) * (sharpness / nearest)[:, None, None, None]
    return logits.masked_fill(~used[:, :, None, None], -1e4)


def color_shares(painted: Tensor, colors: Tensor, used: Tensor, patch: int) -> Tensor:
    """Compute how far each patch shows each id: the posterior's mean, (B, K, H / patch, W / patch), over 0.

    The other arguments as for :func:`reading_logits`.
    """
    posterior = reading_logits(painted.float(), colors, used).softmax(dim=1)
    return F.avg_pool2d(posterior, patch) + _LEAST_SHARE


def shares(painted: Tensor, palette: Palette, patch: int) -> Tensor:
    """Compute :func:`color_shares` of paint (B, 3, H, W) in one palette of K + 1 ids."""
    colors = normalise_colors(torch.tensor(palette.colors).to(painted.device)).expand(len(painted), -1, -1)
    used = torch.ones(colors.shape[:2], dtype=torch.bool, device=painted.device)
    return color_shares(painted, colors, used, patch)


def read(
    painted: Sequence[Paint],
    sizes: Sequence[tuple[int, int]],
    *,
    guides: Sequence[Pixels] | None = None,
    min_presence: float = 0.0,
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]:
    """Paint -> for each query, at its own size (H, W), ids uint8 and confidence in 0..1.

    Colours are read at the network's resolution, so no blend of two is taken for a third. What is upsampled is each
    pixel's vote for its id, weighted by its confidence: the id with most votes wins, and the confidence is its lead
    over all others together. For one id this follows the zero line of the signed colour margin, smooth where nearest
    upsampling is blocky. At (side, side) nothing changes. Memory is that of a band of rows, for any number of ids.

    Args:
        painted: Several when the ids went through the network in groups.
        guides: The queries (H, W, 3) uint8 themselves, for edges that follow them (edges.py).
        min_presence: What is less likely to be there at all is left out.
    """
    if any(each.painted.ndim != 4 or each.painted.shape[:2] != (len(sizes), 3) for each in painted):
        shapes = ", ".join(str(tuple(each.painted.shape)) for each in painted)
        raise ValueError(f"expected paint (B, 3, side, side) and B sizes, got {shapes} and {len(sizes)} sizes")
    along = [None] * len(sizes) if guides is None else guides
    ids, confidence = read_small(painted, min_presence=min_presence)
    return [
        votes.elect(i, c, size, guide=guide) for i, c, size, guide in zip(ids, confidence, sizes, along, strict=True)
    ]


def read_small(painted: Sequence[Paint], *, min_presence: float = 0.0) -> tuple[Tensor, Tensor]:
    """Paint -> ids uint8 and confidence float32, (B, side, side). min_presence as for :func:`read`."""
    return _joined([_without_absent(each, min_presence) for each in painted])


def _without_absent(each: Paint, min_presence: float) -> tuple[Tensor, Tensor]:
    """Read what was painted, less the ids that are not there; as sure as it is that they are not."""
    colors = unpaint(each.painted)
    ids, confidence = (
        read_colors(colors, each.palette) if each.second is None else read_both(colors, each.palette, each.second)
    )
    if each.presence is None or min_presence <= 0:
        return ids, confidence
    left = ids.clone()
    for i, likely in zip(each.palette.ids[1:].tolist(), each.presence[:, 1:, None, None].unbind(dim=1), strict=True):
        absent = (ids == i) & (likely < min_presence)
        left.masked_fill_(absent, 0)
        confidence = torch.where(absent, 1 - likely, confidence)
    return left, confidence


def _joined(readings: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Give a pixel to the surest of the groups that claim it; background, as sure as the least, where none does."""
    ids, confidence = readings[0]
    for other, its_confidence in readings[1:]:
        claimed, its_claim = ids != 0, other != 0
        takes = its_claim & (~claimed | (its_confidence > confidence))
        least = torch.minimum(confidence, its_confidence)
        confidence = torch.where(takes, its_confidence, torch.where(claimed, confidence, least))
        ids = torch.where(takes, other, ids)
    return ids, confidence
