"""The network as its authors compute it, and each exact saving as a switch: what the ladder's rows are measured with.

With no saving it does what the published code does: N whole canvases, both streams through the early blocks for every
query, every attention matrix in memory, every canvas decoded, every table interpolated in every forward. Each saving
changes the work and not the answer; the tests compare them in float64. It reads parameters by name from a
:class:`incontext.network.model.SegGPT` and shares no code with it, so that it can also stand beside the network as a
check.

Axis letters: B queries, N shots, S streams, R patch rows of a half, W patch columns, C channels, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.options import Task


@dataclass(frozen=True)
class Savings:
    """Which work is left out. Nothing set: the published code."""

    sdpa: bool = False  # PyTorch's fused attention with the relative positions as its mask; no matrix of scores
    kept_tables: bool = False  # position tables are made once for a grid, not in every forward
    query_decode: bool = False  # decoded are the query's half of shot 0 and the row of patches above it: what is asked
    last_block: bool = False  # and the last block computes the rows that are decoded, no others
    shared_query: bool = False  # the query's half, equal for all shots, is carried once: N + 1 halves instead of 2N
    cached_masks: bool = False  # the mask stream, which no query changes, is run once for a context
    merged_attention: bool = False  # the query attends to its own half once, not once for each shot

    def __post_init__(self) -> None:
        if self.last_block and not self.query_decode:
            raise ValueError("expected query_decode with last_block: a whole canvas cannot be decoded from its half")
        if self.merged_attention and not self.shared_query:
            raise ValueError("expected shared_query with merged_attention: without it there is a query for every shot")


NAIVE: Final = Savings()


def ladder() -> dict[str, Savings]:
    """The savings one on top of the other, by the name of the one that was added."""
    order = ("sdpa", "kept_tables", "query_decode", "last_block", "shared_query", "cached_masks", "merged_attention")
    steps, savings = {}, NAIVE
    for name in order:
        savings = replace(savings, **{name: True})
        steps[name] = savings
    return steps


class Tables(NamedTuple):
    """Positions (2R, W, C), and for each block its relative positions: rows (2R, 2R, d), columns (W, W, d)."""

    positions: Tensor
    relative: list[tuple[Tensor, Tensor]]


class Prompts(NamedTuple):
    """A context, with what the savings allow to keep of it."""

    images: Tensor  # (B, N, 3, side, side); B may be 1, for one context of all queries
    masks: Tensor  # (B, N, 3, side, side)
    task: Task
    mask_stream: Tensor | None  # as it is when the streams are merged; None: computed for every query


class Network:
    """A :class:`SegGPT` computed in another way. Holds its parameters, not copies of them."""

    def __init__(self, model: SegGPT, savings: Savings = NAIVE) -> None:
        self.config: ModelConfig = model.config
        self.savings = savings
        self._weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self._kept: dict[int, Tables] = {}

    def __call__(
        self, prompt_images: Tensor, prompt_masks: Tensor, queries: Tensor, *, task: Task = "instance"
    ) -> Tensor:
        """As ``SegGPT.forward``: (B, N, 3, side, side), the same, (B, 3, side, side) -> (B, 3, side, side)."""
        return self.answer(queries, self.prepare(prompt_images, prompt_masks, task=task))

    def prepare(self, prompt_images: Tensor, prompt_masks: Tensor, *, task: Task = "instance") -> Prompts:
        """What is done once for a context: nothing but holding it, unless ``cached_masks`` says so."""
        prompts = Prompts(prompt_images, prompt_masks, task, None)
        if not self.savings.cached_masks:
            return prompts
        tables = self._tables(prompt_images.shape[-1] // self.config.patch)
        tokens = self._mask_tokens(prompts, tables).unsqueeze(1)
        for index in range(self.config.merge_layer + 1):
            tokens = self._block(index, tokens, prompt_images.shape[1], tables, only=False)
        return prompts._replace(mask_stream=tokens)

    def answer(self, queries: Tensor, prompts: Prompts) -> Tensor:
        """Paint the masks of B queries (B, 3, side, side), normalised -> the same shape."""
        config, shots, batch = self.config, prompts.images.shape[1], len(queries)
        grid = queries.shape[-1] // config.patch
        tables = self._tables(grid)
        images, masks = (each.expand(batch, -1, -1, -1, -1) for each in (prompts.images, prompts.masks))
        streams = [self._image_tokens(images, queries, prompts.task, tables)]
        if prompts.mask_stream is None:
            streams.append(self._mask_tokens(prompts._replace(masks=masks), tables))
        tokens = torch.stack(streams, dim=1)

        taps = []
        for index in range(config.depth):
            only = self.savings.last_block and index == config.taps[-1]
            tokens = self._block(index, tokens, shots, tables, only=only)
            if index == config.merge_layer:
                tokens = self._merge_streams(tokens, prompts.mask_stream, only, grid)
            if index in config.taps:
                taps.append(self._norm("norm", self._to_decode(tokens, only, grid)))
            if only:
                break
        pixels = self._decode(torch.cat(taps, dim=-1))
        if self.savings.query_decode:
            return pixels
        return rearrange(pixels, "(b n) c h w -> b n c h w", b=batch)[:, 0, :, -queries.shape[-1] :]

    # ------------------------------------------------------------------------------------------ tokens

    def _image_tokens(self, images: Tensor, queries: Tensor, task: Task, tables: Tables) -> Tensor:
        """(B, N, 3, side, side), (B, 3, side, side) -> (B, ...), the image stream as :meth:`_halves` has it."""
        shots = images.shape[1]
        if self.savings.shared_query:
            embedded = self._embed(torch.cat([images, queries.unsqueeze(1)], dim=1))
        else:
            embedded = self._embed(torch.cat([images, queries.unsqueeze(1).expand_as(images)], dim=-2))
        return self._placed(embedded, self._weights["segment_token_x"], task, tables, shots)

    def _mask_tokens(self, prompts: Prompts, tables: Tables) -> Tensor:
        """The mask stream; nothing of a query's mask is known, so its half is the mask token throughout."""
        masks, shots = prompts.masks, prompts.masks.shape[1]
        token = self._weights["mask_token"]
        if self.savings.shared_query:
            embedded = self._embed(masks)
            embedded = torch.cat([embedded, token.expand_as(embedded[:, :1])], dim=1)
        else:
            embedded = self._embed(torch.cat([masks, torch.zeros_like(masks)], dim=-2))
            hidden = torch.arange(embedded.shape[2], device=masks.device) >= embedded.shape[2] // 2
            embedded = torch.where(rearrange(hidden, "r -> r 1 1"), token, embedded)
        return self._placed(embedded, self._weights["segment_token_y"], prompts.task, tables, shots)

    def _embed(self, images: Tensor) -> Tensor:
        """(B, K, 3, H, W) -> (B, K, H / patch, W / patch, C)."""
        weight, bias = self._weights["patch_embed.proj.weight"], self._weights["patch_embed.proj.bias"]
        patches = F.conv2d(images.flatten(0, 1), weight, bias, stride=self.config.patch)
        return rearrange(patches, "(b k) c r w -> b k r w c", b=len(images))

    def _placed(self, embedded: Tensor, segment_token: Tensor, task: Task, tables: Tables, shots: int) -> Tensor:
        positions = tables.positions
        if self.savings.shared_query:  # the upper half for the prompts, the lower one for the query
            upper, lower = rearrange(positions, "(half r) w c -> half 1 r w c", half=2).unbind(0)
            positions = torch.cat([upper.expand(shots, -1, -1, -1), lower])
        type_token = self._weights["type_token_cls" if task == "semantic" else "type_token_ins"]
        return embedded + segment_token.unsqueeze(0) + positions + type_token.unsqueeze(0)

    def _tables(self, grid: int) -> Tables:
        if grid in self._kept:
            return self._kept[grid]
        config, weights = self.config, self._weights
        size = config.pretrain_side // config.patch
        table = rearrange(weights["pos_embed"][:, 1:], "1 (r w) c -> 1 c r w", r=size)
        if (2 * grid, grid) != (size, size):
            table = F.interpolate(table, size=(2 * grid, grid), mode="bicubic", align_corners=False)
        names = [f"blocks.{index}.attn.rel_pos" for index in range(config.depth)]
        relative = [(_relative(weights[f"{n}_h"], 2 * grid), _relative(weights[f"{n}_w"], grid)) for n in names]
        tables = Tables(rearrange(table, "1 c r w -> r w c"), relative)
        if self.savings.kept_tables:
            self._kept[grid] = tables
        return tables

    def _merge_streams(self, tokens: Tensor, mask_stream: Tensor | None, only: bool, grid: int) -> Tensor:
        if mask_stream is None:
            return tokens.mean(dim=1, keepdim=True)
        return (tokens + (self._wanted(mask_stream, grid) if only else mask_stream)) / 2

    # ------------------------------------------------------------------------------------------ blocks

    def _block(self, index: int, x: Tensor, shots: int, tables: Tables, *, only: bool) -> Tensor:
        """Tokens (B, S, N, 2R, W, C), or (B, S, N + 1, R, W, C) with ``shared_query`` -> the same.

        only: the rows that are decoded, (B, S, R + 1, W, C).
        """
        name = f"blocks.{index}"
        attend = self._attend_shared if self.savings.shared_query else self._attend_canvases
        seen = attend(f"{name}.attn", self._norm(f"{name}.norm1", x), shots, tables.relative[index], only)
        x = (self._wanted(x, tables.positions.shape[1]) if only else x) + seen
        hidden = F.gelu(self._linear(f"{name}.mlp.fc1", self._norm(f"{name}.norm2", x)))
        return x + self._linear(f"{name}.mlp.fc2", hidden)

    def _attend_canvases(self, name: str, x: Tensor, shots: int, relative: tuple[Tensor, Tensor], only: bool) -> Tensor:
        """As published: N canvases, each with a query of its own, whose answers are averaged after the projection."""
        height, width = x.shape[3:5]
        first = height // 2 - 1 if only else 0  # row of the canvas
        q, k, v = self._heads(f"{name}.qkv", x)
        bias = _bias(q[..., first * width :, :], relative[0][first:], relative[1])
        out = self._attention(q[..., first * width :, :], k, v, bias)
        out = self._linear(f"{name}.proj", rearrange(out, "b s n h (r w) d -> b s n r w (h d)", w=width))
        prompt_part, query_part = torch.split(out, [height // 2 - first, height // 2], dim=3)
        if shots > 1:
            query_part = query_part.mean(dim=2, keepdim=True).expand_as(query_part)
        out = torch.cat([prompt_part, query_part], dim=3)
        return out[:, :, 0] if only else out

    def _attend_shared(self, name: str, x: Tensor, shots: int, relative: tuple[Tensor, Tensor], only: bool) -> Tensor:
        """N prompts and one query. Averaged before the projection, which is linear."""
        height, width = x.shape[3:5]
        rows, columns = relative
        first = height - 1 if only else 0  # row of the prompts
        q, k, v = self._heads(f"{name}.qkv", x)
        (prompt_q, query_q), (prompt_k, query_k), (prompt_v, query_v) = (
            torch.split(each, [shots, 1], dim=2) for each in (q, k, v)
        )
        prompt_q = prompt_q[:, :, : 1 if only else shots, :, first * width :]
        both_k, both_v = _stacked(prompt_k, query_k), _stacked(prompt_v, query_v)
        if self.savings.merged_attention and shots > 1:
            below = _bias(query_q, rows[height:], columns)  # (..., R * W, 2R * W): to a prompt's keys, to the query's
            to_prompts, to_own = below.chunk(2, dim=-1)
            cross, cross_lse = self._attention_lse(query_q.expand_as(q[:, :, :shots]), prompt_k, prompt_v, to_prompts)
            own, own_lse = self._attention_lse(query_q, query_k, query_v, to_own)
            weight = torch.sigmoid(cross_lse - own_lse).unsqueeze(-1).to(own.dtype)
            query_out = torch.lerp(own.expand_as(cross), cross, weight)
            seen = slice(0, prompt_q.shape[2])
            bias = _bias(prompt_q, rows[first:height], columns)
            prompt_out = self._attention(prompt_q, both_k[:, :, seen], both_v[:, :, seen], bias)
        else:
            # With `only` the halo, which shot 0 alone needs, is a row of every shot: cheaper than a second attention.
            prompt_q = prompt_q.expand(-1, -1, shots, -1, -1, -1)
            both_q = _stacked(prompt_q, query_q)
            out = self._attention(both_q, both_k, both_v, _bias(both_q, rows[first:], columns))
            prompt_out, query_out = torch.split(out, [(height - first) * width, height * width], dim=-2)
        query_out = query_out.mean(dim=2, keepdim=True)
        if only:
            out = torch.cat([prompt_out[:, :, :1], query_out], dim=-2)
            return self._linear(f"{name}.proj", rearrange(out, "b s 1 h (r w) d -> b s r w (h d)", w=width))
        out = torch.cat([prompt_out, query_out], dim=2)
        return self._linear(f"{name}.proj", rearrange(out, "b s n h (r w) d -> b s n r w (h d)", w=width))

    def _heads(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.config.heads
        q, k, v = rearrange(self._linear(name, x), "b s n r w (three h d) -> three b s n h (r w) d", three=3, h=heads)
        return q, k, v

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """(..., h, Tq, d), (..., h, Tk, d), (..., h, Tk, d), (..., h, Tq, Tk) -> (..., h, Tq, d)."""
        if not self.savings.sdpa:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
            return torch.softmax(scores, dim=-1) @ v
        q, k, v, bias, lead = _batched(q, k, v, bias)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return out.reshape(*lead, *out.shape[1:])

    def _attention_lse(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the log-sum-exp of each query's scores (..., h, Tq), to merge answers by (arXiv 2205.14135)."""
        if not self.savings.sdpa:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
            return torch.softmax(scores, dim=-1) @ v, torch.logsumexp(scores, dim=-1)
        tokens = q.shape[-2]
        q, k, v, bias, lead = _batched(q, k, v, bias)
        if q.device.type == "cpu":
            out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)  # noqa: SLF001
        else:  # rows of the mask must begin at multiples of 8
            bias = F.pad(bias, (0, -bias.shape[-1] % 8))[..., : bias.shape[-1]]
            out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[:2]  # noqa: SLF001
        return out.unflatten(0, lead), lse[..., :tokens].unflatten(0, lead)

    # ------------------------------------------------------------------------------------------ decoder

    def _wanted(self, tokens: Tensor, grid: int) -> Tensor:
        """The query's rows, and the one above them in shot 0: -> (B, S, R + 1, W, C)."""
        if self.savings.shared_query:
            return torch.cat([tokens[:, :, 0, -1:], tokens[:, :, -1]], dim=2)
        return tokens[:, :, 0, grid - 1 :]

    def _to_decode(self, tokens: Tensor, only: bool, grid: int) -> Tensor:
        """Tokens of a tap -> (B, R + 1, W, C) with ``query_decode``, else all canvases, (B * N, 2R, W, C)."""
        if only:
            return tokens[:, 0]
        if self.savings.query_decode:
            return self._wanted(tokens, grid)[:, 0]
        if self.savings.shared_query:
            prompts, query = tokens[:, 0, :-1], tokens[:, 0, -1:]
            return torch.cat([prompts, query.expand_as(prompts)], dim=2).flatten(0, 1)
        return tokens[:, 0].flatten(0, 1)

    def _decode(self, taps: Tensor) -> Tensor:
        """(M, rows, W, taps * C) -> (M, 3, rows * patch, W * patch); the halo's row of patches comes off again."""
        weights, patch = self._weights, self.config.patch
        pixels = rearrange(self._linear("decoder_embed", taps), "m r w (p q c) -> m c (r p) (w q)", p=patch, q=patch)
        halo = int(self.savings.query_decode)  # of a row of patches the 3 x 3 window sees the last row of pixels
        pixels = pixels[:, :, halo * (patch - 1) :]
        hidden = F.conv2d(pixels, weights["decoder_pred.0.weight"], weights["decoder_pred.0.bias"], padding=1)
        hidden = F.gelu(
            rearrange(self._norm("decoder_pred.1", rearrange(hidden, "m c h w -> m h w c")), "m h w c -> m c h w")
        )
        return F.conv2d(hidden, weights["decoder_pred.3.weight"], weights["decoder_pred.3.bias"])[:, :, halo:]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.config.norm_eps)


def _relative(table: Tensor, length: int) -> Tensor:
    """(2 * L - 1, d) for any L -> (length, length, d), entry [i, j] for the offset i - j."""
    if len(table) != 2 * length - 1:
        resized = F.interpolate(rearrange(table, "l d -> 1 d l"), size=2 * length - 1, mode="linear")
        table = rearrange(resized, "1 d l -> l d")
    position = torch.arange(length, device=table.device)
    return table[position[:, None] - position[None, :] + length - 1]


def _bias(q: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Relative positions: q (..., Rq * W, d), rows (Rq, Rk, d), columns (W, W, d) -> (..., Rq * W, Rk * W)."""
    grid = rearrange(q, "... (r w) d -> ... r w d", r=rows.shape[0])
    by_row = torch.einsum("...rwd,rkd->...rwk", grid, rows)
    by_column = torch.einsum("...rwd,wkd->...rwk", grid, columns)
    return rearrange(by_row.unsqueeze(-1) + by_column.unsqueeze(-2), "... r w k l -> ... (r w) (k l)")


def _stacked(prompts: Tensor, query: Tensor) -> Tensor:
    """N prompts over the one query: (B, S, N, h, T, d), (B, S, 1, h, U, d) -> (B, S, N, h, T + U, d)."""
    return torch.cat([prompts, query.expand(-1, -1, prompts.shape[2], -1, -1, -1)], dim=-2)


def _batched(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, torch.Size]:
    """What PyTorch's operators take: (batch, h, T, d); and the axes that were folded."""
    shapes = (each.shape[:-3] for each in (q, k, v, bias))
    lead: torch.Size = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    q, k, v, bias = (each.expand(*lead, *each.shape[-3:]).flatten(0, len(lead) - 1) for each in (q, k, v, bias))
    return q, k, v, bias, lead
