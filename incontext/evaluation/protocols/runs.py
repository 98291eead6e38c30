"""From a request to the run that fulfils it."""

from __future__ import annotations

from incontext.evaluation.protocols.few_shot_run import FewShotRun
from incontext.evaluation.protocols.request import Request, Tell
from incontext.evaluation.protocols.scene_run import SceneRun
from incontext.evaluation.protocols.video_run import VideoRun

Run = FewShotRun | VideoRun | SceneRun


def open_run(request: Request, tell: Tell | None = None) -> Run:
    """Read the data of a benchmark and decide what is asked; no network is needed yet.

    Args:
        tell: Called while training images are looked through.

    Raises:
        FileNotFoundError: a part of the data is missing; the message names the file that is expected.
        ValueError: the request or a file cannot be used; the message says why.
    """
    request.check()
    if request.benchmark.kind == "few-shot":
        return FewShotRun.open(request, tell)
    if request.benchmark.kind == "video":
        return VideoRun.open(request, tell)
    return SceneRun.open(request, tell)
