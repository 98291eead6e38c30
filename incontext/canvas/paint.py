"""Pixels to tensors and back: fit, paint, read. The only place that knows the mean and the std.

Refuses to know files, devices and the network. Tensors stay on the device that they come on.
"""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from incontext.canvas import votes
from incontext.images.masks import IGNORED
from incontext.images.read import Pixels
from incontext.types import Palette, Prompt

IMAGE_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0..1
IMAGE_STD = (0.229, 0.224, 0.225)
SHARPNESS = 6.0  # of the nearest-colour posterior, see `reading_logits`

_LEAST_SHARE = 1e-4  # of a patch, so that an id that nothing is painted of still is looked for everywhere

# (3, 256): what each value of each channel becomes, in float64 and rounded once, as the published code does
_NORMALISED = ((np.arange(256) / 255 - np.array(IMAGE_MEAN)[:, None]) / np.array(IMAGE_STD)[:, None]).astype(np.float32)


class Paint(NamedTuple):
    """What the network painted of a batch in one pass, and in which colours."""

    painted: Tensor  # (B, 3, side, side) normalised
    palette: Palette
    presence: Tensor | None = None  # (B, K + 1) of each id of the palette in 0..1; None: the network does not say

    def part(self, first: int, last: int) -> "Paint":
        """Only these of the batch."""
        presence = None if self.presence is None else self.presence[first:last]
        return Paint(self.painted[first:last], self.palette, presence)

    @classmethod
    def joined(cls, parts: Sequence["Paint"]) -> "Paint":
        """Parts of a batch in one pass, as one."""
        known = [each.presence for each in parts if each.presence is not None]
        painted = torch.cat([each.painted for each in parts])
        return cls(painted, parts[0].palette, torch.cat(known) if known else None)


def normalise(rgb: Tensor) -> Tensor:
    """(..., H, W, 3) uint8 RGB, on any device -> (..., 3, H, W) float32, ImageNet mean 0 and std 1."""
    table = torch.from_numpy(_NORMALISED).to(rgb.device)
    return torch.stack([table[c][rgb[..., c].int()] for c in range(3)], dim=-3)


def fit(image: Pixels, size: tuple[int, int]) -> Pixels:
    """An image (H, W, 3) uint8 RGB, squeezed by Pillow's bicubic filter to a size (H, W)."""
    return _resized(image, size, Image.Resampling.BICUBIC)


def fit_mask(mask: Pixels, size: tuple[int, int]) -> Pixels:
    """A mask (H, W) uint8, squeezed to a size (H, W) by taking the nearest pixels."""
    return _resized(mask, size, Image.Resampling.NEAREST)


def paint(prompt: Prompt, palette: Palette, size: tuple[int, int]) -> Pixels:
    """A prompt's mask, resized to the nearest pixel and painted: (H, W, 3) uint8. Ids without a colour become black.

    A raw colour prompt is painted in its own colours; the palette is then for reading only.
    """
    if prompt.colors is not None:
        return _resized(prompt.colors, size, Image.Resampling.NEAREST)
    mask = fit_mask(prompt.mask, size)
    return palette.paint(np.where(np.isin(mask, [*palette.ids, IGNORED]), mask, 0))


def mosaic(prompts: Sequence[Prompt], palette: Palette, side: int) -> tuple[Pixels, Pixels]:
    """The spatial ensemble: prompts tiled n x n into one -> its image and its painted mask, (side, side, 3) uint8.

    n is the smallest that holds them all. Cells that are left over show the prompts again from the first, which
    measured best (docs/log.md). Each prompt is squeezed once, straight to its cell.
    """
    n = ceil(sqrt(len(prompts)))
    edges = [round(i * side / n) for i in range(n + 1)]
    image, painted = np.empty((side, side, 3), np.uint8), np.empty((side, side, 3), np.uint8)
    for cell in range(n * n):
        prompt, (row, column) = prompts[cell % len(prompts)], divmod(cell, n)
        at = slice(edges[row], edges[row + 1]), slice(edges[column], edges[column + 1])
        size = at[0].stop - at[0].start, at[1].stop - at[1].start
        image[at], painted[at] = fit(prompt.image, size), paint(prompt, palette, size)
    return image, painted


def _resized(pixels: Pixels, size: tuple[int, int], filter: Image.Resampling) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], filter))


