"""The parity gate's judgement: what is right passes in every precision, what is wrong is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strokecore.anatomy.regions import REGION_NAMES, RegionId
from strokecore.learned.arms import infarct_probability
from strokecore.learned.combination import Combination, VoxelWeights
from strokecore.learned.engine import region_log_odds
from strokecore.learned.fresh import HEADS, Fresh, fresh_slices
from strokecore.learned.golden import Answers, Golden, read_golden
from strokecore.learned.package import Calibration, ModelPackage, load_package
from strokecore.learned.parity import check_parity, region_probabilities
from strokecore.learned.parity_report import LIMITS, Criterion, Limit, ParityReport
from strokecore.learned.preprocessing import InputSpec
from tests.unit.learned.engine_cases import (
    BROKEN,
    Arms,
    Float4D,
    MirrorRuntime,
    fault_of,
    noise,
    of_arms,
    of_input,
    of_log_odds,
    one_class,
)
from tests.unit.learned.package_cases import SPEC, mirror_answers, write_package

Fault = Callable[[Float4D, int], Arms]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("parity") / "model"))


@pytest.fixture(scope="module")
def golden(package: ModelPackage) -> Golden:
    return read_golden(package)


@pytest.fixture(scope="module")
def fresh() -> Fresh:
    return fresh_slices(SPEC, seed=7)


def judged(
    package: ModelPackage, golden: Golden, fresh: Fresh, fault: Fault | None = None, batch: int = 1
) -> ParityReport:
    engine = MirrorRuntime(package, "openvino", "bf16", fault, batch)
    return check_parity(engine, package, golden, fresh, Answers(*mirror_answers(fresh.slices)))


def failed(report: ParityReport) -> set[str]:
    return {criterion.name for criterion in report.criteria if not criterion.passed}


def value(report: ParityReport, name: str) -> float:
    return next(c.value for c in report.criteria if c.name == name)


def test_the_right_engine_passes_every_criterion(package: ModelPackage, golden: Golden, fresh: Fresh) -> None:
    report = judged(package, golden, fresh)
    assert report.passed, report.reason
    assert {c.name for c in report.criteria} == set(LIMITS) - {"fp32_difference"}
    assert (report.engine, report.precision, report.seed, report.reason) == ("openvino", "bf16", 7, "")
    assert value(report, "dice") == 1.0
    assert value(report, "golden_difference") <= 2**-16  # what golden answers are rounded to


@pytest.mark.parametrize(
    "fault",
    [
        of_log_odds(noise(0.03)),
        of_arms(lambda arm: (arm.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)),
        of_arms(lambda arm: arm.astype(np.float16).astype(np.float32)),
    ],
    ids=["noise of bf16 arithmetic", "answers cut to bf16", "answers rounded to fp16"],
)
def test_what_short_formats_do_to_sound_answers_passes(
    fault: Fault, package: ModelPackage, golden: Golden, fresh: Fresh
) -> None:
    report = judged(package, golden, fresh, fault)
    assert report.passed, report.reason


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_engine_is_refused_by_the_criterion_that_is_there_for_it(
    name: str, package: ModelPackage, golden: Golden, fresh: Fresh
) -> None:
    report = judged(package, golden, fresh, fault_of(name))
    assert not report.passed
    assert BROKEN[name][1] in failed(report)
    assert report.reason


@pytest.mark.parametrize("bits", [13, 16])
def test_what_calls_itself_fp32_must_compute_in_it(
    bits: int, package: ModelPackage, golden: Golden, fresh: Fresh
) -> None:
    """TF32 keeps 10 bits of 23, bf16 7."""
    mask = np.uint32((0xFFFFFFFF << bits) & 0xFFFFFFFF)

    def rounded(slices: Float4D) -> Float4D:
        return (slices.view(np.uint32) & mask).view(np.float32)

    engine = MirrorRuntime(package, "onnx-cuda", "fp32", of_input(rounded))
    report = check_parity(engine, package, golden, fresh, Answers(*mirror_answers(fresh.slices)))
    assert "fp32_difference" in failed(report)
    right = check_parity(
        MirrorRuntime(package), package, golden, fresh, Answers(*mirror_answers(fresh.slices))
    )
    assert right.passed
    assert value(right, "fp32_difference") <= 2**-16


@pytest.mark.parametrize("seed", range(3))
def test_other_random_heads_show_the_quiet_faults_too(
    seed: int, package: ModelPackage, golden: Golden
) -> None:
    other = fresh_slices(SPEC, seed=100 + seed)
    assert judged(package, golden, other).passed
    for name in ("mirrored answers", "swapped classes", "a shift by half a row", "a bias of +0.03"):
        assert BROKEN[name][1] in failed(judged(package, golden, other, fault_of(name))), name


def test_with_nothing_to_outline_a_constant_is_refused_all_the_same(
    package: ModelPackage, golden: Golden, fresh: Fresh
) -> None:
    """Dice of two empty masks is 1, and a network that calls nothing is near any that never does."""
    normal = golden.case == 1

    def calling_nothing(slices: Float4D, _: int) -> Arms:
        return of_log_odds(lambda odds: odds * np.float32(0.5) - np.float32(12))(slices, 1)

    answers = Answers(*calling_nothing(golden.slices[normal], 1))
    healthy = Golden(
        golden.slices[normal], answers,
        *(part[normal] for part in (golden.case * 0, golden.share, golden.regions, golden.brain)),
    )  # fmt: skip
    theirs = Answers(*calling_nothing(fresh.slices, 1))
    right = check_parity(MirrorRuntime(package, fault=calling_nothing), package, healthy, fresh, theirs)
    assert right.passed, right.reason
    wrong = check_parity(MirrorRuntime(package, fault=of_arms(one_class(0))), package, healthy, fresh, theirs)
    assert value(wrong, "dice") == 1.0
    assert value(wrong, "regions") == 0
    assert value(wrong, "golden_difference") < 0.02
    assert {"spread", "scale"} <= failed(wrong)


def test_a_network_that_is_itself_a_constant_proves_nothing(
    package: ModelPackage, golden: Golden, fresh: Fresh
) -> None:
    fault = of_arms(one_class(0))
    constant = replace(golden, answers=Answers(*fault(golden.slices, 1)))
    engine = MirrorRuntime(package, fault=fault)
    report = check_parity(engine, package, constant, fresh, Answers(*fault(fresh.slices, 1)))
    assert {"spread", "scale", "shift", "bias"} <= failed(report)


def test_more_slices_than_the_engines_own_batch_are_run(
    package: ModelPackage, golden: Golden, fresh: Fresh
) -> None:
    number = len(golden.slices) + len(fresh.slices)
    for batch in (1, 3, 8, number, 32):
        engine = MirrorRuntime(package, batch=batch)
        report = check_parity(engine, package, golden, fresh, Answers(*mirror_answers(fresh.slices)))
        assert report.passed, report.reason
        assert engine.runs[0] >= max(number, batch + 1)
        assert engine.runs[0] % 2 == 1
        assert batch == 1 or engine.runs[0] % batch
        assert engine.runs[-3:] == [5, 1, 5]
        assert engine.runs[1:-3] == [size for size in (16, 8, 2) if size <= batch // 2]


def test_a_batch_size_that_is_wrong_by_itself_is_found(
    package: ModelPackage, golden: Golden, fresh: Fresh
) -> None:
    """A GPU engine has a graph for each size; most slices of a head can be right and some not."""

    def wrong_for(size: int) -> Fault:
        def fault(slices: Float4D, run: int) -> Arms:
            parts = []
            left = slices
            while len(left):
                taken = left[: 1 << (len(left).bit_length() - 1)][:64]
                bg, sg = mirror_answers(taken)
                parts.append((bg[..., ::-1], sg[..., ::-1]) if len(taken) == size else (bg, sg))
                left = left[len(taken) :]
            bg, sg = (np.concatenate(arms) for arms in zip(*parts, strict=True))
            return bg, sg

        return fault

    for size in (1, 2, 4, 8, 16, 32, 64):
        report = judged(package, golden, fresh, wrong_for(size), batch=64)
        assert "batch" in failed(report), size


def test_region_decisions_are_the_packages_own(package: ModelPackage) -> None:
    """The network's evidence alone, whatever weight the package gives to another engine's."""
    calibration = {name: Calibration(2.0, 1.0, 0.7) for name in REGION_NAMES}
    region = RegionId("M1", "left")
    expected = 1 / (1 + math.exp(-(2.0 * -0.4 + 1.0)))
    assert region_probabilities({region: -0.4}, calibration) == {region: pytest.approx(expected)}


def test_one_region_that_is_decided_otherwise_is_enough(
    package: ModelPackage, golden: Golden, fresh: Fresh
) -> None:
    """A calibration that puts one decision between the engine's answer and the golden one."""
    shifted = of_log_odds(lambda odds: odds + np.float32(0.004))  # too little for any other criterion
    assert judged(package, golden, fresh, shifted).passed
    right_m1 = RegionId("M1", "right")
    here = golden.case == 0
    evidence = [
        region_log_odds(
            infarct_probability(*(arm[here] for arm in answers), golden.share[here].astype(np.float64)),
            golden.regions[here],
            golden.brain[here],
        )[right_m1]
        for answers in (golden.answers, shifted(golden.slices, 1))
    ]
    between = Calibration(1.0, -float(np.mean(evidence)))
    sharp = replace(package, calibration={**package.calibration, "M1": between})
    assert failed(judged(sharp, golden, fresh, shifted)) == {"regions", "aspects"}


