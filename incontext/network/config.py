"""The size of a network, as plain numbers that are stored with its weights. Refuses to know PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

_COUNTS = ("width", "heads", "depth", "patch", "side", "decoder_width", "merge_layer", "pretrain_side", "presence")
_MOST = 1 << 31  # of any of them
_MOST_MLP_RATIO = 64  # far above any network: what lies beyond is a mistake


@dataclass(frozen=True)
class ModelConfig:
    """Size of a network.

    The defaults are the published large model (370.7 M parameters).

    A canvas is (2 * side, side) pixels, cut into square patches: 2 * side / patch rows of side / patch columns.
    """

    width: int = 1024  # channels of a token
    heads: int = 16  # attention heads per block
    depth: int = 24  # blocks
    patch: int = 16  # pixels along one side of a patch
    side: int = 448  # pixels along one side of a prompt or query
    decoder_width: int = 64  # channels per pixel in the decoder
    mlp_ratio: float = 4.0  # hidden channels of the MLP / width
    merge_layer: int = 2  # the block after which the two streams are averaged into one
    taps: tuple[int, ...] = (5, 11, 17, 23)  # the blocks whose outputs feed the decoder
    pretrain_side: int = 224  # pixels along one side of the image that the position table was made for
    presence: int = 0  # hidden channels of the presence head; 0: there is none, as in the published network
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.taps))  # a list, when read from JSON
        for name in _COUNTS:  # as files of others say them
            if not isinstance(value := getattr(self, name), int) or value > _MOST:
                raise ValueError(f"expected {name} as a whole number of at most {_MOST}, got {value!r:.40}")
        if self.width % self.heads:
            raise ValueError(f"expected a width that {self.heads} heads divide, got {self.width}")
        for name in ("side", "pretrain_side"):
            if getattr(self, name) <= 0 or getattr(self, name) % self.patch:
                raise ValueError(f"expected {name} to be a multiple of patch {self.patch}, got {getattr(self, name)}")
        if not 0 < self.mlp_ratio <= _MOST_MLP_RATIO:  # nor NaN
            raise ValueError(f"expected mlp_ratio above 0 and up to {_MOST_MLP_RATIO}, got {self.mlp_ratio}")
        if self.presence < 0:
            raise ValueError(f"expected presence of at least 0 channels, got {self.presence}")
        if not 0 <= self.merge_layer < self.depth:
            raise ValueError(f"expected merge_layer in 0..{self.depth - 1}, got {self.merge_layer}")
        if not self.taps or list(self.taps) != sorted(set(self.taps)):
            raise ValueError(f"expected taps as increasing block numbers, got {self.taps}")
        if self.taps[0] < self.merge_layer or self.taps[-1] >= self.depth:
            raise ValueError(f"expected taps in {self.merge_layer}..{self.depth - 1} (merged blocks), got {self.taps}")

    @property
    def grid(self) -> int:
        """Patches along one side of a prompt or query."""
        return self.side // self.patch
