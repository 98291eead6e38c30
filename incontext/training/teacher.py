"""Learning what a teacher knows: linear heads that read its features off the network's image tokens.

The heads stand on the outputs of some blocks while the network learns, and are thrown away afterwards, so that what
comes out is an ordinary checkpoint. Their loss is one minus the cosine between what they say and what the teacher sees
(features as targets: FitNets, arXiv 1412.6550; normalised ones: arXiv 2205.14141). Refuses to know where targets come
from (features.py), masks, and the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT


@dataclass(frozen=True)
class Teaching:
    """Which teacher, and how its features are learned."""

    name: str  # of the backbone, as :func:`incontext.matching.names.open_backbone` takes it
    blocks: tuple[int, ...] = ()  # after which the heads stand; none: after a third and after two thirds of them
    dims: tuple[int, ...] = ()  # principal axes of each of the teacher's stages; none: 48 and 64, or 112 of one
    weight: float = 0.5  # of the heads' loss beside that of painting

    def __post_init__(self) -> None:
        for name in ("blocks", "dims"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list, when read from JSON

    def dims_of(self, channels: Sequence[int]) -> tuple[int, ...]:
        """Return how many principal axes are learned of a teacher's stages, which have so many channels.

        Raises:
            ValueError: there is not one number for each stage.
        """
        wanted = self.dims or ((48, 64) if len(channels) == 2 else (112,) * len(channels))
        if len(wanted) != len(channels):
            raise ValueError(f"expected dims for each of {self.name}'s {len(channels)} stages, got {list(wanted)}")
        return tuple(min(each, most) for each, most in zip(wanted, channels, strict=True))

    def blocks_of(self, config: ModelConfig) -> tuple[int, ...]:
        """Return the blocks of a network after which the heads stand.

        Raises:
            ValueError: one is not between the merge of the streams and the last block, where all tokens still are.
        """
        low, high = config.merge_layer + 1, config.taps[-1] - 1
        chosen = self.blocks or tuple(
            sorted({min(high, max(low, round(config.depth * part) - 1)) for part in (0.4, 0.65)})
        )
        if any(not low <= block <= high for block in chosen):
            raise ValueError(f"expected blocks for a teacher's heads in {low}..{high}, got {list(chosen)}")
        return chosen


class Heads(nn.Module):
    """A linear head for each chosen block; in float32, whatever the network's precision."""

    def __init__(self, blocks: Sequence[int], width: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.dims = tuple(dims)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.heads = nn.ModuleList([nn.Linear(width, sum(dims)) for _ in blocks])

    def count(self, targets: Tensor | None) -> Tensor:
        """Return how many cosines :meth:`forward` adds up, a scalar; 0 where there are no targets."""
        if targets is None:
            return torch.zeros((), dtype=torch.long, device=self.heads[0].weight.device)  # type: ignore[arg-type]
        return _known(targets, self.dims).sum() * len(self.heads) * len(self.dims)

    def forward(self, tokens: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Compare what the heads say with what the teacher sees.

        Args:
            tokens: of each block (B, N + 1, R, W, C), prompts and query.
            targets: (B, (N + 1) * R, W, D), of unit length stage by stage, zeros where the teacher saw nothing.

        Returns:
            The sum over heads, stages and patches of the cosines, a scalar.
        """
        total = targets.new_zeros(())
        with torch.autocast(targets.device.type, enabled=False):
            for head, seen in zip(self.heads, tokens, strict=True):
                said = head(self.norm(rearrange(seen.float(), "b n r w c -> b (n r) w c")))
                both = (torch.split(each, list(self.dims), dim=-1) for each in (said, targets))
                for mine, its in zip(*both, strict=True):
                    total = total + (F.normalize(mine, dim=-1) * its).sum()  # nothing where the target is zero
        return total

    @torch.no_grad()
    def start(self, pairs: Iterator[tuple[Sequence[Tensor], Tensor]], *, ridge: float = 1.0) -> None:
        """Set the heads by ridge regression of targets on tokens, over some batches.

        Args:
            pairs: tokens and targets as :meth:`forward` takes them.
            ridge: how much is added to the diagonal, in units of tokens' mean square.
        """
        squares: list[Tensor] = []
        products: list[Tensor] = []
        for tokens, targets in pairs:
            known = _known(targets, self.dims)
            for at, seen in enumerate(tokens):
                x = self.norm(rearrange(seen.float(), "b n r w c -> b (n r) w c"))[known]
                x = F.pad(x, (0, 1), value=1.0).double()  # the last column is the bias
                y = targets[known].double()
                if at == len(squares):
                    squares.append(x.T @ x)
                    products.append(x.T @ y)
                else:
                    squares[at] += x.T @ x
                    products[at] += x.T @ y
        for head, square, product in zip(self.heads, squares, products, strict=False):
            eye = torch.eye(len(square), dtype=square.dtype, device=square.device)
            solved = torch.linalg.solve(square + ridge * eye, product).float()
            head.load_state_dict({"weight": solved[:-1].T, "bias": solved[-1]})


def _known(targets: Tensor, dims: Sequence[int]) -> Tensor:
    """Find where the teacher saw something: (B, P, W, D) -> (B, P, W) bool."""
    return targets[..., : dims[0]].abs().sum(dim=-1) > 0


@contextmanager
def listening(model: SegGPT, blocks: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect the outputs of some blocks, (B, N + 1, R, W, C) each, in the list that this gives, while it is open."""
    heard: list[Tensor] = []

    def hear(_module: nn.Module, _given: object, out: Tensor) -> None:
        heard.append(out)

    hooks = [model.blocks[block].register_forward_hook(hear) for block in blocks]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
