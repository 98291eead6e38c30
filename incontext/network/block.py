"""The block: attention and MLP before residuals, on N prompts and the one query that they share.

A reader who knows the Vision Transformer finds it in `_one_canvas`: a prompt over the query is one sequence of tokens.
With more prompts the query attends to each of them apart and its answers are averaged, in every block: the feature
ensemble (arXiv 2304.03284, section 3.3). What makes that cheap has methods of its own, and each says why it is the
same.

Axis letters: N shots, M a batch, R patch rows, W patch columns, C channels, d head width. Tokens are
(M, N + 1, R, W, C): the halves of N canvases, the prompts first, and last the query's. Refuses to know pixels, streams
and the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from incontext.network.attention import attention, attention_with_lse, merge
from incontext.network.config import ModelConfig
from incontext.network.layers import Mlp

Relative = tuple[Tensor, Tensor]
"""Of one block: rows (2R, 2R, d) and columns (W, W, d)."""


class _Query(NamedTuple):
    """The query's half inside of an attention: queries, keys, values, and its attention to its own keys."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor


class Attention(nn.Module):
    """Global multi-head attention with decomposed relative positions, on canvases of a prompt over the query."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * (2 * config.grid) - 1, config.width // config.heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * config.grid - 1, config.width // config.heads))

    def forward(self, x: Tensor, relative: Relative, kernel: str, shares: Tensor, chunk: int) -> Tensor:
        """Attend within each canvas, and make one of the query's N answers: (M, N + 1, R, W, C) -> the same.

        The answers are averaged before the projection, which is linear: that is the feature ensemble (arXiv 2304.03284,
        section 3.3), in which the published network averages after it.

        Args:
            x: Tokens.
            relative: Relative positions of this block.
            kernel: Name of the attention kernel.
            shares: (N,), how much each shot counts in the average; they add up to 1.
            chunk: Halves to work on at a time, which bounds memory.
        """
        if x.shape[1] == 2:
            return self._one_canvas(x, relative, kernel)
        rows, columns = relative
        query, height = self._of_query(x, relative, kernel), x.shape[2]
        halves, answers = [], []
        for part, share in zip(torch.split(x[:, :-1], chunk, dim=1), torch.split(shares, chunk), strict=True):
            q, k, v = self._heads(part)
            answers.append(weighted_sum(self._answers(query, k, v, relative, kernel), share))
            halves.append(self._prompt_rows(q, k, v, query, rows[:height], columns, kernel))
        return self._projected([*halves, torch.stack(answers).sum(dim=0)], x.shape[3])

    def last_rows(self, x: Tensor, relative: Relative, kernel: str, shares: Tensor, chunk: int) -> Tensor:
        """Attend like :meth:`forward`, but only in the last row of prompt 0 and the query: -> (M, R + 1, W, C).

        The same in these rows, as an output of attention depends on all keys but on no other output.
        """
        rows, columns = relative
        height, width = x.shape[2:4]
        if x.shape[1] == 2:
            q, k, v = self._canvas_heads(x)
            out = attention(q[:, :, -(height + 1) * width :], k, v, rows[-(height + 1) :], columns, kernel=kernel)
            return self.proj(rearrange(out, "m h (r w) d -> m r w (h d)", w=width))  # type: ignore[no-any-return]
        query, answers, halo = self._of_query(x, relative, kernel), [], None
        for part, share in zip(torch.split(x[:, :-1], chunk, dim=1), torch.split(shares, chunk), strict=True):
            q, k, v = self._heads(part)
            answers.append(weighted_sum(self._answers(query, k, v, relative, kernel), share))
            if halo is None:
                last = q[:, :1, :, -width:]
                halo = self._prompt_rows(last, k[:, :1], v[:, :1], query, rows[height - 1 : height], columns, kernel)
        assert halo is not None
        found = (halo, torch.stack(answers).sum(dim=0))
        halves = [rearrange(each, "m 1 h (r w) d -> m r w (h d)", w=width) for each in found]
        return self.proj(torch.cat(halves, dim=1))  # type: ignore[no-any-return]

    def apart(self, x: Tensor, relative: Relative, kernel: str, chunk: int) -> tuple[Tensor, Tensor]:
        """Attend like :meth:`forward`, but leave the query's N answers as they are: -> (M, N, R, W, C), twice."""
        if x.shape[1] == 2:
            both = self._one_canvas(x, relative, kernel)
            return both[:, :1], both[:, 1:]
        rows, columns = relative
        query, height = self._of_query(x, relative, kernel), x.shape[2]
        halves, answers = [], []
        for part in torch.split(x[:, :-1], chunk, dim=1):
            q, k, v = self._heads(part)
            answers.append(self._answers(query, k, v, relative, kernel))
            halves.append(self._prompt_rows(q, k, v, query, rows[:height], columns, kernel))
        prompts, found = self._projected([*halves, *answers], x.shape[3]).chunk(2, dim=1)
        return prompts, found

    def _one_canvas(self, x: Tensor, relative: Relative, kernel: str) -> Tensor:
        """Attend within one canvas: prompt and query are one sequence of tokens, as in any Vision Transformer."""
        q, k, v = self._canvas_heads(x)
        out = attention(q, k, v, *relative, kernel=kernel)
        return self.proj(rearrange(out, "m h t d -> m t (h d)")).unflatten(1, x.shape[1:4])  # type: ignore[no-any-return]

    def _of_query(self, x: Tensor, relative: Relative, kernel: str) -> _Query:
        """Prepare what the query's half is to all prompts: its rows attend to its own keys once, not once a shot."""
        rows, columns = relative
        height = x.shape[2]
        q, k, v = self._heads(x[:, -1:])
        out, lse = attention_with_lse(q, k, v, rows[height:, height:], columns, kernel=kernel)
        return _Query(q, k, v, out, lse)

    def _answers(self, query: _Query, k: Tensor, v: Tensor, relative: Relative, kernel: str) -> Tensor:
        """Answer the query's rows by each prompt, as attention to both halves of a canvas at once would.

        Attention to disjoint sets of keys can be merged by their log-sum-exps. So 3N + 1 products of halves do in place
        of 4N.

        Returns:
            (M, n, heads, R * W, d).
        """
        rows, columns = relative
        height = len(rows) // 2
        out, lse = attention_with_lse(query.q, k, v, rows[height:, :height], columns, kernel=kernel)
        return merge(out, lse, query.out, query.lse)

    def _prompt_rows(
        self, q: Tensor, k: Tensor, v: Tensor, query: _Query, rows: Tensor, columns: Tensor, kernel: str
    ) -> Tensor:
        """Let rows of prompts attend to their own half and to the query's."""
        both_k = torch.cat([k, query.k.expand_as(k)], dim=-2)
        both_v = torch.cat([v, query.v.expand_as(v)], dim=-2)
        return attention(q, both_k, both_v, rows, columns, kernel=kernel)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "m n r w (three h d) -> three m n h (r w) d", three=3, h=self.heads)
        return q, k, v

    def _canvas_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "m n r w (three h d) -> three m h (n r w) d", three=3, h=self.heads)
        return q, k, v

    def _projected(self, halves: Sequence[Tensor], width: int) -> Tensor:
        grids = [rearrange(each, "m n h (r w) d -> m n r w (h d)", w=width) for each in halves]
        return self.proj(torch.cat(grids, dim=1))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm Transformer block in which the shots of a context meet: the feature ensemble."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config.width, round(config.width * config.mlp_ratio))

    def forward(
        self, x: Tensor, relative: Relative, kernel: str, shares: Tensor, *, chunk: int | None = None
    ) -> Tensor:
        """Run the block on N prompts and the query that they share: (M, N + 1, R, W, C) -> the same.

        The query's half is carried once. The same as in the published network, in which each shot has a query half of
        its own: there all of them are replaced by their mean in every block, so they are equal. For the arguments see
        :meth:`Attention.forward`;

        Args:
            chunk: None is all at once.
        """
        chunk = chunk or x.shape[1]
        x = x + self.attn(self.norm1(x), relative, kernel, shares, chunk)
        return self.finish(x, chunk)

    def last_rows(
        self, x: Tensor, relative: Relative, kernel: str, shares: Tensor, *, chunk: int | None = None
    ) -> Tensor:
        """Run the block, but only on the rows that are decoded after the last one: -> (M, R + 1, W, C).

        The same in these rows (:func:`last_rows`), as nothing but attention mixes tokens.
        """
        seen = self.attn.last_rows(self.norm1(x), relative, kernel, shares, chunk or x.shape[1])
        x = last_rows(x) + seen
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]

    def apart(self, x: Tensor, relative: Relative, kernel: str, *, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """Run the block as far as shots stay apart: -> (M, N, R, W, C) of prompts, done, and of the query's answers.

        With :meth:`finish` of the weighted mean of the latter it is what :meth:`forward` makes of them: the residual is
        the same for all, and the MLP comes after the average.
        """
        prompts, answers = self.attn.apart(self.norm1(x), relative, kernel, chunk or x.shape[1])
        return self.finish(x[:, :-1] + prompts, chunk or x.shape[1]), x[:, -1:] + answers

    def finish(self, x: Tensor, chunk: int) -> Tensor:
        """Run the second half of the block, in which every token is by itself: (M, N, R, W, C) -> the same."""
        parts = [part + self.mlp(self.norm2(part)) for part in torch.split(x, chunk, dim=1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def last_rows(tokens: Tensor) -> Tensor:
    """Take the rows that are decoded: the query's, and above them the last row of prompt 0: -> (M, R + 1, W, C).

    Below the first row of the query's pixels every shot decodes to the same answer. That row sees, through the
    decoder's window, the prompt above it, and like the published code we return what shot 0 gives.
    """
    return torch.cat([tokens[:, 0, -1:], tokens[:, -1]], dim=1)


def weighted_sum(answers: Tensor, shares: Tensor) -> Tensor:
    """Sum answers (M, N, ...) by shares (N,), in which it is computed: -> (M, 1, ...), as precise as the answers."""
    return (answers * shares.view(-1, *[1] * (answers.ndim - 2))).sum(dim=1, keepdim=True).to(answers.dtype)
