"""From images and a context to masks: sizes, ids, batches, devices, and the published code's answers from files."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from incontext import engine as module
from incontext.canvas.read import Paint
from incontext.engine import PreparedContext, Segmenter, load
from incontext.images.read import read_image
from incontext.network import memory
from incontext.network.attention import has_matrix_unit
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.devices import choose_device, choose_dtype, keep_freed_memory
from incontext.network.layouts import CheckpointError
from incontext.network.model import ContextTokens, PromptTokens, Seen, SegGPT
from incontext.options import BatchSize, Task
from incontext.types import Prompt

CONFIG = ModelConfig(
    width=16, heads=2, depth=2, patch=4, side=16, decoder_width=4, merge_layer=0, taps=(0, 1), pretrain_side=16
)


class Copier(SegGPT):
    """Stands in for a trained network: every query's mask is the first prompt's."""

    def prepare(self, prompt_images: Tensor, prompt_masks: Tensor, **_: object) -> ContextTokens:  # type: ignore[override]
        assert prompt_images.shape == prompt_masks.shape
        one = torch.ones(1)
        return ContextTokens(prompt_images, prompt_masks, prompt_masks, self.type_token_ins, self.tables(4), one)

    def see(self, queries: Tensor, context: ContextTokens, *, chunk: int | None = None) -> Seen:
        assert chunk is None
        return Seen(context.masks[:, 0].expand(len(queries), -1, -1, -1), tokens=queries)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(Copier(CONFIG), device="cpu", dtype="float32")


@pytest.fixture
def random_segmenter() -> Segmenter:
    model = SegGPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return Segmenter(model, device="cpu", dtype="float32")


def image_file(height: int = 24, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prompt(ids: tuple[int, ...] = (1,), size: int = 32) -> Prompt:
    mask = np.zeros((size, size), np.uint8)
    for number, i in enumerate(ids):
        mask[4:-4, 4 + number * 6 : 8 + number * 6] = i
    return Prompt(image_file(size, size), mask)


@pytest.mark.parametrize("ids", [(1,), (7,), (2, 9), (1, 5, 200, 254)])
def test_the_prompts_ids_come_back_at_the_querys_own_size(segmenter: Segmenter, ids: tuple[int, ...]) -> None:
    found = segmenter.segment(image_file(50, 70), prompt(ids))
    assert found.shape == (50, 70)
    assert found.ids == ids
    assert not found.is_empty
    expected = np.asarray(Image.fromarray(prompt(ids).mask).resize((70, 50), Image.Resampling.NEAREST))
    assert (found.mask == expected).mean() > 0.85  # all but the borders
    assert found.confidence.dtype == np.float32


def test_at_the_models_side_the_mask_is_read_exactly(segmenter: Segmenter) -> None:
    shown = prompt((3, 4), size=16)
    found = segmenter.segment(image_file(16, 16), shown)
    np.testing.assert_array_equal(found.mask, shown.mask)
    assert (found.confidence == 1).all()


def test_nothing_found_is_empty() -> None:
    class Black(Copier):
        def see(self, queries: Tensor, *_: object, **__: object) -> Seen:
            return Seen(torch.full_like(queries, -5.0), tokens=queries)

    found = Segmenter(Black(CONFIG), device="cpu").segment(image_file(), prompt())
    assert found.is_empty
    assert found.ids == ()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, "auto"])
def test_many_queries_keep_their_order_and_do_not_depend_on_the_batch(
    random_segmenter: Segmenter, batch_size: BatchSize
) -> None:
    queries = [image_file(20 + i, 30, seed=i) for i in range(5)]
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
            yield image_file(seed=i)

    results = segmenter.segment_many(queries(), prompt(), batch_size=2)
    assert read == []
    next(results)
    assert read == [0, 1]


def test_several_prompts_are_one_context_and_their_order_hardly_matters(random_segmenter: Segmenter) -> None:
    one, other = prompt((1,)), Prompt(image_file(seed=5), np.pad(np.ones((6, 6), np.uint8), ((9, 9), (17, 17))))
    both, swapped, single = (
        random_segmenter.paint(image_file(seed=9), context) for context in ([one, other], [other, one], one)
    )
    np.testing.assert_allclose(both[1:], swapped[1:], atol=0.5)  # row 0 sees the first prompt through the decoder
    assert np.abs(both - single).max() > 1


def test_queries_may_be_paths_images_and_arrays(segmenter: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "query.png"
    Image.fromarray(image_file()).save(path)
    for query in (path, str(path), Image.open(path), image_file()):
        assert segmenter.segment(query, prompt()).shape == (24, 40)


def test_side_and_task_change_the_answer(random_segmenter: Segmenter) -> None:
    base = random_segmenter.paint(image_file(), prompt())
    assert base.shape == (16, 16, 3)
    assert base.min() >= 0
    assert base.max() <= 255
    assert random_segmenter.paint(image_file(), prompt(), side=24).shape == (24, 24, 3)
    assert np.abs(random_segmenter.paint(image_file(), prompt(), task="semantic") - base).max() > 0.1


def test_dtypes_run_and_are_described(random_segmenter: Segmenter) -> None:
    model = SegGPT(CONFIG)
    half = Segmenter(model, device="cpu", dtype="bfloat16", name="mine")
    assert half.segment(image_file(), prompt()).shape == (24, 40)
    described = half.describe()
    assert described["weights"] == "mine"
    assert described["dtype"] == "bfloat16"
    assert described["device"] == "cpu"
    assert described["attention"] == ("folded" if has_matrix_unit() else "pieces")
    assert random_segmenter.describe()["attention"] == "bias_mask"
    assert described["parameters"] == sum(p.numel() for p in model.parameters())
    assert random_segmenter.describe()["dtype"] == "float32"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.segment(image_file(), []), "sequence of these as the context, got none"),
        (lambda s: s.segment(image_file(), [image_file()]), "got ndarray"),
        (lambda s: s.segment(image_file(), prompt(), side=18), "positive multiple of the patch, 4, got 18"),
        (lambda s: s.segment(image_file(), prompt(), side=0), "positive multiple"),
        (lambda s: s.segment_many([], prompt(), batch_size=0), '"auto" or at least 1, got 0'),
        (lambda _: Segmenter(SegGPT(CONFIG), dtype="int8"), "dtype among auto, float32"),
        (lambda _: Segmenter(SegGPT(CONFIG), device="quantum"), "expected a device such as"),
        (lambda s: s.segment(image_file().astype(np.float32), prompt()), "uint8"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(segmenter: Segmenter, call: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(segmenter)  # type: ignore[operator]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_cuda_device_fails_loudly() -> None:
    with pytest.raises(ValueError, match="sees 0 CUDA devices"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize(("library", "calls"), [("glibc", [(-3, 1 << 30), (-1, (1 << 31) - 1)]), ("", [])])
def test_freed_memory_is_kept_where_the_c_library_can(
    library: str, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether page faults become fewer, chance decides too: where in the heap the last block lies."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("platform.libc_ver", lambda: (library, "2.39"))
    monkeypatch.setattr(
        "ctypes.CDLL", lambda _: SimpleNamespace(mallopt=lambda name, value: told.append((name, value)))
    )
    keep_freed_memory()
    assert told == calls


def test_raw_colours_and_masks_do_not_mix(segmenter: Segmenter) -> None:
    colors = np.zeros((32, 32, 3), np.uint8)
    colors[8:20, 8:20] = (10, 200, 30)
    raw = Prompt.from_colors(image_file(32, 32), colors)
    assert segmenter.segment(image_file(), raw).ids == (1,)
    with pytest.raises(ValueError, match="either masks or raw colours"):
        segmenter.segment(image_file(), [raw, prompt()])


def test_load_takes_a_path_and_names_what_is_wrong(tmp_path: Path) -> None:
    save_model(tmp_path / "tiny.safetensors", SegGPT(CONFIG))
    assert load(tmp_path / "tiny.safetensors", device="cpu").config == CONFIG
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(CheckpointError):
        load(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match="expected a path or one of"):
        load("no-such-weights")


# --- contexts


def test_what_was_embedded_before_serves_other_contexts(
    random_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, whatever was known; for another task a prompt is another one."""
    one, two, three, query = prompt((1,)), prompt((1, 2)), prompt((2,)), image_file(seed=9)
    embedded: list[int] = []
    embed = SegGPT.embed
    monkeypatch.setattr(SegGPT, "embed", lambda self, *given, **kw: embedded.append(1) or embed(self, *given, **kw))

    def prepare(context: list[Prompt], known: Mapping[bytes, PromptTokens], task: Task = "instance") -> PreparedContext:
        embedded.clear()
        return random_segmenter.prepare(context, known=known, task=task)

    fresh = prepare([one, two, three, one], {})
    assert len(embedded) == len(fresh.tokens) == 3
    expected = random_segmenter.paint(query, fresh)
    np.testing.assert_allclose(expected, random_segmenter.paint(query, [one, two, three, one]), atol=1e-3)
    before = prepare([three, two], {})
    again = prepare([one, two, three, one], before.tokens)
    assert len(embedded) == 1
    np.testing.assert_array_equal(random_segmenter.paint(query, again), expected)
    assert set(again.tokens) == set(fresh.tokens)  # and none that this context does not show
    prepare([three, two], fresh.tokens, task="semantic")
    assert len(embedded) == 2
    assert random_segmenter.prepare([one, two]).tokens == {}


