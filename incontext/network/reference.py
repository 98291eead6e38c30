"""The network as its authors compute it, without one saving: what the tests and the ladder compare with.

N whole canvases of a prompt over the query, both streams of them through the early blocks for every query, every matrix
of attention in memory, every canvas decoded, every table interpolated in every forward. It reads parameters by name
from a :class:`~incontext.network.model.SegGPT` and shares no code with it, so that one is a check of the other.

Axis letters: B queries, N shots, S streams, R patch rows of a canvas, W patch columns, C channels, d head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor

from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.options import Task


class Reference:
    """A :class:`SegGPT` computed plainly. Holds its parameters, not copies of them."""

    def __init__(self, model: SegGPT) -> None:
        self.config: ModelConfig = model.config
        self._weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def __call__(
        self,
        prompt_images: Tensor,
        prompt_masks: Tensor,
        queries: Tensor,
        *,
        task: Task = "instance",
        query_masks: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Paint the masks of B queries: most arguments and the answer are those of `SegGPT.forward`.

        Args:
            query_masks: (B, 3, side, side), what is painted on the queries' halves.
            hidden: (B, rows, columns) bool, the patches of whole canvases that the network must paint; None is all of
                the queries' and none of the prompts'.
        """
        config, batch, shots, side = self.config, len(queries), prompt_images.shape[1], queries.shape[-1]
        images, masks = (each.expand(batch, -1, -1, -1, -1) for each in (prompt_images, prompt_masks))
        own, below = (
            repeat(each, "b c h w -> b n c h w", n=shots)
            for each in (queries, queries if query_masks is None else query_masks)
        )
        if hidden is None:
            rows = torch.arange(2 * side // config.patch, device=queries.device) >= side // config.patch
            hidden = repeat(rows, "r -> b r w", b=batch, w=side // config.patch)
        tokens = self._embedded(torch.cat([images, own], dim=-2), torch.cat([masks, below], dim=-2), hidden, task)
        taps = []
        for index in range(config.depth):
            tokens = self._block(f"blocks.{index}", tokens)
            if index == config.merge_layer:
                tokens = reduce(tokens, "b s n r w c -> b 1 n r w c", "mean")
            if index in config.taps:
                taps.append(self._norm("norm", tokens[:, 0]))
        canvases = self._decoded(torch.cat(taps, dim=-1))
        return canvases[:, 0, :, side:]

    def _embedded(self, images: Tensor, masks: Tensor, hidden: Tensor, task: Task) -> Tensor:
        """Embed canvases (B, N, 3, 2 * side, side), hidden (B, R, W), as both streams: (B, S, N, R, W, C)."""
        weights, config = self._weights, self.config
        rows, columns = (length // config.patch for length in images.shape[-2:])
        x, y = (self._patches(each) for each in (images, masks))
        y = torch.where(rearrange(hidden, "b r w -> b 1 r w 1"), weights["mask_token"], y)
        both = torch.stack([x + weights["segment_token_x"], y + weights["segment_token_y"]], dim=1)
        size = config.pretrain_side // config.patch
        positions = rearrange(weights["pos_embed"][:, 1:], "1 (r w) c -> 1 c r w", r=size)
        if (rows, columns) != (size, size):
            positions = F.interpolate(positions, size=(rows, columns), mode="bicubic", align_corners=False)
        type_token = weights["type_token_cls" if task == "semantic" else "type_token_ins"]
        return both + rearrange(positions, "1 c r w -> r w c") + type_token

    def _patches(self, canvases: Tensor) -> Tensor:
        """Embed the patches of (B, N, 3, H, W): (B, N, H / patch, W / patch, C)."""
        weight, bias = (self._weights[f"patch_embed.proj.{name}"] for name in ("weight", "bias"))
        patches = F.conv2d(canvases.flatten(0, 1), weight, bias, stride=self.config.patch)
        return rearrange(patches, "(b n) c r w -> b n r w c", b=len(canvases))

    def _block(self, name: str, x: Tensor) -> Tensor:
        """Run a block on (B, S, N, R, W, C). The query halves of all shots become their mean before the residual."""
        seen = self._attention(f"{name}.attn", self._norm(f"{name}.norm1", x))
        prompts, queries = seen.chunk(2, dim=3)
        mean = queries.mean(dim=2, keepdim=True).expand_as(queries)
        x = x + torch.cat([prompts, mean], dim=3)
        hidden = F.gelu(self._linear(f"{name}.mlp.fc1", self._norm(f"{name}.norm2", x)))
        return x + self._linear(f"{name}.mlp.fc2", hidden)

    def _attention(self, name: str, x: Tensor) -> Tensor:
        heads, (height, width) = self.config.heads, x.shape[3:5]
        q, k, v = rearrange(
            self._linear(f"{name}.qkv", x), "b s n r w (three h d) -> three b s n h r w d", three=3, h=heads
        )
        rows, columns = (
            _offsets(self._weights[f"{name}.rel_pos_{axis}"], length)
            for axis, length in zip("hw", (height, width), strict=True)
        )
        by_row = torch.einsum("...rwd,rkd->...rwk", q, rows)
        by_column = torch.einsum("...rwd,wkd->...rwk", q, columns)
        bias = rearrange(by_row.unsqueeze(-1) + by_column.unsqueeze(-2), "... r w k l -> ... (r w) (k l)")
        q, k, v = (each.flatten(-3, -2) for each in (q, k, v))
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT + bias, dim=-1)
        return self._linear(f"{name}.proj", rearrange(weights @ v, "b s n h (r w) d -> b s n r w (h d)", w=width))

    def _decoded(self, taps: Tensor) -> Tensor:
        """Decode tapped tokens (B, N, R, W, taps * C) to paint (B, N, 3, R * patch, W * patch)."""
        weights, patch = self._weights, self.config.patch
        pixels = rearrange(
            self._linear("decoder_embed", taps), "b n r w (p q c) -> (b n) c (r p) (w q)", p=patch, q=patch
        )
        hidden = F.conv2d(pixels, weights["decoder_pred.0.weight"], weights["decoder_pred.0.bias"], padding=1)
        normed = self._norm("decoder_pred.1", rearrange(hidden, "m c h w -> m h w c"))
        hidden = F.gelu(rearrange(normed, "m h w c -> m c h w"))
        painted = F.conv2d(hidden, weights["decoder_pred.3.weight"], weights["decoder_pred.3.bias"])
        return rearrange(painted, "(b n) c h w -> b n c h w", b=len(taps))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.config.norm_eps)


def _offsets(table: Tensor, length: int) -> Tensor:
    """Look a table (2 * L - 1, d) of any L up for each pair: (length, length, d), entry [i, j] for i - j."""
    if len(table) != 2 * length - 1:
        resized = F.interpolate(rearrange(table, "l d -> 1 d l"), size=2 * length - 1, mode="linear")
        table = rearrange(resized, "1 d l -> l d")
    position = torch.arange(length, device=table.device)
    return table[position[:, None] - position[None, :] + length - 1]
