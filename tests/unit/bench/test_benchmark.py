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
from strokecore.bench import benchmark, engines
from strokecore.bench.benchmark import Benchmark, run_benchmark
from strokecore.bench.engines import Call, EngineResult
from strokecore.bench.settings import BenchSettings
from strokecore.bench.steps import PipelineResult, Timings
from strokecore.bench.table import print_benchmark
from strokecore.bench.timing import Spread
from strokecore.cli import main
from strokecore.errors import EngineError
from strokecore.learned.devices import THREADS_VARIABLE
from strokecore.learned.runtimes import Availability
from tests.unit.bench import fakes
from tests.unit.learned.package_cases import write_package

SCHEMA = json.loads((Path(strokecore.__file__).parent / "bench" / "bench.schema.json").read_text())
HERE = {"tensorrt": ("bf16", "fp16"), "openvino": ("bf16", "fp32"), "onnx": ("fp32",)}
PIPELINE = PipelineResult(
    head="simulated",
    slices=30,
    engine="asymmetry",
    precision="fp64",
    cold=Timings(
        Spread.of([10.0]),
        {"read": Spread.of([1.0]), "segment": Spread.of([4.0]), "total": Spread.of([8.0])},
        400,
    ),
    warm=Timings(
        Spread.of([5.0]),
        {"read": Spread.of([0.5]), "segment": Spread.of([4.0]), "total": Spread.of([5.0])},
        None,
    ),
)