def test_a_prepared_context_answers_as_the_context_does_and_is_computed_once(
    random_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, queries = [prompt((1,)), prompt((2, 3))], [image_file(seed=i) for i in range(3)]
    expected = [random_segmenter.paint(query, context, task="semantic") for query in queries]
    prepared = random_segmenter.prepare(context, task="semantic")
    monkeypatch.setattr(random_segmenter._placed, "prepare", None)  # from here on nothing is prepared
    for query, painted in zip(queries, expected, strict=True):
        np.testing.assert_allclose(random_segmenter.paint(query, prepared), painted, atol=1e-3)
        np.testing.assert_allclose(random_segmenter.paint(query, prepared, task="semantic"), painted, atol=1e-3)
    assert len(list(random_segmenter.segment_many(queries, prepared, batch_size=2))) == 3
    assert prepared.shots == 2
    for option, message in (
        ({"task": "instance"}, "task='semantic', for which the context was prepared, got 'instance'"),
        ({"side": 24}, "side=16"),
        ({"ensemble": "spatial"}, "ensemble='auto'"),
    ):
        with pytest.raises(ValueError, match=message):
            random_segmenter.segment(queries[0], prepared, **option)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got another's"):
        Segmenter(SegGPT(CONFIG), device="cpu").segment(queries[0], prepared)


def test_ids_beyond_the_colours_go_through_in_groups(segmenter: Segmenter) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :20] = np.repeat(np.arange(1, 21), 1)[None]  # 20 ids, a column each
    shown = Prompt(image_file(32, 32), mask)
    prepared = segmenter.prepare(shown, side=32)
    assert [len(palette.ids) - 1 for palette, *_ in prepared.passes] == [7, 7, 6]
    found = segmenter.segment(image_file(32, 32), prepared)
    np.testing.assert_array_equal(found.mask, mask)
    with pytest.raises(ValueError, match="give fewer ids to paint"):
        segmenter.paint(image_file(32, 32), prepared)