def test_outlines_are_compared_where_a_joined_package_draws_them(
    package: ModelPackage, golden: Golden, fresh: Fresh
) -> None:
    """Joined with the weight-free engine, the decision lies at other log-odds of the network."""
    weights = VoxelWeights(1.0, 0.5, 1.5)
    joined = replace(package, combination=Combination("0" * 64, weights, weights))
    assert judged(joined, golden, fresh).passed
    # turns what lies between the two decisions, and nothing at the network's own
    between = of_log_odds(lambda odds: np.where((odds > -1.6) & (odds < -0.4), np.float32(-1.6), odds))
    assert value(judged(package, golden, fresh, between), "dice") == 1.0
    assert value(judged(joined, golden, fresh, between), "dice") < 1.0


def test_a_report_survives_json(package: ModelPackage, golden: Golden, fresh: Fresh) -> None:
    for fault in (None, fault_of("a NaN in one pixel"), fault_of("mirrored answers")):
        report = judged(package, golden, fresh, fault)
        again = ParityReport.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
        assert (again.passed, again.reason) == (report.passed, report.reason)
        assert again.to_dict() == report.to_dict()
    tampered = {**judged(package, golden, fresh, fault_of("zeros")).to_dict(), "passed": True}
    with pytest.raises(ValueError, match="does not follow"):
        ParityReport.from_dict(tampered)


