"""Figures that others have published, each with its source. Ours stand beside them, and only there.

Percent, as in the papers. Refuses to know what was measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SEGGPT: Final = "SegGPT, arXiv 2304.03284"
_INSID3: Final = "INSID3, arXiv 2603.28480"
_SANSA: Final = "SANSA, arXiv 2505.21795"
_CANVAS: Final = "arXiv 2604.05433"
_CUTIE: Final = "Cutie, arXiv 2310.12982"
_SAM_2: Final = "SAM 2, arXiv 2408.00714"
_SAM_3: Final = "the authors' repository of SAM 3, read in November 2026"
_IN_DOMAIN: Final = "trained on these classes"
_FEW: Final = "several shots: the paper says few"


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes:
        figure: Its name, as that of an `outcome.Figure`.
        value: Percent.
        remark: How it differs.
    """

    system: str
    benchmark: str
    figure: str
    value: float
    source: str
    remark: str = ""


def _few_shot(
    system: str, benchmark: str, one: float | None, few: float | None, source: str, remark: str = ""
) -> list[Published]:
    figures = (("mIoU, 1 shot", one), ("mIoU, 5 shots", few))
    return [Published(system, benchmark, name, v, source, remark) for name, v in figures if v is not None]


def _videos(system: str, source: str, remark: str = "", **figures: float) -> list[Published]:
    names = {
        "davis": ("davis-2017", "J&F"),
        "youtube_2018": ("youtube-vos", "G, 2018"),
        "youtube_2019": ("youtube-vos", "G, 2019"),
        "mose": ("mose", "J&F"),
    }
    return [Published(system, *names[key], value, source, remark) for key, value in figures.items()]


FIGURES: Final = (
    *_few_shot("SegGPT", "coco-20i", 56.1, 67.9, _SEGGPT, f"{_IN_DOMAIN}; {_FEW}"),
    *_few_shot("Painter", "coco-20i", 32.8, 32.6, _SEGGPT, f"{_IN_DOMAIN}; {_FEW}"),
    *_few_shot("INSID3, strict", "coco-20i", 57.6, 65.1, _INSID3, "training-free"),
    *_few_shot("SANSA, generalist", "coco-20i", 76.4, None, _SANSA, _IN_DOMAIN),
    *_few_shot("SANSA, strict", "coco-20i", 60.2, None, _SANSA),
    *_few_shot("SAM 3, stitched canvas", "coco-20i", 66.6, 71.8, _CANVAS, "frozen"),
    *_few_shot("SegGPT", "pascal-5i", 83.2, 89.8, _SEGGPT, f"{_IN_DOMAIN}; {_FEW}"),
    *_few_shot("Painter", "pascal-5i", 64.5, 64.6, _SEGGPT, f"{_IN_DOMAIN}; {_FEW}"),
    *_few_shot("SAM 3, stitched canvas", "pascal-5i", 79.6, 81.2, _CANVAS, "frozen"),
    *_few_shot("SegGPT", "fss-1000", 85.6, 89.3, _SEGGPT, _FEW),
    *_few_shot("Painter", "fss-1000", 61.7, 62.3, _SEGGPT, _FEW),
    *_few_shot("INSID3, strict", "fss-1000", 83.7, None, _INSID3, "training-free"),
    *_few_shot("SANSA, generalist", "fss-1000", 90.0, None, _SANSA),
    *_few_shot("SANSA, strict", "fss-1000", 91.4, None, _SANSA),
    *_videos("SegGPT", _SEGGPT, "eight frames, feature ensemble", davis=75.6, youtube_2018=74.7, mose=45.1),
    *_videos("Painter", _SEGGPT, davis=34.6, youtube_2018=24.1, mose=14.5),
    *_videos("Cutie-base+", _CUTIE, davis=88.1, youtube_2019=87.5, mose=71.7),
    *_videos("SAM 2, Hiera-L", _SAM_2, davis=90.7, youtube_2019=89.3, mose=77.9),
    *_videos("SAM 3.1", _SAM_3, davis=92.7, youtube_2019=89.3, mose=79.6),
    Published("SegGPT", "ade20k", "mIoU, tuned prompt", 39.6, _SEGGPT),
    *(
        Published("SegGPT", "ade20k", f"mIoU, {shots} shot{'s' * (shots > 1)}", value, _SEGGPT, "examples, not tuned")
        for shots, value in ((1, 18.8), (2, 25.0), (4, 28.3), (8, 30.1), (16, 31.9), (32, 33.0))
    ),
    Published("SegGPT", "coco-panoptic", "PQ, tuned prompt", 34.4, _SEGGPT),
)


def published(benchmark: str) -> tuple[Published, ...]:
    """List the figures of one benchmark."""
    return tuple(each for each in FIGURES if each.benchmark == benchmark)
