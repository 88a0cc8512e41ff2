"""strokecore/learned/serving.py: down the ladder at the start and while a scan is segmented."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.engine import LearnedEngine
from strokecore.learned.fresh import fresh_slices
from strokecore.learned.golden import Answers, read_golden
from strokecore.learned.ladder import Step
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.parity_report import LIMITS, Criterion, ParityReport
from strokecore.learned.probes import Probes, choose_probes
from strokecore.learned.serving import ServingEngine
from strokecore.learned.verdicts import Verdict
from tests.unit.learned.engine_cases import Arms, Float4D, MirrorEngine, fault_of, raises
from tests.unit.learned.package_cases import SPEC, mirror_answers, write_package
from tests.unit.scoring.heads import darken, flat_head

TRT, BF16, FP32, ONNX = (
    Step("tensorrt", "bf16"), Step("openvino", "bf16"), Step("openvino", "fp32"), Step("onnx", "fp32")
)  # fmt: skip
RIGHT_M1 = RegionId("M1", "right")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("serving") / "model"))


@pytest.fixture(scope="module")
def probes(package: ModelPackage) -> Probes:
    fresh = fresh_slices(SPEC, seed=3)
    return choose_probes(read_golden(package), fresh, Answers(*mirror_answers(fresh.slices)))


class FakeGate:
    """Refuses the steps that it is told to."""

    def __init__(self, probes: Probes, refuses: dict[Step, float] | None = None) -> None:
        self.probes: Probes | None = probes
        self.refuses = refuses or {}
        self.known: dict[Step, float] = {}
        self.examined: list[Step] = []
        self.forgotten = 0

    def _report(self, step: Step, dice: float) -> ParityReport:
        return ParityReport(
            step.engine, step.precision, 1, 1, 0.1, (Criterion("dice", dice, LIMITS["dice"]),)
        )

    def refused(self, engine: str, precision: str) -> Verdict | None:
        step = Step(engine, precision)
        if step not in self.known:
            return None
        return Verdict(self._report(step, self.known[step]), datetime.now(UTC))

    def examine(self, engine: LearnedEngine) -> ParityReport:
        step = Step(engine.engine, engine.precision)
        self.examined.append(step)
        return self._report(step, self.refuses.get(step, 1.0))

    def forget_material(self) -> None:
        self.forgotten += 1


class Machine:
    """Makes engines of steps and remembers them."""

    def __init__(self, package: ModelPackage, faults: dict[Step, Any] | None = None) -> None:
        self.package = package
        self.faults = faults or {}
        self.made: dict[Step, list[MirrorEngine]] = {}

    def start(self, step: Step) -> LearnedEngine:
        fault = self.faults.get(step)
        if isinstance(fault, Exception):
            raise fault
        engine = MirrorEngine(self.package, step.engine, step.precision, fault)
        self.made.setdefault(step, []).append(engine)
        return engine


def serving(machine: Machine, gate: FakeGate, *steps: Step) -> ServingEngine:
    def ladder() -> Iterator[Step]:
        return iter(steps)

    return ServingEngine(machine.package, ladder, machine.start, gate)


def heads(number: int = 4) -> Float4D:
    return fresh_slices(SPEC, seed=11).slices[:number]


def after(runs: int, fault: Callable[[Float4D, int], Arms]) -> Callable[[Float4D, int], Arms]:
    """Right for some runs, wrong from then on."""
    return lambda slices, run: mirror_answers(slices) if run <= runs else fault(slices, run)


def test_the_first_that_the_gate_lets_through_serves(package: ModelPackage, probes: Probes) -> None:
    machine, gate = Machine(package), FakeGate(probes)
    engine = serving(machine, gate, BF16, FP32, ONNX)
    assert (engine.engine, engine.precision, engine.fallbacks) == ("openvino", "bf16", ())
    assert (engine.device, engine.library) == ("a test", "numpy")
    assert (engine.name, engine.sha256) == (package.name, package.sha256)
    assert list(machine.made) == [BF16]  # nothing else is even started
    assert gate.forgotten == 1
    for found, known in zip(engine.run(heads()), mirror_answers(heads()), strict=True):
        assert np.array_equal(found, known)


def test_what_is_refused_is_closed_and_named_with_figures(
    package: ModelPackage, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    machine, gate = Machine(package), FakeGate(probes, {BF16: 0.91})
    with caplog.at_level(logging.WARNING, "strokecore"):
        engine = serving(machine, gate, BF16, FP32, ONNX)
    expected = "openvino bf16: refused by the parity gate (dice 0.91 < 0.995)"
    assert (engine.engine, engine.precision, engine.fallbacks) == ("openvino", "fp32", (expected,))
    assert machine.made[BF16][0].closed == 1
    assert "openvino bf16 is passed over: refused" in caplog.text  # loudly


def test_what_was_refused_lately_is_not_even_started(package: ModelPackage, probes: Probes) -> None:
    machine, gate = Machine(package), FakeGate(probes)
    gate.known[BF16] = 0.5
    engine = serving(machine, gate, BF16, ONNX)
    assert engine.engine == "onnx"
    assert engine.fallbacks == ("openvino bf16: refused by the parity gate (dice 0.5 < 0.995)",)
    assert BF16 not in machine.made


def test_what_cannot_be_had_is_passed_over_without_its_message(
    package: ModelPackage, probes: Probes, tmp_path: Path
) -> None:
    broken = {TRT: EngineError(f"{tmp_path} has no room"), BF16: ModelPackageError(f"{tmp_path} is odd")}
    engine = serving(Machine(package, broken), FakeGate(probes), TRT, BF16, ONNX)
    assert engine.fallbacks == ("tensorrt bf16: could not be started", "openvino bf16: could not be started")


def test_an_engine_in_the_making_is_named(package: ModelPackage, probes: Probes) -> None:
    waiting = Step("tensorrt", "bf16", "engine is being built")
    engine = serving(Machine(package), FakeGate(probes), waiting, ONNX)
    assert (engine.engine, engine.fallbacks) == ("onnx", ("tensorrt bf16: engine is being built",))


def test_without_any_that_is_right_nothing_serves(package: ModelPackage, probes: Probes) -> None:
    gate = FakeGate(probes, {BF16: 0.2, ONNX: 0.3})
    with pytest.raises(EngineError, match=r"openvino bf16: refused .*0\.2.*; onnx fp32: refused .*0\.3"):
        serving(Machine(package), gate, BF16, ONNX)
    with pytest.raises(EngineError, match="none is installed"):
        serving(Machine(package), FakeGate(probes))


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
        (fault_of("background everywhere"), "gave a wrong answer to the slice with a known one"),
        (fault_of("mirrored answers"), "gave a wrong answer to the slice with a known one"),
        (fault_of("the last part of a batch stale"), "gave a wrong answer to the slice with a known one"),
    ],
)
def test_one_that_fails_on_a_scan_is_replaced_and_the_same_slices_run_again(
    fault: Any, reason: str, package: ModelPackage, probes: Probes
) -> None:
    machine, gate = Machine(package, {BF16: after(1, fault)}), FakeGate(probes)
    engine = serving(machine, gate, BF16, ONNX)
    engine.run(heads(2))
    assert engine.fallbacks == ()
    answers = engine.run(heads())
    assert (engine.engine, engine.precision) == ("onnx", "fp32")
    assert engine.fallbacks[0].startswith(f"openvino bf16: {reason}")
    assert "cuda" not in engine.fallbacks[0]
    for found, known in zip(answers, mirror_answers(heads()), strict=True):
        assert np.array_equal(found, known)
    assert machine.made[BF16][0].closed == 1
    assert gate.examined == [BF16, ONNX]  # gated before it took over
    engine.run(heads(1))
    assert machine.made[ONNX][0].runs == [5, 2]  # stays, with the slice whose answer is known


def test_a_stale_buffer_is_seen_by_the_slice_that_goes_along(package: ModelPackage, probes: Probes) -> None:
    late = fault_of("an answer that is one run late")
    engine = serving(Machine(package, {BF16: late}), FakeGate(probes), BF16, ONNX)
    engine.run(heads(3))
    assert engine.engine == "openvino"
    other = heads(6)[3:]
    for found, known in zip(engine.run(other), mirror_answers(other), strict=True):
        assert np.array_equal(found, known)
    assert engine.engine == "onnx"


def test_the_last_engines_nan_is_a_defect_not_a_healthy_brain(package: ModelPackage, probes: Probes) -> None:
    nan = fault_of("NaN everywhere")
    engine = serving(Machine(package, {BF16: nan, ONNX: nan}), FakeGate(probes), BF16, ONNX)
    with pytest.raises(FloatingPointError):
        engine.segment(flat_head())
    assert len(engine.fallbacks) == 2


def test_when_all_are_lost_the_next_scan_tries_again(package: ModelPackage, probes: Probes) -> None:
    lost = EngineError("lost")
    faults = {BF16: raises(lost), ONNX: after(0, raises(lost))}
    machine = Machine(package, faults)
    engine = serving(machine, FakeGate(probes), BF16, ONNX)
    with pytest.raises(EngineError, match=r"openvino bf16: failed .*; onnx fp32: failed"):
        engine.run(heads())
    assert (engine.engine, engine.precision) == ("onnx", "fp32")  # served last
    machine.faults = {}
    engine.run(heads())
    assert (engine.engine, engine.fallbacks) == ("openvino", ())


def test_a_damaged_package_found_on_the_way_is_an_engines_error_then(
    package: ModelPackage, probes: Probes
) -> None:
    gate = FakeGate(probes)
    engine = serving(Machine(package, {BF16: raises(EngineError("lost"))}), gate, BF16, ONNX)

    def damaged(_: LearnedEngine) -> ParityReport:
        raise ModelPackageError("does not give its golden answers")

    gate.examine = damaged  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="golden answers"):
        engine.run(heads())


def test_a_head_is_segmented_as_by_the_engine_alone(package: ModelPackage, probes: Probes) -> None:
    head = darken(flat_head(noise_hu=1.0), RIGHT_M1, 6.0)
    alone = MirrorEngine(package).segment(head)
    machine = Machine(package, {BF16: fault_of("zeros")})
    engine = serving(machine, FakeGate(probes), BF16, ONNX)
    lesion = engine.segment(head)
    assert np.array_equal(lesion.probability, alone.probability)
    assert lesion.evidence == alone.evidence
    assert (engine.engine, len(engine.fallbacks)) == ("onnx", 1)


def test_closing_frees_what_serves_and_may_be_repeated(package: ModelPackage, probes: Probes) -> None:
    machine = Machine(package)
    engine = serving(machine, FakeGate(probes), ONNX)
    engine.close()
    engine.close()
    assert machine.made[ONNX][0].closed == 1
