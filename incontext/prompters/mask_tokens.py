"""Mask prompt tokens: what a namer's network is shown in place of patches of a crop in which nothing of the mask is.

Learned with everything else frozen (OVSeg, arXiv 2210.04150, section 3.3), for one network; and the file in which
people keep them. Knows numpy and safetensors. Refuses to know networks. Trusts nothing that it reads.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from incontext.images.write import whole_file
from incontext.tensor_files import RefusedFileError, check_file, has_record, read_record

FORMAT: Final = 1
MAX_BYTES: Final = 1 << 26  # of a file: some ten times what the largest CLIP needs
LARGEST: Final = 1000.0  # of a value

_RECORD = "incontext_mask_tokens"  # one entry in the metadata, so that equal tokens make equal files
_WHAT = "mask tokens"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TokensOrigin:
    """Where mask tokens come from.

    Attributes:
        namer: Name of the network's weights.
        sha256: Of their files, see `Namer.sha256`.
        names: What the crops were that they were learned from.
        crops: How many of them learned, and how many judged; without any of the latter, all did both.
        before: Mean loss on those that judged, with what the network does by itself.
        after: The same with the tokens.
        date: ISO 8601.
        version: Of this library.
    """

    namer: str
    sha256: str
    names: tuple[str, ...]
    crops: tuple[int, int]
    before: float
    after: float
    date: str
    version: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "crops", tuple(self.crops))
        if not all(isinstance(text, str) for text in (self.namer, self.version, *self.names)):
            raise ValueError("expected names of weights, version and crops as text, got something else")
        if not _SHA256.fullmatch(str(self.sha256)):
            raise ValueError(f"expected a SHA-256 in 64 hexadecimal digits, got {str(self.sha256)[:80]!r}")
        crops: tuple[object, ...] = self.crops
        if len(crops) != 2 or not all(isinstance(n, int) and n >= 0 for n in crops):
            raise ValueError(f"expected two numbers of crops, got {self.crops!r:.80}")
        if not (0 <= self.before < np.inf and 0 <= self.after < np.inf):
            raise ValueError(f"expected losses of at least 0, got {self.before!r} and {self.after!r}")
        date.fromisoformat(self.date)


@dataclass(frozen=True, eq=False)
class MaskTokens:
    """Learned tokens, one for each place of a patch: values (patches, width) float32, and where they come from."""

    values: npt.NDArray[np.float32]
    origin: TokensOrigin

    def __post_init__(self) -> None:
        values = np.array(self.values)  # a copy: what is learned goes on changing
        if values.dtype != np.float32 or values.ndim != 2 or 0 in values.shape:
            raise ValueError(f"expected tokens (patches, width) float32, got {values.dtype} {values.shape}")
        if not (np.abs(values) <= LARGEST).all():  # catches NaN as well
            raise ValueError(f"expected tokens of finite values within {LARGEST:g}, got others")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def check_use(self, *, namer: str, sha256: str) -> None:
        """Raise ValueError where they were not learned for these weights."""
        made = self.origin
        if sha256 != made.sha256:
            raise ValueError(
                f"expected the namer {made.namer!r} (SHA-256 {made.sha256[:12]}...), for which these mask tokens were "
                f"tuned, got {namer!r} ({sha256[:12]}...); load that one, or tune them anew for this"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as safetensors; the file appears whole or not at all."""
        record = json.dumps({"format": FORMAT, "origin": asdict(self.origin)})
        content = save({"tokens": np.ascontiguousarray(self.values)}, {_RECORD: record})
        with whole_file(path) as stream:
            stream.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. The file's words are checked before its numbers are read.

        Raises:
            FileNotFoundError: There is nothing at the path.
            ValueError: It holds no mask tokens, is damaged or too large, or of another format.
        """
        path = Path(path)
        check_file(path, _WHAT, MAX_BYTES)
        try:
            with safe_open(path, framework="numpy") as file:
                record = read_record(path, file.metadata(), _RECORD, _WHAT, (FORMAT,))
                if list(file.keys()) != ["tokens"]:
                    raise ValueError(f"expected tokens alone, got {', '.join(file.keys())[:80]}")
                return cls(file.get_tensor("tokens"), TokensOrigin(**record["origin"]))
        except RefusedFileError:
            raise
        except SafetensorError as error:
            raise ValueError(f"{path}: expected mask tokens, got a damaged file ({error})") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path}: expected mask tokens, as `MaskTokens.save` writes them: {error}") from None


def is_mask_tokens(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file says of itself that it holds mask tokens; nothing else of it is checked."""
    return has_record(path, _RECORD)