def test_prompts_may_show_different_ids(random_segmenter: Segmenter) -> None:
    one, two = prompt((1,)), prompt((2, 3))
    ((palette, context, _),) = random_segmenter.prepare([one, two]).passes
    assert palette.ids.tolist() == [0, 1, 2, 3]
    assert context.images.shape[1] == 2
    many = [prompt((i,)) for i in range(1, 11)]
    passes = random_segmenter.prepare(many).passes
    assert [context.images.shape[1] for _, context, _ in passes] == [5, 5]  # each only through the pass of its id


def test_a_prompt_counts_by_its_weight(random_segmenter: Segmenter) -> None:
    one, two = prompt((1,)), prompt((1,), size=20)
    alike, heavy, repeated = (
        random_segmenter.paint(image_file(), context)
        for context in ([one, two], [one, replace(two, weight=3.0)], [one, two, two, two])
    )
    np.testing.assert_allclose(heavy, repeated, atol=0.05)
    assert np.abs(heavy - alike).max() > 1
    key = random_segmenter.prepare([one, replace(one, weight=3.0)], known={})
    ((_, context, _),) = key.passes
    assert context.shares.tolist() == [0.25, 0.75]


@pytest.mark.parametrize(("shots", "canvases"), [(1, 1), (2, 1), (4, 1), (16, 1), (17, 2), (40, 3)])
def test_the_spatial_ensemble_tiles_up_to_sixteen_prompts_into_a_canvas(
    random_segmenter: Segmenter, shots: int, canvases: int
) -> None:
    context = [prompt((1,), size=16 + i) for i in range(shots)]
    assert random_segmenter.prepare(context, ensemble="spatial").shots == canvases
    assert random_segmenter.prepare(context, ensemble="feature").shots == shots
    if shots == 2:
        both = [random_segmenter.paint(image_file(), context, ensemble=each) for each in ("spatial", "feature")]
        assert np.abs(both[0] - both[1]).max() > 1
    with pytest.raises(ValueError, match="ensemble auto, feature or spatial, got 'mean'"):
        random_segmenter.prepare(context, ensemble="mean")  # type: ignore[arg-type]


def test_fitted_queries_and_unread_answers_are_the_same_thing_in_steps(random_segmenter: Segmenter) -> None:
    fitted = random_segmenter.fit(image_file(50, 30))
    assert (fitted.pixels.shape, fitted.size) == ((16, 16, 3), (50, 30))
    (answer,) = random_segmenter.answer_many([fitted], prompt())
    np.testing.assert_array_equal(answer.read().mask, random_segmenter.segment(image_file(50, 30), prompt()).mask)
    with pytest.raises(ValueError, match="fitted to a side of 24, got 16"):
        random_segmenter.segment(fitted, prompt(), side=24)


# --- precision, compilation, memory


def test_auto_precision_is_what_the_hardware_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_dtype("auto", cpu) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert choose_dtype("auto", cpu) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_dtype("float16", cpu) == torch.float16


