"""`incontext convert` and `incontext segment --format`: what a user gets, and reads when something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bright import PALETTE, Bright, files, image_file, run_job
from commands import Done, runner
from labels import NAMES, coco, hard_masks, masks_of, same_masks, write_images, write_json
from PIL import Image

from incontext import cli, engine
from incontext.annotations import Labels, open_labels
from incontext.folder import job as job_module
from incontext.folder import plan, segment_folder
from incontext.folder.labelled import open_any, open_job, results_of
from incontext.images.masks import read_mask
from incontext.images.write import write_mask
from incontext.prompt_tensor import PromptTensor
from incontext.types import Palette, Prompt

KINDS = ["coco", "panoptic", "coco-semantic", "yolo", "labelme", "cvat", "label-studio", "voc"]  # out and in
NAMED = "1=cat,2=dog,3=Straße,254=sky"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in this process."""
    return runner(capsys)


@pytest.fixture
def masks(tmp_path: Path) -> dict[str, np.ndarray]:
    """MASKS/: masks without anything ignored, as indexed PNG; their names in it."""
    kept = {name: mask for name, mask in hard_masks().items() if not (mask == 255).any()}
    for name, mask in kept.items():
        path = tmp_path / "MASKS" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, mask, Palette.spread(NAMES).table)
    return kept


def written(folder: Path) -> dict[str, np.ndarray]:
    """Name -> ids of each PNG below a folder."""
    return {path.relative_to(folder).as_posix(): read_mask(path).ids for path in sorted(folder.rglob("*.png"))}


# --------------------------------------------------------------------------------------------------- converting


@pytest.mark.parametrize(
    "kind", ["coco", "panoptic", "coco-semantic", "yolo", "labelme", "cvat", "label-studio", "voc"]
)
def test_there_and_back_with_names(
    tmp_path: Path, run: Callable[..., Done], masks: dict[str, np.ndarray], kind: str
) -> None:
    write_images(tmp_path / "PHOTOS", masks)  # some formats say no size
    there = run("convert", tmp_path / "MASKS", "--to", kind, "-o", tmp_path / "there", "--names", NAMED)
    assert (there.status, there.err) == (0, "")
    said = f"{len(masks)} images in {tmp_path / 'there'} ({kind})\n"
    assert (
        there.out
        == f"{said}{len(masks)} images, {sum(len(np.unique(mask[mask != 0])) for mask in masks.values())} objects\n"
    )
    labels = open_labels(tmp_path / "there", images=tmp_path / "PHOTOS")
    assert sorted(labels.categories.names.values()) == sorted(["cat", "dog", "Straße", "sky"])
    again = run(
        *("convert", tmp_path / "there", "--to", "coco-semantic", "-o", tmp_path / "again"),
        *("--images", tmp_path / "PHOTOS"),
    )
    assert (again.status, again.err) == (0, "")
    labels = open_labels(tmp_path / "again")
    ids = {i: {"cat": 1, "dog": 2, "Straße": 3, "sky": 254}[name] for i, name in labels.categories.names.items()}
    table = np.array([ids.get(i, i) for i in range(256)], np.uint8)
    same_masks({name: table[mask] for name, mask in masks_of(labels).items()}, masks)


def test_several_formats_at_once_each_in_its_folder(
    tmp_path: Path, run: Callable[..., Done], masks: dict[str, np.ndarray]
) -> None:
    done = run("convert", tmp_path / "MASKS", "--to", "indexed, coco,classes", "-o", tmp_path / "out")
    assert done.status == 0
    assert {name.partition("/")[0] for name in files(tmp_path / "out")} == {"indexed", "coco", "classes"}
    same_masks(written(tmp_path / "out" / "indexed"), masks)
    run("convert", tmp_path / "MASKS", "--to", "coco", "-o", tmp_path / "alone")
    assert files(tmp_path / "alone") == ["instances.json"]
    alone, beside = (tmp_path / name / "instances.json" for name in ("alone", "out/coco"))
    assert alone.read_bytes() == beside.read_bytes()


def test_connected_parts_and_small_ones(tmp_path: Path, run: Callable[..., Done]) -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[0:4, 0:4], mask[5:7, 5:9], mask[9, 11] = 1, 1, 2
    (tmp_path / "MASKS").mkdir()
    write_mask(tmp_path / "MASKS" / "a.png", mask, Palette.spread([1, 2]).table)

    def areas(*options: object) -> list[int]:
        assert run("convert", tmp_path / "MASKS", "--to", "coco", "-o", tmp_path / "out", *options).status == 0
        return [each["area"] for each in json.loads((tmp_path / "out" / "instances.json").read_text())["annotations"]]

    assert areas() == [24, 1]
    assert areas("--instances") == [16, 8, 1]
    assert areas("--instances", "--smallest", 9) == [16]
    assert areas("--smallest", 2) == [24]


