"""Annotation files, reports and journals with something wrong in them: a sentence or an answer, and nothing else.

A mutation turns bits, loses or doubles pieces, and puts values that no reader expects in place of others. Whatever
comes, there is no traceback but `ValueError` and `OSError`, and no file outside of the output. INCONTEXT_MUTATIONS sets
how many each format gets; a release is tried with 2 000, and then the slowest are printed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from bright import Bright, run_job
from labels import CATEGORIES, NAMES, write_images
from PIL import Image
from test_faults import mutated

from incontext.annotations import Categories, Result, open_labels
from incontext.annotations.core import things_of
from incontext.annotations.exports import folders_for, writable, write_all
from incontext.folder import open_report
from incontext.folder.labelled import open_any, results_of

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("INCONTEXT_MUTATIONS", "40"))
FORMATS = ("coco", "panoptic", "coco-semantic", "yolo", "labelme", "cvat", "label-studio", "voc")
TEXT_FILES = (".json", ".xml", ".txt", ".yaml", ".yml", ".jsonl")
# What no reader expects in place of a value, as it stands in a file.
STRANGE = (
    *("null", "true", "[]", "{}", '""', "-1", "0", "1e999", "-1e999", "NaN", "99999999999999999999", "0.1", "[[[[]]]]"),
    *('"../../outside"', '"/tmp/outside"', '"a\\u0000b"', '"C:\\\\outside"', '"' + "x" * 300 + '"', "[" * 2000),
    *('"\\ud800"', "[null]", '{"a": 1}', '[1, "a", null]', "2147483648", '"NaN"', '"1e999"'),
)


def masks() -> dict[str, np.ndarray]:
    ring = np.zeros((12, 20), np.uint8)
    ring[2:9, 3:15], ring[4:6, 6:9] = 1, 0
    ring[10:12, 16:20] = 2
    return {"a.png": ring, "sub/b.png": np.flip(ring).copy()}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each format, as it is written here, with its images."""
    root = tmp_path_factory.mktemp("originals")
    for name in FORMATS:
        write_images(root / name / "images", masks())
        formats = writable([name])
        results = [
            Result(PurePosixPath(path), mask, things_of(mask), root / name / "images" / path)
            for path, mask in masks().items()
        ]
        folders = folders_for(formats, root / name, apart=False)
        write_all(results, formats, folders, Categories({1: "cat", 2: "dog"}))
    return root


def with_a_strange_value(content: bytes, chance: random.Random) -> bytes:
    """The file with one of its values, whatever kind, in place of which something else stands."""
    text = content.decode("utf-8", "replace")
    places = [i for i, letter in enumerate(text) if letter in ':[,"> =' and i + 1 < len(text)]
    if not places:
        return content
    start = chance.choice(places) + 1
    end = start
    while end < len(text) and text[end] not in ',]}"<\n ':
        end += 1
    return (text[:start] + chance.choice(STRANGE) + text[end:]).encode("utf-8", "surrogatepass")


def variants(content: bytes, chance: random.Random) -> Iterator[bytes]:
    while True:
        yield mutated(content, chance) if chance.random() < 0.4 else with_a_strange_value(content, chance)


