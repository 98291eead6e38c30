"""The layers that say nothing of prompts and queries: patches in, an MLP, pixels out, and the presence head.

Refuses to know canvases, shots and streams.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from incontext.network.config import ModelConfig


class PatchEmbed(nn.Module):
    """Cuts a canvas into patches and embeds each: (M, 3, H, W) -> (M, H / patch, W / patch, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)

    def forward(self, canvas: Tensor) -> Tensor:
        # A convolution whose windows do not overlap is one matrix product.
        """Embed the patches of canvases, (M, 3, H, W) normalised: (M, H / patch, W / patch, C)."""
        patches = rearrange(
            canvas, "m c (r p) (w q) -> m r w (c p q)", p=self.proj.kernel_size[0], q=self.proj.kernel_size[1]
        )
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token (..., C) to another."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels of each pixel of (B, C, H, W)."""
        normed = F.layer_norm(
            rearrange(x, "b c h w -> b h w c"), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return rearrange(normed, "b h w c -> b c h w")


class Presence(nn.Module):
    """Whether what an id stands for is in a query at all: a small head that reads what the network paints from.

    Two linear layers on the mean of a query's tokens under what is painted of an id, and on the mean of them all. Not
    in the published network; the idea is the occlusion head of SAM 2 (arXiv 2408.00714, section 4). It changes nothing
    that the network paints; how much of its gradient the network learns from is for the recipe.
    """

    def __init__(self, channels: int, hidden: int, *, eps: float) -> None:
        """channels: of a token; hidden: between the layers; eps: of the normalisation."""
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels, eps=eps)
        self.fc1 = nn.Linear(2 * channels, hidden)
        self.fc2 = nn.Linear(hidden, 1)

    def forward(self, tokens: Tensor, shares: Tensor) -> Tensor:
        """Judge which ids are in the queries.

        Args:
            tokens: (B, R, W, C), the tapped tokens of the queries.
            shares: (B, K, R, W) above 0, how far each patch shows an id.

        Returns:
            (B, K) logits.
        """
        shares = (shares / shares.sum(dim=(2, 3), keepdim=True)).to(tokens.dtype)
        under = torch.einsum("bkrw,brwc->bkc", shares, tokens)
        everywhere = tokens.mean(dim=(1, 2)).unsqueeze(1).expand_as(under)
        pooled = self.norm(torch.cat([under, everywhere], dim=-1))
        return self.fc2(F.gelu(self.fc1(pooled))).squeeze(-1)  # type: ignore[no-any-return]
