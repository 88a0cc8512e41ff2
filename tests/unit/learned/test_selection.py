"""Which engine scores: what is tried in which order, and what is said when nothing fits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from strokecore.config import WEIGHT_FREE, ScoringConfig
from strokecore.errors import EngineError, ModelPackageError, UsageError
from strokecore.learned import selection
from strokecore.learned.engine import LearnedEngine
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.selection import candidates, select_engine
from strokecore.learned.tensorrt import build, engine_files
from strokecore.scoring.asymmetry import AsymmetryEngine
from tests.unit.learned.engine_cases import GPU, NO_GPU, ONNX, OPENVINO, fault_of, pretend_machine
from tests.unit.learned.package_cases import write_package


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("select") / "model")


@pytest.fixture(scope="module")
def package(folder: Path) -> ModelPackage:
    return load_package(folder)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Pretends a machine; see pretend_machine."""
    yield lambda *found: pretend_machine(monkeypatch, tmp_path / "cache", *found)
    selection._kept.cache_clear()


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """TensorRT's engine files: precisions that are ready, and the builds that were started.

    "graphs" are the precisions that the package has a graph for.
    """
    state: dict[str, Any] = {"ready": set(), "started": [], "answer": True}
    state["graphs"] = {"bf16", "fp16", "tf32", "fp32"}

    def start(package: ModelPackage, precision: str) -> bool:
        state["started"].append(precision)
        return bool(state["answer"])

    monkeypatch.setattr(engine_files, "ready", lambda package, precision: precision in state["ready"])
    monkeypatch.setattr(build, "start_background_build", start)
    monkeypatch.setattr(ModelPackage, "has_graph", lambda _, precision: precision in state["graphs"])
    return state


class Refusing:
    """A gate that refused these precisions of TensorRT lately."""

    def __init__(self, *precisions: str) -> None:
        self.precisions = precisions

    def refused(self, name: str, precision: str) -> bool:
        return name == "tensorrt" and precision in self.precisions


def words(wanted: str, package: ModelPackage, *refused: str) -> list[str]:
    found = candidates(wanted, package, Refusing(*refused))  # type: ignore[arg-type]
    return [str(one) + (f" ({one.not_ready})" if one.not_ready else "") for one in found]


def test_without_a_gpu_openvino_comes_first_then_the_reference(
    machine: Callable[..., Any], package: ModelPackage
) -> None:
    machine(*NO_GPU, OPENVINO, ONNX)
    assert words("auto", package) == ["openvino bf16", "openvino fp32", "onnx fp32"]
    assert words("onnx", package) == ["onnx fp32"]


def test_on_a_gpu_every_engine_has_its_turn(
    machine: Callable[..., Any], builds: dict[str, Any], package: ModelPackage
) -> None:
    machine(*GPU, OPENVINO, ONNX)
    builds["ready"] = {"bf16", "fp16", "tf32", "fp32"}
    tensorrt = ["tensorrt bf16", "tensorrt fp16", "tensorrt tf32", "tensorrt fp32"]
    others = ["onnx-cuda tf32", "onnx-cuda fp32", "openvino bf16", "openvino fp32", "onnx fp32"]
    assert words("auto", package) == tensorrt + others
    assert words("tensorrt", package) == tensorrt + others
    assert words("onnx-cuda", package) == others
    assert words("openvino", package) == others[2:]
    assert builds["started"] == []


def test_an_engine_file_that_is_not_there_is_built_beside_the_work(
    machine: Callable[..., Any], builds: dict[str, Any], package: ModelPackage
) -> None:
    machine(GPU[0], ONNX)
    assert words("auto", package) == ["tensorrt bf16 (engine is being built)", "onnx fp32"]
    assert builds["started"] == ["bf16"]  # the others only when this one was refused
    builds["answer"] = False
    builds["ready"] = {"fp16"}
    found = words("auto", package)
    # what could not be built does not keep the next precision from its turn
    not_built = "(engine could not be built)"
    assert found[:2] == [f"tensorrt bf16 {not_built}", "tensorrt fp16"]
    assert found[2:] == [f"tensorrt tf32 {not_built}", f"tensorrt fp32 {not_built}", "onnx fp32"]


