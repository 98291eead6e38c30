"""What commands do, called without a command line."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from bright import PROMPT, Bright, image_file

from incontext.cli import evaluate, evaluate_video, segment, track
from incontext.cli.exporting import formats_beside
from incontext.folder import FolderJob, open_report, plan, rehearse, segment_folder
from incontext.folder.ray.workers import RayNetworks
from incontext.options import SegmentOptions
from incontext.video.job import TrackReport
from incontext.video.tracks import ObjectTrack


@pytest.fixture
def job(tmp_path: Path) -> FolderJob:
    for number in range(3):
        image_file(tmp_path / "in" / f"{number}.png", bright=4)
    return plan([tmp_path / "in"], tmp_path / "out")


def run(job: FolderJob, how: Any = segment_folder) -> Any:
    return lambda **options: how(Bright(), job, PROMPT, **options)


def test_a_job_is_carried_out_and_told(job: FolderJob, capsys: pytest.CaptureFixture[str]) -> None:
    beside = formats_beside(job, "coco", instances=False, smallest=1)
    assert segment.carry_out(run(job), job, beside, watch=False)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"3 masks in {job.outputs.out} (")
    assert out[1] == f"3 images as {job.outputs.out / 'coco'}"
    assert open_report(job.outputs.out / "report.json").done == 3


def test_a_file_that_fails_is_told_and_counts(job: FolderJob, capsys: pytest.CaptureFixture[str]) -> None:
    Path(str(job.queries[1].place)).write_bytes(b"no image")
    beside = formats_beside(job, None, instances=False, smallest=1)
    assert not segment.carry_out(run(job), job, beside, watch=False)
    assert "Skipped: " in capsys.readouterr().err


def test_ctrl_c_is_status_130(job: FolderJob) -> None:
    def stopped(**_: object) -> Any:
        raise KeyboardInterrupt

    beside = formats_beside(job, None, instances=False, smallest=1)
    with pytest.raises(typer.Exit) as ended:
        segment.carry_out(stopped, job, beside, watch=False)
    assert ended.value.exit_code == 130


def test_a_rehearsal_in_words(job: FolderJob) -> None:
    trial = segment.rehearsed(run(job, rehearse), job, watch=False)
    lines = segment.rehearsal_lines(job, trial)
    assert lines[0] == "3 images, 0 of them done: 3 to segment."
    assert lines[-1].endswith("Nothing was written.")
    with pytest.raises(ValueError, match="expected --watch or --dry-run, got both"):
        segment.rehearsed(run(job, rehearse), job, watch=True)


def test_a_rehearsal_tells_what_a_run_tells(job: FolderJob) -> None:
    measured: list[str | None] = []
    rehearse(Bright(), job, PROMPT, on_file=lambda file: measured.append(file.mask), batch_size=2)
    assert len(measured) == 3
    segment_folder(Bright(), job, PROMPT)
    earlier: list[int] = []
    assert rehearse(Bright(), job, PROMPT, on_resume=earlier.append).before == 3
    assert earlier == [3]


@pytest.mark.parametrize(
    ("runner", "networks", "dry_run", "told"),
    [
        ("local", RayNetworks(workers=2), False, "expected --workers with --runner ray only"),
        ("local", RayNetworks(address="auto"), False, "expected --address with --runner ray only"),
        ("ray", RayNetworks(), True, "expected --dry-run with --runner local"),
    ],
)
def test_options_that_contradict_the_runner(runner: Any, networks: RayNetworks, dry_run: bool, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        segment.check_runner(runner, networks, dry_run=dry_run)


def test_many_prompts_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="17 prompts: an image takes 8 times as long"):
        segment.warn_of_many(17, SegmentOptions())
    segment.warn_of_many(17, SegmentOptions(ensemble="spatial"))


def test_what_came_of_tracking_in_words(tmp_path: Path) -> None:
    objects = (
        ObjectTrack(3, 1, ((0, 0),), ((1, 4), (6, 6)), 5.0, 0.5),
        ObjectTrack(7, 2, ((0, 1),), tuple((n, n) for n in range(9)), 5.0, 0.5),
    )
    report = TrackReport(tmp_path, 12, 2, 5.0, (), objects)
    assert track.summary(report) == [
        f"12 masks in {tmp_path / 'masks'} (2.0 frames/s)",
        "object 3: found in 1 frame, lost in 1-4, 6",
        "object 7: found in 2 frames, lost in 0, 1, 2, 3, 4 and 4 more times",
    ]


def test_lists_as_people_write_them() -> None:
    assert evaluate_video.memories_of("4, 0") == [4, 0]
    assert evaluate_video.policies_of("spaced,recent") == ["recent", "spaced"]
    assert track.masks_at(["5", "a.png"]) == {5: Path("a.png")}
    sets: Any = [SimpleNamespace(episodes=[SimpleNamespace(prompts=range(5)), SimpleNamespace(prompts=range(3))])]
    assert evaluate.usual_shots(sets) == [1, 2]
    for wrong in ("0,0", "x"):
        with pytest.raises(ValueError, match="expected --memory"):
            evaluate_video.memories_of(wrong)
