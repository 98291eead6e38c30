"""SAM 3's concepts: every instance of what a phrase, or boxes around some of them, mean.

Through transformers. Refuses to know ids and files. What it answers to clicks is in sam.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from incontext.images.ids import Pixels
from incontext.prompters.files import Files
from incontext.prompters.maps import Kept, pixels_of, to_size
from incontext.prompters.opening import open_network, open_processor
from incontext.prompters.parts import Box, Claim, Example
from incontext.prompters.phrases import refuse_long

ALIKE: Final = "visual"  # the phrase that says "what is in the boxes", for SAM 3 itself


class Concepts:
    """Claims of single instances, any number for a phrase; see `parts.Reader`."""

    def __init__(self, network: Any, processor: Any, device: torch.device, *, most_tokens: int) -> None:
        """Hold a network of transformers, or what behaves like one, and its processor."""
        self._network, self._processor, self._device = network, processor, device
        self._most_tokens = most_tokens
        self._kept = Kept(self._see)

    def check(self, phrases: Sequence[str]) -> None:
        """Raise ValueError where a phrase has more tokens than the network reads."""
        for phrase in phrases:
            refuse_long(phrase, len(self._processor.tokenizer(phrase)["input_ids"]), self._most_tokens)

    @torch.inference_mode()
    def read(
        self, image: Pixels, phrases: Sequence[str], *, least: float, examples: Sequence[Example] = ()
    ) -> Iterator[Claim]:
        """Yield the instances of each phrase. examples: see `parts.Reader`."""
        self.check(phrases)
        seen = self._kept.of(image)
        for number, phrase in enumerate(phrases):
            answer = self._network(vision_embeds=seen, **self._asked(image, phrase, _about(number, examples)))
            scores = answer.pred_logits[0].float().sigmoid()
            if getattr(answer, "presence_logits", None) is not None:
                scores = scores * answer.presence_logits[0].float().sigmoid()
            for at in torch.nonzero(scores >= least)[:, 0].tolist():  # one after the other: full size is large
                (full,) = to_size(answer.pred_masks[0, at][None], *image.shape[:2])
                yield Claim(number, np.asarray(full.cpu()), float(scores[at]))

    def refer(self, image: Pixels, phrase: str, *, least: float) -> Claim | None:
        """Return the instance that is surest, None where none is sure enough."""
        return max(self.read(image, [phrase], least=least), key=lambda claim: claim.score, default=None)

    @torch.inference_mode()
    def _see(self, image: Pixels) -> Any:
        pixels = pixels_of(self._processor, image)
        return self._network.get_vision_features(pixels["pixel_values"].to(self._device))

    def _asked(self, image: Pixels, phrase: str, examples: Sequence[tuple[Box, bool]]) -> dict[str, Tensor]:
        boxes = [list(box) for box, _ in examples]
        made = self._processor(
            text=phrase,
            input_boxes=[boxes] if boxes else None,
            input_boxes_labels=[[int(meant) for _, meant in examples]] if boxes else None,
            original_sizes=[list(image.shape[:2])],
            return_tensors="pt",
        )
        return {name: value.to(self._device) for name, value in made.items() if name != "original_sizes"}


def open_concepts(files: Files, device: torch.device) -> Concepts:
    """Open SAM 3, of which published files hold the video model. Errors are those of `opening`."""
    network = open_network("Sam3Model", files, device)
    most = int(network.config.text_config.max_position_embeddings)
    return Concepts(network, open_processor("Sam3Processor", files), device, most_tokens=most)


def _about(phrase: int, examples: Sequence[Example]) -> list[tuple[Box, bool]]:
    """Tell what examples say of one phrase: those of others say nothing."""
    return [(each.box, each.phrase is not None) for each in examples if each.phrase in (None, phrase)]
