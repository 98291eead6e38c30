"""The SAM family: masks of objects from points, boxes and masks.

SAM (arXiv 2304.02643), SAM-HQ (arXiv 2306.01567), SAM 2 (arXiv 2408.00714) and the tracker of SAM 3, through
transformers. Refuses to know hints, ids and files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.images.ids import Pixels
from incontext.prompters.files import Files
from incontext.prompters.maps import Kept, pixels_of
from incontext.prompters.opening import open_network, open_processor
from incontext.prompters.parts import Clicks, Margins

AT_ONCE: Final = 32  # objects decoded together

_MIDDLE = 0.5  # of a pixel: here 0 is its edge, and transformers adds this to what it is given
_PADDING = -10  # label of points that are none, in transformers
_DRAWN = 10.0  # log odds of a mask that was given, as the network would have said it
_BOUND = 32.0  # of log odds that are fed back, as SAM 2 does

# Published files of SAM 3 hold the video model, in which the tracker sees through the detector's encoder.
_TRACKER_IN_VIDEO = {
    r"^tracker_model\.": "",
    r"^detector_model\.vision_encoder\.backbone\.": "vision_encoder.backbone.",
    r"^tracker_neck\.": "vision_encoder.neck.",
}
_KINDS = {
    "sam": ("SamModel", "SamProcessor"),
    "sam_hq": ("SamHQModel", "SamHQProcessor"),
    "sam2": ("Sam2Model", "Sam2Processor"),
    "sam2_video": ("Sam2Model", "Sam2Processor"),
    "edgetam": ("EdgeTamModel", "Sam2Processor"),
    "edgetam_video": ("EdgeTamModel", "Sam2Processor"),
    "sam3_tracker": ("Sam3TrackerModel", "Sam3TrackerProcessor"),
    "sam3_video": ("Sam3TrackerModel", "Sam3TrackerProcessor"),
}
FAMILIES: Final = frozenset(_KINDS)


@dataclass(frozen=True, eq=False)
class _Seen:
    """An image as the network has seen it.

    Attributes:
        embeddings: By the names of the network's arguments, each a tensor or a list of them, of one image.
        scale: Pixels of the network for one of the image, along x and y.
        sizes: What the processor needs to go back: original sizes, and where it pads, those before padding.
        side: Pixels along the network's square.
        grid: Rows and columns of a mask that is fed in.
    """

    embeddings: dict[str, Any]
    scale: tuple[float, float]
    sizes: tuple[Any, ...]
    side: int
    grid: int


class Sam:
    """A network of the SAM family that answers clicks; see `parts.Clicker`."""

    def __init__(self, network: Any, processor: Any, device: torch.device) -> None:
        """Hold a network of transformers, or what behaves like one, and its processor."""
        self._network, self._processor, self._device = network, processor, device
        self._kept = Kept(self._see)

    def masks(self, image: Pixels, objects: Sequence[Clicks]) -> Iterator[tuple[Margins, float]]:
        """Yield for each object its margins and the overlap that the network expects, 0..1.

        A single click has several answers, of which the one is taken that the network is surest of. Whatever is said in
        more than one thing is asked twice, the first answer going in as a mask (the refinement that SAM learned).
        """
        for margins, scores in self._answers(image, objects):
            best = int(scores.argmax())
            yield np.asarray(margins[best].float().cpu()), float(scores[best])

    def every_mask(self, image: Pixels, objects: Sequence[Clicks]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each object all of its answers: margins (M, H, W) and scores (M,), as the network gave them."""
        yield from self._answers(image, objects)

    @torch.inference_mode()
    def _answers(self, image: Pixels, objects: Sequence[Clicks]) -> Iterator[tuple[Tensor, Tensor]]:
        seen = self._kept.of(image)
        for first in range(0, len(objects), AT_ONCE):
            part = objects[first : first + AT_ONCE]
            answers: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(part)
            for alike in _alike(part):
                low, scores = self._decode(seen, [part[at] for at in alike])
                for at, masks, score in zip(alike, self._full(low, seen), scores, strict=True):
                    answers[at] = masks, score
            yield from answers

    @torch.inference_mode()
    def _see(self, image: Pixels) -> _Seen:
        made = pixels_of(self._processor, image)
        pixels = made["pixel_values"].to(self._device)
        side = int(pixels.shape[-1])
        height, width = image.shape[:2]
        reshaped = made.get("reshaped_input_sizes")
        high, wide = (int(each) for each in reshaped[0]) if reshaped is not None else (side, side)
        found = self._network.get_image_embeddings(pixels)
        embeddings = {"image_embeddings": found}
        if isinstance(found, tuple):  # SAM-HQ reads earlier layers, too
            embeddings = {"image_embeddings": found[0], "intermediate_embeddings": found[1]}
        last = embeddings["image_embeddings"]
        grid = 4 * int((last[-1] if isinstance(last, list | tuple) else last).shape[-1])
        sizes = (made["original_sizes"],) if reshaped is None else (made["original_sizes"], reshaped)
        return _Seen(embeddings, (wide / width, high / height), sizes, side, grid)

    def _decode(self, seen: _Seen, objects: Sequence[Clicks]) -> tuple[Tensor, Tensor]:
        """Objects of which the same kinds of things are said -> masks (n, M, h, w) and scores (n, M)."""
        points, labels = _points(objects, seen.scale)
        boxes = None
        if objects[0].box is not None:
            across, down = seen.scale
            edges = torch.tensor([each.box for each in objects], dtype=torch.float32)
            boxes = (edges * torch.tensor([across, down, across, down]) - _MIDDLE)[:, None].to(self._device)
        masks = None
        if objects[0].mask is not None:
            masks = torch.stack([_drawn(each.mask, seen) for each in objects if each.mask is not None])
        asked = {
            **{name: _repeated(value, len(objects)) for name, value in seen.embeddings.items()},
            "input_points": None if points is None else points.to(self._device),
            "input_labels": None if labels is None else labels.to(self._device),
            "input_boxes": boxes,
        }
        one_click = objects[0].is_one_click
        answer = self._network(
            **asked, input_masks=None if masks is None else masks.to(self._device), multimask_output=one_click
        )
        low, scores = answer.pred_masks[:, 0], answer.iou_scores[:, 0]
        things = len(objects[0].points) + (objects[0].box is not None)
        if not one_click and things > 1:
            again = low[:, :1].clamp(-_BOUND, _BOUND)
            answer = self._network(**asked, input_masks=again, multimask_output=False)
            low, scores = answer.pred_masks[:, 0], answer.iou_scores[:, 0]
        return low, scores

    def _full(self, low: Tensor, seen: _Seen) -> Iterator[Tensor]:
        """(n, M, h, w) as the network sees the image -> each (M, H, W) at the image's own size."""
        back = self._processor.image_processor.post_process_masks
        for each in low:  # one after the other: at the image's size they are large
            (masks,) = back([each[None].float().cpu()], *seen.sizes, binarize=False)
            yield masks[0]


