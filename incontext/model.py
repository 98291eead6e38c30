"""The network: a plain Vision Transformer that sees a prompt stacked over a query and paints the query's mask.

Reads from top to bottom: configuration, attention, MLP, block, network, loss. It knows normalised tensors; it refuses
to know pixels, colours, ids, files and devices. The semantics are those of SegGPT (arXiv 2304.03284) as published, and
parameters carry the published names, so that its weights load without translation.

Axis letters: B queries, N shots, S streams (image, mask), R patch rows, W patch columns, C channels, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from incontext.attention import attention, relative_table

Task = Literal["semantic", "instance"]


@dataclass(frozen=True)
class ModelConfig:
    """Size of a network. The defaults are the published large model (370.7 M parameters).

    A canvas is (2 * side, side) pixels, cut into square patches: 2 * side / patch rows of side / patch columns.
    """

    width: int = 1024  # channels of a token
    heads: int = 16  # attention heads per block
    depth: int = 24  # blocks
    patch: int = 16  # pixels along one side of a patch
    side: int = 448  # pixels along one side of a prompt or query
    decoder_width: int = 64  # channels per pixel in the decoder
    mlp_ratio: float = 4.0  # hidden channels of the MLP / width
    merge_layer: int = 2  # the block after which the two streams are averaged into one
    taps: tuple[int, ...] = (5, 11, 17, 23)  # the blocks whose outputs feed the decoder
    pretrain_side: int = 224  # pixels along one side of the picture that the position table was made for
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.taps))  # a list, when read from JSON
        if self.width % self.heads:
            raise ValueError(f"expected a width that {self.heads} heads divide, got {self.width}")
        for name in ("side", "pretrain_side"):
            if getattr(self, name) <= 0 or getattr(self, name) % self.patch:
                raise ValueError(f"expected {name} to be a multiple of patch {self.patch}, got {getattr(self, name)}")
        if not 0 <= self.merge_layer < self.depth:
            raise ValueError(f"expected merge_layer in 0..{self.depth - 1}, got {self.merge_layer}")
        if not self.taps or list(self.taps) != sorted(set(self.taps)):
            raise ValueError(f"expected taps as increasing block numbers, got {self.taps}")
        if self.taps[0] < self.merge_layer or self.taps[-1] >= self.depth:
            raise ValueError(f"expected taps in {self.merge_layer}..{self.depth - 1} (merged blocks), got {self.taps}")

    @property
    def grid(self) -> int:
        """Patches along one side of a prompt or query."""
        return self.side // self.patch


class Attention(nn.Module):
    """Global multi-head attention with decomposed relative positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * (2 * config.grid) - 1, config.width // config.heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * config.grid - 1, config.width // config.heads))

    def forward(self, x: Tensor, kernel: str) -> Tensor:
        """(M, R, W, C) -> (M, R, W, C); canvases do not see each other."""
        height, width = x.shape[1:3]
        q, k, v = rearrange(self.qkv(x), "m r w (three h d) -> three m h (r w) d", three=3, h=self.heads).unbind(0)
        rows, columns = relative_table(self.rel_pos_h, height), relative_table(self.rel_pos_w, width)
        out = attention(q, k, v, rows.to(q.dtype), columns.to(q.dtype), kernel=kernel)
        return self.proj(rearrange(out, "m h (r w) d -> m r w (h d)", r=height))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm Transformer block in which the shots of a context meet: the feature ensemble."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config.width, round(config.width * config.mlp_ratio))

    def forward(self, x: Tensor, kernel: str) -> Tensor:
        """(B, S, N, R, W, C) -> the same. The upper R / 2 rows are the prompts, the lower ones the query.

        After the projection and before the residual, the query half is replaced by its mean over the shots, each
        stream apart (arXiv 2304.03284, section 3.3). At one shot the mean is the identity.
        """
        batch, streams, shots = x.shape[:3]
        seen = self.attn(self.norm1(x).flatten(0, 2), kernel).unflatten(0, (batch, streams, shots))
        if shots > 1:
            prompt_half, query_half = seen.chunk(2, dim=3)
            seen = torch.cat([prompt_half, query_half.mean(dim=2, keepdim=True).expand_as(prompt_half)], dim=3)
        x = x + seen
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(
            rearrange(x, "b c h w -> b h w c"), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return rearrange(normed, "b h w c -> b c h w")


class PatchEmbed(nn.Module):
    """Cuts a canvas into patches and embeds each: (M, 3, H, W) -> (M, H / patch, W / patch, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)

    def forward(self, canvas: Tensor) -> Tensor:
        # A convolution whose windows do not overlap is one matrix product.
        patches = rearrange(
            canvas, "m c (r p) (w q) -> m r w (c p q)", p=self.proj.kernel_size[0], q=self.proj.kernel_size[1]
        )
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class SegGPT(nn.Module):
    """The network. ``kernel`` names the attention kernel (see :mod:`incontext.attention`)."""

    def __init__(self, config: ModelConfig, *, kernel: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.kernel = kernel
        width, decoder_width = config.width, config.decoder_width
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.segment_token_x = nn.Parameter(torch.zeros(1, 1, 1, width))  # the image stream
        self.segment_token_y = nn.Parameter(torch.zeros(1, 1, 1, width))  # the mask stream
        self.type_token_cls = nn.Parameter(torch.zeros(1, 1, 1, width))  # task "semantic"
        self.type_token_ins = nn.Parameter(torch.zeros(1, 1, 1, width))  # task "instance"
        self.patch_embed = PatchEmbed(config)
        # The first position belongs to a class token that the network no longer has; the published table keeps it.
        self.pos_embed = nn.Parameter(torch.zeros(1, (config.pretrain_side // config.patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.decoder_embed = nn.Linear(len(config.taps) * width, config.patch**2 * decoder_width)
        self.decoder_pred = nn.Sequential(
            nn.Conv2d(decoder_width, decoder_width, kernel_size=3, padding=1),
            ChannelNorm(decoder_width, eps=config.norm_eps),
            nn.GELU(),
            nn.Conv2d(decoder_width, 3, kernel_size=1),
        )
        self._initialise()

    def _initialise(self) -> None:
        """Fresh weights: truncated normal, 0.02, zero biases, as in the Painter code that SegGPT starts from."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.constant_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.ones_(self.decoder_pred[1].weight)  # type: ignore[arg-type]

    def forward(
        self, prompt_images: Tensor, prompt_masks: Tensor, queries: Tensor, *, task: Task = "instance"
    ) -> Tensor:
        """Paint the masks of B queries, each with its own N shots. Different queries never touch.

        Shapes: prompt_images, prompt_masks (B, N, 3, side, side), normalised pictures and painted masks; queries
        (B, 3, side, side), normalised. Returns (B, 3, side, side), the painted answers, normalised. Any side that is a
        multiple of the patch size will do; the position tables are interpolated.

        Raises:
            ValueError: the shapes do not fit each other, or the task is unknown.
        """
        batch, shots = self._check_shapes(prompt_images, prompt_masks, queries)
        stacked_queries = queries.unsqueeze(1).expand(-1, shots, -1, -1, -1)
        image_canvas = torch.cat([prompt_images, stacked_queries], dim=-2)
        mask_canvas = torch.cat([prompt_masks, torch.zeros_like(stacked_queries)], dim=-2)
        grid = queries.shape[-1] // self.config.patch
        masked = torch.zeros(batch, shots, 2 * grid, grid, dtype=torch.bool, device=queries.device)
        masked[:, :, grid:] = True
        return self._paint(image_canvas, mask_canvas, masked, task).chunk(2, dim=-2)[1]

    def paint_canvas(
        self, image_canvas: Tensor, mask_canvas: Tensor, masked: Tensor, *, task: Task = "instance"
    ) -> Tensor:
        """Paint whole canvases of one shot each, whatever part of their masks is hidden (training, hints).

        Shapes: image_canvas, mask_canvas (B, 3, 2 * side, side), normalised; masked (B, rows, columns) bool, true for
        the patches that the network must paint. Returns (B, 3, 2 * side, side), normalised.
        """
        return self._paint(image_canvas.unsqueeze(1), mask_canvas.unsqueeze(1), masked.unsqueeze(1), task)

    def loss(
        self,
        image_canvas: Tensor,
        mask_canvas: Tensor,
        masked: Tensor,
        *,
        task: Task = "instance",
        valid: Tensor | None = None,
        beta: float = 0.01,
    ) -> Tensor:
        """Scalar training loss of :meth:`paint_canvas` against ``mask_canvas``: :func:`painting_loss`."""
        painted = self.paint_canvas(image_canvas, mask_canvas, masked, task=task)
        return painting_loss(painted, mask_canvas, masked, valid=valid, beta=beta)

    def _paint(self, image_canvas: Tensor, mask_canvas: Tensor, masked: Tensor, task: Task) -> Tensor:
        """(B, N, 3, 2 * side, side) canvases, (B, N, R, W) masked -> (B, 3, 2 * side, side) for shot 0.

        Below the first row of the query's pixels every shot decodes to the same answer; that row sees, through the
        decoder's 3 x 3 window, the prompt above it, and like the published code we return what shot 0 gives.
        """
        tokens = self._embed(image_canvas, mask_canvas, masked, task)
        taps = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, self.kernel)
            if index == self.config.merge_layer:
                tokens = tokens.mean(dim=1, keepdim=True)
            if index in self.config.taps:
                taps.append(self.norm(tokens[:, 0, 0]))
        return self._decode(torch.cat(taps, dim=-1))

    def _embed(self, image_canvas: Tensor, mask_canvas: Tensor, masked: Tensor, task: Task) -> Tensor:
        """Canvases and masked -> tokens (B, S, N, R, W, C), S = 2."""
        if task not in ("semantic", "instance"):
            raise ValueError(f'expected task "semantic" or "instance", got {task!r}')
        batch, shots = image_canvas.shape[:2]
        both = torch.stack([image_canvas, mask_canvas], dim=1)
        tokens = self.patch_embed(both.flatten(0, 2)).unflatten(0, (batch, 2, shots))
        image_tokens, mask_tokens = tokens.unbind(1)
        mask_tokens = torch.where(masked.unsqueeze(-1), self.mask_token.to(mask_tokens.dtype), mask_tokens)
        tokens = torch.stack([image_tokens + self.segment_token_x, mask_tokens + self.segment_token_y], dim=1)
        type_token = self.type_token_cls if task == "semantic" else self.type_token_ins
        return tokens + self._positions(*tokens.shape[3:5]) + type_token

    def _positions(self, height: int, width: int) -> Tensor:
        """The position table for a grid, (height, width, C), bicubic from the pretraining grid."""
        size = self.config.pretrain_side // self.config.patch
        table = rearrange(self.pos_embed[:, 1:], "1 (r w) c -> 1 c r w", r=size)
        if (height, width) != (size, size):
            wide = table.to(torch.promote_types(table.dtype, torch.float32))
            table = F.interpolate(wide, size=(height, width), mode="bicubic", align_corners=False).to(table.dtype)
        return rearrange(table, "1 c r w -> r w c")

    def _decode(self, taps: Tensor) -> Tensor:
        """(B, R, W, taps * C) -> (B, 3, R * patch, W * patch)."""
        pixels = rearrange(
            self.decoder_embed(taps), "b r w (p q c) -> b c (r p) (w q)", p=self.config.patch, q=self.config.patch
        )
        return self.decoder_pred(pixels)  # type: ignore[no-any-return]

    def _check_shapes(self, prompt_images: Tensor, prompt_masks: Tensor, queries: Tensor) -> tuple[int, int]:
        side = queries.shape[-1]
        if queries.ndim != 4 or queries.shape[1:] != (3, side, side) or side % self.config.patch or side == 0:
            raise ValueError(
                f"expected queries (B, 3, side, side), side a multiple of {self.config.patch}; "
                f"got {tuple(queries.shape)}"
            )
        for name, tensor in (("prompt_images", prompt_images), ("prompt_masks", prompt_masks)):
            good = tensor.ndim == 5 and tensor.shape[0] == queries.shape[0] and tensor.shape[2:] == queries.shape[1:]
            if not good or tensor.shape[:2] != prompt_images.shape[:2] or tensor.shape[1] == 0:
                raise ValueError(
                    f"expected {name} (B, N, 3, {side}, {side}) with the queries' B = {queries.shape[0]} "
                    f"and at least one shot, both prompts alike; got {tuple(tensor.shape)}"
                )
        return prompt_images.shape[0], prompt_images.shape[1]


def painting_loss(
    painted: Tensor, mask_canvas: Tensor, masked: Tensor, *, valid: Tensor | None = None, beta: float = 0.01
) -> Tensor:
    """Smooth L1 over the masked patches: sum(loss * masked) / sum(masked), masked broadcast over the channels.

    Shapes: painted, mask_canvas (B, 3, 2 * side, side), normalised; masked (B, rows, columns) bool; valid
    (B, 2 * side, side) bool, false for pixels whose id is unknown (they do not count). Scalar, in float32 at least.
    """
    patch = painted.shape[-1] // masked.shape[-1]
    weight = masked.repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2)
    if valid is not None:
        weight = weight & valid
    dtype = torch.promote_types(painted.dtype, torch.float32)
    weight = weight.unsqueeze(1).to(dtype).expand_as(painted)
    per_pixel = F.smooth_l1_loss(painted.to(dtype), mask_canvas.to(dtype), beta=beta, reduction="none")
    return (per_pixel * weight).sum() / weight.sum().clamp_min(1.0)