def test_objects_of_annotations_stay_apart(tmp_path: Path, run: Callable[..., Done]) -> None:
    """Two that touch and are of one category are two objects, not one connected part."""
    rows = [[0, 0, 4, 0, 4, 3, 0, 3], [4, 0, 8, 0, 8, 3, 4, 3]]
    objects = [{"image_id": 7, "category_id": 3, "segmentation": [row]} for row in rows]
    source = write_json(tmp_path / "in.json", coco(annotations=objects))
    assert run("convert", source, "--to", "objects,indexed,coco", "-o", tmp_path / "out").status == 0
    assert np.unique(read_mask(tmp_path / "out/objects/a.png").ids).tolist() == [0, 1, 2]
    assert np.unique(read_mask(tmp_path / "out/indexed/a.png").ids).tolist() == [0, 3]
    assert len(json.loads((tmp_path / "out/coco/instances.json").read_text())["annotations"]) == 2


def test_images_with_masks_and_colours(tmp_path: Path) -> None:
    """A colour is the same id in each RGB mask, and images are called as in their folder."""
    colors = {"a": [(255, 0, 0), (0, 0, 255)], "b": [(0, 0, 255), (0, 0, 0)]}
    for name, (left, right) in colors.items():
        pixels = np.zeros((6, 10, 3), np.uint8)
        pixels[:, :5], pixels[:, 5:] = left, right
        for folder in ("images", "masks"):
            (tmp_path / folder / "s").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / "s" / f"{name}.jpg")
        Image.fromarray(pixels).save(tmp_path / "masks" / "s" / f"{name}.png")
    labels = open_any(tmp_path)
    assert {name: sorted(np.unique(mask)) for name, mask in masks_of(labels).items()} == {
        "s/a.jpg": [1, 2],
        "s/b.jpg": [0, 1],
    }
    assert dict(labels.categories.colors) == {1: (0, 0, 255), 2: (255, 0, 0)}
    assert all(labelled.image is not None for labelled in labels)


def test_context_files_are_converted(tmp_path: Path) -> None:
    write_json(tmp_path / "i.json", coco())
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "mask": "i.json"}]
    context = write_json(tmp_path / "c.json", {"format": "incontext context 1", "prompts": rows})
    labels = open_any(context)
    assert dict(labels.categories.names) == {3: "cat", 5: "dog"}
    same_masks(masks_of(labels), masks_of(open_labels(tmp_path / "i.json")))
    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "m.png")
    rows.append({"image": "a.png", "mask": "m.png"})
    write_json(context, {"format": "incontext context 1", "prompts": rows})
    with pytest.raises(ValueError, match="expected masks or annotation files, got both"):
        open_any(context)


@pytest.mark.parametrize("kind", ["masks alone", "pairs", "job"])
def test_images_that_lie_elsewhere_are_found_by_their_names(
    tmp_path: Path, run: Callable[..., Done], kind: str
) -> None:
    source, elsewhere = tmp_path / "SOURCE", tmp_path / "PHOTOS"
    shown = {"s/a.jpg": 2, "t/b.jpg": 3, "c.jpg": 4}
    for name, bright in shown.items():
        image_file(tmp_path / "in" / name, bright=bright)
    if kind == "job":
        run_job(Bright(), [tmp_path / "in"], source)
    for name, bright in shown.items():
        if kind == "pairs":
            image_file(source / "images" / name, bright=bright)
        if kind != "job":
            mask = np.zeros((8, 12), np.uint8)
            mask[:, :bright] = 3
            path = source / "masks" / Path(name).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, mask, PALETTE.table)
    if kind == "masks alone":
        source /= "masks"
    (tmp_path / "in").rename(elsewhere)
    (elsewhere / "c.jpg").rename(elsewhere / "other.jpg")
    labels = open_any(source, images=elsewhere)
    assert {str(each.name): each.image for each in labels} == {
        "s/a.jpg": elsewhere / "s/a.jpg",
        "t/b.jpg": elsewhere / "t/b.jpg",
        **({"c.png": None} if kind == "masks alone" else {}),
        **({"c.jpg": source / "images/c.jpg"} if kind == "pairs" else {}),
        **({"c.jpg": None} if kind == "job" else {}),
    }
    assert run("convert", source, "--to", "yolo", "-o", tmp_path / "o", "--images", elsewhere).status == 0
    link = next(path for path in (tmp_path / "o").rglob("a.jpg"))
    assert link.resolve() == elsewhere / "s/a.jpg"