def tried(attempt: Callable[[], object]) -> float:
    """Seconds that it took, whatever the sentence; anything but a sentence comes out."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sentence = "fine"
        try:
            attempt()
        except (ValueError, OSError) as error:
            sentence = str(error).strip()
    assert sentence
    assert "\n" not in sentence
    return time.perf_counter() - start


def outside(folder: Path, *, but: Path) -> set[str]:
    return {path.as_posix() for path in folder.rglob("*") if but not in (path, *path.parents)}


def told(what: str, seconds: list[float]) -> None:
    if COUNT >= 2000:
        print(f"{what}: {len(seconds)} mutations, slowest {max(seconds):.2f} s")


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_annotations(originals: Path, tmp_path: Path, name: str) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    shutil.copytree(originals / name, work)
    files = sorted(path for path in work.rglob("*") if path.suffix in TEXT_FILES and path.is_file())
    assert files
    chance, seconds = random.Random(name), list[float]()
    before = outside(tmp_path, but=out)
    target = writable(["coco"])
    for number in range(COUNT):
        path = files[number % len(files)]
        good = path.read_bytes()
        path.write_bytes(next(variants(good, chance)))

        def attempt() -> None:
            labels = open_any(work, images=work / "images")
            write_all(results_of(labels), target, folders_for(target, out, apart=False), labels.categories)

        seconds.append(tried(attempt))
        path.write_bytes(good)
        shutil.rmtree(out, ignore_errors=True)
    assert outside(tmp_path, but=out) == before
    told(name, seconds)


@pytest.mark.parametrize("killed", [False, True], ids=["report", "journal"])
def test_mutated_reports_and_journals(tmp_path: Path, killed: bool) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    for number in range(3):
        Image.new("RGB", (9, 7), (200, 200, 200)).save(root / f"{number}.png")
    run_job(Bright(), [root], out)
    path = out / "report.json"
    if killed:
        lines = [file.to_line() for file in open_report(path).files]
        head = json.dumps({"format": "incontext journal 1", "job": dict(open_report(path).job)}).encode()
        path.unlink()
        path = out / "report.partial.jsonl"
        path.write_bytes(b"\n".join([head, *lines]) + b"\n")
    good = path.read_bytes()
    chance, seconds = random.Random(7), list[float]()
    before = outside(tmp_path, but=out)
    for content, _ in zip(variants(good, chance), range(COUNT), strict=False):
        shutil.rmtree(out)
        out.mkdir()
        path.write_bytes(content)

        def attempt() -> None:
            if not killed:
                list(open_report(path).files)
                open_any(out)
            run_job(Bright(), [root], out)

        seconds.append(tried(attempt))
        assert outside(tmp_path, but=out) == before
    told("journal" if killed else "report", seconds)


# --------------------------------------------------------------------------------- sets that are right


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", range(6))
def test_random_sets_come_back_through_every_quirk(tmp_path: Path, name: str, seed: int) -> None:
    """Names, depths and objects at random; then what other tools do to such files, which changes nothing they mean."""
    rng = np.random.default_rng(seed)
    shown = {}
    for _ in range(rng.integers(1, 5)):
        mask = np.kron(rng.integers(0, 3, rng.integers(1, 6, 2)), np.ones(rng.integers(3, 7, 2))).astype(np.uint8)
        folder = str(rng.choice(["", "sub/", "Ünter/"]))
        shown[f"{folder}{rng.choice(['a b', 'é', 'Kuh_', 'x.y'])}{rng.integers(100)}.png"] = mask
    images, labels = tmp_path / "set" / "images", tmp_path / "set"
    write_images(images, shown)
    results = [Result(PurePosixPath(path), mask, things_of(mask), images / path) for path, mask in shown.items()]
    formats = writable([name])
    write_all(results, formats, folders_for(formats, labels, apart=False), CATEGORIES)
    for path in sorted(labels.rglob("*")):
        if path.is_file() and path.suffix in TEXT_FILES:
            path.write_bytes(quirk(path, rng))
    found = open_labels(labels, images=images)
    expected = {path: mask for path, mask in shown.items() if mask.any() or name not in _ONLY_OBJECTS}
    back = {each.name.as_posix(): each.mask() for each in found}
    assert {path for path in back if back[path].any()} == {path for path in expected if expected[path].any()}
    called = found.categories.names
    for path, mask in back.items():
        for i in np.unique(mask[mask > 0]).tolist():
            of = next(number for number, text in NAMES.items() if text == called[i])
            np.testing.assert_array_equal(mask == i, shown[path] == of)


_ONLY_OBJECTS = frozenset({"labelme", "label-studio"})


def quirk(path: Path, rng: np.random.Generator) -> bytes:
    """The same content as another tool writes it: a mark of order, other line ends, spaces, escapes."""
    text = path.read_text(encoding="utf-8")
    how = int(rng.integers(4))
    if path.suffix == ".json":
        document: Any = json.loads(text)
        text = json.dumps(document, ensure_ascii=bool(how % 2), indent=None if how < 2 else 1)
    elif path.suffix == ".txt":
        text = text.replace(" ", "\t") if how % 2 and path.stem not in {"classes", "labelmap"} else text
        text = text.replace("\n", "\r\n") if how > 1 else text
    encoding = "utf-8-sig" if how == 3 else "utf-8"
    return text.encode(encoding)
