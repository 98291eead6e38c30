"""How precisely a run computes: as the hardware multiplies, and the same in all processes. Refuses to know the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from incontext.network.devices import choose_dtype
from incontext.options import TrainingDtype
from incontext.training.parallel.processes import ALONE, Team


@dataclass(frozen=True)
class Precision:
    """Of the products of a run; weights, loss and the state of the optimizers are float32 in any case."""

    network: torch.dtype
    newton_schulz: torch.dtype  # of Muon

    @classmethod
    def choose(cls, name: TrainingDtype, device: torch.device, team: Team = ALONE) -> Precision:
        """Choose the precision of that name; "auto" is bfloat16 where the hardware of all processes multiplies it.

        Where it does not, Newton-Schulz is computed in float32 whatever was asked for: emulated bfloat16 takes more
        than ten times as long and gives nothing in return. All processes must call this.

        Raises:
            ValueError: the name is unknown.
        """
        if name not in get_args(TrainingDtype):
            raise ValueError(f"expected a dtype of training among {', '.join(get_args(TrainingDtype))}; got {name!r}")
        multiplied = team.all(choose_dtype("auto", device) == torch.bfloat16)
        fastest = torch.bfloat16 if multiplied else torch.float32
        network = fastest if name == "auto" else choose_dtype(name, device)
        return cls(network, network if multiplied else torch.float32)