def test_what_cannot_be_read_is_left_out_and_told(tmp_path: Path, run: Callable[..., Done]) -> None:
    rows = [{"image_id": 7, "category_id": 3, "segmentation": {"size": [6, 8], "counts": "zzz"}}]
    bad = {"image_id": 7, "category_id": 9, "segmentation": [[0, 0, 1, 1]]}
    document = coco(annotations=[*rows, bad])
    document["images"].append({"id": 8, "file_name": "b.png", "height": 2, "width": 2})
    done = run("convert", write_json(tmp_path / "i.json", document), "--to", "indexed", "-o", tmp_path / "out")
    assert (done.status, done.out) == (
        1,
        f"1 image in {tmp_path / 'out'} (indexed)\n2 images, 0 objects, 1 written, 2 left out\n",
    )
    second, first = done.err.splitlines()
    assert first == f"Left out: {tmp_path / 'i.json'}: annotation 1: expected the id of a category, got 9"
    assert "Left out: " in second
    assert "annotation 0: expected COCO's compressed runs" in second
    assert files(tmp_path / "out") == ["b.png"]


def test_only_the_first_problems_are_told(tmp_path: Path, run: Callable[..., Done]) -> None:
    images = [{"id": n, "file_name": f"../{n}.png", "height": 6, "width": 8} for n in range(100)]
    document = coco(images=[*coco()["images"], *images])
    done = run("convert", write_json(tmp_path / "i.json", document), "--to", "coco", "-o", tmp_path / "o")
    assert (done.status, len(done.err.splitlines()), done.err.splitlines()[-1]) == (1, 21, "... and 80 more.")


def test_what_is_bad_for_one_reason_is_told_once(tmp_path: Path, run: Callable[..., Done]) -> None:
    rows = [{"id": n, "image_id": 7, "category_id": 3, "segmentation": [[1, 2]]} for n in range(100)]
    document = coco(annotations=[*coco()["annotations"], *rows])
    done = run("convert", write_json(tmp_path / "i.json", document), "--to", "coco", "-o", tmp_path / "o")
    (line,) = done.err.splitlines()
    assert done.status == 1
    assert "annotation 0: expected a polygon" in line
    assert line.endswith("; likewise 99 more")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("no", "--to", "coco", "-o", "o"), "no: there is no such file or folder"),
        (("MASKS", "--to", "jason", "-o", "o"), "expected formats out of indexed, objects, classes, coco"),
        (("MASKS", "--to", "coco,coco", "-o", "o"), "each once"),
        (("MASKS", "--to", "coco", "-o", "MASKS"), "another folder than the one that MASKS lies in"),
        (("MASKS/a", "--to", "indexed", "-o", "MASKS"), "another folder than the one that MASKS/a lies in"),
        (("MASKS", "--to", "coco", "-o", "o", "--names", "9=x"), "expected --names of ids that the masks show"),
        (("MASKS", "--to", "coco", "-o", "o", "--images", "no"), "no: there is no such folder of images"),
        (("MASKS", "--to", "coco", "-o", "file"), "expected a folder to write to, got a file"),
        (("file", "--to", "coco", "-o", "o"), "expected"),
        (("empty", "--to", "coco", "-o", "o"), "empty: expected images/ and masks/"),
    ],
)
@pytest.mark.usefixtures("masks")
def test_a_mistake_is_a_sentence(
    tmp_path: Path,
    run: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("hello")
    (tmp_path / "empty").mkdir()
    done = run("convert", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: ")
    assert sentence in done.err
    assert not (tmp_path / "o").exists() or files(tmp_path / "o") == []


# ------------------------------------------------------------------------------------------------ what a job wrote


def photos(folder: Path) -> Path:
    for number in range(5):
        image_file(folder / f"s{number % 2}" / f"p{number}.jpg", bright=2 * number)
    return folder


def test_the_report_says_what_masks_mean(tmp_path: Path) -> None:
    job = replace(plan([photos(tmp_path / "in")], tmp_path / "out"), names={3: "bright", 9: "never seen"})
    prompt = Prompt(np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=np.uint8) * 3, palette=PALETTE)
    segment_folder(Bright(), job, prompt)  # type: ignore[arg-type]  # stands in for a Segmenter
    labels = open_job(tmp_path / "out")
    assert (len(labels), dict(labels.categories.names)) == (5, {3: "bright", 9: "never seen"})
    every = list(results_of(labels))
    assert [str(each.name) for each in every] == ["s0/p0.jpg", "s0/p2.jpg", "s0/p4.jpg", "s1/p1.jpg", "s1/p3.jpg"]
    assert [each.image for each in every] == [tmp_path / "in" / each.name for each in every]
    assert [[thing.confidence for thing in each.things] for each in every] == [[]] + [[0.75]] * 4
    assert [int((each.mask == 3).sum()) for each in every] == [0, 32, 64, 16, 48]


def test_names_of_prompt_tensors_are_told() -> None:
    key = PromptTensor.__new__(PromptTensor)
    object.__setattr__(key, "names", {3: "rust", 4: "dent"})
    prompt = Prompt(np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=np.uint8) * 3)
    assert job_module._names([prompt, key]) == {3: "rust", 4: "dent"}
    assert job_module._names(prompt) == {}