def use_fakes(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Fake engines beside ONNX Runtime, what the gate says of them kept apart, and made-up pipeline steps."""
    patch.setattr(
        engines,
        "availability",
        lambda name: Availability(name, "", "", HERE.get(name, ()), "not here", "buy it"),
    )
    patch.setattr(engines, "start", fakes.start)
    patch.setattr(benchmark, "measure_pipeline", lambda *arguments: PIPELINE)
    patch.setenv("STROKECORE_CACHE", str(cache))
    patch.setenv(THREADS_VARIABLE, "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("hidden-folder") / "model")


@pytest.fixture(scope="module")
def found(folder: Path) -> Benchmark:
    """One run of every fake engine, with made-up steps of the pipeline."""
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch, folder.parent / "cache")
        return run_benchmark(
            BenchSettings(
                model=folder,
                engines=("tensorrt", "onnx-cuda", "openvino"),
                slices=3,
                batches=(1,),
                repeats=3,
                dicom=folder,
                pipeline_runs=1,
            )
        )


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    use_fakes(monkeypatch, tmp_path_factory.mktemp("cache"))


def of(found: Benchmark, name: str) -> EngineResult:
    return next(one for one in found.engines if one.name == name)


def call(found: Benchmark, name: str, slices: int) -> Call:
    return next(one for one in of(found, name).calls if one.slices == slices)


def written(found: Benchmark, folder: Path) -> dict[str, Any]:
    """The record as it is written, which follows its schema."""
    found.write(folder / "bench.json")
    assert [path.name for path in folder.iterdir()] == ["bench.json"]
    record: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(record)
    return record


def test_the_record_follows_its_schema_and_names_no_host_user_or_folder(
    found: Benchmark, tmp_path: Path
) -> None:
    record = written(found, tmp_path)
    words = json.dumps(record)
    for secret in (socket.gethostname(), f'"{getpass.getuser()}"', "hidden-folder", "/home/", "/tmp/"):
        assert secret not in words
    assert record["settings"]["slices"] == 3
    assert record["model"]["sha256"]


def test_every_engine_has_its_times(found: Benchmark) -> None:
    for name in ("onnx fp32", "openvino bf16"):
        ms = call(found, name, 3).ms
        assert ms is not None
        assert ms.rounds == 3
        assert 0 < ms.min <= ms.q1 <= ms.median <= ms.q3
        one = of(found, name)
        assert [each.slices for each in one.calls] == [1, 3]
        assert one.memory is not None
        assert one.memory.peak_mib
    assert of(found, "openvino bf16").library == "fake 1.0"


def test_ratios_are_taken_within_rounds() -> None:
    drift = [1.0, 2.0, 4.0, 8.0]
    one = engines._call(8, [0.5 * slow for slow in drift], [1.5 * slow for slow in drift])
    assert one.speed_up_over_onnx_fp32 == Spread(3.0, 3.0, 3.0, 3.0, 4)
    assert one.ms is not None
    assert one.ms.median == 1500.0
    assert engines._call(8, drift, None).speed_up_over_onnx_fp32 is None


def test_the_reference_is_compared_with_itself(found: Benchmark) -> None:
    assert found.engines[0].name == "onnx fp32"
    assert call(found, "onnx fp32", 3).speed_up_over_onnx_fp32 == Spread(1.0, 1.0, 1.0, 1.0, 3)


def test_the_gates_report_stands_beside_each_engine(found: Benchmark) -> None:
    for name, passed in (("onnx fp32", True), ("openvino bf16", True), ("openvino fp32", False)):
        parity = of(found, name).parity
        assert parity is not None
        assert parity["passed"] is passed
        assert bool(parity["reason"]) is not passed


def test_without_a_reference_nothing_is_proved() -> None:
    class NoGate:
        def examine_fully(self, runtime: object) -> None:
            raise EngineError("ONNX Runtime in /opt/x is not installed")

    assert engines._parity(NoGate(), fakes.Right("openvino", "fp32")) == {  # type: ignore[arg-type]
        "passed": False,
        "reason": "ONNX Runtime in x is not installed",
    }


def test_engines_that_fail_are_listed_and_the_others_measured(found: Benchmark) -> None:
    assert of(found, "tensorrt bf16").error == "no library in libfake.so; run: pip install fake"
    assert of(found, "tensorrt fp16").error == "its process died (exit status 77)"
    absent = [one for one in found.engines if one.engine in ("tensorrt", "onnx-cuda")]
    assert absent[-1].error == "not here; run: buy it"
    for one in absent:
        assert (one.memory, one.parity, one.calls) == (None, None, [])
    assert call(found, "openvino fp32", 1).error == "RuntimeError: one slice is too few"
    assert call(found, "openvino fp32", 3).ms is not None


def test_the_table_shows_all_of_it(found: Benchmark) -> None:
    text = io.StringIO()
    print_benchmark(found, Console(width=80, soft_wrap=True, file=text))
    assert "…" not in text.getvalue()
    for words in (
        "openvino bf16 ",
        "openvino fp32: refused by the parity gate (",
        "tensorrt bf16: no library in libfake.so",
        "openvino fp32 (1 slices): RuntimeError",
        "simulated head of 30 slices, asymmetry fp64; the process takes 400 MiB",
        "start, imports, rest",
    ):
        assert words in text.getvalue()


@pytest.mark.usefixtures("_fakes")
def test_the_command_measures_and_writes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    words = f"bench --model {folder} --engines onnx --slices 2 --batches 1 --repeats 3 --threads 2"
    assert main([*words.split(), "--pipeline-runs", "0", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    Draft202012Validator(SCHEMA).validate(record)
    assert [one["engine"] for one in record["engines"]] == ["onnx"]
    assert (record["threads"], record["pipeline"]) == (2, None)
    assert "onnx fp32" in capsys.readouterr().out


@pytest.mark.usefixtures("_fakes")
@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--engines none --pipeline-runs 0", "Nothing to measure"),
        ("--slices 0", "--slices is 0"),
        ("--threads 0", "--threads is 0"),
        ("--out nowhere/bench.json", "nowhere is not a folder"),
        ("--model nowhere --pipeline-runs 0", "nowhere is not a folder"),
        ("--model {folder} --pipeline-runs 0 --engines magic", "Unknown engine magic"),
    ],
)
def test_wrong_use_is_said(words: str, named: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words.format(folder=folder).split()]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.usefixtures("_fakes")
def test_a_record_that_cannot_be_written_is_said_below_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"bench --engines none --pipeline-runs 1 --out {tmp_path}"
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert "start, imports, rest" in said.out
    assert f"cannot write {tmp_path}: Is a directory" in said.err


@pytest.mark.usefixtures("_fakes")
def test_a_head_that_is_not_scored_is_said_at_the_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*arguments: Any) -> PipelineResult:
        raise EngineError("the head is refused")

    monkeypatch.setattr(benchmark, "measure_pipeline", measure)
    words = f"bench --model {folder} --engines onnx --slices 1 --repeats 1 --dicom {tmp_path}"
    out = tmp_path / "bench.json"
    assert main([*words.split(), "--out", str(out)]) == 1
    Draft202012Validator(SCHEMA).validate(json.loads(out.read_text()))
    shown = capsys.readouterr().out
    assert "strokecore score: the head is refused" in shown
    assert "onnx fp32" in shown


@pytest.mark.usefixtures("_fakes")
def test_the_pipeline_alone_opens_no_package(tmp_path: Path) -> None:
    settings = BenchSettings(model=tmp_path / "not opened", engines=("none",), pipeline_runs=1)
    found = run_benchmark(settings)
    assert (found.model, found.engines, found.pipeline) == (None, [], PIPELINE)
    written(found, tmp_path)


@pytest.mark.usefixtures("_fakes")
def test_a_run_where_nothing_runs_has_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "REFERENCE", ("tensorrt", "bf16"))
    words = f"bench --model {folder} --engines tensorrt --precisions bf16 --slices 2 --pipeline-runs 0"
    assert main(words.split()) == 1
    assert "run: pip install fake" in capsys.readouterr().out
