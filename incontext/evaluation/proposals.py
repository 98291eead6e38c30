"""How good proposals are: average recall, and superpixels, which need no network, beside them.

Refuses to know networks and files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from incontext.evaluation.metrics import Flags
from incontext.images.ids import Pixels
from incontext.images.resize import resized_mask, shrunk

THRESHOLDS = np.arange(0.5, 1.0, 0.05)  # of IoU, as COCO's average recall has them
COUNTS = (10, 50, 100)  # proposals

_LONGEST = 320  # pixels along an image's longer side that is cut into superpixels
_PIECES = (8, 16, 32, 64)  # of an image, the coarse ones first


def best_ious(
    proposed: Iterable[Flags], things: Sequence[Flags], ignored: Flags, counts: Sequence[int] = COUNTS
) -> npt.NDArray[np.float64]:
    """Find how well each thing is met by the best of the first so many proposals.

    Args:
        proposed: (H, W) bool masks, the surest first; no more than the largest of `counts` are looked at.
        things: (H, W) bool masks.
        ignored: (H, W) bool, where nothing is scored.
        counts: Numbers of proposals.

    Returns:
        (counts, things) IoU in 0..1; 0 where there is no proposal.
    """
    scored = ~ignored
    truth = np.stack([(thing & scored).ravel() for thing in things]).astype(np.float32)
    areas, best, kept = truth.sum(axis=1), np.zeros(len(things)), []
    for number, mask in enumerate(proposed, start=1):
        flat = (mask & scored).ravel().astype(np.float32)
        shared = truth @ flat
        union = areas + flat.sum() - shared
        best = np.maximum(best, np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
        kept.append(best)
        if number == max(counts):
            break
    kept = kept or [best]
    return np.stack([kept[min(count, len(kept)) - 1] for count in counts])


def average_recall(ious: npt.NDArray[np.float64]) -> float:
    """Average over the thresholds .5, .55 ... .95 the share of things whose IoU (things,) is at least that."""
    return float(np.mean([(ious >= threshold - 1e-9).mean() for threshold in THRESHOLDS]))


def superpixels(image: Pixels) -> Iterator[Flags]:
    """Propose the pieces of an image (H, W, 3) that SLIC (TPAMI 34, 2012) cuts it into, coarse cuts before fine ones.

    Within a cut the largest piece comes first. Needs scikit-image.
    """
    from skimage.segmentation import slic

    small = shrunk(image, _LONGEST)
    for count in _PIECES:
        labels = slic(small, n_segments=count, compactness=10, start_label=0)
        pieces, sizes = np.unique(labels, return_counts=True)
        for piece in pieces[np.argsort(-sizes, kind="stable")]:
            yield resized_mask((labels == piece).astype(np.uint8), (image.shape[0], image.shape[1])) == 1
