"""GatedRuntime of strokecore/learned/selection.py: to the next engine, at the start and during a scan."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.engine import LearnedEngine
from strokecore.learned.gate import Gate
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.parity import GateReport
from strokecore.learned.random_slices import random_slices
from strokecore.learned.runtime import Runtime
from strokecore.learned.selection import GatedRuntime
from strokecore.learned.tensorrt import build, engine_files
from tests.unit.learned.engine_cases import (
    GPU,
    ONNX,
    OPENVINO,
    Arms,
    Float4D,
    Machine,
    MirrorRuntime,
    fault_of,
    pretend_machine,
    raises,
)
from tests.unit.learned.package_cases import SPEC, mirror_answers, write_package
from tests.unit.scoring.heads import darken, flat_head

RIGHT_M1 = RegionId("M1", "right")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("fallbacks") / "model"))


class FakeGate(Gate):
    """Refuses, with these losses of Dice, what it is told to, by "<name> <precision>"."""

    def __init__(self, package: ModelPackage) -> None:
        super().__init__(package, 1)
        self.refuses: dict[str, float] = {}
        self.known: dict[str, float] = {}
        self.examined: list[str] = []
        self.released = 0

    def _said(self, name: str, precision: str, dice_loss: float) -> GateReport:
        return GateReport(name, precision, datetime.now(UTC), 1, 1, 0.1, {"dice_loss": dice_loss})

    def refused(self, name: str, precision: str) -> GateReport | None:
        dice_loss = self.known.get(f"{name} {precision}")
        return None if dice_loss is None else self._said(name, precision, dice_loss)

    def examine(self, runtime: Runtime) -> GateReport:
        self.examined.append(f"{runtime.name} {runtime.precision}")
        return self._said(runtime.name, runtime.precision, self.refuses.get(self.examined[-1], 0.0))

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def gate(package: ModelPackage) -> FakeGate:
    return FakeGate(package)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """OpenVINO in bf16 and fp32, and ONNX Runtime."""
    return pretend_machine(monkeypatch, tmp_path / "cache", OPENVINO, ONNX)


def gated(package: ModelPackage, gate: FakeGate, wanted: str = "auto") -> GatedRuntime:
    return GatedRuntime(package, wanted, 1, gate)


def heads(number: int = 4) -> Float4D:
    return random_slices(SPEC, seed=11)[:number]


def after(runs: int, fault: Callable[[Float4D, int], Arms]) -> Callable[[Float4D, int], Arms]:
    """Right for some runs, wrong from then on."""
    return lambda slices, run: mirror_answers(slices) if run <= runs else fault(slices, run)


def test_the_first_that_the_gate_lets_through_runs(
    package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    runtime = gated(package, gate)
    assert (runtime.name, runtime.precision, runtime.fallbacks) == ("openvino", "bf16", ())
    assert (runtime.device, runtime.library) == ("a test", "numpy")
    assert list(machine.started) == ["openvino bf16"]  # nothing else is even started
    assert gate.released == 1
    for found, known in zip(runtime.run(heads()), mirror_answers(heads()), strict=True):
        assert np.array_equal(found, known)


def test_what_is_refused_is_closed_and_named_with_figures(
    package: ModelPackage, gate: FakeGate, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    gate.refuses["openvino bf16"] = 0.09
    with caplog.at_level(logging.WARNING, "strokecore"):
        runtime = gated(package, gate)
    expected = "openvino bf16: refused by the parity gate (dice_loss 0.09 > 0.005)"
    assert (runtime.name, runtime.precision, runtime.fallbacks) == ("openvino", "fp32", (expected,))
    assert machine.started["openvino bf16"][0].closed == 1
    assert "openvino bf16 is passed over: refused" in caplog.text  # loudly


def test_what_was_refused_lately_is_not_even_started(
    package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    gate.known = {"openvino bf16": 0.5, "openvino fp32": 0.5}
    runtime = gated(package, gate)
    assert runtime.name == "onnx"
    assert runtime.fallbacks[0] == "openvino bf16: refused by the parity gate (dice_loss 0.5 > 0.005)"
    assert list(machine.started) == ["onnx fp32"]


def test_what_cannot_be_started_is_passed_over_without_its_message(
    package: ModelPackage, gate: FakeGate, machine: Machine, tmp_path: Path
) -> None:
    machine["openvino bf16"] = EngineError(f"{tmp_path} has no room")
    machine["openvino fp32"] = ModelPackageError(f"{tmp_path} is odd")
    assert gated(package, gate).fallbacks == (
        "openvino bf16: could not be started",
        "openvino fp32: could not be started",
    )


def test_an_engine_in_the_making_is_named(
    package: ModelPackage, gate: FakeGate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = pretend_machine(monkeypatch, tmp_path / "cache", GPU[0], ONNX)
    monkeypatch.setattr(engine_files, "ready", lambda package, precision: False)
    monkeypatch.setattr(build, "start_background_build", lambda *_: True)
    runtime = gated(package, gate)
    assert (runtime.name, runtime.fallbacks) == ("onnx", ("tensorrt tf32: engine is being built",))
    assert list(machine.started) == ["onnx fp32"]


def test_without_any_that_is_right_nothing_runs(
    package: ModelPackage, gate: FakeGate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: Machine
) -> None:
    gate.refuses = {"openvino bf16": 0.2, "openvino fp32": 0.2, "onnx fp32": 0.3}
    with pytest.raises(EngineError, match=r"openvino bf16: refused .*0\.2.*; onnx fp32: refused .*0\.3"):
        gated(package, gate)
    pretend_machine(monkeypatch, tmp_path / "cache")
    with pytest.raises(EngineError, match="none is installed"):
        gated(package, gate)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (raises(EngineError("the device is lost")), "failed (EngineError) while running"),
        (raises(RuntimeError("cuda")), "failed (RuntimeError) while running"),
        (raises(MemoryError()), "failed (MemoryError) while running"),
        (fault_of("a NaN in one pixel"), "gave answers that are not finite while running"),
        (fault_of("zeros"), "gave answers that are no probabilities while running"),
        (fault_of("too few slices"), "gave answers of another shape while running"),
        (fault_of("half precision arrays"), "gave answers of another shape while running"),
        (fault_of("background everywhere"), "gave a wrong answer to a slice with a known one"),
        (fault_of("mirrored answers"), "gave a wrong answer to a slice with a known one"),
        (fault_of("the last part of a batch stale"), "gave a wrong answer to a slice with a known one"),
    ],
)
def test_one_that_fails_on_a_scan_is_replaced_and_the_same_slices_run_again(
    fault: Any, reason: str, package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    machine["openvino bf16"] = after(1, fault)
    runtime = gated(package, gate)
    runtime.run(heads(2))
    assert runtime.fallbacks == ()
    answers = runtime.run(heads())
    assert (runtime.name, runtime.precision) == ("openvino", "fp32")
    assert runtime.fallbacks[0].startswith(f"openvino bf16: {reason}")
    assert "cuda" not in runtime.fallbacks[0]
    for found, known in zip(answers, mirror_answers(heads()), strict=True):
        assert np.array_equal(found, known)
    assert machine.started["openvino bf16"][0].closed == 1
    assert gate.examined == ["openvino bf16", "openvino fp32"]  # gated before it took over
    runtime.run(heads(1))
    # stays, with the three slices whose answers are known
    assert machine.started["openvino fp32"][0].runs == [7, 4]


@pytest.mark.parametrize("part", [slice(0, 8), slice(8, 16), slice(16, None)])
def test_a_part_of_a_batch_that_fails_by_itself_is_seen(
    part: slice, package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    def fault(slices: Float4D, run: int) -> Arms:
        answers = mirror_answers(slices)
        dead = fault_of("background everywhere")(slices, run)
        for arm, wrong in zip(answers, dead, strict=True):
            arm[part] = wrong[part]
        return answers

    machine["openvino bf16"] = fault
    runtime = gated(package, gate)
    slices = random_slices(SPEC, seed=11)
    given = np.concatenate([slices, slices, slices])[:21]
    for found, known in zip(runtime.run(given), mirror_answers(given), strict=True):
        assert np.array_equal(found, known)
    assert runtime.precision == "fp32"


def test_a_stale_buffer_is_seen_by_the_slices_that_go_along(
    package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    machine["openvino bf16"] = fault_of("an answer that is one run late")
    runtime = gated(package, gate)
    runtime.run(heads(3))
    assert runtime.precision == "bf16"
    other = heads(6)[3:]
    for found, known in zip(runtime.run(other), mirror_answers(other), strict=True):
        assert np.array_equal(found, known)
    assert runtime.precision == "fp32"


def test_the_last_engines_nan_is_a_defect_not_a_healthy_brain(
    package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    machine |= dict.fromkeys(("openvino bf16", "openvino fp32", "onnx fp32"), fault_of("NaN everywhere"))
    engine = LearnedEngine(package, gated(package, gate))
    with pytest.raises(FloatingPointError):
        engine.segment(flat_head())
    assert len(engine.fallbacks) == 3


def test_when_all_are_lost_the_next_scan_tries_again(
    package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    lost = raises(EngineError("lost"))
    machine |= {"openvino bf16": lost, "openvino fp32": lost, "onnx fp32": lost}
    runtime = gated(package, gate)
    with pytest.raises(EngineError, match=r"openvino bf16: failed .*; onnx fp32: failed"):
        runtime.run(heads())
    assert (runtime.name, runtime.precision) == ("onnx", "fp32")  # ran last
    machine.clear()
    runtime.run(heads())
    assert (runtime.name, runtime.fallbacks) == ("openvino", ())


def test_a_damaged_package_found_on_the_way_is_an_engines_error_then(
    package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    machine["openvino bf16"] = raises(EngineError("lost"))
    runtime = gated(package, gate)

    def damaged(_: Runtime) -> GateReport:
        raise ModelPackageError("does not give its golden answers")

    gate.examine = damaged  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="golden answers"):
        runtime.run(heads())


def test_a_head_is_segmented_as_by_the_engine_alone(
    package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    head = darken(flat_head(noise_hu=1.0), RIGHT_M1, 6.0)
    alone = LearnedEngine(package, MirrorRuntime(package)).segment(head)
    machine["openvino bf16"] = fault_of("zeros")
    engine = LearnedEngine(package, gated(package, gate))
    lesion = engine.segment(head)
    assert np.array_equal(lesion.probability, alone.probability)
    assert lesion.evidence == alone.evidence
    assert (engine.precision, len(engine.fallbacks)) == ("fp32", 1)


def test_closing_frees_what_runs_and_may_be_repeated(
    package: ModelPackage, gate: FakeGate, machine: Machine
) -> None:
    runtime = gated(package, gate, "onnx")
    runtime.close()
    runtime.close()
    assert machine.started["onnx fp32"][0].closed == 1