def open_sam(files: Files, device: torch.device) -> Sam:
    """Open the weights of a family in `FAMILIES`. Errors are those of `opening`."""
    kind, processor = _KINDS[files.family]
    renamed = _TRACKER_IN_VIDEO if files.family == "sam3_video" else None
    return Sam(open_network(kind, files, device, renamed=renamed), open_processor(processor, files), device)


def _alike(objects: Sequence[Clicks]) -> list[list[int]]:
    """Group the positions of objects that can be decoded together, as the same kinds of things are said of them."""
    groups: dict[tuple[bool, ...], list[int]] = {}
    for at, each in enumerate(objects):
        said = (each.box is not None, each.mask is not None, len(each.points) > 0, len(each.points) > 1)
        groups.setdefault(said, []).append(at)
    return list(groups.values())


def _points(objects: Sequence[Clicks], scale: tuple[float, float]) -> tuple[Tensor | None, Tensor | None]:
    """(n, 1, most, 2) in the network's pixels and (n, 1, most) labels, padded; None where there are no points."""
    most = max(len(each.points) for each in objects)
    if not most:
        return None, None
    points = torch.zeros(len(objects), 1, most, 2)
    labels = torch.full((len(objects), 1, most), _PADDING, dtype=torch.int64)
    for row, each in enumerate(objects):
        points[row, 0, : len(each.points)] = torch.from_numpy(each.points * np.array(scale, np.float32) - _MIDDLE)
        labels[row, 0, : len(each.points)] = torch.from_numpy(each.inside.astype(np.int64))
    return points, labels


def _drawn(mask: Any, seen: _Seen) -> Tensor:
    """(H, W) bool in the image -> (1, grid, grid) log odds in what the network sees, padding outside."""
    across, down = seen.scale
    height, width = mask.shape
    share = seen.grid / seen.side
    size = max(1, round(height * down * share)), max(1, round(width * across * share))
    inside = F.interpolate(torch.from_numpy(mask)[None, None].float(), size, mode="area")[0]
    return F.pad((2 * inside - 1) * _DRAWN, (0, seen.grid - size[1], 0, seen.grid - size[0]), value=-_DRAWN)


def _repeated(value: Any, count: int) -> Any:
    """Embeddings of one image as those of as many."""
    if isinstance(value, list | tuple):
        return [_repeated(each, count) for each in value]
    return value.expand(count, *value.shape[1:])