def normalise_colors(colors: Tensor) -> Tensor:
    """Colours (..., 3) RGB in 0..255, of any dtype, on any device -> (..., 3) float32, ImageNet mean 0 and std 1."""
    mean, std = colors.new_tensor([IMAGE_MEAN, IMAGE_STD], dtype=torch.float32)
    normalised: Tensor = (colors.float() / 255 - mean) / std
    return normalised


def unpaint(painted: Tensor) -> Tensor:
    """Paint (B, 3, H, W) normalised -> colours (B, H, W, 3) float32, clipped to 0..255."""
    mean, std = painted.new_tensor([IMAGE_MEAN, IMAGE_STD], dtype=torch.float32)
    colors: Tensor = (rearrange(painted.float(), "b c h w -> b h w c") * std + mean) * 255
    return colors.clamp(0, 255)


def read_colors(colors: Tensor, palette: Palette) -> tuple[Tensor, Tensor]:
    """`Palette.read` for tensors: colours (..., 3) in 0..255 -> ids (...) uint8, confidence (...) float32 in 0..1."""
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


def reading_logits(painted: Tensor, colors: Tensor, used: Tensor, *, sharpness: float = SHARPNESS) -> Tensor:
    """(B, 3, H, W) answers, (B, K, 3) colours, normalised -> (B, K, H, W) logits of the nearest-colour posterior.

    used: (B, K) bool, the colours that count. sharpness: nats by which an answer that hits a colour prefers it to the
    one nearest to that.
    """
    between = torch.cdist(colors, colors).square()
    others = used.unsqueeze(1) & used.unsqueeze(2) & ~torch.eye(colors.shape[1], dtype=torch.bool, device=used.device)
    nearest = between.masked_fill(~others, torch.inf).amin(dim=(1, 2))  # of any two colours of the palette, (B,)
    # The answer's own squared length is common to all colours and cancels in the softmax.
    product = torch.einsum("bkc,bchw->bkhw", colors, painted)
    logits = (2 * product - colors.square().sum(-1)[:, :, None, None]) * (sharpness / nearest)[:, None, None, None]
    return logits.masked_fill(~used[:, :, None, None], -1e4)


def color_shares(painted: Tensor, colors: Tensor, used: Tensor, patch: int) -> Tensor:
    """How far each patch shows each id: the posterior's mean over its pixels, (B, K, H / patch, W / patch), above 0.

    The other arguments as for :func:`reading_logits`.
    """
    posterior = reading_logits(painted.float(), colors, used).softmax(dim=1)
    return F.avg_pool2d(posterior, patch) + _LEAST_SHARE


def shares(painted: Tensor, palette: Palette, patch: int) -> Tensor:
    """:func:`color_shares` of paint (B, 3, H, W) in one palette of K + 1 ids -> (B, K + 1, H / patch, W / patch)."""
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

    painted: several when the ids went through the network in groups.
    Colours are read at the network's resolution, so no blend of two is taken for a third. What is upsampled is each
    pixel's vote for its id, weighted by its confidence: the id with most votes wins, and the confidence is its lead
    over all others together. For one id this follows the zero line of the signed colour margin, smooth where nearest
    upsampling is blocky. At (side, side) nothing changes. Memory is that of a band of rows, for any number of ids.
    guides: the queries (H, W, 3) uint8 themselves, for edges that follow them (edges.py). min_presence: what is less
    likely to be there at all is left out.
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
    """What was read, less the ids that are not there; as sure as it is that they are not."""
    ids, confidence = read_colors(unpaint(each.painted), each.palette)
    if each.presence is None or min_presence <= 0:
        return ids, confidence
    left = ids.clone()
    for i, likely in zip(each.palette.ids[1:].tolist(), each.presence[:, 1:, None, None].unbind(dim=1), strict=True):
        absent = (ids == i) & (likely < min_presence)
        left.masked_fill_(absent, 0)
        confidence = torch.where(absent, 1 - likely, confidence)
    return left, confidence


def _joined(readings: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Of the groups that claim a pixel the surest one has it; background where none does, as sure as the least sure."""
    ids, confidence = readings[0]
    for other, its_confidence in readings[1:]:
        claimed, its_claim = ids != 0, other != 0
        takes = its_claim & (~claimed | (its_confidence > confidence))
        least = torch.minimum(confidence, its_confidence)
        confidence = torch.where(takes, its_confidence, torch.where(claimed, confidence, least))
        ids = torch.where(takes, other, ids)
    return ids, confidence
