"""Networks that give every pixel of an image to words: CLIPSeg (arXiv 2112.10003) and GroupViT (arXiv 2202.11094).

Through transformers. Refuses to know ids and files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import scipy.ndimage as ndi
import torch
from torch import Tensor

from incontext.images.ids import Pixels
from incontext.images.resize import resized
from incontext.prompters.files import Files
from incontext.prompters.maps import as_margins, pixels_of, to_size
from incontext.prompters.opening import open_network, open_processor
from incontext.prompters.parts import Claim, Example, Margins
from incontext.prompters.phrases import refuse_long

# What else may be in an image: words that take the pixels of which a user did not ask, where each pixel must belong to
# some word. Those that a user names are left out.
ELSEWHERE: Final = (
    *("background", "wall", "floor", "ceiling", "building", "road", "street", "ground", "grass", "tree", "forest"),
    *("mountain", "sky", "cloud", "water", "sea", "river", "sand", "snow", "table", "desk", "bed", "window", "door"),
)


class Words(ABC):
    """Claims for words from a map of probabilities for each; see `parts.Reader`."""

    def __init__(self, network: Any, processor: Any, device: torch.device, *, side: int, most_tokens: int) -> None:
        """Hold a network of transformers, or what behaves like one. side: pixels along the square that it sees."""
        self._network, self._processor, self._device = network, processor, device
        self._side, self._most_tokens = side, most_tokens

    def check(self, phrases: Sequence[str]) -> None:
        """Raise ValueError where a phrase has more tokens than the network reads."""
        for phrase in phrases:
            refuse_long(phrase, len(self._processor.tokenizer(phrase)["input_ids"]), self._most_tokens)

    def read(
        self, image: Pixels, phrases: Sequence[str], *, least: float, examples: Sequence[Example] = ()
    ) -> Iterator[Claim]:
        """Yield for each phrase the pixels that belong to it with a probability of at least `least`."""
        if examples:
            raise ValueError("expected a text alone for this prompter, got boxes beside it; use sam3 for both at once")
        self.check(phrases)
        for number, found in enumerate(self._probabilities(image, phrases)):
            (full,) = to_size(found[None], *image.shape[:2])
            yield Claim(number, as_margins(full, least), float(full.max()))

    def refer(self, image: Pixels, phrase: str, *, least: float) -> Claim | None:
        """Return the connected part that the phrase fits best on average, None where no pixel fits."""
        (claim,) = self.read(image, [phrase], least=least)
        return Claim(0, kept, claim.score) if (kept := surest_part(claim.margins)) is not None else None

    @abstractmethod
    def _probabilities(self, image: Pixels, phrases: Sequence[str]) -> Tensor:
        """(T, h, w) float32 in 0..1 of all of the image, squashed to a square."""

    def _inputs(self, image: Pixels, phrases: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the tokens, (T, L), and the pixels of the squashed image, (1, 3, side, side)."""
        tokens = self._processor.tokenizer(list(phrases), return_tensors="pt", padding=True)
        # All of it, squashed: left to itself, the processor of GroupViT would cut the edges off.
        pixels = pixels_of(self._processor, resized(image, (self._side, self._side)))
        return {name: value.to(self._device) for name, value in tokens.items()}, pixels["pixel_values"].to(self._device)


class ClipSeg(Words):
    """Each phrase for itself, by how well a pixel fits."""

    @torch.inference_mode()
    def _probabilities(self, image: Pixels, phrases: Sequence[str]) -> Tensor:
        tokens, pixels = self._inputs(image, phrases)
        logits = self._network(**tokens, pixel_values=pixels.expand(len(phrases), -1, -1, -1)).logits
        found: Tensor = logits.float().reshape(len(phrases), *logits.shape[-2:])  # of one phrase, it has two axes
        return found.sigmoid()


class GroupVit(Words):
    """All phrases at once, and words for what else there may be: each pixel belongs to one of them."""

    @torch.inference_mode()
    def _probabilities(self, image: Pixels, phrases: Sequence[str]) -> Tensor:
        asked = {phrase.casefold() for phrase in phrases}
        others = [word for word in ELSEWHERE if word not in asked]
        tokens, pixels = self._inputs(image, [*phrases, *others])
        answer = self._network(**tokens, pixel_values=pixels, output_segmentation=True)
        found: Tensor = answer.segmentation_logits[0].float().softmax(0)
        return found[: len(phrases)]


def open_words(files: Files, device: torch.device) -> Words:
    """Open CLIPSeg or GroupViT. Errors are those of `opening`."""
    is_clipseg = files.family == "clipseg"
    network = open_network("CLIPSegForImageSegmentation" if is_clipseg else "GroupViTModel", files, device)
    processor = open_processor("CLIPSegProcessor" if is_clipseg else "CLIPProcessor", files)
    size = processor.image_processor.size  # of published CLIPSeg, other than that which its positions were made for
    side = int(size.get("height") or size.get("shortest_edge") or network.config.vision_config.image_size)
    kind = ClipSeg if is_clipseg else GroupVit
    most = int(network.config.text_config.max_position_embeddings)
    return kind(network, processor, device, side=side, most_tokens=most)


def surest_part(margins: Margins) -> Margins | None:
    """Return the margins with all but one connected part inside taken out, None where no part is inside.

    The one with the highest mean stays.
    """
    parts, count = ndi.label(margins > 0, structure=np.ones((3, 3)))
    if not count:
        return None
    means = ndi.mean(margins, parts, index=np.arange(1, count + 1))
    return np.where((parts == 1 + int(np.argmax(means))) | (margins <= 0), margins, -margins).astype(np.float32)
