"""Edges that follow the photograph: a guided filter on the votes for an id.

Around each pixel of the network's answer a vote is explained by the photograph's colours, as a line v = a . colour + b
fitted to a small neighbourhood; the lines, spread to the image's own size, then meet its own colours. Guided image
filtering (He, Sun, Tang, TPAMI 2013), computed at the answer's resolution as in the fast one (He, Sun, arXiv
1505.00996): memory does not grow with the image. Refuses to know ids, files and the network.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS: Final = 2  # pixels of the network's answer
REACH: Final = 2 * RADIUS  # how far a vote is felt: it is in lines near it, and those in the lines near them
SMOOTHNESS: Final = 1e-4  # of colours in 0..1: how much an edge of the photograph must stand out (the paper's epsilon)


class Guide:
    """What the photograph contributes to all ids: made once for an image or a window of it."""

    def __init__(self, small: Tensor, *, radius: int = RADIUS, smoothness: float = SMOOTHNESS) -> None:
        """small: (3, h, w) float32 in 0..1, the photograph at the answer's resolution."""
        self._radius = radius
        self._small = small
        self._count = self._summed(torch.ones_like(small[:1]))
        self._mean = self._blurred(small)
        second = self._blurred(small[[0, 0, 0, 1, 1, 2]] * small[[0, 1, 2, 1, 2, 2]])
        square = second[[0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(3, 3, *small.shape[1:])
        covariance = square - self._mean[:, None] * self._mean[None]
        ridge = smoothness * torch.eye(3, device=small.device)
        self._inverse = torch.linalg.inv(covariance.permute(2, 3, 0, 1) + ridge)  # (h, w, 3, 3)

    def lines(self, votes: Tensor) -> Tensor:
        """Fit lines to votes (h, w) float32: (4, h, w), the three slopes and the height of each pixel's line."""
        mean = self._blurred(votes)
        covariance = self._blurred(self._small * votes) - self._mean * mean
        slopes = torch.einsum("hwij,jhw->ihw", self._inverse, covariance)
        heights = mean - (slopes * self._mean).sum(dim=0, keepdim=True)
        return self._blurred(torch.cat([slopes, heights]))

    def _blurred(self, planes: Tensor) -> Tensor:
        """Average planes (h, w) or (C, h, w) over the neighbourhood: (C, h, w), of fewer pixels at the edge."""
        return self._summed(planes if planes.ndim == 3 else planes[None]) / self._count

    def _summed(self, planes: Tensor) -> Tensor:
        """Sum planes (C, h, w) over the neighbourhood, by shifts: on a CPU many times as fast as `avg_pool2d`."""
        radius, (height, width) = self._radius, planes.shape[1:]
        padded, down = F.pad(planes, (0, 0, radius, radius)), torch.zeros_like(planes)
        for shift in range(2 * radius + 1):
            down += padded[:, shift : shift + height]
        padded, both = F.pad(down, (radius, radius)), torch.zeros_like(planes)
        for shift in range(2 * radius + 1):
            both += padded[:, :, shift : shift + width]
        return both


def meet(lines: Tensor, colors: Tensor) -> Tensor:
    """Evaluate lines (4, H, W) at the colours (H, W, 3) uint8 of the image itself: votes (H, W) float32, 0 or more."""
    votes = lines[3].clone()
    for channel in range(3):
        votes.addcmul_(lines[channel], colors[..., channel].float(), value=1 / 255)
    return votes.clamp_(min=0)
