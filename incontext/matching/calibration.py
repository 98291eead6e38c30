"""What a backbone's votes are worth beside the network's: a few numbers, found once, kept under its weights' SHA-256.

They lie in ``weights/backbones.json`` for backbones that this project has calibrated, and in a file of the user's for
others. Refuses to know how they are found (evaluation/calibration.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from incontext.digest import digest
from incontext.images.write import whole_file
from incontext.network.registry import weights_folder

FILE: Final = "backbones.json"


@dataclass(frozen=True)
class Calibration:
    """How both opinions are joined, for one backbone.

    Attributes:
        backbone: Its name, for people.
        sha256: Of its weights.
        prototypes: What the lead by prototypes counts, where the network's own counts 1.
        neighbours: What the lead by nearest neighbours counts.
        sharpness: How sure a pixel is by a lead of both together: see :func:`incontext.canvas.read.read_both`.
        presence: By logistic regression, what the logit of the network's presence counts, what the evidence of the
            backbone counts (:meth:`incontext.matching.voter.Voter.presence`), and the constant; None: the network
            alone says what is there.
        origin: Where the numbers come from: weights, sets, episodes, scores, date, version.
    """

    backbone: str
    sha256: str
    prototypes: float
    neighbours: float
    sharpness: float
    presence: tuple[float, float, float] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.presence is not None:
            object.__setattr__(self, "presence", tuple(self.presence))  # a list, when read from JSON
        object.__setattr__(self, "origin", MappingProxyType(dict(self.origin)))
        numbers = (self.prototypes, self.neighbours, self.sharpness, *(self.presence or ()))
        if not all(isinstance(each, int | float) and isfinite(each) for each in numbers):
            raise ValueError(f"expected finite numbers in a calibration, got {numbers}")
        if self.prototypes < 0 or self.neighbours < 0 or self.sharpness <= 0:
            raise ValueError(f"expected weights of 0 or more and a sharpness above 0, got {numbers[:3]}")
        if self.presence is not None and len(self.presence) != 3:
            raise ValueError(f"expected three numbers for the presence, got {self.presence}")

    @property
    def digest(self) -> str:
        """What tells it from others, as far as answers go."""
        return digest(json.dumps([self.prototypes, self.neighbours, self.sharpness, self.presence]))

    def record(self) -> dict[str, Any]:
        """All of it in plain values."""
        names = (each.name for each in fields(self))
        return {name: dict(value) if isinstance(value := getattr(self, name), Mapping) else value for name in names}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Make a calibration from its :meth:`record`.

        Raises:
            ValueError: Something is missing or unknown.
        """
        try:
            return cls(**record)
        except TypeError as error:
            raise ValueError(f"expected a calibration, got something else ({error})") from None


def user_file() -> Path:
    """Where calibrations of this user are kept."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data, "incontext", FILE)


def known(sha256: str) -> Calibration | None:
    """Find what was kept of a backbone: by this user, else by this project; None where it was not calibrated.

    Raises:
        ValueError: a file of calibrations is damaged.
    """
    for path in (user_file(), weights_folder() / FILE):
        for each in read(path):
            if each.sha256 == sha256:
                return each
    return None


def read(path: Path) -> list[Calibration]:
    """Read a file of calibrations; none where there is no file.

    Raises:
        ValueError: the file is damaged; the message says which.
    """
    if not path.is_file():
        return []
    try:
        return [Calibration.of(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected calibrations of backbones, got something else ({error})") from None


def keep(calibration: Calibration, path: Path | None = None) -> Path:
    """Write a calibration into a file, in place of an older one of the same weights.

    Args:
        calibration: What was found.
        path: The file; None is that of this user.

    Returns:
        The file.
    """
    path = user_file() if path is None else path
    rows = [each for each in read(path) if each.sha256 != calibration.sha256] + [calibration]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as stream:
        stream.write(json.dumps([each.record() for each in rows], indent=2).encode() + b"\n")
    return path
