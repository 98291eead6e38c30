"""What a teacher sees in each image: computed once, kept in files, and made into targets that are read by place.

A file holds the features of one image by one teacher at one size, in half precision, with a hash of its content: a
damaged file is computed anew, never trusted. Targets are those features on their principal axes, half whitened and of
unit length, in one memory-mapped file that workers share. Refuses to know episodes, networks of ours and losses.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.matching.backbone import Backbone

Pixels = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.float16]
_DIGEST = hashlib.sha256().digest_size
_FITTED = 384  # images from which the principal axes are found
_BATCH = 16  # images that a teacher looks at together


class FeatureFiles:
    """Features of images by one teacher, in files of a folder."""

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        self.backbone = backbone
        self.folder = folder / f"{backbone.sha256[:16]}_{backbone.side}"
        blank = torch.zeros(1, backbone.side, backbone.side, 3, dtype=torch.uint8)
        self.shapes = tuple(tuple(each.shape[1:]) for each in backbone.features(blank))
        self._ends = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes)]).tolist()

    def path(self, image: Pixels) -> Path:
        """Return where the features of an image (H, W, 3) are kept: under a hash of its size and pixels."""
        about = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
        return self.folder / f"{about.hexdigest()[:32]}.features"

    def read(self, path: Path) -> tuple[Halves, ...] | None:
        """Read the features of one image, for each stage (C, h, w); None where there are none, or damaged ones."""
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        content, digest = stored[:-_DIGEST], stored[-_DIGEST:]
        if len(content) != 2 * self._ends[-1] or hashlib.sha256(content).digest() != digest:
            return None
        values = np.frombuffer(content, np.float16)
        return tuple(
            values[start:end].reshape(shape)
            for start, end, shape in zip(self._ends, self._ends[1:], self.shapes, strict=False)
        )

    def fill(self, images: Sequence[Pixels], on_done: Callable[[int], None] | None = None) -> list[Path]:
        """Compute what is missing or damaged, and return where the features of each image are.

        Args:
            images: (H, W, 3) uint8 each.
            on_done: told how many of the images are done, now and then.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = [self.path(image) for image in images]
        missing = [at for at, path in enumerate(paths) if self.read(path) is None]
        for start in range(0, len(missing), _BATCH):
            for at, features in self._computed(images, missing[start : start + _BATCH]):
                content = features.tobytes()
                beside = paths[at].with_suffix(f".{os.getpid()}.partial")
                beside.write_bytes(content + hashlib.sha256(content).digest())
                beside.replace(paths[at])
            if on_done is not None:
                on_done(len(images) - len(missing) + min(len(missing), start + _BATCH))
        return paths

    def _computed(self, images: Sequence[Pixels], which: Sequence[int]) -> Iterator[tuple[int, Halves]]:
        """Compute the features of some images, all stages of each in a row."""
        side = self.backbone.side
        squares = torch.cat([_squashed(torch.from_numpy(np.ascontiguousarray(images[at])), side) for at in which])
        stages = self.backbone.features(squares)
        flat = torch.cat([each.flatten(1) for each in stages], dim=1).half().numpy()
        yield from zip(which, flat, strict=True)


def _squashed(image: Tensor, side: int) -> Tensor:
    """Squash (H, W, 3) uint8 to (1, side, side, 3) uint8."""
    pixels = F.interpolate(image.permute(2, 0, 1)[None].float(), (side, side), mode="bicubic", antialias=True)
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Targets:
    """Directions that the teacher's features point in, for every image of some sets."""

    stages: tuple[Halves, ...]  # for each stage (images, h, w, dims), of unit length

    @property
    def dims(self) -> tuple[int, ...]:
        """How many numbers each stage has."""
        return tuple(each.shape[-1] for each in self.stages)

    @classmethod
    def make(cls, files: FeatureFiles, paths: Sequence[Path], dims: Sequence[int]) -> Targets:
        """Project the features of images on their first principal axes, scaled by the fourth root of the variances.

        Args:
            files: whose features.
            paths: of the images, as :meth:`FeatureFiles.fill` returns them.
            dims: how many axes for each stage, at most its channels.

        Raises:
            ValueError: there is no axis for each stage; a file is gone or damaged.
        """
        if len(dims) != len(files.shapes) or any(d > shape[0] for d, shape in zip(dims, files.shapes, strict=True)):
            raise ValueError(f"expected axes for stages of {[s[0] for s in files.shapes]} channels, got {list(dims)}")
        fitted = [
            _read(files, paths[at]) for at in np.linspace(0, len(paths) - 1, min(_FITTED, len(paths))).astype(int)
        ]
        axes = [_axes(np.stack([each[n] for each in fitted]), d) for n, d in enumerate(dims)]
        stages = tuple(
            _mapped((len(paths), *shape[1:], d), files.folder) for shape, d in zip(files.shapes, dims, strict=True)
        )
        for at, path in enumerate(paths):
            for target, features, (mean, matrix) in zip(stages, _read(files, path), axes, strict=True):
                found = (features.astype(np.float32).transpose(1, 2, 0) - mean) @ matrix
                target[at] = found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-6)
        return cls(stages)

    def at(self, origin: npt.NDArray[np.float32]) -> Halves:
        """Read the targets of places in images.

        Args:
            origin: (R, W, 3): the number of an image, below 0 for none, and y and x in it, in 0..1.

        Returns:
            (R, W, dims of all stages): zeros where there is no image, else of unit length stage by stage.
        """
        found = np.zeros((*origin.shape[:2], sum(self.dims)), np.float16)
        for number in np.unique(origin[..., 0]).astype(int):
            if number < 0:
                continue
            here = origin[..., 0] == number
            places = torch.from_numpy(origin[here][:, [2, 1]] * 2 - 1).view(1, 1, -1, 2)
            rows = []
            for stage in self.stages:
                image = torch.from_numpy(stage[number].astype(np.float32)).permute(2, 0, 1)[None]
                read = F.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=False)
                rows.append(F.normalize(read[0, :, 0].T, dim=-1))
            found[here] = torch.cat(rows, dim=-1).numpy()
        return found


def _read(files: FeatureFiles, path: Path) -> tuple[Halves, ...]:
    features = files.read(path)
    if features is None:
        raise ValueError(f"{path} is damaged or gone, just after it was written; is the disk full?")
    return features


def _axes(features: Halves, dims: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Find the mean (C,) of features (M, C, h, w), and the matrix (C, dims) to their half whitened principal axes."""
    values = features.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, features.shape[1])
    mean = values.mean(axis=0)
    values -= mean
    variances, vectors = np.linalg.eigh(values.T @ values / len(values))
    first = np.argsort(variances)[::-1][:dims]
    scale = np.maximum(variances[first], 1e-12) ** -0.25
    return mean.astype(np.float32), (vectors[:, first] * scale).astype(np.float32)


def _mapped(shape: tuple[int, ...], folder: Path) -> Halves:
    """Map a file of zeros as an array; its name is gone at once, its space with the last process that has it open."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float16, mode="w+", shape=shape)
