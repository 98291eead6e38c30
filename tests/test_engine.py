"""From pictures and a context to masks: sizes, ids, batches, devices, and the published code's answers from files."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from incontext.checkpoint import CheckpointError, save_model
from incontext.engine import Segmenter, choose_device, load
from incontext.formats import read_image
from incontext.model import ModelConfig, SegGPT
from incontext.types import Prompt

CONFIG = ModelConfig(
    width=16, heads=2, depth=2, patch=4, side=16, decoder_width=4, merge_layer=0, taps=(0, 1), pretrain_side=16
)


class Copier(SegGPT):
    """Stands in for a trained network: every query's mask is the first prompt's."""

    def forward(
        self, prompt_images: Tensor, prompt_masks: Tensor, queries: Tensor, *, task: str = "instance"
    ) -> Tensor:
        assert task == "instance"
        assert prompt_images.shape[0] == prompt_masks.shape[0] == queries.shape[0]
        return prompt_masks[:, 0]


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(Copier(CONFIG), device="cpu")


@pytest.fixture
def random_segmenter() -> Segmenter:
    model = SegGPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return Segmenter(model, device="cpu")


def picture(height: int = 24, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prompt(ids: tuple[int, ...] = (1,), size: int = 32) -> Prompt:
    mask = np.zeros((size, size), np.uint8)
    for number, i in enumerate(ids):
        mask[4:-4, 4 + number * 6 : 8 + number * 6] = i
    return Prompt(picture(size, size), mask)


@pytest.mark.parametrize("ids", [(1,), (7,), (2, 9), (1, 5, 200, 254)])
def test_the_prompts_ids_come_back_at_the_querys_own_size(segmenter: Segmenter, ids: tuple[int, ...]) -> None:
    found = segmenter.segment(picture(50, 70), prompt(ids))
    assert found.shape == (50, 70)
    assert found.ids == ids
    assert not found.is_empty
    expected = np.asarray(Image.fromarray(prompt(ids).mask).resize((70, 50), Image.Resampling.NEAREST))
    assert (found.mask == expected).mean() > 0.85  # all but the borders
    assert found.confidence.dtype == np.float32


def test_at_the_models_side_the_mask_is_read_exactly(segmenter: Segmenter) -> None:
    shown = prompt((3, 4), size=16)
    found = segmenter.segment(picture(16, 16), shown)
    np.testing.assert_array_equal(found.mask, shown.mask)
    assert (found.confidence == 1).all()


def test_nothing_found_is_empty() -> None:
    class Black(Copier):
        def forward(self, *inputs: Tensor, task: str = "instance") -> Tensor:
            assert task == "instance"
            return torch.full_like(inputs[2], -5.0)

    found = Segmenter(Black(CONFIG), device="cpu").segment(picture(), prompt())
    assert found.is_empty
    assert found.ids == ()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, None])
def test_many_queries_keep_their_order_and_do_not_depend_on_the_batch(
    random_segmenter: Segmenter, batch_size: int | None
) -> None:
    queries = [picture(20 + i, 30, seed=i) for i in range(5)]
    alone = [random_segmenter.segment(query, prompt((1, 2))) for query in queries]
    together = list(random_segmenter.segment_many(queries, prompt((1, 2)), batch_size=batch_size))
    assert len(together) == 5
    for one, other in zip(alone, together, strict=True):
        assert one.shape == other.shape
        assert (one.mask == other.mask).mean() > 0.99
        np.testing.assert_allclose(one.confidence, other.confidence, atol=2e-3)


def test_queries_are_read_lazily(segmenter: Segmenter) -> None:
    read = []

    def queries() -> Iterator[np.ndarray]:
        for i in range(10):
            read.append(i)
            yield picture(seed=i)

    results = segmenter.segment_many(queries(), prompt(), batch_size=2)
    assert read == []
    next(results)
    assert read == [0, 1]


def test_several_prompts_are_one_context_and_their_order_hardly_matters(random_segmenter: Segmenter) -> None:
    one, other = prompt((1,)), Prompt(picture(seed=5), np.pad(np.ones((6, 6), np.uint8), ((9, 9), (17, 17))))
    both, swapped, single = (
        random_segmenter.paint(picture(seed=9), context) for context in ([one, other], [other, one], one)
    )
    np.testing.assert_allclose(both[1:], swapped[1:], atol=0.5)  # row 0 sees the first prompt through the decoder
    assert np.abs(both - single).max() > 1


def test_queries_may_be_paths_pictures_and_arrays(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "query.png")
    for query in (tmp_path / "query.png", str(tmp_path / "query.png"), Image.open(tmp_path / "query.png"), picture()):
        assert segmenter.segment(query, prompt()).shape == (24, 40)


def test_side_and_task_change_the_answer(random_segmenter: Segmenter) -> None:
    base = random_segmenter.paint(picture(), prompt())
    assert base.shape == (16, 16, 3)
    assert base.min() >= 0
    assert base.max() <= 255
    assert random_segmenter.paint(picture(), prompt(), side=24).shape == (24, 24, 3)
    assert np.abs(random_segmenter.paint(picture(), prompt(), task="semantic") - base).max() > 0.1


def test_dtypes_run_and_are_described(random_segmenter: Segmenter) -> None:
    model = SegGPT(CONFIG)
    half = Segmenter(model, device="cpu", dtype="bfloat16", name="mine")
    assert half.segment(picture(), prompt()).shape == (24, 40)
    described = half.describe()
    assert described["weights"] == "mine"
    assert described["dtype"] == "bfloat16"
    assert described["device"] == "cpu"
    assert described["attention"] == "bias_mask"
    assert described["parameters"] == sum(p.numel() for p in model.parameters())
    assert random_segmenter.describe()["dtype"] == "float32"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.segment(picture(), []), "sequence of Prompts as the context, got nothing"),
        (lambda s: s.segment(picture(), [picture()]), "got ndarray"),
        (lambda s: s.segment(picture(), prompt(), side=18), "positive multiple of the patch, 4, got 18"),
        (lambda s: s.segment(picture(), prompt(), side=0), "positive multiple"),
        (lambda s: s.segment_many([], prompt(), batch_size=0), "at least 1, got 0"),
        (lambda _: Segmenter(SegGPT(CONFIG), dtype="int8"), "dtype among auto, float32"),
        (lambda _: Segmenter(SegGPT(CONFIG), device="quantum"), "expected a device such as"),
        (lambda s: s.segment(picture().astype(np.float32), prompt()), "uint8"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(segmenter: Segmenter, call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(segmenter)  # type: ignore[operator]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_cuda_device_fails_loudly() -> None:
    with pytest.raises(ValueError, match="sees 0 CUDA devices"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_raw_colours_and_masks_do_not_mix(segmenter: Segmenter) -> None:
    colors = np.zeros((32, 32, 3), np.uint8)
    colors[8:20, 8:20] = (10, 200, 30)
    raw = Prompt.from_colors(picture(32, 32), colors)
    assert segmenter.segment(picture(), raw).ids == (1,)
    with pytest.raises(ValueError, match="either masks or raw colours"):
        segmenter.segment(picture(), [raw, prompt()])


def test_load_takes_a_path_and_names_what_is_wrong(tmp_path: Path) -> None:
    save_model(tmp_path / "tiny.safetensors", SegGPT(CONFIG))
    assert load(tmp_path / "tiny.safetensors", device="cpu").config == CONFIG
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(CheckpointError):
        load(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match="expected a path or one of"):
        load("no-such-weights")


@pytest.mark.parametrize("case", ["one_shot", "two_shot"])
def test_from_files_to_the_published_codes_answer(golden: Path, shared: Path, case: str) -> None:
    folder = golden / "end_to_end"
    meta = next(c for c in json.loads((folder / "meta.json").read_text())["cases"] if c["name"] == case)
    examples = shared / "data" / "examples" / "seggpt"
    context = [
        Prompt.from_colors(examples / image, examples / mask)
        for image, mask in zip(meta["prompt_images"], meta["prompt_targets"], strict=True)
    ]
    engine = load(folder / "weights_fp16.safetensors", device="cpu")
    got = engine.paint(examples / meta["query"], context, task=meta["segmentation_type"])
    expected = load_file(folder / "cases.safetensors")[f"{case}/output_0_255"].numpy()
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 1e-5

    # The published overlay: the answer enlarged by nearest, laid over the query.
    query = read_image(examples / meta["query"])
    height, width = query.shape[:2]
    rows, columns = (np.arange(n) * 448 // n for n in (height, width))
    blend = query * (0.6 * got[rows][:, columns] / 255 + 0.4)
    published = read_image(folder / f"{case}_blend.png")
    assert np.abs(blend.astype(np.uint8).astype(int) - published).mean() < 0.5
