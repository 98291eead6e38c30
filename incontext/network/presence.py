"""Whether what an id stands for is in a query at all: a small head that reads what the network paints from.

Not in the published network. The idea is the occlusion head of SAM 2 (arXiv 2408.00714, section 4). It changes nothing
that the network paints; how much of its gradient the network learns from is for the recipe. Refuses to know colours,
ids and pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Presence(nn.Module):
    """Two linear layers on the mean of a query's tokens under what is painted of an id, and on the mean of them all."""

    def __init__(self, channels: int, hidden: int, *, eps: float) -> None:
        """channels: of a token; hidden: between the layers; eps: of the normalisation."""
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels, eps=eps)
        self.fc1 = nn.Linear(2 * channels, hidden)
        self.fc2 = nn.Linear(hidden, 1)

    def forward(self, tokens: Tensor, shares: Tensor) -> Tensor:
        """tokens (B, R, W, C); shares (B, K, R, W) above 0, how far each patch shows an id -> (B, K) logits."""
        shares = (shares / shares.sum(dim=(2, 3), keepdim=True)).to(tokens.dtype)
        under = torch.einsum("bkrw,brwc->bkc", shares, tokens)
        everywhere = tokens.mean(dim=(1, 2)).unsqueeze(1).expand_as(under)
        pooled = self.norm(torch.cat([under, everywhere], dim=-1))
        return self.fc2(F.gelu(self.fc1(pooled))).squeeze(-1)  # type: ignore[no-any-return]
