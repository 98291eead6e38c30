"""The network: a plain Vision Transformer that sees a prompt stacked over a query and paints the query's mask.

Reads from top to bottom: configuration, attention, MLP, block, network, loss. It knows normalised tensors; it refuses
to know pixels, colours, ids, files and devices. The semantics are those of SegGPT (arXiv 2304.03284) as published, and
parameters carry the published names, so that its weights load without translation.

Axis letters: B queries, N shots, S streams (image, mask), R patch rows, W patch columns, C channels, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from incontext.network.attention import attention, attention_with_lse, merge, relative_table
from incontext.network.presence import Presence

Task = Literal["semantic", "instance"]

_COUNTS = ("width", "heads", "depth", "patch", "side", "decoder_width", "merge_layer", "pretrain_side", "presence")
_MOST = 1 << 31  # of any of them
_MOST_MLP_RATIO = 64  # far above any network: what lies beyond is a mistake


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
    presence: int = 0  # hidden channels of the presence head; 0: there is none, as in the published network
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.taps))  # a list, when read from JSON
        for name in _COUNTS:  # as files of others say them
            if not isinstance(value := getattr(self, name), int) or value > _MOST:
                raise ValueError(f"expected {name} as a whole number of at most {_MOST}, got {value!r:.40}")
        if self.width % self.heads:
            raise ValueError(f"expected a width that {self.heads} heads divide, got {self.width}")
        for name in ("side", "pretrain_side"):
            if getattr(self, name) <= 0 or getattr(self, name) % self.patch:
                raise ValueError(f"expected {name} to be a multiple of patch {self.patch}, got {getattr(self, name)}")
        if not 0 < self.mlp_ratio <= _MOST_MLP_RATIO:  # nor NaN
            raise ValueError(f"expected mlp_ratio above 0 and up to {_MOST_MLP_RATIO}, got {self.mlp_ratio}")
        if self.presence < 0:
            raise ValueError(f"expected presence of at least 0 channels, got {self.presence}")
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


class Tables(NamedTuple):
    """What depends on the weights and the grid alone: made once for a grid of R x R patches in a half canvas."""

    positions: Tensor  # (2, R, R, C): the position table of the prompts and of the query
    relative: tuple[tuple[Tensor, Tensor], ...]  # for each block rows (2R, 2R, d) and columns (R, R, d)


class PromptTokens(NamedTuple):
    """What prompts contribute each by itself, before they meet: may be cut and joined along N."""

    images: Tensor  # (B, N, R, W, C): the tokens of the prompts' pictures, before the first block
    masks: Tensor  # (B, N, R, W, C): their half of the mask stream after the first block
    query: Tensor  # (B, N, R, W, C): the query's half of it after the first attention, as each prompt alone makes it


class ContextTokens(NamedTuple):
    """A context as the network keeps it, for any number of queries. B is 1 where all queries share it.

    As long as nothing of a query's mask is known, the mask stream depends on the prompts' masks alone until the streams
    are merged. So it is run through those blocks once.
    """

    images: Tensor  # (B, N, R, W, C): the tokens of the prompts' pictures, before the first block
    masks: Tensor  # (B, N + 1, R, W, C): the mask stream at the merge, the query's half last
    type_token: Tensor
    tables: Tables
    shares: Tensor  # (N,) in float32 at least: how much each shot counts in the feature ensemble; they add up to 1


class Seen(NamedTuple):
    """What the network makes of queries."""

    painted: Tensor  # (B, 3, H, W) normalised
    tokens: Tensor  # (B, R, W, taps * C): the query's tokens that its mask is painted from


class Attention(nn.Module):
    """Global multi-head attention with decomposed relative positions, between each prompt and the query."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * (2 * config.grid) - 1, config.width // config.heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * config.grid - 1, config.width // config.heads))

    def forward(
        self,
        x: Tensor,
        relative: tuple[Tensor, Tensor],
        kernel: str,
        *,
        only: int,
        chunk: int,
        shares: Tensor | None,
    ) -> Tensor:
        """(M, N + 1, R, W, C) -> the same, or with ``only`` > 0 the last so many rows of the last two halves.

        A canvas is a prompt over the query; the query attends to each of the N canvases apart, and of its N answers
        ``shares`` (N,) make one (before the projection, which is linear): the feature ensemble. None: the N answers as
        they are, (M, 2 * N, R, W, C). With ``only``, (M, only, W, C): the query's rows, above them those of prompt 0.
        """
        if x.shape[1] == 2:
            return self._one_canvas(x, relative, kernel, only)
        return self._many_canvases(x, relative, kernel, only, chunk, shares)

    def _one_canvas(self, x: Tensor, relative: tuple[Tensor, Tensor], kernel: str, only: int) -> Tensor:
        width = x.shape[3]
        q, k, v = rearrange(self.qkv(x), "m n r w (three h d) -> three m h (n r w) d", three=3, h=self.heads)
        rows, columns = relative
        if only:
            q, rows = q[:, :, -only * width :], rows[-only:]
        out = attention(q, k, v, rows, columns, kernel=kernel)
        out = self.proj(rearrange(out, "m h t d -> m t (h d)"))
        return out.unflatten(1, (only, width) if only else x.shape[1:4])  # type: ignore[no-any-return]

    def _many_canvases(
        self, x: Tensor, relative: tuple[Tensor, Tensor], kernel: str, only: int, chunk: int, shares: Tensor | None
    ) -> Tensor:
        """The query attends to its own half once, to each prompt apart, and both are merged by their log-sum-exp."""
        shots, height, width = x.shape[1] - 1, *x.shape[2:4]
        rows, columns = relative
        prompts, query = x[:, :shots], x[:, shots:]
        query_q, query_k, query_v = self._heads(query)
        own, own_lse = attention_with_lse(query_q, query_k, query_v, rows[height:, height:], columns, kernel=kernel)
        answers, seen = [], []
        for start in range(0, shots, chunk):
            q, k, v = self._heads(prompts[:, start : start + chunk])
            cross, cross_lse = attention_with_lse(query_q, k, v, rows[height:, :height], columns, kernel=kernel)
            merged = merge(cross, cross_lse, own, own_lse)
            if shares is not None:
                merged = _weighted_sum(merged, shares[start : start + chunk])
            answers.append(merged)
            wanted = height
            if only:  # of the prompts, the last rows of the first
                wanted = only - height if start == 0 else 0
                q, k, v = q[:, :1, :, -wanted * width :], k[:, :1], v[:, :1]
            if wanted:
                both_k = torch.cat([k, query_k.expand_as(k)], dim=-2)
                both_v = torch.cat([v, query_v.expand_as(v)], dim=-2)
                seen.append(attention(q, both_k, both_v, rows[height - wanted : height], columns, kernel=kernel))
        found = answers if shares is None else [torch.stack(answers).sum(dim=0)]
        halves = [rearrange(each, "m n h (r w) d -> m n r w (h d)", w=width) for each in (*seen, *found)]
        if only:
            return self.proj(torch.cat([half[:, 0] for half in halves], dim=1))  # type: ignore[no-any-return]
        return self.proj(torch.cat(halves, dim=1))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "m n r w (three h d) -> three m n h (r w) d", three=3, h=self.heads)
        return q, k, v


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

    def forward(
        self,
        x: Tensor,
        relative: tuple[Tensor, Tensor],
        kernel: str,
        shares: Tensor,
        *,
        only: int = 0,
        chunk: int | None = None,
    ) -> Tensor:
        """(M, N + 1, R, W, C), N prompts and the query that they share -> the same.

        In the published network each shot has a query half of its own, which after the attention's projection and
        before the residual is replaced by the mean over the shots (arXiv 2304.03284, section 3.3). They are equal at
        every block, so there is one. ``shares``: how much each shot counts in that mean, (N,). ``only``: only the last
        so many rows of prompt 0 over the query, (M, only, W, C). ``chunk``: how many halves to work on at a time, which
        bounds memory.
        """
        chunk = chunk or x.shape[1]
        seen = self.attn(self.norm1(x), relative, kernel, only=only, chunk=chunk, shares=shares)
        if only:
            x = torch.cat([x[:, 0], x[:, -1]], dim=1)[:, -only:] + seen
            return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]
        return self.refine(x + seen, chunk)

    def apart(
        self, x: Tensor, relative: tuple[Tensor, Tensor], kernel: str, *, chunk: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """As far as the shots stay apart: (M, N, R, W, C) of the prompts, done, and of the query before the average.

        With ``refine`` of the query's weighted mean over the shots it is what ``forward`` makes of them.
        """
        shots, chunk = x.shape[1] - 1, chunk or x.shape[1]
        seen = self.attn(self.norm1(x), relative, kernel, only=0, chunk=chunk, shares=None)
        return self.refine(x[:, :shots] + seen[:, :shots], chunk), x[:, shots:] + seen[:, shots:]

    def refine(self, x: Tensor, chunk: int) -> Tensor:
        """The second half of the block, in which every token is by itself: (M, N, R, W, C) -> the same."""
        parts = [part + self.mlp(self.norm2(part)) for part in torch.split(x, chunk, dim=1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


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
    """The network. ``kernel`` names the attention kernel (see :mod:`incontext.network.attention`)."""

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
        self.presence = (
            Presence(len(config.taps) * width, config.presence, eps=config.norm_eps) if config.presence else None
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

        Shapes: prompt_images, prompt_masks (B, N, 3, side, side), normalised pictures and painted masks, or (1, N, ...)
        for one context of all queries; queries (B, 3, side, side), normalised. Returns (B, 3, side, side), the painted
        answers, normalised. Any side that is a multiple of the patch size will do; the tables are interpolated.

        Raises:
            ValueError: the shapes do not fit each other, or the task is unknown.
        """
        return self.answer(queries, self.prepare(prompt_images, prompt_masks, task=task))

    def tables(self, grid: int) -> Tables:
        """The position tables for canvases of (2 * grid, grid) patches, interpolated where the weights have another."""
        size = self.config.pretrain_side // self.config.patch
        table = rearrange(self.pos_embed[:, 1:], "1 (r w) c -> 1 c r w", r=size)
        if (2 * grid, grid) != (size, size):
            wide = table.to(torch.promote_types(table.dtype, torch.float32))
            table = F.interpolate(wide, size=(2 * grid, grid), mode="bicubic", align_corners=False).to(table.dtype)
        relative = (
            (relative_table(block.attn.rel_pos_h, 2 * grid), relative_table(block.attn.rel_pos_w, grid))  # type: ignore[union-attr, arg-type]
            for block in self.blocks
        )
        return Tables(rearrange(table, "1 c (half r) w -> half r w c", half=2), tuple(relative))

    def prepare(
        self,
        prompt_images: Tensor,
        prompt_masks: Tensor,
        *,
        task: Task = "instance",
        tables: Tables | None = None,
        chunk: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> ContextTokens:
        """What a context contributes to every query, computed once: see :class:`ContextTokens`.

        Shapes: prompt_images, prompt_masks (B, N, 3, side, side), normalised. tables: those of side / patch, if they
        are at hand. chunk: prompts to work on at a time; None is all. weights: how much each of the N counts in the
        feature ensemble beside the others, above 0; None is all alike, as in the published network.

        Raises:
            ValueError: the shapes do not fit each other, or the task is unknown.
        """
        tables = tables or self.tables(prompt_images.shape[-1] // self.config.patch)
        prompts = self.embed(prompt_images, prompt_masks, task=task, tables=tables, chunk=chunk)
        return self.join(prompts, task, tables, chunk=chunk, weights=weights)

    def embed(
        self, prompt_images: Tensor, prompt_masks: Tensor, *, task: Task, tables: Tables, chunk: int | None = None
    ) -> PromptTokens:
        """The part of :meth:`prepare` in which prompts do not meet, so that it serves any context that they are in."""
        self._check_prompts(prompt_images, prompt_masks)
        images = self._image_tokens(prompt_images, tables.positions[0], task)
        masks = self._mask_tokens(prompt_masks, None, tables.positions[0], task)
        hidden = self.mask_token + self.segment_token_y + tables.positions[1] + self._type_token(task)
        both = torch.cat([masks, hidden.expand_as(masks[:, :1])], dim=1)
        return PromptTokens(images, *self._first.apart(both, tables.relative[0], self.kernel, chunk=chunk))

    def join(
        self,
        prompts: PromptTokens,
        task: Task,
        tables: Tables,
        *,
        chunk: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> ContextTokens:
        """The rest of :meth:`prepare`: the prompts meet."""
        shots = prompts.images.shape[1]
        chunk = chunk or shots + 1
        weights = weights or [1.0] * shots
        precise = torch.promote_types(prompts.query.dtype, torch.float32)
        shares = prompts.query.new_tensor([weight / sum(weights) for weight in weights], dtype=precise)
        query = self._first.refine(_weighted_sum(prompts.query, shares), chunk)
        masks = torch.cat([prompts.masks, query], dim=1)
        for index in range(1, self.config.merge_layer + 1):
            masks = self.blocks[index](masks, tables.relative[index], self.kernel, shares, chunk=chunk)
        return ContextTokens(prompts.images, masks, self._type_token(task), tables, shares)

    def answer(self, queries: Tensor, context: ContextTokens, *, chunk: int | None = None) -> Tensor:
        """Paint the masks of B queries (B, 3, side, side), normalised, by a prepared context -> the same shape.

        Raises:
            ValueError: the queries do not have the context's side, or its number where it holds several.
        """
        return self.see(queries, context, chunk=chunk).painted

    def see(self, queries: Tensor, context: ContextTokens, *, chunk: int | None = None) -> Seen:
        """:meth:`answer`, and the tokens that it is painted from.

        Below the first row of the query's pixels every shot decodes to the same answer; that row sees, through the
        decoder's 3 x 3 window, the prompt above it, and like the published code we return what shot 0 gives. So the
        last block and the decoder work on the query and on the one row of patches above it, which is in shot 0.

        Raises:
            ValueError: the queries do not have the context's side, or its number where it holds several.
        """
        self._check_queries(queries, context)
        tables = context.tables
        query = self._image_tokens(queries.unsqueeze(1), tables.positions[1], None) + context.type_token
        tokens = torch.cat([context.images.expand(len(queries), -1, -1, -1, -1), query], dim=1)
        grid, last, taps = queries.shape[-1] // self.config.patch, self.config.taps[-1], []
        for index, block in enumerate(self.blocks[: last + 1]):
            only = grid + 1 if index == last else 0
            tokens = block(tokens, tables.relative[index], self.kernel, context.shares, only=only, chunk=chunk)
            if index == self.config.merge_layer:
                masks = context.masks if not only else self._rows(context.masks, only)
                tokens = (tokens + masks) / 2
            if index in self.config.taps:
                taps.append(self.norm(tokens if only else self._rows(tokens, grid + 1)))
        tapped = torch.cat(taps, dim=-1)
        return Seen(self._decode(tapped, halo=True), tapped[:, 1:])

    def paint_canvas(
        self, image_canvas: Tensor, mask_canvas: Tensor, masked: Tensor, *, task: Task = "instance"
    ) -> Tensor:
        """Paint whole canvases of one shot each, whatever part of their masks is hidden (training, hints).

        Shapes: image_canvas, mask_canvas (B, 3, 2 * side, side), normalised; masked (B, rows, columns) bool, true for
        the patches that the network must paint. Returns (B, 3, 2 * side, side), normalised.
        """
        return self.see_canvas(image_canvas, mask_canvas, masked, task=task).painted

    def see_canvas(self, image_canvas: Tensor, mask_canvas: Tensor, masked: Tensor, *, task: Task = "instance") -> Seen:
        """:meth:`paint_canvas`, and the tokens that the query is painted from."""
        image_halves, mask_halves, hidden = (
            rearrange(each, "b ... (n r) w -> b n ... r w", n=2) for each in (image_canvas, mask_canvas, masked)
        )
        tables = self.tables(masked.shape[-1])
        streams = torch.stack(
            [
                self._image_tokens(image_halves, tables.positions, task),
                self._mask_tokens(mask_halves, hidden, tables.positions, task),
            ]
        )
        tokens, taps, alone = streams.flatten(0, 1), [], image_canvas.new_ones(1)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, tables.relative[index], self.kernel, alone)
            if index == self.config.merge_layer:
                tokens = tokens.unflatten(0, streams.shape[:2]).mean(dim=0)
            if index in self.config.taps:
                taps.append(self.norm(tokens.flatten(1, 2)))
        tapped = torch.cat(taps, dim=-1)
        return Seen(self._decode(tapped, halo=False), tapped[:, tapped.shape[1] // 2 :])

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

    @property
    def _first(self) -> Block:
        return self.blocks[0]  # type: ignore[return-value]

    def _image_tokens(self, images: Tensor, positions: Tensor, task: Task | None) -> Tensor:
        tokens: Tensor = self._patches(images) + self.segment_token_x + positions
        return tokens if task is None else tokens + self._type_token(task)

    def _mask_tokens(self, masks: Tensor, masked: Tensor | None, positions: Tensor, task: Task) -> Tensor:
        tokens = self._patches(masks)
        if masked is not None:
            tokens = torch.where(masked.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        return tokens + self.segment_token_y + positions + self._type_token(task)

    def _patches(self, pictures: Tensor) -> Tensor:
        """(B, N, 3, side, side) -> (B, N, R, W, C)."""
        embedded: Tensor = self.patch_embed(pictures.flatten(0, 1))
        return rearrange(embedded, "(b n) r w c -> b n r w c", n=pictures.shape[1])

    def _type_token(self, task: Task) -> Tensor:
        if task not in ("semantic", "instance"):
            raise ValueError(f'expected task "semantic" or "instance", got {task!r}')
        return self.type_token_cls if task == "semantic" else self.type_token_ins

    @staticmethod
    def _rows(tokens: Tensor, count: int) -> Tensor:
        """The last ``count`` rows of prompt 0 over the query: (M, N + 1, R, W, C) -> (M, count, W, C)."""
        return torch.cat([tokens[:, 0], tokens[:, -1]], dim=1)[:, -count:]

    def _decode(self, taps: Tensor, *, halo: bool) -> Tensor:
        """(B, R, W, taps * C) -> (B, 3, R * patch, W * patch). halo: the first row of patches is only looked at."""
        patch = self.config.patch
        pixels = rearrange(self.decoder_embed(taps), "b r w (p q c) -> b c (r p) (w q)", p=patch, q=patch)
        if halo:
            return self.decoder_pred(pixels[:, :, patch - 1 :])[:, :, 1:]  # type: ignore[no-any-return]
        return self.decoder_pred(pixels)  # type: ignore[no-any-return]

    def _check_prompts(self, prompt_images: Tensor, prompt_masks: Tensor) -> None:
        side, patch = prompt_images.shape[-1], self.config.patch
        for name, tensor in (("prompt_images", prompt_images), ("prompt_masks", prompt_masks)):
            good = tensor.ndim == 5 and tensor.shape[2:] == (3, side, side) and side > 0 and side % patch == 0
            if not good or tensor.shape != prompt_images.shape or tensor.shape[1] == 0:
                raise ValueError(
                    f"expected {name} (B, N, 3, side, side), side a multiple of {patch}, with at least one shot, "
                    f"both prompts alike; got {tuple(prompt_images.shape)} and {tuple(prompt_masks.shape)}"
                )

    def _check_queries(self, queries: Tensor, context: ContextTokens) -> None:
        batch, side = context.images.shape[0], context.images.shape[-2] * self.config.patch
        if queries.ndim != 4 or queries.shape[1:] != (3, side, side) or batch not in (1, len(queries)):
            expected = "B" if batch == 1 else batch
            raise ValueError(
                f"expected queries ({expected}, 3, {side}, {side}) as the prompts, got {tuple(queries.shape)}"
            )


def _weighted_sum(answers: Tensor, shares: Tensor) -> Tensor:
    """(M, N, ...) and (N,), which is more precise -> (M, 1, ...), as precise as the answers."""
    return (answers * shares.view(-1, *[1] * (answers.ndim - 2))).sum(dim=1, keepdim=True).to(answers.dtype)


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
