"""The benchmarks that people judge such systems by: their names, what is asked in each, and by which rules.

Refuses to know files and scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["few-shot", "video", "scenes"]

FOLDS: Final = (0, 1, 2, 3)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: On the command line.
        title: For people.
        shots, folds: Those that are published, empty where there are none.
        task: The type token for its questions.
        rules: How it is asked and scored, in a few sentences.
    """

    name: str
    title: str
    kind: Kind
    rules: str
    shots: tuple[int, ...] = ()
    folds: tuple[int, ...] = ()
    task: Literal["instance", "semantic"] = "instance"


_SUMMED: Final = (
    "Intersections and unions are summed for each class over a fold and divided last; mIoU is the mean over the "
    "classes of a fold, then over the folds; FB-IoU is the mean of foreground and background, each summed over a fold."
)
_JF: Final = (
    "J is the IoU of an object in a frame, F how well its outline is met within 0.8 % of the diagonal; both are means "
    "over an object's frames, then over all objects."
)
_LATE: Final = (
    "Each object is given in the first frame that shows it; frames without masks in between are followed, too."
)

_COCO_20I: Final = Benchmark(
    "coco-20i",
    "COCO-20i",
    "few-shot",
    "Fold f tests the classes f + 1 + 4v of COCO's 80 on val2014, in 1000 episodes: class, query and prompts are drawn "
    "uniformly with NumPy's legacy generator, seed 0, as HSNet (arXiv 2104.01538) draws them; prompts of an episode "
    f"may repeat. {_SUMMED}",
    (1, 5),
    FOLDS,
)
_PASCAL_5I: Final = Benchmark(
    "pascal-5i",
    "PASCAL-5i",
    "few-shot",
    "Fold f tests the classes 5f + 1 to 5f + 5 of PASCAL VOC 2012, in 1000 episodes: the queries are the fold's "
    "published pairs of image and class in their order, over and over; prompts are drawn uniformly from the pairs of "
    "the same class with NumPy's legacy generator, seed 0 (HSNet, arXiv 2104.01538), and may repeat. Ignored borders "
    f"(255) are left out. {_SUMMED}",
    (1, 5),
    FOLDS,
)
_FSS_1000: Final = Benchmark(
    "fss-1000",
    "FSS-1000",
    "few-shot",
    "Each of the ten images of 240 test classes is a query once; prompts are drawn uniformly from the other nine with "
    "NumPy's legacy generator, seed 0 (HSNet, arXiv 2104.01538), and may repeat. Masks are thresholded at 128. "
    "Intersections and unions are summed for each class and divided last; mIoU is the mean over the classes.",
    (1, 5),
)
_DAVIS_2016: Final = Benchmark(
    "davis-2016",
    "DAVIS 2016",
    "video",
    f"All ids of a mask are one object, given in the first frame. {_JF} Neither the first frame nor the last counts.",
)
_DAVIS_2017: Final = Benchmark(
    "davis-2017",
    "DAVIS 2017",
    "video",
    f"The objects of the first frame are given (arXiv 1704.00675). {_JF} Neither the first frame nor the last counts; "
    "what a mask ignores is background.",
)
_YOUTUBE_VOS: Final = Benchmark(
    "youtube-vos",
    "YouTube-VOS",
    "video",
    f"{_LATE} {_JF} Where the masks of all frames are there, an object's frames after its first count; G is the mean "
    "of J and F over seen and unseen categories (arXiv 1809.03327). The figures of the validation set come from its "
    "server, which takes the archive; the server's code is not public.",
)
_MOSE: Final = Benchmark(
    "mose",
    "MOSE",
    "video",
    f"{_LATE} {_JF} Where the masks of all frames are there, they are scored as those of DAVIS are: neither the first "
    "frame nor the last counts. The figures of the validation set (arXiv 2302.01872) come from its server, which takes "
    "the archive.",
)
_ADE20K: Final = Benchmark(
    "ade20k",
    "ADE20K",
    "scenes",
    "All 150 classes are asked of every validation image. Intersections and unions are summed for each class over all "
    "images; pixels without a class (0) are left out; mIoU is the mean over the classes.",
    (1,),
    task="semantic",
)
_COCO_PANOPTIC: Final = Benchmark(
    "coco-panoptic",
    "COCO panoptic",
    "scenes",
    "All categories are asked of every image of val2017; each connected part of a thing is an object. Segments match "
    "where their IoU exceeds 0.5; PQ is the sum of the IoUs of the matches, divided by their number and half of what "
    "is left over on both sides, the mean over the categories (arXiv 1801.00868).",
    (1,),
    task="semantic",
)

BENCHMARKS: Final = {
    each.name: each
    for each in (
        *(_COCO_20I, _PASCAL_5I, _FSS_1000),
        *(_DAVIS_2016, _DAVIS_2017, _YOUTUBE_VOS, _MOSE),
        *(_ADE20K, _COCO_PANOPTIC),
    )
}