def test_compiled_networks_see_one_shape_and_tell_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fake_compile(function: Callable[..., Tensor], *, dynamic: bool) -> Callable[..., Tensor]:
        assert not dynamic

        def compiled(queries: Tensor, context: ContextTokens, **options: int) -> Tensor:
            seen.append(len(queries))
            return function(queries, context, **options)

        return compiled

    monkeypatch.setattr(torch, "compile", fake_compile)
    model = SegGPT(CONFIG)
    queries = [image_file(seed=i) for i in range(5)]
    expected = list(Segmenter(model, device="cpu").segment_many(queries, prompt(), batch_size=2))
    segmenter = Segmenter(model, device="cpu", compile=True)
    got = list(segmenter.segment_many(queries, prompt(), batch_size=2))
    assert seen == [2, 2, 2]  # the last batch is filled up
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
    assert segmenter.describe()["compile"] is True
    assert len(segmenter._placed.compile_seconds) == 1


@pytest.mark.slow
def test_compilation_keeps_the_answer(random_segmenter: Segmenter) -> None:
    compiled = Segmenter(random_segmenter.model, device="cpu", dtype="float32", compile=True)
    expected = random_segmenter.paint(image_file(), [prompt(), prompt((2,))])
    np.testing.assert_allclose(compiled.paint(image_file(), [prompt(), prompt((2,))]), expected, atol=0.05)
    assert float(str(compiled.describe()["compile_seconds"])) > 0


class Hungry(SegGPT):
    """Runs out of memory above so many queries, or above so many prompts at a time."""

    most_queries, most_prompts = 2, 99

    def see(self, queries: Tensor, context: ContextTokens, *, chunk: int | None = None) -> Seen:
        if len(queries) > self.most_queries or (chunk or context.images.shape[1]) > self.most_prompts:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99.00 GiB")
        return super().see(queries, context, chunk=chunk)


def test_out_of_memory_halves_the_batch_and_goes_on_with_a_warning() -> None:
    model = Hungry(CONFIG)
    segmenter, queries = Segmenter(model, device="cpu"), [image_file(seed=i) for i in range(11)]
    told = "memory ran out; going on with"
    expected = list(segmenter.segment_many(queries, prompt(), batch_size=1))
    with warnings.catch_warnings(record=True, action="always") as warned:
        got = list(segmenter.segment_many(queries, prompt(), batch_size=8))
        assert [str(each.message) for each in warned] == [f"{told} {count} queries at a time" for count in (4, 2)]
    for one, other in zip(expected, got, strict=True):
        assert one.shape == other.shape
        assert (one.mask == other.mask).mean() > 0.98
    model.most_prompts = 1
    with warnings.catch_warnings(record=True, action="always") as warned:
        assert segmenter.segment(queries[0], [prompt(), prompt()]).shape == (24, 40)
        assert str(warned[-1].message) == f"{told} 1 prompts at a time"
        model.most_queries = 0
        with pytest.raises(torch.OutOfMemoryError):  # nothing is left to halve
            segmenter.segment(queries[0], prompt())


def test_other_errors_are_not_taken_for_missing_memory() -> None:
    class Broken(SegGPT):
        def see(self, *_: object, **__: object) -> Seen:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(Segmenter(Broken(CONFIG), device="cpu").segment_many([image_file()] * 4, prompt(), batch_size=4))


@pytest.mark.slow
def test_the_batch_is_planned_by_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(memory, "plan", lambda _, **wanted: asked.append(wanted) or memory.Room(3, 2))
    segmenter = Segmenter(SegGPT(CONFIG), device="cpu")
    seen = []
    monkeypatch.setattr(
        segmenter._placed,
        "_run",
        lambda views, own, *_: seen.append(len(views)) or Paint(torch.zeros(len(views), 3, 16, 16), own.palette),
    )
    list(segmenter.segment_many([image_file()] * 5, prompt()))
    assert seen == [3, 2]
    assert {one["shots"] for one in asked} == {1}
    assert asked[-1]["most"] == module._MOST_AT_ONCE["cpu"]
    assert 0 < asked[-1]["free"] < 1 << 50
    assert segmenter.estimate_memory(shots=4) > segmenter.estimate_memory()


@pytest.mark.parametrize("case", ["one_shot", "two_shot"])
def test_from_files_to_the_published_codes_answer(golden: Path, shared: Path, case: str) -> None:
    folder = golden / "end_to_end"
    meta = next(c for c in json.loads((folder / "meta.json").read_text())["cases"] if c["name"] == case)
    examples = shared / "data" / "examples" / "seggpt"
    context = [
        Prompt.from_colors(examples / image, examples / mask)
        for image, mask in zip(meta["prompt_images"], meta["prompt_targets"], strict=True)
    ]
    engine = load(folder / "weights_fp16.safetensors", device="cpu", dtype="float32")
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
