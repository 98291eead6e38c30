"""Detectors: boxes for phrases.

Grounding DINO (arXiv 2303.05499), MM Grounding DINO (arXiv 2401.02361) and OWLv2 (arXiv 2306.09683), through
transformers. Refuses to know masks, ids and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from incontext.images.ids import Pixels
from incontext.prompters.files import Files
from incontext.prompters.maps import clipped, pixels_of
from incontext.prompters.opening import open_network, open_processor
from incontext.prompters.parts import FoundBox
from incontext.prompters.phrases import refuse_long

MOST_BOXES: Final = 100  # in an image
OVERLAP: Final = 0.5  # of two boxes of one phrase, from which on the surer one suppresses the other

_END = "."  # of a phrase, for Grounding DINO


class GroundingDino:
    """Boxes by the words of all phrases in one text; see `parts.Detector`.

    The library's own labels mix the tokens of neighbouring phrases. So each phrase's place among the tokens is looked
    up here, and a box belongs to the phrase whose tokens it fits best on average.
    """

    def __init__(self, network: Any, processor: Any, device: torch.device, *, most_tokens: int) -> None:
        """Hold a network of transformers, or what behaves like one, and its processor."""
        self._network, self._processor, self._device = network, processor, device
        self._most_tokens = most_tokens

    def check(self, phrases: Sequence[str]) -> None:
        """Raise ValueError where the phrases have more tokens than the network reads at once."""
        text, _ = _joined(phrases)
        refuse_long(text, len(self._processor.tokenizer(text)["input_ids"]), self._most_tokens)

    @torch.inference_mode()
    def boxes(self, image: Pixels, phrases: Sequence[str], *, least: float) -> list[FoundBox]:
        """Return boxes of at least a score, the surest first, inside the image."""
        self.check(phrases)
        text, places = _joined(phrases)
        tokens = self._processor.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        spans = _spans(tokens.pop("offset_mapping")[0], places)
        pixels = pixels_of(self._processor, image)
        asked = {name: value.to(self._device) for name, value in {**tokens, **pixels}.items()}
        answer = self._network(**asked)
        fits = answer.logits[0].float().sigmoid()
        scores = torch.stack([fits[:, span].mean(-1) for span in spans], dim=-1)
        height, width = image.shape[:2]
        corners = _corners(answer.pred_boxes[0]) * fits.new_tensor([width, height, width, height])
        return _chosen(corners, scores, image, least)


class Owl:
    """Boxes by each phrase of its own; see `parts.Detector`."""

    def __init__(self, network: Any, processor: Any, device: torch.device, *, most_tokens: int) -> None:
        """Hold a network of transformers, or what behaves like one, and its processor."""
        self._network, self._processor, self._device = network, processor, device
        self._most_tokens = most_tokens

    def check(self, phrases: Sequence[str]) -> None:
        """Raise ValueError where a phrase has more tokens than the network reads."""
        for phrase in phrases:
            refuse_long(phrase, len(self._processor.tokenizer(phrase)["input_ids"]), self._most_tokens)

    @torch.inference_mode()
    def boxes(self, image: Pixels, phrases: Sequence[str], *, least: float) -> list[FoundBox]:
        """Return boxes of at least a score, the surest first, inside the image."""
        self.check(phrases)
        tokens = self._processor.tokenizer(
            list(phrases), return_tensors="pt", padding="max_length", max_length=self._most_tokens
        )
        pixels = pixels_of(self._processor, image)
        asked = {name: value.to(self._device) for name, value in {**tokens, **pixels}.items()}
        answer = self._network(**asked)
        scores = answer.logits[0, :, : len(phrases)].float().sigmoid()
        # The network sees the image in the corner of a padded square, and its boxes may lie in the padding.
        return _chosen(_corners(answer.pred_boxes[0]) * max(image.shape[:2]), scores, image, least)


def open_grounding_dino(files: Files, device: torch.device) -> GroundingDino:
    """Open Grounding DINO or MM Grounding DINO. Errors are those of `opening`."""
    kind = (
        "GroundingDinoForObjectDetection" if files.family == "grounding-dino" else "MMGroundingDinoForObjectDetection"
    )
    network = open_network(kind, files, device)
    most = int(getattr(network.config, "max_text_len", 256))
    return GroundingDino(network, open_processor("GroundingDinoProcessor", files), device, most_tokens=most)


def open_owl(files: Files, device: torch.device) -> Owl:
    """Open OWLv2. Errors are those of `opening`."""
    network = open_network("Owlv2ForObjectDetection", files, device)
    most = int(network.config.text_config.max_position_embeddings)
    return Owl(network, open_processor("Owlv2Processor", files), device, most_tokens=most)


def _joined(phrases: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """One text of all phrases, lower case, each ended by a full stop, and where in it each begins and ends."""
    text, places = "", []
    for phrase in phrases:
        plain = " ".join(phrase.lower().replace(_END, " ").split())
        places.append((len(text), len(text) + len(plain)))
        text += f"{plain}{_END} "
    return text.rstrip(), places


def _spans(offsets: Tensor, places: Sequence[tuple[int, int]]) -> list[Tensor]:
    """For each phrase the positions of its tokens. offsets: (L, 2), where in the text each token begins and ends."""
    begins, ends = offsets.unbind(-1)
    return [torch.nonzero((begins >= first) & (ends <= last) & (ends > begins))[:, 0] for first, last in places]


def _corners(boxes: Tensor) -> Tensor:
    """(n, 4) centre and size -> left, top, right, bottom."""
    center, size = boxes.float()[:, :2], boxes.float()[:, 2:]
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def _chosen(corners: Tensor, scores: Tensor, image: Pixels, least: float) -> list[FoundBox]:
    """(n, 4) corners in pixels and (n, T) scores -> what is sure enough, doubles of a phrase left out."""
    from torchvision.ops import batched_nms

    best, phrase = scores.max(-1)
    sure = torch.nonzero(best >= least)[:, 0]
    kept = sure[batched_nms(corners[sure], best[sure], phrase[sure], OVERLAP)][:MOST_BOXES].tolist()
    found = []
    for at in kept:
        box = clipped(corners[at].tolist(), *image.shape[:2])
        if box is not None:
            found.append(FoundBox(box, float(best[at]), int(phrase[at])))
    return found
