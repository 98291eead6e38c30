"""Prompters and namers over stand-ins for networks, whose right answers are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

from incontext import Hints, load_namer
from incontext.prompters.detectors import GroundingDino, Owl
from incontext.prompters.located import Located
from incontext.prompters.parts import Clicks, FoundBox
from incontext.prompters.prompter import Prompter
from incontext.prompters.sam import Sam
from incontext.prompters.sam3 import Concepts
from incontext.prompters.words import ClipSeg, GroupVit
from incontext.tuning.namer import NamedMask, tune_namer

tf = pytest.importorskip("transformers", minversion="5", reason="needs the extra prompters")

IMAGE = np.zeros((60, 120, 3), np.uint8)
CPU = torch.device("cpu")


class Answers:
    """A network that answers with what it is given, and keeps what it was asked."""

    def __init__(self, **answer: Any) -> None:
        self.answer, self.asked = SimpleNamespace(**answer), [{}]

    def __call__(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return self.answer

    def get_vision_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels


def boxed(reader: Any, *, clicker: Any = None, min_score: float = 0.5) -> Prompter:
    return Prompter("rigged", reader=reader, clicker=clicker, sha256="0", min_score=min_score, device="cpu")


class FillsBoxes:
    """Answers a box with all of it, a click with the 10 x 10 pixels around it."""

    def masks(self, image: np.ndarray, objects: Sequence[Clicks]) -> Iterator[tuple[np.ndarray, float]]:
        for each in objects:
            margins = np.full(image.shape[:2], -5.0, np.float32)
            box = each.box
            if box is None:
                x, y = each.points[0]
                box = (x - 5, y - 5, x + 5, y + 5)
            left, top, right, bottom = (round(float(edge)) for edge in box)
            margins[top:bottom, left:right] = 5.0
            yield margins, 0.9


def test_grounding_dino_s_boxes_belong_to_the_phrases_whose_tokens_they_fit() -> None:
    tokenizer = tiny_models.bert_tokenizer()
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("red car. rainbow.")["input_ids"])
    assert pieces == ["[CLS]", "red", "car", ".", "rainbow", ".", "[SEP]"]
    logits = torch.full((1, 4, 256), -9.0)
    logits[0, 0, 4] = 4.0  # a rainbow
    logits[0, 1, 1:3] = 3.0  # a red car, both words
    logits[0, 2, 2] = 9.0  # one word of two is not enough
    logits[0, 3, 5] = 9.0  # a full stop is no phrase
    boxes = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.4, 0.5], [0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1]]])
    processor = tf.GroundingDinoProcessor(tf.GroundingDinoImageProcessor(), tokenizer)
    detector = GroundingDino(Answers(logits=logits, pred_boxes=boxes), processor, CPU, most_tokens=256)
    found = detector.boxes(IMAGE, ["Red  car.", "rainbow"], least=0.6)
    assert [each.phrase for each in found] == [1, 0]
    assert found[0].box == pytest.approx((0, 0, 60, 60))
    assert found[1].box == pytest.approx((66, 15, 114, 45), abs=1e-3)
    marked = boxed(Located(detector, FillsBoxes()), min_score=0.6).segment(IMAGE, text=["red car", "rainbow"])
    assert (marked.mask[30, 30], marked.mask[30, 90], marked.mask[2, 90]) == (2, 1, 0)


def test_owl_s_boxes_leave_the_padding() -> None:
    processor = tf.Owlv2Processor(
        tf.Owlv2ImageProcessor(size={"height": 64, "width": 64}), tiny_models.clip_tokenizer(16)
    )
    boxes = torch.tensor(
        [[[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], [0.9, 0.4, 0.4, 0.4]]]
    )  # of a 120 x 120 square
    logits = torch.tensor([[[4.0, -4.0], [4.0, -4.0], [-4.0, 3.0]]])
    detector = Owl(Answers(logits=logits, pred_boxes=boxes), processor, CPU, most_tokens=16)
    found = detector.boxes(IMAGE, ["cat", "dog"], least=0.5)
    assert [each.phrase for each in found] == [0, 1]  # the second lies in the padding below the image
    assert found[0].box == pytest.approx((0, 0, 60, 60))
    assert found[1].box == pytest.approx((84, 24, 120, 60), abs=1e-3)


def test_the_surest_box_is_what_a_phrase_refers_to() -> None:
    class Two:
        def check(self, phrases: Sequence[str]) -> None:
            assert phrases == ["the cat"]

        def boxes(self, *_: object, **__: object) -> list[FoundBox]:
            return [FoundBox((70, 10, 90, 30), 0.9, 0), FoundBox((0, 0, 20, 20), 0.6, 0)]

    prompter = boxed(Located(Two(), FillsBoxes()))
    found = prompter.refer(IMAGE, "the  cat")
    assert found.mask[20, 80] == 1
    assert int((found.mask > 0).sum()) == 400
    assert found.presence == {1: pytest.approx(0.9)}
    both = prompter.segment(IMAGE, text="the cat")
    assert int((both.mask > 0).sum()) == 800


def test_three_hundred_finds_are_one_mask() -> None:
    class Many:
        def check(self, phrases: Sequence[str]) -> None: ...

        def boxes(self, *_: object, **__: object) -> list[FoundBox]:
            return [FoundBox((x, y, x + 2, y + 2), 0.9, 0) for x in range(0, 120, 4) for y in range(0, 40, 4)]

    found = boxed(Located(Many(), FillsBoxes())).segment(IMAGE, text="dot")
    assert int((found.mask == 1).sum()) == 300 * 4


class SamLike:
    """Answers a click with the quarter of the padded square that it lies in."""

    def __init__(self) -> None:
        self.seen = 0
        self.asked: list[dict[str, Any]] = []

    def get_image_embeddings(self, _: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return torch.zeros(1, 8, 8, 8)

    def __call__(self, **asked: Any) -> Any:
        self.asked.append(asked)
        count = asked["image_embeddings"].shape[0]
        masks = torch.full((count, 1, 1, 32, 32), -8.0)
        for row in range(count):
            x, y = asked["input_points"][row, 0, 0].tolist()
            left, top = 16 * (x >= 32), 16 * (y >= 32)
            masks[row, 0, 0, top : top + 16, left : left + 16] = 8.0
        return SimpleNamespace(pred_masks=masks, iou_scores=torch.full((count, 1, 1), 0.8))


def test_sam_s_masks_are_in_the_user_s_pixels_and_an_image_is_seen_once() -> None:
    size = {"height": 64, "width": 64}
    processor = tf.SamProcessor(tf.SamImageProcessor(size={"longest_edge": 64}, pad_size=size))
    network = SamLike()
    prompter = boxed(None, clicker=Sam(network, processor, CPU))
    found = prompter.segment(IMAGE, hints=Hints(points=[(90, 10, 4)]))
    # 120 x 60 pixels are 64 x 32 of the square: its upper right quarter is the right half of the image.
    assert set(np.unique(found.mask[:, :58])) == {0}
    assert set(np.unique(found.mask[:, 62:])) == {4}
    x, y = network.asked[0]["input_points"][0, 0, 0].tolist()
    assert (x + 0.5, y + 0.5) == pytest.approx((90 * 64 / 120, 10 * 64 / 120))
    prompter.segment(IMAGE, hints=Hints(points=[(10, 10, 1), (90, 10, 0)]))
    assert network.seen == 1
    assert network.asked[-1]["input_masks"] is not None  # the first answer goes in again
    assert network.asked[-2]["input_masks"] is None


def test_an_image_that_was_held_sideways_is_marked_as_people_see_it(tmp_path: Path) -> None:
    file = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    Image.new("RGB", (60, 120)).save(file, exif=exif)
    processor = tf.Sam2Processor(tf.Sam2ImageProcessor(size={"height": 64, "width": 64}))
    found = boxed(None, clicker=Sam(SamLike(), processor, CPU)).segment(file, hints=Hints(points=[(100, 50, 1)]))
    assert found.mask.shape == (60, 120)
    assert (found.mask[45, 90], found.mask[15, 90], found.mask[45, 30]) == (1, 0, 0)


def half(*, left: float, right: float, side: int = 8) -> torch.Tensor:
    maps = torch.full((side, side), left)
    maps[:, side // 2 :] = right
    return maps


def test_clipseg_s_words_become_ids_and_background() -> None:
    logits = torch.stack([half(left=5.0, right=-5.0), half(left=-5.0, right=1.0)])
    processor = SimpleNamespace(
        tokenizer=tiny_models.clip_tokenizer(77), image_processor=tf.ViTImageProcessor(size={"height": 64, "width": 64})
    )
    reader = ClipSeg(Answers(logits=logits), processor, CPU, side=64, most_tokens=77)
    found = boxed(reader).segment(IMAGE, text=["cat", "dog"])
    assert (found.mask[30, 20], found.mask[30, 100]) == (1, 2)
    reader = ClipSeg(Answers(logits=logits[0]), processor, CPU, side=64, most_tokens=77)  # of one text, two axes
    found = boxed(reader).segment(IMAGE, text="cat")
    assert (found.mask[30, 20], found.mask[30, 100]) == (1, 0)


def test_groupvit_s_pixels_go_to_words_that_nobody_asked_for_too() -> None:
    images = tf.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    processor = SimpleNamespace(tokenizer=tiny_models.clip_tokenizer(77), image_processor=images)
    network = Answers()
    reader = GroupVit(network, processor, CPU, side=64, most_tokens=77)

    def answer(**asked: Any) -> Any:
        maps = torch.zeros(1, len(asked["input_ids"]), 8, 8)
        maps[0, 0], maps[0, 1], maps[0, 2] = half(left=9.0, right=0.0), 0.0, half(left=0.0, right=9.0)
        return SimpleNamespace(segmentation_logits=maps)

    reader._network = answer
    found = boxed(reader).segment(IMAGE, text=["cat", "dog"])
    assert (found.mask[30, 20], found.mask[30, 100]) == (1, 0)
    assert found.presence[2] == 0.0


def test_sam_3_finds_every_instance_and_takes_boxes_as_examples() -> None:
    masks = torch.stack([half(left=6.0, right=-6.0), half(left=-6.0, right=6.0), torch.full((8, 8), 9.0)])[None]
    logits = torch.tensor([[4.0, 3.0, -4.0]])
    network = Answers(pred_masks=masks, pred_logits=logits, presence_logits=torch.tensor([[5.0]]))
    images = tf.Sam3ImageProcessor(size={"height": 112, "width": 112})
    processor = tf.Sam3Processor(images, tiny_models.clip_tokenizer(32))
    reader = Concepts(network, processor, CPU, most_tokens=32)
    prompter = Prompter(
        "rigged", reader=reader, clicker=None, sha256="0", min_score=0.5, device="cpu", takes_examples=True
    )
    assert (prompter.segment(IMAGE, text="cat").mask == 1).all()
    assert (prompter.refer(IMAGE, "cat").mask[:, :58] == 1).all()
    assert not prompter.refer(IMAGE, "cat").mask[:, 62:].any()
    prompter.segment(IMAGE, text="cat", hints=Hints(boxes=[(12, 6, 60, 30, 1), (60, 0, 120, 60, 0)]))
    asked = network.asked[-1]
    assert asked["input_boxes"][0].tolist() == [pytest.approx([0.3, 0.3, 0.4, 0.4]), pytest.approx([0.75, 0.5, 0.5, 1])]
    assert asked["input_boxes_labels"].tolist() == [[1, 0]]
    network.answer.presence_logits = torch.tensor([[-9.0]])
    assert prompter.segment(IMAGE, text="cat").is_empty


# ------------------------------------------------------------------------------------------------------------- namers


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_model(tmp_path_factory.mktemp("models") / "clip", "clip")


def crosses() -> Iterator[NamedMask]:
    """Crosses in red and in blue, which leave the corners of their boxes empty."""
    for number in range(8):
        image = np.full((64, 64, 3), 90 + number, np.uint8)
        inside = np.zeros((64, 64), np.bool_)
        inside[26:38, 4:60] = inside[4:60, 26:38] = True
        image[inside] = (220, 20, 20) if number % 2 else (20, 20, 220)
        yield NamedMask(image, inside, "cat" if number % 2 else "dog")


@pytest.mark.slow
def test_mask_tokens_learn_and_no_weight_changes_by_a_bit(clip: Path, tmp_path: Path) -> None:
    with load_namer(clip, device="cpu") as namer:
        before = {name: value.clone() for name, value in namer._network.state_dict().items()}
        learned = tune_namer(namer, crosses(), steps=20, lr=0.1)
        after = namer._network.state_dict()
        plain = namer.name(next(crosses()).image, [next(crosses()).inside], ["cat", "dog"], at_least=0.0)
        digest = namer.sha256
    assert learned.origin.after < learned.origin.before
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    file = tmp_path / "tokens.safetensors"
    learned.save(file)
    with load_namer(clip, device="cpu", tokens=file) as namer:
        assert namer.sha256 == digest
        tuned = namer.name(next(crosses()).image, [next(crosses()).inside], ["cat", "dog"], at_least=0.0)
    assert tuned != plain
    other = tiny_models.save_model(tmp_path / "siglip", "siglip")
    with pytest.raises(ValueError, match=r"learned for|expected"):
        load_namer(other, device="cpu", tokens=file)


def test_a_namer_says_the_name_that_fits_and_none_of_these(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rigged(fits: list[float]) -> Callable[..., torch.Tensor]:
        return lambda crops, names: torch.tensor([[*fits, *[0.0] * (len(names) - len(fits))]] * len(crops))

    ids = np.zeros((60, 120), np.uint8)
    ids[5:20, 5:20] = 3
    with load_namer(clip, device="cpu") as namer:
        monkeypatch.setattr(namer, "logits", rigged([1.0, 6.0]))
        assert namer.name(IMAGE, ids, ["cat", "dog"])[0][0] == "dog"
        monkeypatch.setattr(namer, "logits", rigged([-3.0, -3.0]))
        assert namer.name(IMAGE, ids, ["cat", "dog"], at_least=0.0)[0][0] is None
        with pytest.raises(ValueError, match="masks of the image's size"):
            namer.name(IMAGE, [np.zeros((0, 0), np.bool_)], ["cat"])