def test_a_value_that_cannot_be_measured_is_never_within() -> None:
    assert not Criterion("dice", math.nan, LIMITS["dice"]).passed
    assert not Criterion("scale", math.inf, Limit(0.9, None)).passed
    assert str(Criterion("dice", 0.9, LIMITS["dice"])) == "dice 0.9 < 0.995"
    assert str(Criterion("bias", 0.03, LIMITS["bias"])) == "bias 0.03 > 0.025"
    assert not ParityReport("onnx", "fp32", 1, 0, 0.0, ()).passed


@pytest.mark.parametrize("size", [(136, 112), (64, 48)])
def test_random_heads_differ_by_seed_slice_and_side(size: tuple[int, int]) -> None:
    spec = InputSpec(size=size, pixel_mm=1.5 * 136 / size[0])
    first, same, other = (fresh_slices(spec, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.slices, same.slices)
    assert not np.array_equal(first.slices, other.slices)
    assert first.slices.shape == (HEADS + 2, 3, *size)
    assert first.inside.shape == (HEADS, *size)
    assert np.isfinite(first.slices).all()
    share = first.inside.mean(axis=(1, 2))
    assert ((share > 0.2) & (share < 0.8)).all()  # a whole head, with air around it
    stroke = first.slices[:HEADS, 1]
    assert min(np.abs(stroke[a] - stroke[a - 1]).mean() for a in range(HEADS)) > 0.1
    assert np.abs(stroke - stroke[..., ::-1]).mean() > 0.05


def test_reports_name_no_path(package: ModelPackage, golden: Golden, fresh: Fresh, tmp_path: Path) -> None:
    from strokecore.errors import EngineError
    from tests.unit.learned.engine_cases import raises

    report = judged(package, golden, fresh, raises(EngineError(f"{tmp_path} cannot be read")))
    assert str(tmp_path) not in json.dumps(report.to_dict()) + report.reason
