"""What a backbone saw of the images that a prompt tensor was learned from, as the file of the tensor keeps it.

Knows numpy. Refuses to know backbones, and what is done with it (matching/). Trusts nothing that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, cast

import numpy as np
import numpy.typing as npt

NAMES: Final = ("mean", "prototypes", "owners", "patches", "shares")  # of the arrays
MOST: Final = 1 << 16  # rows of an array: far more than are carried

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class SeenExamples:
    """Examples for one backbone; see :class:`incontext.matching.match.Examples`, whose arrays these are.

    Attributes:
        backbone: Its name, for people.
        sha256: Of its weights.
        ids: K, ascending.
        channels: Of each of its stages; C in all.
        images: How many images were seen.
        mean: (C,) float16.
        prototypes: (P, C) float16.
        owners: (P,) uint8, places in (0, *ids).
        patches: (M, C) float16.
        shares: (M, K + 1) float16, rows summing to 1, about.
    """

    backbone: str
    sha256: str
    ids: tuple[int, ...]
    channels: tuple[int, ...]
    images: int
    mean: npt.NDArray[np.float16]
    prototypes: npt.NDArray[np.float16]
    owners: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.float16]
    shares: npt.NDArray[np.float16]

    def __post_init__(self) -> None:
        for name in ("ids", "channels"):
            object.__setattr__(self, name, tuple(int(each) for each in getattr(self, name)))
        if not isinstance(cast("object", self.backbone), str) or not _SHA256.fullmatch(str(self.sha256)):
            raise ValueError(f"expected a backbone's name and SHA-256, got {self.backbone!r:.80}, {self.sha256!r:.80}")
        if not self.ids or list(self.ids) != sorted({*self.ids}) or not 1 <= self.ids[0] <= self.ids[-1] <= 254:
            raise ValueError(f"expected ids in 1..254, ascending, got {self.ids}")
        if not self.channels or min(self.channels) < 1 or self.images < 1:
            raise ValueError(f"expected channels of stages and a number of images, got {self.channels}, {self.images}")
        wide, places = sum(self.channels), len(self.ids) + 1
        found, known = len(self.prototypes), len(self.patches)
        shapes = {"mean": (wide,), "prototypes": (found, wide), "owners": (found,), "patches": (known, wide)}
        for name, shape in {**shapes, "shares": (known, places)}.items():
            values = np.array(getattr(self, name))
            kind = np.uint8 if name == "owners" else np.float16
            if values.dtype != kind or values.shape != shape or not 0 < len(values) <= MOST:
                raise ValueError(f"expected {name} {shape} {kind.__name__}, got {values.dtype} {values.shape}")
            if not np.isfinite(values).all():
                raise ValueError(f"expected {name} of finite values, got others")
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.owners.max() >= places or set(range(1, places)) - set(self.owners.tolist()):
            raise ValueError(f"expected owners among {places} places, each id having one, got others")
        if self.shares.min() < 0 or not (self.shares.sum(axis=1) > 0).all():
            raise ValueError("expected shares of 0 or more that sum to more, got others")

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Its arrays by name."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in NAMES}

    def record(self) -> dict[str, object]:
        """All the rest in plain values."""
        names = ("backbone", "sha256", "ids", "channels", "images")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, record: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Make them from their :meth:`record` and :meth:`arrays`.

        Raises:
            ValueError: (or TypeError), they do not fit together.
        """
        return cls(**record, **cast("dict[str, Any]", arrays))
