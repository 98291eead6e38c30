"""The optimizers of a run: Muon for the matrices of the blocks, AdamW for the rest.

Refuses to know the loop, the loss and files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from incontext.training.parallel.sharding import part_like
from incontext.training.recipes import Recipe


def make_optimizers(
    model: nn.Module, recipe: Recipe, heads: nn.Module | None = None, *, newton_schulz: torch.dtype = torch.bfloat16
) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices of the blocks, AdamW for the rest; weight decay on matrices only. Of what learns."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if heads is not None:
        learning.update({f"teacher.{name}": p for name, p in heads.named_parameters()})
    matrices = [
        p for name, p in learning.items() if name.startswith("blocks.") and name.endswith("weight") and p.ndim == 2
    ]
    taken = {id(p) for p in matrices}
    rest = [p for p in learning.values() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=recipe.other_lr, betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    muon = Muon(matrices, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay, newton_schulz=newton_schulz)
    return [muon, adamw]


class Muon(torch.optim.Muon):
    """PyTorch's Muon with its Newton-Schulz iteration in a precision of choice, also for matrices in parts (FSDP2).

    In bfloat16, the only precision that PyTorch's own has, the result is the same bit for bit; processors without
    hardware for it emulate it at a twentieth of the speed of float32. Momentum and decay happen in parts; each update
    is gathered, made orthogonal, and cut again. The steps are as large as AdamW's (arXiv 2502.16982, section 2.2).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float, newton_schulz: torch.dtype
    ) -> None:
        """newton_schulz: no part of the state, so that a run may go on where another precision is faster."""
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.newton_schulz = newton_schulz

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step."""
        if closure is not None:
            raise ValueError("expected no closure")
        for group in self.param_groups:
            iteration = {"coefficients": group["ns_coefficients"], "steps": group["ns_steps"], "eps": group["eps"]}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                moving = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(moving, group["momentum"]) if group["nesterov"] else moving
                whole = update.full_tensor() if isinstance(update, DTensor) else update
                turned = orthogonalised(whole.to(self.newton_schulz), **iteration)
                length = group["lr"] * 0.2 * math.sqrt(max(parameter.shape))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(part_like(turned, parameter), alpha=-length)


def orthogonalised(matrix: Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Bring the singular values of a matrix near 1 and keep its singular vectors (Newton-Schulz).

    Each step applies the odd polynomial a x + b x^3 + c x^5 to all singular values, by products alone; with Muon's
    coefficients (https://kellerjordan.github.io/posts/muon/) those that are not tiny end in about 0.7 .. 1.2.

    Args:
        matrix: (n, m), of any scale; its dtype is that of the iteration and of the answer.
        coefficients: a, b and c.
        steps: how often the polynomial is applied.
        eps: the least norm that is divided by.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # of the two Gram matrices the smaller one
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
