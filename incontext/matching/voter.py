"""A backbone beside the network: what it sees of prompts and queries, and its votes for their ids.

What it saw of an image is remembered for a while, so that images that come again, as examples of many queries or as
frames of a video, are not looked at again. Refuses to know canvases, paint and how votes are read.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.digest import digest
from incontext.images.ids import IGNORED, Pixels
from incontext.images.resize import resized
from incontext.matching.backbone import Backbone
from incontext.matching.calibration import Calibration, known
from incontext.matching.match import BACKGROUNDS, PROTOTYPES, Examples, learn, match, patches_of, pooled
from incontext.matching.names import open_backbone
from incontext.network.memory import peak
from incontext.prompt_tensor import PromptTensor
from incontext.seen_examples import SeenExamples
from incontext.types import Prompt

MOST_KEPT: Final = 64 << 20  # bytes of what was seen
MOST_CARRIED: Final = 1024  # patches that a prompt tensor carries

_TOP = 0.05  # of the patches of a query: where an id is, if it is there at all
_SURE = 1e-6  # a probability is not nearer to 0 and 1
_FOR_ANY = Calibration("any", "", prototypes=2.0, neighbours=0.5, sharpness=1.2)  # as the packaged one needs it, about


class Voter:
    """A backbone on a device, and what its votes count. Thread-safe."""

    def __init__(self, backbone: Backbone, device: torch.device, *, calibration: Calibration | None = None) -> None:
        """calibration: None is what is kept under the SHA-256 of its weights, or else what others of its kind need."""
        self.backbone = backbone.to(device)
        self.device = device
        found = calibration or known(backbone.sha256)
        self.is_calibrated = found is not None
        self.calibration = found or _FOR_ANY
        self._kept: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()  # by content, the last used at the end
        self._bytes = 0
        self._lock = threading.Lock()
        self._needs: dict[tuple[int, int], int] = {}  # by batch and shots

    @property
    def side(self) -> int:
        """Pixels along a side of what it sees."""
        return self.backbone.side

    def describe(self) -> dict[str, object]:
        """Tell what runs beside the network: its name, its weights, and what its votes count."""
        return {
            "backbone": self.backbone.name,
            "backbone_parameters": sum(p.numel() for p in self.backbone.network.parameters()),
            "backbone_side": self.side,
            "backbone_sha256": self.backbone.sha256,
            "backbone_votes": self._told(),
            "backbone_identity": digest(self.backbone.sha256, str(self.side), self.calibration.digest),
        }

    def _told(self) -> str:
        """Say in words what its votes count."""
        made = self.calibration
        parts = [f"{made.prototypes:g} by prototypes", f"{made.neighbours:g} by neighbours"]
        parts.append(f"sharpness {made.sharpness:g}")
        if made.presence is not None:
            parts.append("presence {:g}, {:g}, {:g}".format(*made.presence))
        return ", ".join(parts) + ("" if self.is_calibrated else "; not calibrated")

    def see(self, images: Sequence[Pixels]) -> Tensor:
        """Look at images, each (side, side, 3) uint8; those that were seen a while ago are not looked at again.

        Returns:
            (B, h, w, C) float32 on the device, as :func:`incontext.matching.match.match` takes it.
        """
        names = [digest(image) for image in images]
        stages = {name: self._recalled(name) for name in names}
        new = {name: image for name, image in zip(names, images, strict=True) if stages[name] is None}
        if new:
            seen = self.backbone.features(torch.from_numpy(np.stack([*new.values()])))
            for at, name in enumerate(new):
                stages[name] = tuple(stage[at] for stage in seen)
                self._keep(name, tuple(stage[at].clone() for stage in seen))
        found = [stage for name in names if (stage := stages[name]) is not None]
        return patches_of([torch.stack(stage) for stage in zip(*found, strict=True)])

    def examples(self, context: Sequence[Prompt | PromptTensor]) -> Examples | None:
        """Look at a context; None where nothing of it can be looked at.

        Prompt tensors that were tuned with this backbone bring what it saw then; of others the network alone knows what
        they find, which is told in a warning.

        Raises:
            ValueError: a prompt tensor was tuned with another backbone.
        """
        prompts = [each for each in context if isinstance(each, Prompt)]
        tensors = [each for each in context if isinstance(each, PromptTensor)]
        found = [self._of_prompts(prompts)] if prompts else []
        for each in tensors:
            if each.seen is None:
                warnings.warn(
                    f"a prompt tensor for {', '.join(map(str, each.ids))} was tuned without a backbone, so that "
                    "the network alone decides; tune it anew with this one",
                    stacklevel=3,
                )
            elif each.seen.sha256 != self.backbone.sha256:
                raise ValueError(
                    f"expected the backbone {each.seen.backbone!r} (SHA-256 {each.seen.sha256[:12]}...), with which "
                    f"this prompt tensor was tuned, got {self.backbone.name!r} ({self.backbone.sha256[:12]}...); load "
                    "that one, none, or tune it anew"
                )
            else:
                found.append(self._of_tensor(each.seen))
        return pooled(found) if found else None

    def leads(self, seen: Tensor, examples: Examples, ids: Sequence[int]) -> Tensor:
        """Vote for ids.

        Args:
            seen: (B, h, w, C), as :meth:`see` returns it.
            examples: As :meth:`examples` returns them.
            ids: Those of a pass, which the examples know.

        Returns:
            (B, K + 1, h, w) float32: the background's lead and each id's over the best other one, in units of the
            network's.
        """
        by_prototypes, by_neighbours = match(seen, examples).leads(ids)
        return self.calibration.prototypes * by_prototypes + self.calibration.neighbours * by_neighbours

    def presence(self, said: Tensor, leads: Tensor) -> Tensor:
        """Join what the network says of presence with what the backbone sees.

        The evidence of an id is the mean lead where it is greatest. What is certain, as it was pointed at, stays so.

        Args:
            said: (B, K + 1) in 0..1.
            leads: (B, K + 1, h, w).
        """
        if self.calibration.presence is None:
            return said
        own, other, constant = self.calibration.presence
        joined = own * said.clamp(_SURE, 1 - _SURE).logit() + other * evidence(leads) + constant
        joined = joined.sigmoid().where(said < 1, said)
        joined[:, 0] = said[:, 0]
        return joined

    def carried(self, prompts: Sequence[Prompt]) -> SeenExamples:
        """Make what a prompt tensor that is learned from these prompts is to carry."""
        made = self._of_prompts(prompts)
        kept = torch.linspace(0, len(made.patches) - 1, min(MOST_CARRIED, len(made.patches))).round().long()
        return SeenExamples(
            self.backbone.name,
            self.backbone.sha256,
            made.ids,
            made.channels,
            made.images,
            made.mean.cpu().half().numpy(),
            made.prototypes.cpu().half().numpy(),
            made.owners.cpu().to(torch.uint8).numpy(),
            made.patches[kept].cpu().half().numpy(),
            made.shares[kept].cpu().half().numpy(),
        )

    def needs(self, *, batch: int, shots: int) -> int:
        """Bytes of tensors at the peak of its votes on so many queries, by so many prompts; its weights left out."""
        if (batch, shots) not in self._needs:
            self._needs[batch, shots] = peak(lambda: self._pretend(batch, shots), self.device.type)
        return self._needs[batch, shots]

    def _pretend(self, batch: int, shots: int) -> None:
        """Run what is computed for queries, on whatever is there."""
        seen = patches_of(self.backbone.features(torch.empty(batch, self.side, self.side, 3)))
        count, wide = shots * seen.shape[1] * seen.shape[2], seen.shape[3]
        found = PROTOTYPES + BACKGROUNDS
        owners = torch.zeros(found, dtype=torch.int64)
        made = (torch.empty(found, wide), owners, torch.empty(count, wide), torch.empty(count, 2))
        match(seen, Examples((1,), self.backbone.channels, torch.empty(wide), shots, *made))

    @property
    def weights(self) -> int:
        """Bytes of its weights."""
        return sum(each.nbytes for each in self.backbone.network.state_dict().values())

    # ------------------------------------------------------------------------------------- from here on inside

    @torch.inference_mode()
    def _of_prompts(self, prompts: Sequence[Prompt]) -> Examples:
        size = (self.side, self.side)
        seen = torch.cat([self.see([resized(prompt.image, size)]) for prompt in prompts])
        ids = sorted({i for prompt in prompts for i in prompt.ids})
        shares = torch.stack([_shares(prompt.mask, ids, (seen.shape[1], seen.shape[2])) for prompt in prompts])
        weights = torch.tensor([prompt.weight for prompt in prompts], dtype=torch.float32)
        return learn(seen.flatten(1, 2), shares.to(self.device), ids, self.backbone.channels, weights=weights)

    def _of_tensor(self, seen: SeenExamples) -> Examples:
        mean, prototypes, patches, shares = (
            torch.from_numpy(each.astype(np.float32))
            for each in (seen.mean, seen.prototypes, seen.patches, seen.shares)
        )
        owners = torch.from_numpy(seen.owners.astype(np.int64))
        shares = shares / shares.sum(dim=1, keepdim=True)
        made = Examples(seen.ids, seen.channels, mean, seen.images, prototypes, owners, patches, shares)
        return made.to(self.device)

    def _recalled(self, name: str) -> tuple[Tensor, ...] | None:
        with self._lock:
            if name not in self._kept:
                return None
            self._kept.move_to_end(name)
            return self._kept[name]

    def _keep(self, name: str, stages: tuple[Tensor, ...]) -> None:
        with self._lock:
            if name not in self._kept:  # another thread may have been faster
                self._kept[name] = stages
                self._bytes += _size(stages)
            while self._bytes > MOST_KEPT and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])


def open_voter(name: str | Path, device: torch.device) -> Voter:
    """Open a backbone by name on a device. Errors as in :func:`incontext.matching.names.open_backbone`."""
    return Voter(open_backbone(str(name)), device)


def evidence(leads: Tensor) -> Tensor:
    """Return the mean of the greatest leads of each id, (B, K + 1, h, w) -> (B, K + 1): above 0 where it is there."""
    flat = leads.flatten(2)
    return flat.topk(max(1, round(_TOP * flat.shape[2])), dim=2).values.mean(dim=2)


def _shares(mask: Pixels, ids: Sequence[int], size: tuple[int, int]) -> Tensor:
    """How much of each patch of a mask (H, W) is background and each of the ids, (h * w, K + 1) float32.

    They sum to how much of the patch is known.
    """
    said, seen = torch.from_numpy(np.array(mask)), []
    for i in (0, *ids):
        # Other ids than these are background, too.
        here = (said != IGNORED) & ~torch.isin(said, torch.tensor(list(ids))) if i == 0 else said == i
        seen.append(F.adaptive_avg_pool2d(here.float()[None, None], size).flatten())
    return torch.stack(seen, dim=-1)


def _size(stages: Sequence[Tensor]) -> int:
    return sum(stage.nbytes for stage in stages)
