"""The Namer: names from a list for masks, by how well a network of images and texts finds them to go together.

CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343), through transformers. Refuses to know files of masks, and where
masks come from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.images.ids import Pixels
from incontext.images.read import ImageLike, read_image
from incontext.network.devices import choose_device
from incontext.prompters.crops import Crop, Masks, cut, masks_of
from incontext.prompters.files import find_files
from incontext.prompters.maps import pixels_of
from incontext.prompters.mask_tokens import MaskTokens
from incontext.prompters.opening import import_transformers, open_network, open_processor
from incontext.prompters.phrases import phrases_of, refuse_long
from incontext.prompters.prompter import release

AT_LEAST: Final = {"clip": 0.3, "siglip": 0.05}  # a score that counts where a user names none
TEMPLATES: Final = ("a photo of a {}.", "a cropped photo of a {}.", "a {}.")
NONE_OF_THESE: Final = ("something else", "the background", "a texture")  # beside the names, where scores add up to 1
AT_ONCE: Final = 32  # crops

_KINDS = {"clip": ("CLIPModel", "CLIPProcessor"), "siglip": ("SiglipModel", "SiglipProcessor")}
FAMILIES: Final = frozenset(_KINDS)


class Namer:
    """Names masks. Made by `load_namer`; a context manager that closes itself.

    Attributes:
        weights: Their name or path, as they were asked for.
        sha256: Over its files.
        side: Pixels along the square that the network sees.
        patch: Pixels along a patch.
    """

    def __init__(
        self,
        network: Any,
        processor: Any,
        *,
        weights: str,
        sha256: str,
        family: str,
        device: torch.device,
        tokens: MaskTokens | None = None,
    ) -> None:
        """Hold a network of transformers, or what behaves like one. tokens: for patches without mask."""
        self.weights, self.sha256, self.family = weights, sha256, family
        self._network, self._processor, self._device = network, processor, device
        vision = network.config.vision_config
        self.side, self.patch = int(vision.image_size), int(vision.patch_size)
        self._color = tuple(round(255 * each) for each in processor.image_processor.image_mean)
        self._most_tokens = int(network.config.text_config.max_position_embeddings)
        self._tokens: Tensor | None = None
        if tokens is not None:
            tokens.check_use(namer=weights, sha256=sha256)
            self._tokens = torch.from_numpy(tokens.values.copy()).to(device)
            expected = ((self.side // self.patch) ** 2, int(vision.hidden_size))
            if tokens.values.shape != expected:
                raise ValueError(f"expected mask tokens {expected}, got {tokens.values.shape}")

    def name(
        self, image: ImageLike, masks: Masks, names: Sequence[str], *, at_least: float | None = None
    ) -> list[tuple[str | None, float]]:
        """Name masks of an image.

        Args:
            image: A path, a PIL image or an (H, W, 3) uint8 array.
            masks: (H, W) ids, of which each is a mask, ascending; or any number of (H, W) bool.
            names: Those that may be given.
            at_least: The score, 0..1, below which a mask gets no name; None is what is usual for the network.

        Returns:
            For each mask its name and the score. Of CLIP the scores of all names and of "none of these" add up to 1;
            SigLIP judges each name by itself. The name is None where none fits, or the mask has no pixel (score 0).

        Raises:
            ValueError: A mask is of another size than the image, or a name cannot be used.
        """
        least = AT_LEAST[self.family] if at_least is None else at_least
        if not 0 <= least <= 1:
            raise ValueError(f"expected at_least in 0..1, got {least}")
        asked, pixels = phrases_of(names), read_image(image)
        crops = [cut(pixels, each, self.side, self._color) for each in masks_of(masks, pixels)]
        there = [crop for crop in crops if crop is not None]
        scores = iter(self.scores(there, asked))
        found: list[tuple[str | None, float]] = []
        for crop in crops:
            if crop is None:
                found.append((None, 0.0))
                continue
            row = next(scores)
            best = int(row[: len(asked)].argmax())
            is_none = row[best] < least or (len(row) > len(asked) and row[len(asked)] > row[best])
            found.append((None if is_none else asked[best], float(row[best])))
        return found

    @torch.inference_mode()
    def scores(self, crops: Sequence[Crop], names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Score crops against names.

        Returns:
            (crops, names) float32 in 0..1; of CLIP one more column, of "none of these", and rows that add up to 1.
        """
        if not crops:
            return np.zeros((0, len(names) + (self.family == "clip")), np.float32)
        if self.family == "clip":
            odds = self.logits(crops, [*names, *self.others]).softmax(-1)
            none = odds[:, len(names) :].sum(-1, keepdim=True)
            return np.asarray(torch.cat([odds[:, : len(names)], none], dim=-1).float().cpu())
        return np.asarray(self.logits(crops, names).sigmoid().float().cpu())

    def logits(self, crops: Sequence[Crop], names: Sequence[str]) -> Tensor:
        """(crops, names) log odds, on the network's device."""
        texts = self.text_features(names)
        parts = (crops[first : first + AT_ONCE] for first in range(0, len(crops), AT_ONCE))
        return torch.cat([self.compare(self.image_features(*self.inputs(part)), texts) for part in parts])

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        """Features of images (n, D) and texts (K, D) -> (n, K) log odds."""
        logits: Tensor = self._network.logit_scale.exp() * images @ texts.T
        bias = getattr(self._network, "logit_bias", None)
        return logits if bias is None else logits + bias

    def inputs(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Crops as the network takes them: pixels (n, 3, side, side), and (n, patches) bool, where nothing is."""
        pixels = torch.cat([pixels_of(self._processor, crop.image)["pixel_values"] for crop in crops])
        empty = torch.from_numpy(np.stack([crop.empty(self.patch) for crop in crops]))
        return pixels.to(self._device), empty.to(self._device)

    @torch.no_grad()
    def text_features(self, names: Sequence[str]) -> Tensor:
        """(names, D) of unit length: each the mean over templates."""
        tokenizer = self._processor.tokenizer
        longest = max(TEMPLATES, key=len)
        for name in names:
            refuse_long(name, len(tokenizer(longest.format(name))["input_ids"]), self._most_tokens)
        rows = []
        for template in TEMPLATES:
            texts = [template.format(name.lower()) for name in names]
            if self.family == "clip":
                made = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
            else:  # as SigLIP was trained
                made = tokenizer(
                    texts, return_tensors="pt", padding="max_length", truncation=True, max_length=self._most_tokens
                )
            asked = {key: made[key].to(self._device) for key in ("input_ids", "attention_mask") if key in made}
            rows.append(F.normalize(_plain(self._network.get_text_features(**asked)).float(), dim=-1))
        return F.normalize(torch.stack(rows).mean(0), dim=-1)

    def image_features(self, pixels: Tensor, empty: Tensor) -> Tensor:
        """Turn what `inputs` made into (n, D) of unit length; with gradients for tokens that are being learned."""
        with self._replaced(empty):
            found = self._network.get_image_features(pixel_values=pixels)
        return F.normalize(_plain(found).float(), dim=-1)

    @property
    def others(self) -> tuple[str, ...]:
        """What a crop may be beside the names, where scores add up to 1."""
        return NONE_OF_THESE if self.family == "clip" else ()

    @contextmanager
    def learning(self, tokens: Tensor) -> Iterator[None]:
        """Use these tokens (patches, width), which may need gradients, inside of the block."""
        before, self._tokens = self._tokens, tokens
        try:
            yield
        finally:
            self._tokens = before

    @torch.no_grad()
    def empty_tokens(self) -> Tensor:
        """(patches, width): what the network makes of patches in the mean colour, where nothing was learned."""
        blank = np.empty((self.side, self.side, 3), np.uint8)
        blank[:] = self._color
        pixels = pixels_of(self._processor, blank)["pixel_values"].to(self._device)
        embedded: Tensor = self._embeddings()(pixels)
        return embedded[0, -((self.side // self.patch) ** 2) :].clone()

    def cut(self, image: Pixels, inside: np.ndarray[Any, np.dtype[np.bool_]]) -> Crop | None:
        """Cut a mask (H, W) out as this network is shown it; None for one without a pixel."""
        return cut(image, inside, self.side, self._color)

    def close(self) -> None:
        """Release the network from memory; the namer is of no more use."""
        self._network = None
        release(str(self._device))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _embeddings(self) -> Any:
        return self._network.vision_model.embeddings

    @contextmanager
    def _replaced(self, empty: Tensor) -> Iterator[None]:
        """Have the network see the tokens in place of empty patches. The class token, before them, stays."""
        if self._tokens is None:
            yield
            return
        tokens = self._tokens

        def replace(_module: Any, _inputs: Any, embedded: Tensor) -> Tensor:
            first = embedded.shape[1] - tokens.shape[0]
            patches = torch.where(empty[..., None], tokens.to(embedded.dtype), embedded[:, first:])
            return torch.cat([embedded[:, :first], patches], dim=1)

        hook = self._embeddings().register_forward_hook(replace)
        try:
            yield
        finally:
            hook.remove()


def load_namer(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    tokens: MaskTokens | str | os.PathLike[str] | None = None,
) -> Namer:
    """Open a model that names masks. Nothing is fetched: `incontext prompters download` does that.

    Args:
        name: A name that `incontext prompters list` knows, such as "clip" or "siglip2"; or the path of a folder that
            transformers saved.
        device: "auto" (a CUDA device if there is one, else the CPU) or a PyTorch device, which must be there.
        tokens: What `tuning.namer.tune_namer` learned for it, or the file.

    Raises:
        FileNotFoundError: The files are not on this machine.
        CheckpointError: The files are damaged, or lack a tensor.
        ValueError: It is no namer, the tokens were learned for another, transformers is missing, or the device is not
            there.
    """
    import_transformers()
    files = find_files(name)
    if files.family not in _KINDS:
        raise ValueError(
            f"{files.name} is a model of the family {files.family!r}, which is no namer; expected one of "
            f"{', '.join(_KINDS)}"
        )
    learned = MaskTokens.load(tokens) if isinstance(tokens, str | os.PathLike) else tokens
    chosen = choose_device(device)
    network, processor = _KINDS[files.family]
    return Namer(
        open_network(network, files, chosen),
        open_processor(processor, files),
        weights=files.name,
        sha256=files.sha256,
        family=files.family,
        device=chosen,
        tokens=learned,
    )


def _plain(found: Any) -> Tensor:
    """Features, which the library wraps since its version 5."""
    features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return features
