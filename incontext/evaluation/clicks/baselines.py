"""What a network must beat by clicks: three ways to answer them that have not learnt anything.

A disc needs nothing; random walker (Grady, TPAMI 28, 2006) is that of scikit-image, GrabCut (Rother et al., SIGGRAPH
2004) that of OpenCV, where those are installed. Refuses to know files and scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from incontext.evaluation.clicks.scoring import Answers, ClickMethod
from incontext.evaluation.clicks.simulation import Click
from incontext.evaluation.metrics import Flags
from incontext.images.ids import Pixels
from incontext.images.resize import resized_mask, shrunk
from incontext.types import Prompt

_DISC = 1 / 8  # of the shorter side: the radius
_SEED = 2  # pixels about a click that are known, in images that were shrunk
_WALKED, _CUT = 160, 320  # pixels along the longer side of what they work on
_ROUNDS = 5  # of GrabCut
_POSITIVE, _NEGATIVE = 1, 2  # labels of the random walker


def start_disc(image: Pixels, _example: Prompt | None) -> Answers:
    """Begin a method that paints a disc about each click, the later over the earlier."""
    size = image.shape[0], image.shape[1]
    radius = _DISC * min(size)

    def answer(clicks: Sequence[Click]) -> Flags:
        found = np.zeros(size, np.bool_)
        for click in clicks:
            found[_disc(size, click.x, click.y, radius)] = click.positive
        return found

    return answer


def start_random_walker(image: Pixels, _example: Prompt | None) -> Answers:
    """Begin a method that asks whose click a random walker that shuns edges would meet first."""
    small = shrunk(image, _WALKED)

    def answer(clicks: Sequence[Click]) -> Flags:
        from skimage.segmentation import random_walker

        labels = np.zeros(small.shape[:2], np.uint8)
        if all(click.positive for click in clicks):
            _mark_frame(labels, _NEGATIVE)
        _seed(labels, clicks, image, (_POSITIVE, _NEGATIVE))
        if not (labels == _POSITIVE).any():
            return np.zeros(image.shape[:2], np.bool_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of solvers that are not installed, and of regions without a seed
            walked = random_walker(small, labels, beta=130, mode="cg_j", channel_axis=-1)
        return _at_size(walked == _POSITIVE, image)

    return answer


def start_grabcut(image: Pixels, _example: Prompt | None) -> Answers:
    """Begin a method that cuts a graph between the colours about positive clicks and those of the rest, in rounds."""
    small = shrunk(image, _CUT)

    def answer(clicks: Sequence[Click]) -> Flags:
        import cv2

        labels = np.full(small.shape[:2], cv2.GC_PR_BGD, np.uint8)
        for click in clicks:
            if click.positive:
                x, y = _shrunk_place(click, image, small)
                labels[_disc(labels.shape, x, y, _DISC * min(labels.shape))] = cv2.GC_PR_FGD
        if all(click.positive for click in clicks):
            _mark_frame(labels, cv2.GC_BGD)
        _seed(labels, clicks, image, (cv2.GC_FGD, cv2.GC_BGD))
        foreground = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
        if not foreground.any() or foreground.all():
            return np.full(image.shape[:2], bool(foreground.any()))
        models = np.zeros((2, 1, 65))
        cv2.setRNGSeed(0)
        cv2.grabCut(small[..., ::-1].copy(), labels, (0, 0, 1, 1), models[0], models[1], _ROUNDS, cv2.GC_INIT_WITH_MASK)
        return _at_size(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)), image)

    return answer


DISC = ClickMethod("disc", start_disc, baseline=True)
RANDOM_WALKER = ClickMethod("random walker", start_random_walker, baseline=True)
GRABCUT = ClickMethod("GrabCut", start_grabcut, baseline=True)
BASELINES = (DISC, RANDOM_WALKER, GRABCUT)


def installed() -> tuple[ClickMethod, ...]:
    """List the baselines whose libraries are there."""
    found = [DISC]
    try:
        import skimage.segmentation  # noqa: F401

        found.append(RANDOM_WALKER)
    except ImportError:
        pass
    try:
        import cv2  # noqa: F401

        found.append(GRABCUT)
    except ImportError:
        pass
    return tuple(found)


def _disc(size: tuple[int, ...], x: float, y: float, radius: float) -> Flags:
    rows, columns = np.ogrid[: size[0], : size[1]]
    inside: Flags = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return inside


def _mark_frame(labels: Pixels, value: int) -> None:
    """Mark the image's outermost pixels."""
    labels[[0, -1]] = value
    labels[:, [0, -1]] = value


def _seed(labels: Pixels, clicks: Sequence[Click], image: Pixels, values: tuple[int, int]) -> None:
    """Mark what is known about clicks in a shrunk image's labels, by the values of positive and negative ones."""
    for click in clicks:
        x, y = _shrunk_place(click, image, labels)
        labels[_disc(labels.shape, x, y, _SEED)] = values[0 if click.positive else 1]


def _shrunk_place(click: Click, image: Pixels, small: Pixels) -> tuple[int, int]:
    """Find the column and row of a click in a shrunk image."""
    return click.x * small.shape[1] // image.shape[1], click.y * small.shape[0] // image.shape[0]


def _at_size(found: Flags, image: Pixels) -> Flags:
    larger: Flags = resized_mask(found.astype(np.uint8), (image.shape[0], image.shape[1])) == 1
    return larger
