from __future__ import annotations

import getpass
import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

import strokecore
from strokecore.bench import benchmark as run
from strokecore.bench.benchmark import run_bench
from strokecore.bench.pipeline import Scoring, Steps
from strokecore.bench.record import write_record
from strokecore.bench.settings import BenchSettings
from strokecore.bench.subjects import KINDS, Kind
from strokecore.bench.summary import Spread
from strokecore.bench.table import print_bench
from strokecore.cli import main
from strokecore.errors import EngineError
from tests.unit.learned.package_cases import write_package

SCHEMA = json.loads((Path(strokecore.__file__).parent / "bench" / "bench.schema.json").read_text())
FAKES = "tests.unit.bench.fakes"
FOUND = {
    name: Kind(FAKES, of)
    for name, of in {
        "onnx": "Reference",
        "torch": "Biased",
        "absent": "Absent",
        "deadly": "Deadly",
        "tired": "Tired",
    }.items()
}


def spread(value: float) -> Spread:
    return Spread.of([value])


STEPS = Steps(
    origin="simulated",
    slices=30,
    engine="asymmetry",
    precision="fp64",
    cold=Scoring(
        spread(10.0), {"read": spread(1.0), "segment": spread(4.0), "total": spread(8.0)}, 400 * 2**20
    ),
    warm=Scoring(spread(5.0), {"read": spread(0.5), "segment": spread(4.0), "total": spread(5.0)}, None),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("hidden-folder") / "model")


@pytest.fixture(scope="module")
def record(folder: Path) -> dict[str, Any]:
    """One run of every fake engine, with made-up steps of the pipeline."""
    settings = BenchSettings(model=folder, slices=3, batches=(1,), repeats=3, threads=1, pipeline_runs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "measure_steps", lambda *arguments: STEPS)
        return run_bench(settings, FOUND)


def line(record: dict[str, Any], engine: str, precision: str = "fp32") -> dict[str, Any]:
    return next(one for one in record["engines"] if (one["engine"], one["precision"]) == (engine, precision))


def call(record: dict[str, Any], engine: str, slices: int, precision: str = "fp32") -> dict[str, Any]:
    return next(one for one in line(record, engine, precision)["calls"] if one["slices"] == slices)


