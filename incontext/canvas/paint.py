"""Pixels to tensors: what the network is shown, in its own numbers. Only here are the mean and the std known.

Refuses to know files, devices and the network. Tensors stay on the device that they come on.
"""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Final

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from incontext.images import resize
from incontext.images.ids import IGNORED, Pixels
from incontext.types import Palette, Prompt

IMAGE_MEAN: Final = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0..1
IMAGE_STD: Final = (0.229, 0.224, 0.225)

# (3, 256): what each value of each channel becomes, in float64 and rounded once, as the published code does
_NORMALISED = ((np.arange(256) / 255 - np.array(IMAGE_MEAN)[:, None]) / np.array(IMAGE_STD)[:, None]).astype(np.float32)


def normalise(rgb: Tensor) -> Tensor:
    """Bring images to what the network expects: ImageNet mean 0 and std 1.

    Args:
        rgb: (..., H, W, 3) uint8 RGB, on any device.

    Returns:
        (..., 3, H, W) float32, on the same device.
    """
    table = torch.from_numpy(_NORMALISED).to(rgb.device)
    return torch.stack([table[c][rgb[..., c].int()] for c in range(3)], dim=-3)


def normalise_colors(colors: Tensor) -> Tensor:
    """Bring colours (..., 3) RGB in 0..255, of any dtype and on any device, to the network's numbers, float32."""
    mean, std = colors.new_tensor([IMAGE_MEAN, IMAGE_STD], dtype=torch.float32)
    normalised: Tensor = (colors.float() / 255 - mean) / std
    return normalised


def unpaint(painted: Tensor) -> Tensor:
    """Turn what was painted, (B, 3, H, W) normalised, into colours (B, H, W, 3) float32, clipped to 0..255."""
    mean, std = painted.new_tensor([IMAGE_MEAN, IMAGE_STD], dtype=torch.float32)
    colors: Tensor = (rearrange(painted.float(), "b c h w -> b h w c") * std + mean) * 255
    return colors.clamp(0, 255)


def mosaic(prompts: Sequence[Prompt], palette: Palette, side: int) -> tuple[Pixels, Pixels]:
    """Make one canvas half of prompts: the spatial ensemble, n x n of them tiled (arXiv 2304.03284, section 3.3).

    n is the smallest that holds them all; one prompt fills the half. Cells that are left over show the prompts again
    from the first, which measured best (docs/log/examples.md).

    Args:
        prompts: With masks of ids, or with raw colours, which are shown as they are; all of a kind.
        palette: Colours to paint ids in; ids without a colour become black.
        side: Pixels along a side of the half.

    Returns:
        The image and the painted mask, each (side, side, 3) uint8.
    """
    n = ceil(sqrt(len(prompts)))
    shown = [(each.image, each.mask if each.colors is None else each.colors) for each in prompts]
    image, marked = resize.mosaic(shown, (n, n), side)
    if marked.ndim == 3:
        return image, marked
    return image, palette.paint(np.where(np.isin(marked, [*palette.ids, IGNORED]), marked, 0))