def test_a_precision_without_a_graph_is_not_built(
    machine: Callable[..., Any], builds: dict[str, Any], package: ModelPackage
) -> None:
    machine(GPU[0], ONNX)
    builds["graphs"] = {"tf32", "fp32"}
    assert words("auto", package) == ["tensorrt tf32 (engine is being built)", "onnx fp32"]
    assert builds["started"] == ["tf32"]


def test_the_next_precision_is_built_when_the_gate_refused_the_one_before(
    machine: Callable[..., Any], builds: dict[str, Any], package: ModelPackage
) -> None:
    machine(GPU[0], ONNX)
    assert words("auto", package, "bf16") == [
        "tensorrt bf16",
        "tensorrt fp16 (engine is being built)",
        "onnx fp32",
    ]
    assert builds["started"] == ["fp16"]


def test_the_first_right_one_scores_and_stays_for_the_process(
    machine: Callable[..., dict[str, Any]], folder: Path
) -> None:
    faults = machine(*NO_GPU, OPENVINO, ONNX)
    faults["openvino bf16"] = fault_of("background everywhere")
    config = ScoringConfig(model=folder)
    engine = select_engine(config)
    assert (engine.engine, engine.precision) == ("openvino", "fp32")
    assert len(engine.fallbacks) == 1
    assert engine.fallbacks[0].startswith("openvino bf16: refused by the parity gate (")
    assert select_engine(config) is engine
    assert select_engine(replace(config, engine="onnx")) is not engine
    assert (engine.name, engine.sha256) == ("mirror", load_package(folder).sha256)


def test_a_changed_file_is_looked_at_again(machine: Callable[..., Any], tmp_path: Path) -> None:
    machine(ONNX)
    folder = write_package(tmp_path / "model")
    assert select_engine(ScoringConfig(model=folder)).engine == "onnx"
    (folder / "MODEL_CARD.md").write_text("# Altered\n")
    with pytest.raises(ModelPackageError, match=r"altered MODEL_CARD.md"):
        select_engine(ScoringConfig(model=folder))
    with pytest.raises(ModelPackageError, match="not a folder"):
        select_engine(ScoringConfig(model=tmp_path / "none"))


def test_an_engine_that_was_asked_for_and_is_wrong_is_replaced_loudly(
    machine: Callable[..., dict[str, Any]], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = machine(*NO_GPU, OPENVINO, ONNX)
    faults["openvino bf16"] = fault_of("mirrored answers")
    faults["openvino fp32"] = EngineError("no memory")
    engine = select_engine(ScoringConfig(model=folder, engine="openvino"))
    assert engine.engine == "onnx"
    assert [text.split(":")[0] for text in engine.fallbacks] == ["openvino bf16", "openvino fp32"]
    assert "openvino fp32 is passed over: could not be started" in caplog.text


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (
            "tensorrt",
            r"tensorrt engine cannot be used: no NVIDIA GPU is visible; run: pip install 'strokecore\[gpu\]'",
        ),
        ("openvino", r"openvino engine cannot be used: not installed"),
    ],
)
def test_an_engine_that_is_not_there_is_a_usage_error_with_the_command(
    engine: str, expected: str, machine: Callable[..., Any], folder: Path
) -> None:
    machine(*NO_GPU, ONNX)
    with pytest.raises(UsageError, match=expected):
        select_engine(ScoringConfig(model=folder, engine=engine))


def test_without_the_reference_nothing_can_be_proved(machine: Callable[..., Any], folder: Path) -> None:
    machine(*NO_GPU, OPENVINO)
    for engine in ("auto", "openvino"):
        with pytest.raises(
            UsageError, match=r"onnx engine cannot be used: .*compared with it before it scores"
        ):
            select_engine(ScoringConfig(model=folder, engine=engine))


def test_when_the_reference_is_wrong_the_package_is_of_no_use(
    machine: Callable[..., dict[str, Any]], folder: Path
) -> None:
    faults = machine(*NO_GPU, OPENVINO, ONNX)
    faults["onnx fp32"] = fault_of("a bias of +0.03")
    with pytest.raises(ModelPackageError, match="does not give its golden answers"):
        select_engine(ScoringConfig(model=folder))


