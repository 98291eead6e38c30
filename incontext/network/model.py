"""The network: a plain Vision Transformer that sees a prompt stacked over a query and paints the query's mask.

It embeds images and masks as two streams, averages them after a few blocks (block.py), taps some blocks and decodes
their tokens to pixels: :meth:`SegGPT.see_canvas` is that, in the order of the paper's figure 2. What follows it,
:meth:`SegGPT.prepare` and :meth:`SegGPT.see`, gives the same answers with less work; each saving has a method of its
own that says why it is the same, and reference.py, which has none of them, is what tests compare with.

It knows normalised tensors; it refuses to know pixels, colours, ids, files and devices. The semantics are those of
SegGPT (arXiv 2304.03284) as published, and parameters carry the published names, so that its weights load as they are.

Axis letters: B queries, N shots, R patch rows, W patch columns, C channels. Tokens are (B, N + 1, R, W, C): the halves
of N canvases, the prompts first, and last the query's, which all of them share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from incontext.network.block import Block, Relative, last_rows, weighted_sum
from incontext.network.config import ModelConfig
from incontext.network.layers import ChannelNorm, PatchEmbed, Presence
from incontext.network.relative import relative_table
from incontext.options import Task


class Tables(NamedTuple):
    """What depends on the weights and the grid alone: made once for a grid of R x R patches in a half canvas."""

    positions: Tensor  # (2, R, R, C): the position table of the prompts and of the query
    relative: tuple[Relative, ...]  # for each block


class PromptTokens(NamedTuple):
    """What prompts contribute each by itself, before they meet: may be cut and joined along N."""

    images: Tensor  # (B, N, R, W, C): the tokens of the prompts' images, before the first block
    painted: Tensor  # (B, N, R, W, C): those of their painted masks
    masks: Tensor  # (B, N, R, W, C): their half of the mask stream after the first block
    query: Tensor  # (B, N, R, W, C): the query's half of it after the first attention, as each prompt alone makes it


class ContextTokens(NamedTuple):
    """A context as the network keeps it, for any number of queries. B is 1 where all queries share it."""

    images: Tensor  # (B, N, R, W, C): the tokens of the prompts' images, before the first block
    painted: Tensor  # (B, N, R, W, C): those of their painted masks
    masks: Tensor  # (B, N + 1, R, W, C): the mask stream at the merge, the query's half last
    type_token: Tensor
    tables: Tables
    shares: Tensor  # (N,) in float32 at least: how much each shot counts in the feature ensemble; they add up to 1


class Seen(NamedTuple):
    """What the network makes of queries."""

    painted: Tensor  # (B, 3, H, W) normalised
    tokens: Tensor  # (B, R, W, taps * C): the query's tokens that its mask is painted from


class SegGPT(nn.Module):
    """The network. ``kernel`` names the attention kernel: "auto", or one of kernels.py."""

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
        """Draw fresh weights: truncated normal, 0.02, zero biases, as in the Painter code that SegGPT starts from."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.constant_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.ones_(self.decoder_pred[1].weight)  # type: ignore[arg-type]

    # ------------------------------------------------------------------------------ one prompt over one query

    def see_canvas(self, image_canvas: Tensor, mask_canvas: Tensor, masked: Tensor, *, task: Task = "instance") -> Seen:
        """Paint whole canvases of one shot each, whatever part of their masks is hidden (training, hints).

        Args:
            image_canvas: (B, 3, 2 * side, side), normalised: the prompt's image over the query's.
            mask_canvas: (B, 3, 2 * side, side), normalised: their painted masks.
            masked: (B, rows, columns) bool, true for the patches that the network must paint.
            task: Which type token is added.

        Returns:
            The painted canvases (B, 3, 2 * side, side), and the query's tokens.
        """
        images, masks, hidden = (
            rearrange(each, "b ... (n r) w -> b n ... r w", n=2) for each in (image_canvas, mask_canvas, masked)
        )
        tables, type_token = self.tables(masked.shape[-1]), self._type_token(task)
        x = self._image_tokens(images, tables.positions) + type_token
        y = torch.where(hidden.unsqueeze(-1), self.mask_token.to(x.dtype), self._patches(masks))
        y = self._mask_tokens(y, tables.positions) + type_token
        tokens, taps, alone = torch.cat([x, y]), [], x.new_ones(1)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, tables.relative[index], self.kernel, alone)
            if index == self.config.merge_layer:
                tokens = rearrange(tokens, "(s b) n r w c -> s b n r w c", s=2).mean(dim=0)
            if index in self.config.taps:
                taps.append(self.norm(rearrange(tokens, "b n r w c -> b (n r) w c")))
        tapped = torch.cat(taps, dim=-1)
        return Seen(self._decode(tapped), tapped[:, tapped.shape[1] // 2 :])

    def paint_canvas(
        self, image_canvas: Tensor, mask_canvas: Tensor, masked: Tensor, *, task: Task = "instance"
    ) -> Tensor:
        """Paint like :meth:`see_canvas`; return what was painted alone, (B, 3, 2 * side, side), normalised."""
        return self.see_canvas(image_canvas, mask_canvas, masked, task=task).painted

    # ------------------------------------------------------------------- N prompts and any queries, with less work

    def forward(
        self, prompt_images: Tensor, prompt_masks: Tensor, queries: Tensor, *, task: Task = "instance"
    ) -> Tensor:
        """Paint the masks of B queries, each with its own N shots.

        Different queries never touch.

        Any side that is a multiple of the patch size will do; the tables are interpolated.

        Args:
            prompt_images: (B, N, 3, side, side), normalised, or (1, N, ...) for one context of all queries.
            prompt_masks: The same of their painted masks.
            queries: (B, 3, side, side), normalised.
            task: Which type token is added.

        Returns:
            (B, 3, side, side), the painted answers, normalised.

        Raises:
            ValueError: the shapes do not fit each other, or the task is unknown.
        """
        return self.answer(queries, self.prepare(prompt_images, prompt_masks, task=task))

    def answer(self, queries: Tensor, context: ContextTokens, *, chunk: int | None = None) -> Tensor:
        """Paint like :meth:`see`; return what was painted alone, (B, 3, side, side), normalised."""
        return self.see(queries, context, chunk=chunk).painted

    def see(self, queries: Tensor, context: ContextTokens, *, chunk: int | None = None) -> Seen:
        """Paint the masks of B queries by a prepared context.

        Args:
            queries: (B, 3, side, side), normalised; or (1, 3, side, side) for B ways to point at one.
            context: What :meth:`prepare`, :meth:`reveal` or :meth:`alone` made.
            chunk: Halves to work on at a time in a block, which bounds memory; None is all.

        Raises:
            ValueError: the queries do not have the context's side, or its number where it holds several.
        """
        self._check_queries(queries, context)
        tables, last = context.tables, self.config.taps[-1]
        query = self._image_tokens(queries.unsqueeze(1), tables.positions[1]) + context.type_token
        tokens, taps = torch.cat([context.images.expand(len(queries), -1, -1, -1, -1), query], dim=1), []
        for index, block in enumerate(self.blocks[:last]):
            tokens = block(tokens, tables.relative[index], self.kernel, context.shares, chunk=chunk)
            if index == self.config.merge_layer:
                tokens = (tokens + context.masks) / 2
            if index in self.config.taps:
                taps.append(self.norm(last_rows(tokens)))
        rows = self._block(last).last_rows(tokens, tables.relative[last], self.kernel, context.shares, chunk=chunk)
        if last == self.config.merge_layer:
            rows = (rows + last_rows(context.masks)) / 2
        tapped = torch.cat([*taps, self.norm(rows)], dim=-1)
        return Seen(self._decode_query(tapped), tapped[:, 1:])

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
        """Compute what a context contributes to every query, once.

        Args:
            prompt_images: (B, N, 3, side, side), normalised.
            prompt_masks: The same of their painted masks.
            task: Which type token is added.
            tables: Those of side / patch, if they are at hand.
            chunk: Prompts to work on at a time; None is all.
            weights: How much each of the N counts in the feature ensemble beside the others, above 0; None is all
                alike, as in the published network.

        Raises:
            ValueError: the shapes do not fit each other, or the task is unknown.
        """
        tables = tables or self.tables(prompt_images.shape[-1] // self.config.patch)
        prompts = self.embed(prompt_images, prompt_masks, task=task, tables=tables, chunk=chunk)
        return self.join(prompts, task, tables, chunk=chunk, weights=weights)

    def embed(
        self, prompt_images: Tensor, prompt_masks: Tensor, *, task: Task, tables: Tables, chunk: int | None = None
    ) -> PromptTokens:
        """Compute what prompts contribute each by itself: the part of :meth:`prepare` that serves any context of them.

        The same, as in the first block a prompt's half depends on its own canvas alone, and so does the answer that it
        gives to the query; they are averaged only then.
        """
        self._check_prompts(prompt_images, prompt_masks)
        type_token, (of_prompts, of_query) = self._type_token(task), tables.positions
        images = self._image_tokens(prompt_images, of_prompts) + type_token
        masks = self._mask_tokens(self._patches(prompt_masks), of_prompts) + type_token
        hidden = self.mask_token + self.segment_token_y + of_query + type_token
        both = torch.cat([masks, hidden.expand_as(masks[:, :1])], dim=1)
        return PromptTokens(images, masks, *self._block(0).apart(both, tables.relative[0], self.kernel, chunk=chunk))

    def join(
        self,
        prompts: PromptTokens,
        task: Task,
        tables: Tables,
        *,
        chunk: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> ContextTokens:
        """Let prompts meet: the rest of :meth:`prepare`, in which the mask stream is run once for all queries.

        The same, as long as nothing of a query's mask is known: its half of the mask canvas is then the mask token
        throughout, so until the streams are merged the mask stream depends on the prompts' masks alone.
        """
        shots = prompts.images.shape[1]
        weights = weights or [1.0] * shots
        precise = torch.promote_types(prompts.query.dtype, torch.float32)
        shares = prompts.query.new_tensor([weight / sum(weights) for weight in weights], dtype=precise)
        query = self._block(0).finish(weighted_sum(prompts.query, shares), chunk or shots + 1)
        masks = torch.cat([prompts.masks, query], dim=1)
        for index in range(1, self.config.merge_layer + 1):
            masks = self.blocks[index](masks, tables.relative[index], self.kernel, shares, chunk=chunk)
        return ContextTokens(prompts.images, prompts.painted, masks, self._type_token(task), tables, shares)

    # -------------------------------------------------------------- queries of whose masks something is revealed

    def reveal(
        self, context: ContextTokens, masks: Tensor, hidden: Tensor, *, chunk: int | None = None
    ) -> ContextTokens:
        """Reveal patches of queries' masks: the context for these queries alone, in place of the shared one.

        The mask stream is run once more for each of them, up to where it meets the images, and nothing else is: the
        answers are those of whole canvases on whose query halves these patches are painted (:meth:`see_canvas`).

        Args:
            context: What :meth:`prepare` made.
            masks: (B, 3, side, side), normalised: the queries' painted masks, of which only revealed patches are seen.
            hidden: (B, R, W) bool, false for the patches that are revealed.
            chunk: As for :meth:`see`.
        """
        painted = context.painted.expand(len(masks), -1, -1, -1, -1)
        told = self._told(masks, hidden, context.tables.positions[1]) + context.type_token
        tokens = torch.cat([painted, told], dim=1)
        for index in range(self.config.merge_layer + 1):
            relative = context.tables.relative[index]
            tokens = self.blocks[index](tokens, relative, self.kernel, context.shares, chunk=chunk)
        return context._replace(masks=tokens)

    def alone(
        self, queries: Tensor, masks: Tensor, hidden: Tensor, *, task: Task = "instance", tables: Tables | None = None
    ) -> ContextTokens:
        """Make contexts of the queries themselves: there is no example, hints on the query say what to paint.

        Each stands in the place of its own prompt, with the same patches of its mask revealed and the others hidden.

        Args:
            queries: (B, 3, side, side), normalised; or (1, 3, side, side) for B ways to point at one.
            masks: As for :meth:`reveal`.
            hidden: As for :meth:`reveal`.
            task: Which type token is added.
            tables: Those of side / patch, if they are at hand.
        """
        tables = tables or self.tables(queries.shape[-1] // self.config.patch)
        type_token = self._type_token(task)
        images = self._image_tokens(queries.unsqueeze(1), tables.positions[0]) + type_token
        painted = self._told(masks, hidden, tables.positions[0]) + type_token
        shares = torch.ones(1, dtype=torch.promote_types(images.dtype, torch.float32), device=images.device)
        nothing = painted.new_zeros(0)  # of the mask stream, which follows
        return self.reveal(ContextTokens(images, painted, nothing, type_token, tables, shares), masks, hidden)

    def tables(self, grid: int) -> Tables:
        """Make the position tables for canvases of (2 * grid, grid) patches.

        They are interpolated where the weights have another grid: once for a grid, as no query changes them.
        """
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

    # ------------------------------------------------------------------------------------------------- parts

    def _block(self, number: int) -> Block:
        return self.blocks[number]  # type: ignore[return-value]

    def _image_tokens(self, images: Tensor, positions: Tensor) -> Tensor:
        """Embed images (B, N, 3, side, side) as tokens (B, N, R, W, C), but for the type token."""
        tokens: Tensor = self._patches(images) + self.segment_token_x + positions
        return tokens

    def _mask_tokens(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Make tokens of the patches of painted masks (B, N, R, W, C), but for the type token."""
        tokens: Tensor = patches + self.segment_token_y + positions
        return tokens

    def _told(self, masks: Tensor, hidden: Tensor, positions: Tensor) -> Tensor:
        """Embed (B, 3, side, side) of which only some patches are seen as (B, 1, R, W, C), but for the type token."""
        patches = self._patches(masks.unsqueeze(1))
        seen = torch.where(hidden[:, None, :, :, None], self.mask_token.to(patches.dtype), patches)
        return self._mask_tokens(seen, positions)

    def _patches(self, images: Tensor) -> Tensor:
        """Embed the patches of (B, N, 3, side, side): (B, N, R, W, C)."""
        embedded: Tensor = self.patch_embed(images.flatten(0, 1))
        return rearrange(embedded, "(b n) r w c -> b n r w c", n=images.shape[1])

    def _type_token(self, task: Task) -> Tensor:
        if task not in ("semantic", "instance"):
            raise ValueError(f'expected task "semantic" or "instance", got {task!r}')
        return self.type_token_cls if task == "semantic" else self.type_token_ins

    def _decode(self, taps: Tensor) -> Tensor:
        """Decode tapped tokens (B, R, W, taps * C) to paint (B, 3, R * patch, W * patch)."""
        return self.decoder_pred(self._pixels(taps))  # type: ignore[no-any-return]

    def _decode_query(self, taps: Tensor) -> Tensor:
        """Decode the query and the row of patches above it, (B, R + 1, W, taps * C): -> (B, 3, side, side).

        The same as the lower half of the decoded canvas: the decoder's 3 x 3 window sees one row of pixels beyond it.
        """
        pixels = self._pixels(taps)[:, :, self.config.patch - 1 :]
        return self.decoder_pred(pixels)[:, :, 1:]  # type: ignore[no-any-return]

    def _pixels(self, taps: Tensor) -> Tensor:
        patch = self.config.patch
        embedded: Tensor = self.decoder_embed(taps)
        return rearrange(embedded, "b r w (p q c) -> b c (r p) (w q)", p=patch, q=patch)

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
        side = context.images.shape[-2] * self.config.patch
        counts = {len(queries), len(context.images), len(context.masks)} - {1}
        if queries.ndim != 4 or queries.shape[1:] != (3, side, side) or len(counts) > 1:
            batch = max(len(context.images), len(context.masks))
            expected = "B" if batch == 1 else batch
            raise ValueError(
                f"expected queries ({expected}, 3, {side}, {side}) as the prompts, got {tuple(queries.shape)}"
            )
