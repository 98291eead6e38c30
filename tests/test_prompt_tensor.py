"""A prompt tensor as a value, as a file, and as a context beside prompts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from incontext import prompt_tensor as module
from incontext.canvas.context import COLORS_AT_ONCE, grouped, shown_palette, stitch
from incontext.canvas.paint import normalise
from incontext.engine import Segmenter, load
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.prompt_tensor import LearnedGroup, Origin, PromptTensor, is_prompt_tensor
from incontext.types import Palette, Prompt

CONFIG = ModelConfig(
    width=16, heads=2, depth=2, patch=4, side=16, decoder_width=4, merge_layer=0, taps=(0, 1), pretrain_side=16
)
SIDE = 16
ORIGIN = Origin("tiny", "0" * 64, "instance", ("a.jpg", "b.jpg"), ("c.jpg",), 0.25, 0.5, "2026-01-31", "0.1.0")


def network(seed: int = 0) -> SegGPT:
    torch.manual_seed(seed)
    model = SegGPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(network(), device="cpu", dtype="float32", name="tiny")


def group(
    ids: tuple[int, ...] = (1,), *, shots: int = 1, seed: int = 0, palette: Palette | None = None
) -> LearnedGroup:
    values = np.random.default_rng(seed).standard_normal((2, shots, 3, SIDE, SIDE)).astype(np.float32)
    return LearnedGroup(palette or Palette.spread(ids), values[0], values[1])


def key(*groups: LearnedGroup, origin: Origin = ORIGIN, names: dict[int, str] | None = None) -> PromptTensor:
    groups = groups or (group(),)
    return PromptTensor(groups, origin, Palette.spread(i for each in groups for i in each.ids), names or {})


def fitting(segmenter: Segmenter, *groups: LearnedGroup) -> PromptTensor:
    return key(*groups, origin=replace(ORIGIN, sha256=segmenter.sha256))


def prompt(ids: tuple[int, ...] = (1,), seed: int = 0) -> Prompt:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for number, i in enumerate(ids):
        mask[2:14, number * 2 : number * 2 + 2] = i
    return Prompt(image_file(seed), mask)


def image_file(seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


# --- the value


def test_what_it_says_of_itself() -> None:
    made = key(group((2, 5), shots=3), group((4,)), names={4: "rust"})
    assert (made.ids, made.side, made.shots) == ((2, 4, 5), SIDE, 3)
    described = made.describe()
    assert described["ids"] == "2, 4 rust, 5"
    assert described["groups"] == "2, 5 | 4"
    assert described["mean IoU"] == "0.250 before, 0.500 after tuning, on 1 held-out images"


def test_it_keeps_its_own_copy() -> None:
    values = np.zeros((1, 3, SIDE, SIDE), np.float32)
    made = LearnedGroup(Palette.spread([1]), values, values)
    values[:] = 7
    assert not made.images.any()
    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 1


def broken(**changes: Any) -> Callable[[], object]:
    images = np.zeros((1, 3, SIDE, SIDE), np.float32)
    whole: dict[str, Any] = {"palette": Palette.spread([1]), "images": images, "masks": images}
    return lambda: LearnedGroup(**{**whole, **changes})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (broken(images=np.zeros((1, 3, SIDE, SIDE))), r"expected images \(N, 3, side, side\) float32, got float64"),
        (broken(masks=np.zeros((0, 3, SIDE, SIDE), np.float32)), r"expected masks \(N, 3, side, side\) float32"),
        (broken(masks=np.zeros((1, 3, SIDE, 8), np.float32)), r"got float32 \(1, 3, 16, 8\)"),
        (broken(masks=np.zeros((2, 3, SIDE, SIDE), np.float32)), "expected images and masks alike"),
        (broken(images=np.full((1, 3, SIDE, SIDE), np.nan, np.float32)), "finite values within 1000"),
        (broken(images=np.full((1, 3, SIDE, SIDE), 1e9, np.float32)), "finite values within 1000"),
        (broken(palette=Palette.spread([])), "an id beside the background"),
        (lambda: PromptTensor((), ORIGIN, Palette.spread([1])), "at least one group"),
        (lambda: key(group((1, 2)), group((2, 3))), r"each id in one group only, got \[1, 2, 2, 3\]"),
        (lambda: PromptTensor((group((1, 2)),), ORIGIN, Palette.spread([1])), r"none for \[2\]"),
        (lambda: key(names={9: "rust"}), r"names, as text, of the ids \[1\]"),
        (lambda: replace(ORIGIN, sha256="ABC"), "64 hexadecimal digits, got 'ABC'"),
        (lambda: replace(ORIGIN, task="both"), 'expected task "semantic" or "instance"'),
        (lambda: replace(ORIGIN, after=1.5), "expected scores in 0..1, got 1.5"),
        (lambda: replace(ORIGIN, before=float("nan")), "expected scores in 0..1, got nan"),
        (lambda: replace(ORIGIN, images=(1,)), "names of weights, version and images as text"),
        (lambda: replace(ORIGIN, date="yesterday"), "yesterday"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


# --- the file


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    made = key(group((2, 5), shots=2), group((200,), seed=1), names={2: "rüst"})
    made.save(tmp_path / "key.safetensors")
    back = PromptTensor.load(tmp_path / "key.safetensors")
    assert (back.ids, back.origin, dict(back.names)) == (made.ids, made.origin, {2: "rüst"})
    for one, other in zip(made.groups, back.groups, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.masks, other.masks)
        np.testing.assert_array_equal(one.palette.table, other.palette.table)
    np.testing.assert_array_equal(back.palette.table, made.palette.table)
    assert [path.name for path in tmp_path.iterdir()] == ["key.safetensors"]


def test_equal_ones_make_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        key(group((1, 2)), names={1: "one", 2: "two"}).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        key().save(tmp_path / "nowhere" / "key.safetensors")
    assert list(tmp_path.iterdir()) == []


def rewritten(path: Path, change: Callable[[dict[str, Any]], None], tensors: dict[str, Any] | None = None) -> Path:
    """The file of a usual prompt tensor with its record, or its tensors, changed."""
    key(group((1, 2)), names={1: "one"}).save(path)
    with module.safe_open(path, framework="numpy") as file:
        record = json.loads(file.metadata()["incontext_prompt_tensor"])
    change(record)
    kept = load_file(path) if tensors is None else tensors
    save_file(kept, path, {"incontext_prompt_tensor": json.dumps(record)})
    return path


def put(*names: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for name in names[:-1]:
            record = record[name]
        record[names[-1]] = value

    return change


FINE = np.zeros((1, 3, SIDE, SIDE), np.float32)


@pytest.mark.parametrize(
    ("change", "tensors", "sentence"),
    [
        (
            put("format", value=3),
            None,
            "expected a prompt tensor of format 1 or 2, got '3'; it may come from another version",
        ),
        (lambda record: record.pop("origin"), None, "a prompt tensor with 'origin' in its metadata, got none"),
        (lambda record: record.pop("groups"), None, "'groups' in its metadata"),
        (put("groups", value=7), None, "cannot be used"),
        (put("groups", value=[]), None, "for each of 0 groups of ids, got others: group0.images, group0.masks"),
        (put("groups", value=[{"ids": [0, 1, 1], "colors": [[0, 0, 0]] * 3}]), None, "expected distinct ids"),
        (put("groups", value=[{"ids": [0, 900], "colors": [[0, 0, 0], [1, 1, 1]]}]), None, "distinct ids in 0..254"),
        (put("groups", value=[{"ids": [0, 1], "colors": [[0, 0, 0], [1, 1]]}]), None, "cannot be used"),
        (put("palette", value={"ids": [0, 1], "colors": [[0, 0, 0], [9, 9, 9]]}), None, r"none for \[2\]"),
        (put("names", value={"x": "one"}), None, "cannot be used"),
        (put("names", value={"1": 3}), None, "names, as text"),
        (put("names", value=["one"]), None, "cannot be used"),
        (put("origin", "sha256", value="zz"), None, "64 hexadecimal digits"),
        (put("origin", "sha256", value=12), None, "64 hexadecimal digits"),
        (put("origin", "after", value="much"), None, "cannot be used"),
        (put("origin", "surplus", value=1), None, "cannot be used"),
        (put("origin", "date", value=20260131.5), None, "cannot be used"),
        (put("side", value=32), None, r"expected group0.images \(N, 3, 32, 32\) in float32, got F32 \[1, 3, 16, 16\]"),
        (put("side", value="16"), None, "in float32, got F32"),
        (put("format", value=1), {"group0.images": FINE}, "group0.masks"),
        (put("format", value=1), {"group0.images": FINE, "group0.masks": FINE, "extra": FINE}, "got others: extra"),
        (put("format", value=1), {"group0.images": FINE, "group0.masks": FINE.astype(np.float64)}, "got F64"),
        (put("format", value=1), {"group0.images": FINE, "group0.masks": FINE[:, :2]}, r"got F32 \[1, 2, 16, 16\]"),
        (put("format", value=1), {"group0.images": FINE, "group0.masks": FINE * np.nan}, "expected masks of finite"),
        (put("format", value=1), {"group0.images": FINE + np.inf, "group0.masks": FINE}, "expected images of finite"),
    ],
)
def test_a_hostile_file_is_refused_in_a_sentence(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], tensors: dict[str, Any] | None, sentence: str
) -> None:
    path = rewritten(tmp_path / "key.safetensors", change, tensors)
    with pytest.raises(ValueError, match=sentence) as refused:
        PromptTensor.load(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_files_that_are_no_prompt_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="there is no prompt tensor at"):
        PromptTensor.load(tmp_path / "none")
    with pytest.raises(ValueError, match="got a folder"):
        PromptTensor.load(tmp_path)
    path = tmp_path / "key.safetensors"
    for content in (b"", b"hello", b"\xff" * 64, (1 << 62).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        assert not is_prompt_tensor(path)
        with pytest.raises(ValueError, match="got a damaged file"):
            PromptTensor.load(path)
    key().save(path)
    whole = path.read_bytes()
    assert is_prompt_tensor(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="got a damaged file"):
        PromptTensor.load(path)
    save_file({"weight": FINE}, path)
    assert not is_prompt_tensor(path)
    with pytest.raises(ValueError, match="got another safetensors file"):
        PromptTensor.load(path)
    for text, found in (("[" * 100_000, "JSON"), ("{", "JSON"), ("[1]", "JSON object, got list")):
        save_file({"weight": FINE}, path, {"incontext_prompt_tensor": text})
        with pytest.raises(ValueError, match=f"metadata as a? ?{found}"):
            PromptTensor.load(path)
    key().save(path)
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 0 MiB"):
        PromptTensor.load(path)


# --- as a context


def test_a_learned_prompt_answers_as_the_prompt_that_it_equals(segmenter: Segmenter) -> None:
    """The canvases of a real prompt, normalised, as a prompt tensor: the same answer as the prompt itself."""
    shown = prompt((1, 2))
    (part,) = stitch([shown], SIDE, "auto")
    canvases = (normalise(torch.from_numpy(each)).numpy() for each in (part.images, part.masks))
    made = fitting(segmenter, LearnedGroup(part.palette, *canvases))
    one, other = (segmenter.paint(image_file(), context) for context in (shown, made))
    np.testing.assert_allclose(one, other, atol=1e-3)
    found, expected = segmenter.segment(image_file(), [made]), segmenter.segment(image_file(), shown)
    np.testing.assert_array_equal(found.mask, expected.mask)


def test_several_compose_with_each_other_and_with_prompts(segmenter: Segmenter) -> None:
    one, other = fitting(segmenter, group((1,))), fitting(segmenter, group((1,), seed=1, shots=2))
    shown = prompt((1,))
    prepared = segmenter.prepare([shown, one, other])
    assert len(prepared.passes) == 1
    assert prepared.shots == 4
    answers = [segmenter.paint(image_file(), context) for context in (one, other, shown, [one, other, shown])]
    for alone in answers[:3]:
        assert np.abs(answers[3] - alone).max() > 1  # each has its say
    backwards = segmenter.paint(image_file(), [shown, other, one])
    np.testing.assert_allclose(backwards[1:], answers[3][1:], atol=0.5)  # row 0 sees the first shot


def test_prompts_are_painted_in_the_learned_colours() -> None:
    blue = Palette(np.array([0, 3]), np.array([(0, 0, 0), (0, 0, 255)]))
    learned, further = stitch([key(group(palette=blue)), prompt((3, 9))], SIDE, "auto")
    assert learned.palette.table[3].tolist() == [0, 0, 255]
    assert learned.shots == 2
    assert {tuple(color) for color in learned.masks.reshape(-1, 3).tolist()} == {(0, 0, 0), (0, 0, 255)}
    assert further.palette.ids.tolist() == [0, 9]  # what was not learned gets a further group
    assert (further.shots, further.learned) == (1, ())


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([group((1, 2)), group((1, 2), seed=1)], [[0, 1, 2]]),
        ([group((1,)), group((1, 2))], [[0, 1, 2]]),
        ([group((1,)), group((2,))], [[0, 1], [0, 2]]),  # both white: they would be one thing
        ([group((1, 2)), group((3,), palette=Palette(np.array([0, 3]), np.array([[0, 0, 0], [0, 0, 255]])))],
         [[0, 1, 2], [0, 3]]),  # nothing in common: each would only dilute the other
        ([group((1, 2)), group((1,), palette=Palette(np.array([0, 1]), np.array([[0, 0, 0], [0, 0, 255]])))],
         [[0, 1, 2], [0, 1]]),  # the same id in other colours
        ([group((1, 2, 3, 4)), group((1, 2, 3, 4, 5, 6, 7, 8))], [[0, 1, 2, 3, 4, 5, 6, 7, 8]]),
    ],
)  # fmt: skip
def test_groups_share_a_pass_where_they_agree(groups: list[LearnedGroup], expected: list[list[int]]) -> None:
    passes = stitch([key(each) for each in groups], SIDE, "auto")
    assert [part.palette.ids.tolist() for part in passes] == expected


def test_mosaics_stand_beside_learned_shots() -> None:
    prompts = [prompt((1,), seed=seed) for seed in range(5)]
    (part,) = stitch([key(group(shots=2)), *prompts], SIDE, "spatial")
    assert part.shots == 3
    assert part.images.shape == (1, SIDE, SIDE, 3)


def test_groups_are_combined_by_confidence(segmenter: Segmenter) -> None:
    """20 ids in three groups: what each group finds alone is what the whole finds where no other group is surer."""
    palettes = grouped(set(range(1, 21)))
    assert [len(palette.ids) - 1 for palette in palettes] == [7, 7, 6]
    assert all(len(palette.ids) - 1 <= COLORS_AT_ONCE for palette in palettes)
    groups = [group(seed=number, palette=palette) for number, palette in enumerate(palettes)]
    whole = segmenter.segment(image_file(), fitting(segmenter, *groups))
    alone = [segmenter.segment(image_file(), fitting(segmenter, each)) for each in groups]
    claims = np.stack([np.where(each.mask > 0, each.confidence, -1) for each in alone])
    surest = np.take_along_axis(np.stack([each.mask for each in alone]), claims.argmax(axis=0)[None], axis=0)[0]
    np.testing.assert_array_equal(whole.mask, surest)
    assert len(np.unique(whole.mask)) > 1


def test_the_first_of_a_context_decides_the_colours_that_people_see() -> None:
    red = Palette(np.array([0, 1]), np.array([(0, 0, 0), (255, 0, 0)]))
    made = PromptTensor((group(),), ORIGIN, red)
    assert shown_palette([made, prompt()]).table[1].tolist() == [255, 0, 0]
    assert shown_palette([prompt(), made]).table[1].tolist() == [255, 255, 255]
    assert shown_palette([made, prompt((7,))]).ids.tolist() == [0, 1, 7]


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        (
            [key(), Prompt.from_colors(image_file(), np.full((SIDE, SIDE, 3), 255, np.uint8))],
            "either masks or raw colours",
        ),
        ([key(names={1: "rust"}), key(names={1: "dent"})], "the same by id 1, got 'rust' and 'dent'"),
    ],
)
def test_contexts_that_contradict_themselves_are_refused(context: list[Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        stitch(context, SIDE, "auto")


def test_other_weights_tasks_and_sides_are_refused_with_both_names(segmenter: Segmenter) -> None:
    with pytest.raises(
        ValueError, match=rf"the weights 'tiny' \(SHA-256 000000000000...\), .* got 'tiny' \({segmenter.sha256[:12]}"
    ):
        segmenter.prepare(key())
    made = fitting(segmenter)
    with pytest.raises(ValueError, match=r"expected task 'instance', .* got 'semantic'"):
        segmenter.prepare(made, task="semantic")
    with pytest.raises(ValueError, match=r"expected side 16, .* got 32"):
        segmenter.prepare(made, side=32)


def test_weights_are_told_apart_by_their_file(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_model(tmp_path / f"{seed}.safetensors", network(seed))
    one, other = (load(tmp_path / f"{seed}.safetensors", device="cpu", dtype="float32") for seed in (0, 1))
    again = load(tmp_path / "0.safetensors", device="cpu", dtype="bfloat16")
    assert one.sha256 == again.sha256 != other.sha256
    one.prepare(fitting(again))
    with pytest.raises(ValueError, match="or tune it anew"):
        other.prepare(fitting(one))


def test_weights_without_a_file_are_told_apart_by_what_they_are() -> None:
    exact, rounded = (Segmenter(network(), device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    other = Segmenter(network(1), device="cpu", dtype="float32")
    assert exact.sha256 == rounded.sha256 != other.sha256
