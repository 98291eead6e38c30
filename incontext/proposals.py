"""Masks of everything in an image, by a grid of single clicks: proposals, which nobody has named.

As in SAM's automatic mode (arXiv 2304.02643, appendix B): every point of a grid is clicked on by itself; answers that
are unsure or hang on the threshold are dropped, of those with nearly one box the surest is kept, specks and holes go.
Refuses to know networks: it knows only something that answers clicks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from incontext.images import rle
from incontext.images.ids import MOST_IDS, Pixels
from incontext.images.read import ImageLike, read_image
from incontext.images.write import whole_file
from incontext.types import box as box_of

Flags: TypeAlias = npt.NDArray[np.bool_]
Logits: TypeAlias = npt.NDArray[np.float32]
Place: TypeAlias = tuple[float, float]
"""(x, y) in pixels of an image."""

POINTS_PER_SIDE: Final = 16
PRED_IOU_THRESH: Final = 0.7
STABILITY_SCORE_THRESH: Final = 0.7
STABILITY_SCORE_OFFSET: Final = 1.0  # of logits, both ways from the threshold
_EIGHT: Final = np.ones((3, 3), np.bool_)  # pixels that touch at a corner belong together


class AnswersClicks(Protocol):
    """What finds the thing under a click: `Segmenter`, or a prompter."""

    def answer_clicks(self, image: Pixels, points: Sequence[Place]) -> Iterator[tuple[Logits, float]]:
        """Answer each click by itself, in their order.

        Args:
            image: (H, W, 3) uint8.
            points: (x, y) in its pixels, one click for each answer.

        Returns:
            For each click the logits (h, w) float32, stretched over the whole image and above 0 where the thing is;
            and the IoU with the thing as the answerer expects it, 0..1.
        """
        ...


@dataclass(frozen=True)
class Proposal:
    """One mask that nobody has named.

    Attributes:
        counts: COCO's compressed runs of it, at the image's size.
        box: Left, top, right and bottom edge.
        area: In pixels.
        predicted_iou: As what answered expects it.
        stability_score: Area with the threshold raised over that with it lowered, 0..1.
        point: (x, y) that was clicked on.
    """

    counts: str
    box: tuple[int, int, int, int]
    area: int
    predicted_iou: float
    stability_score: float
    point: Place


@dataclass(frozen=True)
class Proposals:
    """The proposals of an image of size (H, W), the surest first."""

    size: tuple[int, int]
    found: tuple[Proposal, ...]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Proposal]:
        return iter(self.found)

    def __getitem__(self, number: int) -> Proposal:
        return self.found[number]

    def mask(self, number: int) -> Flags:
        """Return the mask of one of them, (H, W) bool."""
        return rle.to_mask(self.found[number].counts, self.size)

    def best(self, count: int) -> Self:
        """Keep only the surest so many."""
        return type(self)(self.size, self.found[:count])

    def to_mask(self) -> Pixels:
        """Paint them as ids in a mask (H, W) uint8.

        The surest is 1 and so on to 254; where they overlap the smaller lies on top.
        """
        ids = np.zeros(self.size, np.uint8)
        shown = list(enumerate(self.found[:MOST_IDS], start=1))
        for i, each in sorted(shown, key=lambda pair: -pair[1].area):
            ids[rle.to_mask(each.counts, self.size)] = i
        return ids

    def to_json(self) -> list[dict[str, Any]]:
        """Write them as SAM's automatic mode does, with COCO's run-length encodings: a dictionary for each."""
        return [
            {
                "segmentation": {"size": list(self.size), "counts": each.counts},
                "area": each.area,
                "bbox": [each.box[0], each.box[1], each.box[2] - each.box[0], each.box[3] - each.box[1]],
                "predicted_iou": round(each.predicted_iou, 4),
                "stability_score": round(each.stability_score, 4),
                "point_coords": [list(each.point)],
            }
            for each in self.found
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write {"size": [H, W], "masks": [...]} as JSON; the file appears whole or not at all."""
        with whole_file(path) as stream:
            stream.write(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Make the bytes that :meth:`save` writes."""
        return (json.dumps({"size": list(self.size), "masks": self.to_json()}) + "\n").encode()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote. FileNotFoundError, or ValueError with the file's name."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            height, width = content["size"]
            found = tuple(_read(each, (height, width)) for each in content["masks"])
        except FileNotFoundError:
            raise FileNotFoundError(f"expected a file of proposals, got none named {os.fspath(path)}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)}: expected proposals as `incontext propose` writes them, got others ({error!r})"
            ) from None
        return cls((height, width), found)


def _read(content: dict[str, Any], size: tuple[int, int]) -> Proposal:
    counts = content["segmentation"]["counts"]
    mask = rle.to_mask(counts, size)
    (point,) = content["point_coords"]
    return Proposal(
        counts,
        box_of(mask),
        int(mask.sum()),
        float(content["predicted_iou"]),
        float(content["stability_score"]),
        (float(point[0]), float(point[1])),
    )


@dataclass(frozen=True)
class _Candidate:
    """An answer that passed the filters, still as small as it came."""

    logits: npt.NDArray[np.float16]
    box: tuple[float, float, float, float]  # left, top, right, bottom as shares of the image
    predicted_iou: float
    stability_score: float
    point: Place


def propose(
    answers: AnswersClicks,
    image: ImageLike,
    *,
    points_per_side: int = POINTS_PER_SIDE,
    points_per_batch: int = 64,
    pred_iou_thresh: float = PRED_IOU_THRESH,
    stability_score_thresh: float = STABILITY_SCORE_THRESH,
    box_nms_thresh: float = 0.7,
    min_mask_region_area: int = 64,
    on_points: Callable[[int, int], None] | None = None,
) -> Proposals:
    """Find masks of everything in an image.

    Args:
        answers: A `Segmenter`, or anything else that answers clicks.
        image: A path, a PIL image or an (H, W, 3) uint8 array.
        points_per_side: Of the grid, so that the square of it is clicked on.
        points_per_batch: Clicks that are handed over at a time.
        pred_iou_thresh: 0..1; answers that are expected to be worse are dropped.
        stability_score_thresh: 0..1; so are answers that change more with the threshold.
        box_nms_thresh: 0..1; of answers whose boxes have a larger IoU only the surest is kept.
        min_mask_region_area: Pixels of the image; smaller specks and holes of a mask are removed. 0 removes none.
        on_points: Called with the number of points that are done, and of all.

    Raises:
        FileNotFoundError, ValueError: The image or an option cannot be used; the message says why.
    """
    for name, value in (("points_per_side", points_per_side), ("points_per_batch", points_per_batch)):
        if value < 1:
            raise ValueError(f"expected {name} of at least 1, got {value}")
    thresholds = {"pred_iou_thresh": pred_iou_thresh, "stability_score_thresh": stability_score_thresh}
    for name, share in {**thresholds, "box_nms_thresh": box_nms_thresh}.items():
        if not 0 <= share <= 1:
            raise ValueError(f"expected {name} in 0..1, got {share}")
    if min_mask_region_area < 0:
        raise ValueError(f"expected min_mask_region_area of at least 0 pixels, got {min_mask_region_area}")
    pixels = read_image(image)
    size = pixels.shape[0], pixels.shape[1]
    points = grid(points_per_side, size)
    found: list[_Candidate] = []
    done = 0
    for first in range(0, len(points), points_per_batch):
        some = points[first : first + points_per_batch]
        for point, (logits, expected) in zip(some, answers.answer_clicks(pixels, some), strict=True):
            candidate = _candidate(logits, expected, point)
            if (
                candidate is not None
                and candidate.predicted_iou >= pred_iou_thresh
                and candidate.stability_score >= stability_score_thresh
            ):
                found.append(candidate)
            done += 1
            if on_points is not None:
                on_points(done, len(points))
    found = [found[i] for i in surest_of_overlapping([(c.box, c.predicted_iou) for c in found], box_nms_thresh)]
    made = [made for each in found if (made := _proposal(each, size, min_mask_region_area)) is not None]
    kept = surest_of_overlapping([(each.box, each.predicted_iou) for each in made], box_nms_thresh)
    return Proposals(size, tuple(made[i] for i in kept))


def grid(points_per_side: int, size: tuple[int, int]) -> list[Place]:
    """Spread the square of so many points evenly over an image (H, W), row by row."""
    steps = (np.arange(points_per_side) + 0.5) / points_per_side
    return [(float(x * size[1]), float(y * size[0])) for y in steps for x in steps]


def surest_of_overlapping(boxes: Sequence[tuple[Sequence[float], float]], most: float) -> list[int]:
    """Keep the surest of boxes whose IoU is above `most`: non-maximum suppression.

    Args:
        boxes: (left, top, right, bottom) each, and how sure it is.
        most: IoU, 0..1.

    Returns:
        The numbers of those that are kept, the surest first; of equally sure ones the first.
    """
    sure = np.array([value for _, value in boxes])
    order = np.argsort(-sure, kind="stable")
    corners = np.array([tuple(each) for each, _ in boxes], np.float64).reshape(-1, 4)[order]
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    kept: list[int] = []
    left = np.arange(len(corners))
    while len(left):
        first, rest = left[0], left[1:]
        kept.append(int(order[first]))
        shared = np.minimum(corners[first, 2:], corners[rest, 2:]) - np.maximum(corners[first, :2], corners[rest, :2])
        both = np.prod(shared.clip(min=0), axis=1)
        left = rest[both <= most * (areas[first] + areas[rest] - both)]
    return kept


def expected_iou(logits: Logits) -> float:
    """Estimate the IoU that logits (h, w) promise, if their probabilities are taken at their word; 0 without a find.

    The thing is expected to share with the mask what is likely in it, and to be as large as all that is likely.
    """
    likely, inside = _sigmoid(logits), logits > 0
    if not inside.any():
        return 0.0
    shared = float(likely[inside].sum())
    return shared / (int(inside.sum()) + float(likely[~inside].sum()))


def stability_score(logits: Logits, offset: float = STABILITY_SCORE_OFFSET) -> float:
    """Compute IoU, 0..1, of a mask at a raised and at a lowered threshold; 0 where nothing is found."""
    wide = int((logits > -offset).sum())
    return int((logits > offset).sum()) / wide if wide else 0.0


def without_specks_and_holes(mask: Flags, least: int) -> Flags:
    """Fill holes of a mask (H, W) that are smaller than so many pixels, then remove such specks, but not the largest.

    Pixels belong together also at corners.
    """
    if least < 2:
        return mask
    filled = mask | _small_regions(~mask, least)
    specks = _small_regions(filled, least, spare_largest=True)
    cleaned: Flags = filled & ~specks
    return cleaned


def _small_regions(mask: Flags, least: int, *, spare_largest: bool = False) -> Flags:
    labels, count = ndimage.label(mask, structure=_EIGHT)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    small = areas < least
    small[0] = False
    if spare_largest and count:
        small[1 + int(areas[1:].argmax())] = False
    chosen: Flags = small[labels]
    return chosen


def _sigmoid(logits: Logits) -> Logits:
    likely: Logits = (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)
    return likely


def _candidate(logits: Logits, expected: float, point: Place) -> _Candidate | None:
    inside = logits > 0
    if not inside.any():
        return None
    left, top, right, bottom = box_of(inside)
    height, width = logits.shape
    shares = left / width, top / height, right / width, bottom / height
    small = np.clip(logits, -1e4, 1e4).astype(np.float16)
    return _Candidate(small, shares, expected, stability_score(logits), point)


def _proposal(each: _Candidate, size: tuple[int, int], least: int) -> Proposal | None:
    """Enlarge a candidate to the image's size. None where nothing is left of it."""
    mask = without_specks_and_holes(_stretched(each.logits.astype(np.float32), size) > 0, least)
    if not mask.any():
        return None
    area, counts = int(mask.sum()), rle.from_mask(mask)["counts"]
    return Proposal(counts, box_of(mask), area, each.predicted_iou, each.stability_score, each.point)


def _stretched(logits: Logits, size: tuple[int, int]) -> Logits:
    """Stretch to a size (H, W), bilinearly."""
    import torch
    import torch.nn.functional as F

    stretched: Logits = F.interpolate(torch.from_numpy(logits)[None, None], size, mode="bilinear")[0, 0].numpy()
    return stretched
