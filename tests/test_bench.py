"""What the benchmarks measure: the savings change the work and not the answer, and the figures mean what they say."""

from __future__ import annotations

import gc
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ladder
import machine
import pytest
import record
import torch
from flops import flops
from ladder import Options, climb, tasks
from naive import NAIVE, Network, Savings
from naive import ladder as savings_one_by_one
from PIL import Image
from rows import ALL_SAVINGS, Inputs, Models, Row, rows
from safetensors.torch import load_file
from table import to_markdown
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from incontext import bench
from incontext.bench import MEGABYTE, PeakMemory, generation, processor, timed
from incontext.network.checkpoint import load_model, save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.training.recipes import RECIPES, Stage

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    width=16, heads=2, depth=3, patch=4, side=16, decoder_width=4, merge_layer=1, taps=(1, 2), pretrain_side=8
)


def random_model(config: ModelConfig = CONFIG, dtype: torch.dtype = torch.float32) -> SegGPT:
    torch.manual_seed(3)
    model = SegGPT(config, kernel="plain").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.to(dtype)


def every_savings() -> list[Savings]:
    """All that make sense together."""
    names = [field.name for field in fields(Savings)]
    found = []
    for switches in itertools.product((False, True), repeat=len(names)):
        chosen = dict(zip(names, switches, strict=True))
        if chosen["last_block"] <= chosen["query_decode"] and chosen["merged_attention"] <= chosen["shared_query"]:
            found.append(Savings(**chosen))
    return found


def inputs(batch: int, shots: int, side: int = 16, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    images, masks = torch.randn(2, batch, shots, 3, side, side, dtype=dtype)
    return images, masks, torch.randn(batch, 3, side, side, dtype=dtype)


def difference(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


# --- the savings


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("shots", [1, 2, 3, 5])
@torch.inference_mode()
def test_no_saving_changes_the_answer(shots: int, batch: int) -> None:
    model, given = random_model(dtype=torch.float64), inputs(batch, shots)
    plain = Network(model)(*given)
    assert difference(model(*given), plain) < 1e-10  # two implementations that share no code
    for savings in every_savings():
        assert difference(Network(model, savings)(*given), plain) < 1e-10, savings


@torch.inference_mode()
def test_nor_at_a_side_whose_tables_are_interpolated() -> None:
    model, given = random_model(dtype=torch.float64), inputs(2, 3, side=24)
    plain = Network(model)(*given, task="semantic")
    assert difference(Network(model)(*given), plain) > 1e-3
    for savings in savings_one_by_one().values():
        network = Network(model, savings)
        for _ in range(2):  # the second time with what was kept of the first
            assert difference(network(*given, task="semantic"), plain) < 1e-10


@torch.inference_mode()
def test_a_kept_context_serves_any_query() -> None:
    model, (images, masks, queries) = random_model(dtype=torch.float64), inputs(3, 2)
    for savings in (NAIVE, ALL_SAVINGS):
        network = Network(model, savings)
        context = network.prepare(images[:1], masks[:1])
        assert (context.mask_stream is None) == (savings is NAIVE)
        together = network.answer(queries, context)
        for i in range(3):
            alone = network(images[:1], masks[:1], queries[i : i + 1])
            assert difference(together[i : i + 1], alone) < 1e-10


@torch.inference_mode()
def test_equals_the_published_network_with_and_without_savings(golden: Path) -> None:
    model = load_model(golden / "network" / "weights.safetensors")
    numbers = load_file(golden / "network" / "cases.safetensors")
    networks = Network(model), Network(model, ALL_SAVINGS)
    for case in json.loads((golden / "network" / "meta.json").read_text())["cases"]:
        images, masks, query = (
            numbers[f"{case['inputs']}/{what}"] for what in ("prompt_images", "prompt_masks", "query")
        )
        expected = numbers[f"{case['name']}/prediction"].chunk(2, dim=-2)[1]
        for network in networks:
            got = network(images[None], masks[None], query, task=case["segmentation_type"])
            assert difference(got, expected) < 1e-5, (case["name"], network.savings)


def test_impossible_savings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected query_decode with last_block"):
        Savings(last_block=True)
    with pytest.raises(ValueError, match="expected shared_query with merged_attention"):
        Savings(merged_attention=True)


@pytest.mark.gpu
@torch.inference_mode()
def test_no_saving_changes_the_answer_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = random_model().to("cuda")
    given = [each.to("cuda", torch.float32) for each in inputs(2, 3)]
    plain = Network(model)(*given)
    for savings in every_savings():
        assert difference(Network(model, savings)(*given), plain) < 1e-3, savings


# --- operations


def counting() -> FlopCounterMode:
    """PyTorch's counter. Older ones do not know the attention of processors, whose products are those of any other."""

    def products(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)  # type: ignore[no-any-return]

    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: products}
    )