@pytest.fixture
def command(tmp_path: Path, run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """`incontext segment` with a stand-in for the network, in a folder with PHOTOS and an example out of COCO."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "PHOTOS")
    write_json(tmp_path / "instances.json", coco(annotations=coco()["annotations"][:1]))
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")

    class Listed(Bright):
        def prepare(self, context: object, **asked: object) -> SimpleNamespace:
            assert isinstance(context, tuple)
            return super().prepare(context[0], **asked)

    monkeypatch.setattr(engine, "load", lambda *_, **__: Listed())
    return lambda *more: run("segment", "PHOTOS", "--prompt", "a.png", "instances.json", "-o", "MASKS", *more)


def contents(folder: Path) -> Mapping[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def test_segment_writes_formats_beside_the_masks(tmp_path: Path, command: Callable[..., Done]) -> None:
    done = command("--format", "coco,panoptic,classes", "--instances")
    assert done.status == 0, done.err
    out = tmp_path / "MASKS"
    assert "5 images as MASKS/coco, MASKS/panoptic, MASKS/classes\n" in done.out
    document = json.loads((out / "coco" / "instances.json").read_text())
    assert [c["name"] for c in document["categories"]] == ["cat"]
    assert [image["file_name"] for image in document["images"]] == [
        "s0/p0.jpg",
        "s0/p2.jpg",
        "s0/p4.jpg",
        "s1/p1.jpg",
        "s1/p3.jpg",
    ]
    assert [each["score"] for each in document["annotations"]] == [0.75] * 4
    assert files(out / "classes") == ["cat/s0/p2.png", "cat/s0/p4.png", "cat/s1/p1.png", "cat/s1/p3.png"]
    masks = {name.replace(".png", ".jpg"): mask for name, mask in written(out).items() if name[:2] in ("s0", "s1")}
    for folder in ("coco", "panoptic"):
        same_masks(masks_of(open_labels(out / folder)), masks)


def test_an_interrupted_job_exports_the_same_bytes(tmp_path: Path, command: Callable[..., Done]) -> None:
    formats = "coco,panoptic,coco-semantic,yolo,labelme,cvat,label-studio,voc,classes,objects"
    assert command("--format", formats).status == 0
    whole = contents(tmp_path / "MASKS")
    half = tmp_path / "MASKS" / "coco" / f".{'0' * 32}.part"
    half.write_bytes(b"left by a run that was killed")
    (tmp_path / "MASKS" / "s0" / "p2.png").unlink()
    (tmp_path / "MASKS" / "coco" / "instances.json").unlink()
    assert command("--format", formats).status == 0
    again = contents(tmp_path / "MASKS")
    assert sorted(again) == sorted(whole)
    assert {name for name in whole if whole[name] != again[name]} == {"report.json"}
    converted = tmp_path / "elsewhere"
    with pytest.raises(SystemExit):
        cli.main(["convert", str(tmp_path / "MASKS"), "--to", formats, "-o", str(converted)])
    for kind in ("coco", "panoptic", "coco-semantic", "cvat"):
        assert contents(converted / kind) == contents(tmp_path / "MASKS" / kind)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--format", "jason"), "expected formats out of"),
        (("--instances",), "expected --format beside --instances and --smallest"),
        (("--smallest", "4"), "expected --format beside --instances and --smallest"),
    ],
)
def test_formats_are_checked_before_the_weights_are_loaded(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.setattr(engine, "load", lambda *_, **__: pytest.fail("the weights were loaded"))
    done = command(*options)
    assert (done.status, done.out) == (2, "")
    assert sentence in done.err


def test_masks_and_formats_do_not_share_folders(tmp_path: Path, command: Callable[..., Done]) -> None:
    image_file(tmp_path / "PHOTOS" / "classes" / "p9.jpg")
    done = command("--format", "classes")
    assert done.status == 2
    assert "classes/p9.jpg: its mask would lie in the folder of --format classes" in done.err


def test_many_masks_take_no_more_memory(tmp_path: Path) -> None:
    """Images are made while they are gone through, and not kept."""
    run_job(Bright(), [photos(tmp_path / "in")], tmp_path / "out")
    labels: Labels = open_job(tmp_path / "out")
    first, again = list(labels), list(labels)
    assert [each.name for each in first] == [each.name for each in again]
    assert all(a is not b for a, b in zip(first, again, strict=True))
