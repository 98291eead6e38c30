"""A run of DAVIS, YouTube-VOS or MOSE, from its data to what is reported and handed in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from incontext.engine import Segmenter
from incontext.evaluation.protocols.lists import read_list
from incontext.evaluation.protocols.outcome import Outcome
from incontext.evaluation.protocols.request import Estimate, Request, Tell, memory_with
from incontext.evaluation.protocols.video import (
    Answers,
    check_given,
    listed_videos,
    run_video,
    video_content,
    video_outcome,
    write_archive,
)
from incontext.evaluation.protocols.video_data import Videos, read_videos
from incontext.evaluation.video.scoring import VideoJournal, VideoMethod
from incontext.video.tracker import Tracker

USUAL_MEMORY: Final = 4  # predicted frames, as `Tracker` has it
USUAL_POLICY: Final = "spaced"
_IMAGE: Final = (480, 854)  # of what the time is measured with: DAVIS at 480p
_FRAME: Final = 6_000  # bytes of a frame's mask as PNG, about


class VideoRun:
    """Which videos are followed; and follows them."""

    def __init__(self, request: Request, videos: Videos) -> None:
        self.request = request
        self.videos = videos

    @classmethod
    def open(cls, request: Request, _tell: Tell | None = None) -> Self:
        """Read where the videos are.

        Raises:
            ValueError: They are not those of a list that is given.
        """
        path, benchmark = request.episodes, request.benchmark
        document = None if path is None else read_list(path, benchmark)
        names = None if path is None or document is None else listed_videos(path, document)
        videos = read_videos(
            benchmark,
            request.data,
            split=request.split,
            all_frames=request.all_frames,
            names=names,
            limit=request.limit,
        )
        if path is not None and document is not None:
            check_given(path, document, videos)
        if not videos.clips:
            raise ValueError(f"{videos.root}: expected at least one video, got none")
        return cls(request, videos)

    @property
    def about(self) -> dict[str, object]:
        """Facts for the report."""
        memory, policy = self._memory
        return {
            "split": self.videos.split,
            "videos": len(self.videos.clips),
            "scored at": "the frames' own size",
            "memory": f"{memory} frames, {policy}",
            **({"frames": "those in between, too"} if self.request.all_frames else {}),
        }

    def content(self) -> dict[str, Any]:
        """Write what an episode list says of them."""
        return video_content(self.videos)

    def estimate(self, segmenter: Segmenter) -> Estimate:
        """Estimate time and memory, by following noise until the memory is full."""
        rng = np.random.default_rng(0)
        mask = np.zeros(_IMAGE, np.uint8)
        mask[100:300, 200:400] = 1
        memory, _ = self._memory
        tracker, seconds = self._tracker(segmenter), 0.0
        for number in range(memory + 2):
            frame = rng.integers(0, 256, (*_IMAGE, 3), dtype=np.uint8)
            start = time.perf_counter()
            tracker.step(frame, None if number else mask)
            seconds = time.perf_counter() - start
        frames = sum(len(clip.frames) for clip in self.videos.clips)
        network = segmenter.estimate_memory(shots=memory + 1, side=self.request.side)
        written = 2 * sum(map(len, self.videos.wanted.values())) * _FRAME  # the archive is as large as the masks
        return Estimate("frames", frames, seconds, memory_with(network, 0), written)

    def ask(self, segmenter: Segmenter, out: Path, settings: Mapping[str, object], *, tell: Tell) -> Outcome:
        """Follow all videos, go on where a run was stopped, write the archive, and say what came of it.

        Args:
            settings: What answers depend on.
        """
        memory, policy = self._memory
        own = {"memory": memory, "policy": policy, "all frames": self.request.all_frames}
        method = VideoMethod(f"memory {memory}, {policy}", lambda: self._tracker(segmenter))
        with VideoJournal(out / "clips.jsonl", {**settings, **own}) as journal:
            answers = Answers(out, self.videos, journal)
            report = run_video(method, answers, on_frame=lambda done, total: tell("frames", done, total))
        write_archive(self.request.benchmark, answers)
        return video_outcome(self.request.benchmark, report, answers)

    @property
    def _memory(self) -> tuple[int, Any]:
        request = self.request
        memory = USUAL_MEMORY if request.memory is None else request.memory
        return memory, request.policy or USUAL_POLICY

    def _tracker(self, segmenter: Segmenter) -> Tracker:
        memory, policy = self._memory
        return Tracker(segmenter, memory=memory, policy=policy, task=self.request.task, side=self.request.side)