@pytest.mark.parametrize("shots", [1, 3])
@torch.inference_mode()
def test_operations_are_those_that_pytorch_counts(shots: int) -> None:
    model, (images, masks, queries) = random_model(dtype=torch.float64), inputs(1, shots)
    for savings in (NAIVE, *savings_one_by_one().values()):
        network = Network(model, savings)
        context = network.prepare(images, masks)
        network.answer(queries, context)  # makes the tables that are kept
        with counting() as counted:
            network.answer(queries, context)
        assert counted.get_total_flops() == flops(CONFIG, shots, savings), savings

    prepared = model.prepare(images, masks)
    with counting() as counted:
        model.answer(queries, prepared)
    embedding = shots * CONFIG.grid**2 * 2 * 3 * CONFIG.patch**2 * CONFIG.width  # of the prompts, which incontext keeps
    assert counted.get_total_flops() == pytest.approx(flops(CONFIG, shots, ALL_SAVINGS) - embedding, rel=0.01)


def test_every_step_of_the_ladder_leaves_more_out() -> None:
    steps = list(savings_one_by_one().values())
    assert steps[-1] == ALL_SAVINGS == Savings(*[True] * len(fields(Savings)))
    for lower, upper in itertools.pairwise([NAIVE, *steps]):
        assert sum(getattr(lower, field.name) != getattr(upper, field.name) for field in fields(Savings)) == 1
        same = upper.sdpa != lower.sdpa or upper.kept_tables != lower.kept_tables  # these save no products
        saved = flops(ModelConfig(), 4, lower) - flops(ModelConfig(), 4, upper)
        assert saved == 0 if same else saved > 0


# --- the rows


@pytest.fixture
def transformers_network() -> None:
    """Imported, which takes seconds."""
    assert pytest.importorskip("transformers").SegGptForImageSegmentation


@pytest.mark.usefixtures("transformers_network")
@torch.inference_mode()
def test_every_row_gives_the_same_answers() -> None:
    models = Models(random_model())
    for shots, batch in ((1, 2), (2, 1)):
        given = Inputs.draw(shots, batch, CONFIG.side, CPU)
        plain = Network(models.model)(given.images, given.masks, given.queries) if batch == 1 else None
        for row in rows(CPU, compiled=False):
            answering, cast = models.ready(row), given.to(row.dtype)
            got = answering.answer(cast.queries, answering.prepare(cast.images, cast.masks))
            assert got.dtype == row.dtype
            plain = got if plain is None else plain  # transformers' own, at one shot
            if row.kind != "transformers" or shots == 1:
                assert difference(got.float(), plain) < (1e-4 if row.dtype == torch.float32 else 0.3), row.name


def test_a_batch_is_the_first_query_and_more() -> None:
    one, three = Inputs.draw(2, 1, 16, CPU), Inputs.draw(2, 3, 16, CPU)
    assert torch.equal(one.queries, three.queries[:1])
    assert torch.equal(one.images, three.images)
    assert not torch.equal(three.queries[0], three.queries[1])


def test_transformers_takes_one_query_at_a_time_with_several_shots() -> None:
    options = Options(device=CPU, shots=(1, 2), batch_sizes=(1, 4), patterns=("transformers fp32", "naive*"))
    found = [(task.row.name, task.shots, task.batch) for task in tasks(rows(CPU, compiled=False), options)]
    assert found == [
        ("naive fp32", 1, 1),
        ("naive fp32", 2, 1),
        ("transformers fp32", 1, 1),
        ("transformers fp32", 2, 1),
        ("transformers fp32", 1, 4),
    ]


def test_what_compiles_comes_last_and_at_few_batch_sizes() -> None:
    table = rows(torch.device("cuda"), compiled=True)
    options = Options(device=CPU, shots=(1, 8), batch_sizes=(1, 2, 8), compiled=True)
    found = tasks(table, options)
    compiling = [task.row.compiles for task in found]
    assert compiling == sorted(compiling)
    ours = [(task.shots, task.batch) for task in found if task.row.name == "incontext bf16 compiled"]
    assert ours == [(1, 1), (1, 8), (8, 1), (8, 8)]
    assert sum(task.row.name == "incontext bf16" for task in found) == 6
    assert {"incontext bf16 folded", "incontext bf16 flex", "transformers fp32 compiled"} <= {row.name for row in table}
    assert "incontext bf16 flex" not in {row.name for row in rows(CPU, compiled=True)}  # which would be refused


