"""Pixels to tensors and back: fit, paint, read. The only place that knows the mean and the std.

Refuses to know files, devices and the network. Tensors stay on the device that they come on.
"""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from incontext.formats import IGNORED, Pixels
from incontext.types import Palette, Prompt

IMAGE_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0..1
IMAGE_STD = (0.229, 0.224, 0.225)

_BAND_PIXELS = 1 << 18  # of the query, upsampled at a time: what fits a processor's cache
_LEAST_MARGIN = 1e-6  # so that a pixel half way between two colours still has a vote

# (3, 256): what each value of each channel becomes, in float64 and rounded once, as the published code does
_NORMALISED = ((np.arange(256) / 255 - np.array(IMAGE_MEAN)[:, None]) / np.array(IMAGE_STD)[:, None]).astype(np.float32)


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


def read(
    painted: Sequence[tuple[Tensor, Palette]], sizes: Sequence[tuple[int, int]]
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]:
    """Paint -> for each query, at its own size (H, W), ids uint8 and confidence in 0..1.

    painted: (B, 3, side, side) normalised with its palette; several when the ids went through the network in groups.
    Colours are read at the network's resolution, so no blend of two is taken for a third. What is upsampled is each
    pixel's vote for its id, weighted by its confidence: the id with most votes wins, and the confidence is its lead
    over all others together. For one id this follows the zero line of the signed colour margin, smooth where nearest
    upsampling is blocky. At (side, side) nothing changes. Memory is that of a band of rows, for any number of ids.
    """
    if any(each.ndim != 4 or each.shape[:2] != (len(sizes), 3) for each, _ in painted):
        shapes = ", ".join(str(tuple(each.shape)) for each, _ in painted)
        raise ValueError(f"expected paint (B, 3, side, side) and B sizes, got {shapes} and {len(sizes)} sizes")
    ids, confidence = _joined([read_colors(unpaint(each), palette) for each, palette in painted])
    return [_at_size(i, c, size) for i, c, size in zip(ids, confidence, sizes, strict=True)]


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


def _at_size(ids: Tensor, confidence: Tensor, size: tuple[int, int]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """ids and confidence, both (h, w), at size (H, W)."""
    if tuple(size) == tuple(ids.shape):
        return ids.cpu().numpy(), confidence.cpu().numpy()
    height, width = size
    mask, lead = np.empty(size, np.uint8), np.empty(size, np.float32)
    weight = confidence.clamp(min=_LEAST_MARGIN)
    shrunk = min(height, ids.shape[0]), min(width, ids.shape[1])  # what is smaller than the network's side is averaged
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        upper, lower, fraction = _taps(band, shrunk[0], height)
        source = slice(int(upper[0]), int(lower[-1]) + 1) if shrunk == ids.shape else slice(0, ids.shape[0])
        upper, lower, fraction = (t.to(ids.device) for t in (upper - source.start, lower - source.start, fraction))
        winner = torch.zeros((len(fraction), width), dtype=torch.uint8, device=ids.device)
        most = weight.new_full(winner.shape, -1.0)
        total = weight.new_zeros(winner.shape)
        for i in torch.unique(ids[source]).tolist():
            votes = torch.where(ids[source] == i, weight[source], 0)
            if shrunk != ids.shape:
                votes = F.interpolate(votes[None, None], shrunk, mode="bilinear", antialias=True)[0, 0]
            votes = torch.lerp(votes[upper], votes[lower], fraction[:, None])
            votes = F.interpolate(votes[None], width, mode="linear")[0]
            winner.masked_fill_(votes > most, i)
            torch.maximum(most, votes, out=most)
            total += votes
        mask[band] = winner.cpu().numpy()
        lead[band] = (2 * most - total).clamp(0, 1).cpu().numpy()
    return mask, lead


def _taps(band: slice, source: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """For rows of a band, out of `height`: the two of the `source` rows that each lies between, and how far between."""
    centre = (torch.arange(band.start, band.stop, dtype=torch.float64) + 0.5) * (source / height) - 0.5
    centre = centre.clamp(0, source - 1)
    upper = centre.floor().long()
    return upper, (upper + 1).clamp(max=source - 1), (centre - upper).float()
