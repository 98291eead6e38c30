"""`benchmarks/figures.py`: what is measured is not measured again, and results of other weights leave the tree."""

import json
import subprocess
import sys
from pathlib import Path

import figures
import pytest
import record

from incontext.cli import evaluate


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of results, and a benchmark that takes no time, which writes there."""
    script = tmp_path / "quick.py"
    script.write_text(
        "import sys, json, pathlib\n"
        f"sys.path.insert(0, {str(Path(figures.__file__).parent)!r})\n"
        "import record\n"
        f"record.save(record.document('quick', {{'argument': sys.argv[1]}}, 'cpu', weights='default'), "
        f"pathlib.Path({str(tmp_path / 'results')!r}))\n"
        "sys.exit(sys.argv[1] == 'bad')\n"
    )
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(figures, "RESULTS", folder)
    monkeypatch.setattr(figures, "HERE", tmp_path)
    monkeypatch.setattr(figures, "requote", lambda *, newest: [Path("README.md")] if newest else [])
    monkeypatch.setattr(figures, "FIGURES", (figures.Figure("quick", "quick.py", ("{data}",), 1.0),))
    monkeypatch.setenv("PYTHONPATH", str(Path(figures.__file__).parents[1]))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["figures.py", *arguments])
    return figures.main()


@pytest.mark.slow
def test_a_figure_is_measured_once_for_the_weights_and_the_command(
    results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    other = results / "quick_old.json"
    other.write_text(json.dumps({"benchmark": "quick", "weights_sha256": "0" * 64, "command": "python quick.py data"}))
    random = results / "ladder_large.json"
    random.write_text(json.dumps({"benchmark": "ladder_large", "weights_sha256": None}))
    assert run(monkeypatch, "data") == 0
    (made,) = set(results.iterdir()) - {random}
    row = json.loads(made.read_text())
    assert row["weights_sha256"] == record.weights_sha256("default")
    assert row["argument"] == "data"
    told = capfd.readouterr().out
    assert "missing" in told
    assert "README.md has the new figures" in told
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("measured again"))
    assert run(monkeypatch, "data") == 0
    assert "measured" in capfd.readouterr().out


@pytest.mark.slow
def test_a_failure_is_told_and_keeps_what_was_there(
    results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    other = results / "quick_old.json"
    other.write_text(json.dumps({"benchmark": "quick", "weights_sha256": "0" * 64}))
    assert run(monkeypatch, "bad") == 1
    assert "Failed: quick" in capfd.readouterr().err
    assert other.exists()
    with pytest.raises(SystemExit):
        run(monkeypatch, "data", "--only", "slow")


def test_every_option_is_one_that_its_script_takes() -> None:
    handed_on = Path(evaluate.__file__).with_name("evaluate.py").read_text()
    for figure in figures.FIGURES:
        script, *arguments = figure.command(Path("data"))
        known = Path(script).read_text() + (handed_on if figure.script == "accuracy.py" else "")
        assert all(f'"{each}"' in known for each in arguments if each.startswith("--")), figure.name