# --- the ladder


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[Options]:
    """As little as can be."""
    monkeypatch.setattr(ladder, "matrix_rate", lambda *_, **__: 0.5)
    gc.freeze()  # each row collects garbage, and a test session holds a million objects that are none
    yield Options(device=CPU, shots=(1, 2), batch_sizes=(1,), row_seconds=0, iterations=1, folder_images=0)
    gc.unfreeze()


def climbed(options: Options) -> dict[str, Any]:
    findings: dict[str, Any] = {}
    for findings, _ in climb(random_model(), options):
        json.dumps(findings)
    return record.document("ladder_tiny", {"model": "tiny", "side": CONFIG.side, **findings}, CPU)


@pytest.mark.usefixtures("transformers_network")
def test_the_ladder_measures_every_row_and_shows_it(options: Options) -> None:
    found = climbed(replace(options, folder_images=3))
    table = rows(CPU, compiled=False)
    assert [(row["row"], row["shots"]) for row in found["rows"]] == [(row.name, n) for n in (1, 2) for row in table]
    by_name = {(row["row"], row["shots"]): row for row in found["rows"]}
    for shots in (1, 2):
        theirs, ours = by_name["transformers fp32", shots], by_name["incontext fp32", shots]
        assert theirs["times_transformers_fp32"] == 1
        assert ours["times_transformers_fp32"] == pytest.approx(theirs["ms"] / ours["ms"])
        assert ours["images_per_second"] == pytest.approx(1000 / ours["ms"])
        assert ours["relative_error"] < 1e-4
        assert by_name["naive fp32", shots]["relative_error"] == 0
        assert 1e-4 < by_name["incontext bf16", shots]["relative_error"] < 0.5
        assert ours["tflops"] == pytest.approx(flops(CONFIG, shots, ALL_SAVINGS) / ours["ms"] / 1e9)
        assert ours["share_of_matrix_rate"] == pytest.approx(ours["tflops"] / 0.5)
        assert ours["peak_mb"] is None or ours["peak_mb"] >= 4e-6 * sum(p.numel() for p in random_model().parameters())
    assert by_name["transformers fp32", 1]["relative_error"] < 1e-4
    folder = found["folder"]
    assert (folder["images"], folder["failed"], folder["batch"]) == (3, 0, 1)
    assert folder["share"] == pytest.approx(folder["images_per_second"] / folder["network_images_per_second"])
    shown = to_markdown(found)
    assert shown.count("| incontext bf16 |") == 2
    assert "2 shots\n\n| row | batch | ms |" in shown
    assert "Folder of 3 JPEGs" in shown
    assert "Left out" not in shown
    assert "2 shots" not in to_markdown(found, [1])


def test_what_does_not_fit_into_the_budget_is_left_out_and_said(options: Options) -> None:
    found = climbed(replace(options, budget_seconds=0))
    assert len(found["rows"]) == 2 * len(rows(CPU, compiled=False))
    assert all("of the budget are left" in row["left_out"] and "ms" not in row for row in found["rows"])
    assert "- + SDPA, batch 1: would take about 0 s, 0 s of the budget are left" in to_markdown(found)


def test_what_does_not_fit_into_memory_is_left_out_and_said(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "free_bytes", lambda _: 1000)
    found = climbed(replace(options, patterns=("naive fp32", "incontext fp32")))
    assert {row["row"] for row in found["rows"] if "left_out" in row} == {"naive fp32"}
    assert "needs about 0 GB, 0 GB are free" in found["rows"][0]["left_out"]
    assert all(row["relative_error"] is None for row in found["rows"] if "ms" in row)