def test_the_record_follows_its_schema(record: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(record)
    json.dumps(record, allow_nan=False)


def test_the_record_names_no_host_user_or_folder(record: dict[str, Any], folder: Path) -> None:
    words = json.dumps(record)
    for secret in (socket.gethostname(), f'"{getpass.getuser()}"', "hidden-folder", "/home/", "/tmp/"):
        assert secret not in words
    assert "--model model --slices 3 --batches 1 --repeats 3" in record["command"]
    assert record["model"]["sha256"]


def test_every_engine_has_its_times(record: dict[str, Any]) -> None:
    for engine, precision in (("onnx", "fp32"), ("torch", "bf16"), ("torch", "fp32")):
        whole = call(record, engine, 3, precision)
        assert whole["ms"]["rounds"] == 3
        assert whole["ms"]["min"] <= whole["ms"]["q1"] <= whole["ms"]["median"] <= whole["ms"]["q3"]
        assert whole["ms_per_slice"] == pytest.approx(whole["ms"]["median"] / 3, rel=1e-3)
        assert [one["slices"] for one in line(record, engine, precision)["calls"]] == [1, 3]
        assert line(record, engine, precision)["memory"]["load_s"] > 0


def test_ratios_are_against_the_right_lines(record: dict[str, Any]) -> None:
    assert call(record, "onnx", 3)["speed_up_over_onnx_fp32"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert line(record, "onnx")["eager"] == "torch fp32"
    assert line(record, "torch", "bf16")["eager"] == "torch bf16"
    own = call(record, "torch", 3)["speed_up_over_torch_eager"]
    assert own == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert call(record, "onnx", 3)["speed_up_over_torch_eager"]["value"] > 0


def test_the_share_is_of_the_product_of_the_same_precision(record: dict[str, Any]) -> None:
    # the package's network is two 1 x 1 convolutions of 3 channels, to 9 and to 6
    assert record["model"]["flops_by_node"] == {"Conv": 2 * 136 * 112 * 3 * 15}
    whole = call(record, "onnx", 3)
    assert line(record, "onnx")["peak"] == "cpu fp32"
    assert line(record, "torch", "bf16")["peak"] == "cpu bf16"
    peak = next(one for one in record["peaks"] if one["name"] == "cpu fp32")
    assert peak["gflops_best"] >= peak["gflops_median"] > 0
    assert 0 < whole["share_of_peak"]["value"] < 1
    assert whole["gflops"] == pytest.approx(3 * 2 * 136 * 112 * 45 / whole["ms"]["median"] / 1e6, rel=1e-3)


def test_parity_stands_beside_each_line(record: dict[str, Any]) -> None:
    assert line(record, "onnx")["parity"] == {"p999_difference": 0.0, "dice": 1.0}
    assert line(record, "torch")["parity"]["p999_difference"] == pytest.approx(0.01, abs=1e-3)
    assert 0 < line(record, "torch")["parity"]["dice"] < 1


def test_engines_that_fail_are_listed_and_the_others_measured(record: dict[str, Any]) -> None:
    assert line(record, "absent")["error"] == "no library in libfake.so; run: pip install fake"
    assert "status 77" in line(record, "deadly")["error"]
    for engine in ("absent", "deadly"):
        assert line(record, engine)["calls"] == []
        assert line(record, engine)["memory"] is None
    assert call(record, "tired", 1) == {"slices": 1, "error": "RuntimeError: one slice is too few"}
    assert call(record, "tired", 3)["error"] is None


def test_the_steps_have_their_shares(record: dict[str, Any]) -> None:
    assert record["pipeline"]["cold"]["shares"] == {"read": 0.1, "segment": 0.4}
    assert record["pipeline"]["warm"]["shares"] == {"read": 0.1, "segment": 0.8}
    assert record["pipeline"]["cold"]["peak_mib"] == 400


def test_the_table_shows_all_of_it(record: dict[str, Any]) -> None:
    text = io.StringIO()
    print_bench(record, Console(width=80, soft_wrap=True, file=text))
    assert "…" not in text.getvalue()
    for words in (
        "torch bf16",
        "absent fp32: no library in libfake.so",
        "tired fp32 (1 slices): RuntimeError",
        "peak cpu fp32",
        "simulated head of 30 slices, asymmetry fp64; the process takes 400 MiB",
        "start, imports, rest",
        "A series of 3 slices, from golden slices",
    ):
        assert words in text.getvalue()


def test_the_record_is_written_whole(record: dict[str, Any], tmp_path: Path) -> None:
    write_record(record, tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text()) == record
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_the_command_measures_and_writes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # the command would set it for the whole test run
    monkeypatch.setitem(KINDS, "onnx", FOUND["onnx"])
    out = tmp_path / "bench.json"
    words = f"bench --model {folder} --engines onnx --slices 2 --batches 1 --repeats 3 --threads 1"
    assert main([*words.split(), "--pipeline-runs", "0", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    Draft202012Validator(SCHEMA).validate(record)
    assert [one["engine"] for one in record["engines"]] == ["onnx"]
    assert record["pipeline"] is None
    assert "A series of 2 slices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--engines none --pipeline-runs 0", "Nothing to measure"),
        ("--slices 0", "--slices is 0"),
        ("--out nowhere/bench.json", "nowhere is not a folder"),
        ("--model nowhere --pipeline-runs 0", "nowhere is not a folder"),
        ("--model {folder} --pipeline-runs 0 --engines magic", "Unknown engine magic"),
    ],
)
def test_wrong_use_is_said(
    words: str, named: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert main(["bench", *words.format(folder=folder).split()]) == 2
    assert named in capsys.readouterr().err


def test_a_head_that_is_not_scored_is_said_at_the_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*arguments: Any) -> Steps:
        raise EngineError("the head is refused")

    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(run, "measure_steps", measure)
    monkeypatch.setitem(KINDS, "onnx", FOUND["onnx"])
    words = f"bench --model {folder} --engines onnx --slices 1 --repeats 1 --threads 1 --dicom {tmp_path}"
    out = tmp_path / "bench.json"
    assert main([*words.split(), "--out", str(out)]) == 1
    Draft202012Validator(SCHEMA).validate(json.loads(out.read_text()))
    shown = capsys.readouterr().out
    assert "strokecore score: the head is refused" in shown
    assert "A series of 1 slices" in shown


def test_the_pipeline_alone_opens_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "measure_steps", lambda *arguments: STEPS)
    settings = BenchSettings(model=tmp_path / "not opened", engines=("none",), pipeline_runs=1)
    record = run_bench(settings, FOUND)
    Draft202012Validator(SCHEMA).validate(record)
    assert (record["model"], record["engines"]) == (None, [])
    assert record["pipeline"]["warm"]["wall_s"]["median"] == 5.0


def test_a_run_where_nothing_runs_has_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setitem(KINDS, "onnx", Kind(FAKES, "Absent"))
    words = f"bench --model {folder} --engines onnx --slices 2 --threads 1 --pipeline-runs 0"
    assert main(words.split()) == 1
    assert "run: pip install fake" in capsys.readouterr().out