def test_when_nothing_can_be_started_all_of_it_is_said(
    machine: Callable[..., dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = machine(*NO_GPU, OPENVINO, ONNX)
    for name in ("openvino bf16", "openvino fp32", "onnx fp32"):
        faults[name] = EngineError("broken installation")
    with pytest.raises(
        UsageError, match=r"openvino bf16: could not .*onnx fp32: could not .*engines --model DIR"
    ):
        select_engine(ScoringConfig(model=folder))


def test_without_a_package_the_weight_free_engine_scores(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(selection, "default_package", lambda: None)
    for name in ("auto", "asymmetry"):
        engine = select_engine(ScoringConfig(engine=name))
        assert (engine.engine, engine.fallbacks) == ("asymmetry", ())
    monkeypatch.setattr(selection, "default_package", lambda: folder)
    assert select_engine(ScoringConfig(engine="asymmetry")).engine == "asymmetry"


def test_a_default_package_scores_where_none_is_named(
    machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    machine(*NO_GPU, OPENVINO, ONNX)
    monkeypatch.setattr(selection, "default_package", lambda: folder)
    assert select_engine(ScoringConfig()).name == "mirror"
    monkeypatch.setattr(selection, "SHIPPED", folder)
    for config in (ScoringConfig(engine="onnx"), ScoringConfig(engine="onnx", model=Path("shipped"))):
        monkeypatch.setattr("strokecore.learned.shipped.SHIPPED", folder)
        assert select_engine(config).name == "mirror"


def test_where_the_default_package_cannot_run_the_weight_free_engine_says_so(
    machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(selection, "default_package", lambda: folder)
    machine(*NO_GPU)  # not even the reference is installed
    engine = select_engine(ScoringConfig())
    assert (engine.engine, engine.fallbacks) == ("asymmetry", ("model: no engine here runs it",))
    engine = select_engine(ScoringConfig(atlas=tmp_path))
    assert (engine.engine, engine.fallbacks) == ("asymmetry", ("model: made for the atlas that ships",))


@pytest.mark.parametrize(
    ("name", "with_model", "expected"),
    [
        ("asymmetry", True, "leave --model out"),
        ("magic", False, "Unknown engine 'magic'"),
    ],
)
def test_what_does_not_go_together_is_said(name: str, with_model: bool, expected: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=expected):
        select_engine(ScoringConfig(engine=name, model=folder if with_model else None))


def test_selecting_loads_a_runtime_only_for_a_package() -> None:
    code = (
        "import sys\nfrom strokecore.config import ScoringConfig\n"
        "from strokecore.learned.selection import select_engine\n"
        "select_engine(ScoringConfig(engine='asymmetry'))\n"
        "assert not {'onnxruntime', 'torch', 'onnx', 'openvino', 'tensorrt'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_sites_decision_point_reaches_what_the_weight_free_engine_outlines(tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text('{"schema": 1, "threshold": 0.1}')
    engine = select_engine(ScoringConfig(engine=WEIGHT_FREE, region_cut=cut))
    assert isinstance(engine, AsymmetryEngine)
    assert engine.decision.threshold == 0.1
    assert engine.sha256 != AsymmetryEngine().sha256


@pytest.mark.parametrize("named", [True, False])
def test_a_sites_decision_point_reaches_what_a_model_outlines(
    named: bool, machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    machine(*NO_GPU, OPENVINO, ONNX)
    monkeypatch.setattr(selection, "default_package", lambda: folder)
    found = []
    for name, threshold in (("low", 0.1), ("high", 0.9)):
        cut = tmp_path / f"{name}.json"
        cut.write_text(f'{{"schema": 1, "threshold": {threshold}}}')
        engine = select_engine(ScoringConfig(model=folder if named else None, region_cut=cut))
        assert isinstance(engine, LearnedEngine)
        found.append(engine.region_threshold)
    without = select_engine(ScoringConfig(model=folder if named else None))
    assert isinstance(without, LearnedEngine)
    assert [*found, without.region_threshold] == [0.1, 0.9, without.package.region_threshold]