def test_a_row_that_cannot_run_costs_no_other(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Models.ready

    def broken(self: Models, row: Row) -> Any:
        if row.name == "naive fp32":
            raise RuntimeError("no such kernel\nand a page of advice")
        return ready(self, row)

    monkeypatch.setattr(Models, "ready", broken)
    found = climbed(replace(options, shots=(1,), patterns=("naive fp32", "incontext fp32")))
    assert found["rows"][0]["left_out"] == "failed: RuntimeError: no such kernel"
    assert found["rows"][1]["ms"] > 0


def test_the_command_ends_in_a_file_and_one_line_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ladder, "matrix_rate", lambda *_, **__: 0.5)
    monkeypatch.setattr(ladder, "load_model", lambda _: random_model())
    arguments = ["--model", "default", "--device", "cpu", "--shots", "1", "--rows", "naive*,incontext fp32"]
    arguments += ["--row-seconds", "0.001", "--iterations", "1", "--folder-images", "0", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks/ladder.py", *arguments])
    ladder.main()
    said = capsys.readouterr()
    document = json.loads(said.out.splitlines()[-1])
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == document
    assert path.name.startswith("ladder_default_")
    assert f"_torch{torch.__version__.split('+')[0]}_{document['date']}.json" in path.name
    assert [row["row"] for row in document["rows"]] == ["naive fp32", "incontext fp32"]
    assert "naive fp32 (shots 1, batch 1): " in said.err
    assert document["threads"] == torch.get_num_threads()


def test_the_matrix_rate_is_that_of_a_product() -> None:
    rate = machine.matrix_rate(CPU, torch.float32, seconds=0)
    assert 1e-3 < rate < 1e3


def test_photographs_are_jpegs_of_a_usual_size(tmp_path: Path) -> None:
    (path,) = machine.photographs(tmp_path / "new", 1)
    assert 30_000 < path.stat().st_size < 400_000


def test_the_plot_shows_what_was_measured(tmp_path: Path, options: Options) -> None:
    plot = pytest.importorskip("plot", reason="needs matplotlib")
    found = climbed(replace(options, batch_sizes=(1, 2), patterns=("naive*", "incontext*")))
    plot.draw(found, tmp_path / "new" / "ladder.png")
    assert (tmp_path / "new" / "ladder.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="expected rows that were measured"):
        plot.draw(found | {"rows": []}, tmp_path / "none.png")


# --- how it is measured


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """passing(seconds): the clock that measures goes on by so much, and by nothing else."""
    now = [0.0]
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def passing(seconds: float) -> None:
        now[0] += seconds

    return passing


def test_the_first_call_is_not_counted_and_the_median_is_of_the_others(passing: Callable[[float], None]) -> None:
    pauses = iter([0.5, 0.125, 0.25, 0.125, 0.75])
    timing = timed(lambda: passing(next(pauses)), CPU, seconds=0, least=4, most=9)
    assert timing.first == 0.5
    assert timing.counted == (0.125, 0.25, 0.125, 0.75)
    assert timing.median == 0.1875
    assert timing.spread > 0


def test_calls_end_with_the_seconds_or_their_number(passing: Callable[[float], None]) -> None:
    assert len(timed(lambda: None, CPU, seconds=60, most=7).counted) == 7
    assert len(timed(lambda: passing(1.0), CPU, seconds=2.5, least=1).counted) == 2
    only = timed(lambda: passing(1.0), CPU, seconds=0.125, least=0)
    assert only.counted == ()
    assert only.median == only.first == 1.0
    assert only.spread == 0


@pytest.mark.slow
def test_peak_memory_is_that_of_the_block() -> None:
    with PeakMemory(CPU) as large:
        torch.ones(50_000_000)  # 200 MB, and gone again
    if large.grown is None:
        pytest.skip("this system does not tell how much memory a process used at most")
    with PeakMemory(CPU) as small:
        torch.ones(5_000_000)
    assert 190 < large.grown / MEGABYTE < 300
    assert small.grown is not None
    assert 15 < small.grown / MEGABYTE < 100


@pytest.mark.gpu
def test_peak_memory_on_a_card_is_that_of_the_block() -> None:
    device = torch.device("cuda")
    with PeakMemory(device) as memory:
        torch.ones(50_000_000, device=device)
    assert memory.grown is not None
    assert memory.grown / MEGABYTE == pytest.approx(200, rel=0.05)


@pytest.mark.parametrize(
    ("name", "instructions", "expected"),
    [
        ("Intel(R) Xeon(R) Processor", "AMX", "Intel Xeon AMX"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "AMX", "Intel Xeon Platinum 8481C"),
        ("AMD EPYC", "AVX512-BF16", "AMD EPYC AVX512-BF16"),
        ("AMD EPYC 7B13 64-Core Processor", "AVX2", "AMD EPYC 7B13"),
        ("Intel(R) Core(TM) i7-1185G7 @ 3.00GHz", "AVX-512", "Intel Core i7-1185G7"),
        ("unknown", None, "unknown"),
    ],
)
def test_a_processor_has_a_name_that_tells_it(name: str, instructions: str | None, expected: str) -> None:
    assert processor(name, instructions) == expected


def test_generations_are_told_apart() -> None:
    assert generation("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n") == "AMX"
    assert generation("model name : x\nflags : fpu avx2 avx512f\n") == "AVX-512"
    assert generation("Features : fp asimd\n") == "NEON"
    numbered = "cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags : avx512_bf16\n"
    assert generation(numbered) == "AVX512-BF16 family 25 model 17"
    assert generation("") is None


# --- incontext bench


@pytest.fixture(scope="module")
def segmenter() -> Any:
    from incontext.engine import Segmenter

    return Segmenter(random_model(), device="cpu", dtype="float32", name="tiny")


@pytest.mark.slow
def test_a_report_says_what_ran_and_how_fast(segmenter: Any) -> None:
    seen: list[bench.Row] = []
    report = bench.bench(
        segmenter, shots=(1, 2), batch_sizes=(1, 3), side=8, seconds=0.01, load_seconds=1.5, on_row=seen.append
    )
    assert [(row.shots, row.batch_size) for row in report.rows] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert tuple(seen) == report.rows
    for row in report.rows:
        assert row.images_per_second == pytest.approx(1000 / row.milliseconds)
        assert row.unprepared_milliseconds > 0
        assert row.prepare_milliseconds > 0
        assert row.first_seconds > 0
        assert row.calls >= 3
        assert row.peak_megabytes is None or row.peak_megabytes > 10
    document = json.loads(report.to_json())
    assert document["model"] == segmenter.describe()
    assert (document["side"], document["image"], document["load_seconds"]) == (8, "640 x 480", 1.5)
    assert len(document["rows"]) == 4
    assert document["versions"]["torch"] == torch.__version__
    shown = report.to_markdown()
    assert "tiny, side 8, float32" in shown
    assert "loaded in 1.5 s" in shown
    assert len(shown.splitlines()) == 4 + 4
    assert bench.bench(segmenter, seconds=0).side == CONFIG.side


@pytest.mark.parametrize(
    ("shots", "sizes", "message"), [((), (1,), "shots of at least 1, got none"), ((1,), (2, 0), "2, 0")]
)
def test_impossible_numbers_are_refused(
    segmenter: Any, shots: tuple[int, ...], sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bench.bench(segmenter, shots=shots, batch_sizes=sizes)


@pytest.mark.slow
def test_the_command_prints_a_table_and_ends_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from incontext import cli
    from incontext.network.checkpoint import save_model

    save_model(tmp_path / "tiny.safetensors", random_model())
    arguments = ["bench", "--weights", str(tmp_path / "tiny.safetensors"), "--device", "cpu", "--dtype", "bfloat16"]
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, "--shots", "1, 2", "--batch-size", "2", "--side", "8", "--seconds", "0"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    document = json.loads(out.splitlines()[-1])
    assert [(row["shots"], row["batch_size"]) for row in document["rows"]] == [(1, 2), (2, 2)]
    assert (document["side"], document["model"]["dtype"]) == (8, "bfloat16")
    assert document["load_seconds"] > 0
    assert "| shots | batch |" in out


@pytest.mark.parametrize("text", ["", "1,x", "0", "1,,2", "²"])
def test_numbers_that_are_none_are_refused_before_weights_are_loaded(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from incontext import cli

    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", "--weights", "no-such-weights", "--shots", text])
    assert stopped.value.code == 2
    assert (
        'expected --shots as different numbers of at least 1 with commas between, such as "1,4"'
        in capsys.readouterr().err
    )


def test_the_course_of_training_goes_on_from_run_to_run(tmp_path: Path) -> None:
    curve = pytest.importorskip("curve", reason="needs matplotlib")
    recipe = replace(RECIPES["smoke"], stages=(Stage(16, 10, 4), Stage(32, 20, 2)))
    model = SegGPT(recipe.model)

    def report(step: int, loss: float, validation: float | None = None) -> str:
        return json.dumps({"step": step, "loss": loss, "validation": validation}) + "\n"

    for name, lines in (
        ("one", [report(5, 9.0), report(5, 3.0), report(10, 2.0, 0.25), report(20, 1.5), report(30, 1.0, 0.5)]),
        ("two", [report(10, 0.5)]),
    ):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name / "model.safetensors", model, metadata={"recipe": json.dumps(recipe.to_dict())})
        (tmp_path / name / "log.jsonl").write_text("".join(lines))
    curves = curve.read_runs([tmp_path / "one", tmp_path / "two"])
    assert curves == [
        (16, [(20, 3.0), (40, 2.0)], [(40, 0.25)]),
        (32, [(60, 1.5), (80, 1.0)], [(80, 0.5)]),
        (16, [(120, 0.5)], []),
    ]
    curve.draw(curves, tmp_path / "new" / "curve.png")
    with Image.open(tmp_path / "new" / "curve.png") as image:
        assert image.size[0] > 600
    (tmp_path / "two" / "log.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        curve.read_runs([tmp_path / "two"])
