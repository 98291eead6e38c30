"""The light in which an image is seen: colours, contrast and noise, for many images at once, on any device.

Numbers are drawn one image at a time, from its own generator; pixels change in a batch, where the tensors are. So an
image comes out the same in a worker and on an accelerator, whatever else is in the batch. Refuses to know files,
masks and episodes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from incontext.learning.augmentation import Augmentation, Rng

Light = npt.NDArray[np.float32]  # (16,): colour matrix 9, gains of the channels 3, gamma, contrast, noise and its seed

AS_IT_IS: Light = np.array([1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0], np.float32)
_SEEDS = 2**24  # whole numbers that float32 holds exactly
_SPREAD = math.sqrt(4 * (256**2 - 1) / 12)  # standard deviation of the sum of four random bytes


def draw_light(rng: Rng, changes: Augmentation) -> Light:
    """Draw how an image is to be lit: (16,) float32, `AS_IT_IS` where nothing changes."""
    light = AS_IT_IS.copy()
    grey = bool(rng.random() < changes.grey)
    saturation, hue = (0.0 if grey else 1.0), 0.0
    if rng.random() < changes.light:
        saturation *= float(rng.uniform(0.5, 1.4))
        hue = changes.hue * float(rng.uniform(-1, 1)) if rng.random() < 1 / 3 else 0.0
        gain = np.exp(rng.normal(0.0, 0.06, 3)) * math.exp(rng.normal(0.0, 0.18))
        light[9:12] = gain.mean() if grey else gain
        light[12], light[13] = math.exp(float(rng.normal(0.0, 0.15))), float(rng.uniform(0.7, 1.35))
    if (saturation, hue) != (1.0, 0.0):
        light[:9] = _color_matrix(saturation, hue).ravel()
    if rng.random() < changes.noise:
        light[14], light[15] = rng.uniform(2.0, 14.0), rng.integers(_SEEDS)
    return light


def lit(image: npt.NDArray[np.uint8], light: Light) -> npt.NDArray[np.uint8]:
    """Light one image (H, W, 3) uint8."""
    if np.array_equal(light, AS_IT_IS):
        return image
    shone: npt.NDArray[np.uint8] = shine(torch.from_numpy(image.copy())[None], torch.from_numpy(light)[None])[0].numpy()
    return shone


def shine(images: Tensor, lights: Tensor) -> Tensor:
    """Light images (M, H, W, 3) uint8, each in its light (M, 16) float32, on their device.

    First the colour matrix; then one curve for each channel: gamma, contrast, white balance and brightness about the
    image's mean, which is kept from becoming all dark or all white; then noise.
    """
    matrix = rearrange(lights[:, :9], "m (i j) -> m i j", i=3)
    gain, gamma, contrast, noise, seed = lights[:, 9:12], *lights[:, 12:].unsqueeze(-1).unbind(dim=1)
    pixels = rearrange(images, "m h w c -> m (h w) c").float()
    pixels = (pixels @ matrix.mT).round().clamp(0, 255)
    middle = 255 * (pixels.mean(dim=(1, 2)).unsqueeze(-1) / 255) ** gamma  # (M, 1)
    brightness = (middle * gain).clamp(min=middle.clamp(max=40.0), max=middle.clamp(min=190.0))  # (M, 3)
    levels = 255 * (torch.arange(256, device=images.device) / 255) ** gamma  # (M, 256)
    curves = ((levels - middle) * contrast).unsqueeze(1) + brightness.unsqueeze(2)  # (M, 3, 256)
    found = torch.gather(curves, 2, rearrange(pixels, "m p c -> m c p").long())
    if bool((noise > 0).any()):
        found = found + noise.unsqueeze(-1) * _noise(seed, found[0].numel()).view_as(found)
    return rearrange(found.round().clamp(0, 255).to(torch.uint8), "m c (h w) -> m h w c", h=images.shape[1])


def _color_matrix(saturation: float, hue: float) -> npt.NDArray[np.float64]:
    """Make (3, 3) that turns colours about the grey axis by ``hue`` degrees, and draws them towards it."""
    turn = math.radians(hue)
    along, across = (1 - math.cos(turn)) / 3, math.sin(turn) / math.sqrt(3)
    rotation = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * across + math.cos(turn) * np.eye(3) + along
    matrix: npt.NDArray[np.float64] = saturation * rotation + (1 - saturation) / 3
    return matrix


def _noise(seeds: Tensor, count: int) -> Tensor:
    """Hash seeds (M, 1) to noise (M, count), nearly normal, of mean 0 and deviation 1, whatever the generator.

    The hash mixes 32 bits by shifts and odd factors, found by C. Wellons ("lowbias32").
    """
    bits = seeds.long() * 0x9E3779B1 + torch.arange(count, device=seeds.device) * 0x85EBCA6B
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = bits & 0xFFFFFFFF
        bits = (bits ^ (bits >> shift)) * factor
    bits = bits & 0xFFFFFFFF
    bits = bits ^ (bits >> 16)
    four = torch.stack([(bits >> shift) & 0xFF for shift in (0, 8, 16, 24)])
    return (four.sum(dim=0) - 510) / _SPREAD
