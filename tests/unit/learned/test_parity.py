"""strokecore/learned/parity.py: what is right passes in every precision, what is wrong is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.learned.arms import infarct_probability
from strokecore.learned.combination import Combination, VoxelWeights
from strokecore.learned.engine import region_log_odds
from strokecore.learned.golden import Golden, read_golden
from strokecore.learned.package import Calibration, ModelPackage, load_package
from strokecore.learned.parity import LIMITS, GateReport, compare, run_all, wrong_answer
from strokecore.learned.preprocessing import Channel, InputSpec
from strokecore.learned.random_slices import HEADS, random_slices
from strokecore.learned.runtime import Answers
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
def random() -> Float4D:
    return random_slices(SPEC, seed=7)


def judged(
    package: ModelPackage,
    golden: Golden,
    random: Float4D,
    fault: Fault | None = None,
    *,
    fp32: bool = False,
    reference: Callable[[Float4D], Arms] = mirror_answers,
) -> GateReport:
    """All slices at once, a few in reversed order, one alone, and the few again."""
    slices = np.concatenate([golden.slices, random])
    known = Answers(*map(np.concatenate, zip(golden.answers, reference(random), strict=True)))
    every, few = np.arange(len(slices)), np.arange(len(slices))[:-6:-1]
    batches = [every, few, every[8:9], few]
    found = run_all(MirrorRuntime(package, fault=fault), slices, batches)
    return report(compare(found, batches, known, fp32=fp32, whole=(package, golden)))


def report(values: dict[str, float]) -> GateReport:
    return GateReport("openvino", "bf16", datetime(2026, 11, 28, tzinfo=UTC), 7, 28, 0.25, values)


def test_the_right_engine_passes_every_criterion(
    package: ModelPackage, golden: Golden, random: Float4D
) -> None:
    found = judged(package, golden, random, fp32=True)
    assert found.passed, found.reason
    assert found.reason == ""
    assert set(found.values) == set(LIMITS)
    assert found.values["dice_loss"] == 0
    assert found.values["fp32_difference"] <= 2**-16  # what golden answers are rounded to
    assert set(judged(package, golden, random).values) == set(LIMITS) - {"fp32_difference"}


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
    fault: Fault, package: ModelPackage, golden: Golden, random: Float4D
) -> None:
    found = judged(package, golden, random, fault)
    assert found.passed, found.reason


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_engine_is_refused_by_the_criterion_that_is_there_for_it(
    name: str, package: ModelPackage, golden: Golden, random: Float4D
) -> None:
    found = judged(package, golden, random, fault_of(name))
    assert not found.passed
    assert BROKEN[name][1] in found.failed
    assert found.reason


def test_each_criterion_is_there_for_something() -> None:
    assert set(LIMITS) - {criterion for _, criterion in BROKEN.values()} == {"fp32_difference"}


@pytest.mark.parametrize("bits", [13, 16])
def test_what_calls_itself_fp32_must_compute_in_it(
    bits: int, package: ModelPackage, golden: Golden, random: Float4D
) -> None:
    """TF32 keeps 10 bits of 23, bf16 7."""
    mask = np.uint32((0xFFFFFFFF << bits) & 0xFFFFFFFF)
    rounded = of_input(lambda slices: (slices.view(np.uint32) & mask).view(np.float32))
    assert "fp32_difference" in judged(package, golden, random, rounded, fp32=True).failed


@pytest.mark.parametrize("seed", range(3))
def test_other_random_heads_show_the_quiet_faults_too(
    seed: int, package: ModelPackage, golden: Golden
) -> None:
    other = random_slices(SPEC, seed=100 + seed)
    assert judged(package, golden, other).passed
    for name in ("mirrored answers", "swapped classes", "a shift by half a row", "a bias of +0.03"):
        assert BROKEN[name][1] in judged(package, golden, other, fault_of(name)).failed, name


def test_the_air_has_no_head_beside_it_and_regions_lie_in_heads() -> None:
    """Two right engines differ on a constant slice with a head's slice as neighbour."""
    windows = tuple(Channel((0.0, 80.0), slab=slab) for slab in (0, -1, 1))
    slices = random_slices(InputSpec(size=(64, 48), channels=windows, atlas=True), seed=3)
    air, regions = slices[-1], slices[:HEADS, len(windows) :]
    assert (air == air[:, :1, :1]).all()
    assert (air[: len(windows)] == air[0, 0, 0]).all()
    assert not air[len(windows) :].any()
    assert set(np.unique(regions)) == {0.0, 1.0}
    assert regions.sum(axis=1).max() == 1
    assert slices[1, 1].std() > 0.1, "a head has neighbours"


def test_with_nothing_to_outline_a_constant_is_refused_all_the_same(
    package: ModelPackage, golden: Golden, random: Float4D
) -> None:
    """Dice of two empty masks is 1, and a network that calls nothing is near any that never does."""
    normal = golden.case == 1

    def calling_nothing(slices: Float4D, _: int = 1) -> Arms:
        return of_log_odds(lambda odds: np.minimum(odds * np.float32(0.3) - np.float32(5), -4))(slices, 1)

    answers = Answers(*calling_nothing(golden.slices[normal]))
    healthy = Golden(
        golden.slices[normal], answers,
        *(part[normal] for part in (golden.case * 0, golden.share, golden.regions, golden.brain)),
    )  # fmt: skip
    right = judged(package, healthy, random, calling_nothing, reference=calling_nothing)
    assert right.passed, right.reason
    for fault in (
        of_arms(one_class(0)),
        lambda slices, _: tuple(arm[..., ::-1].copy() for arm in calling_nothing(slices)),
    ):
        wrong = judged(package, healthy, random, fault, reference=calling_nothing)  # type: ignore[arg-type]
        assert wrong.values["dice_loss"] == wrong.values["regions"] == 0
        assert wrong.values["probability_difference"] < 0.02
        assert wrong.failed == ("log_odds_error", "systematic_error")


def test_a_network_that_is_itself_a_constant_proves_nothing(
    package: ModelPackage, golden: Golden, random: Float4D
) -> None:
    fault = of_arms(one_class(0))
    constant = replace(golden, answers=Answers(*fault(golden.slices, 1)))
    found = judged(package, constant, random, fault, reference=lambda slices: fault(slices, 1))
    assert found.failed == ("systematic_error",)


def test_one_region_that_is_decided_otherwise_is_enough(
    package: ModelPackage, golden: Golden, random: Float4D
) -> None:
    """A calibration that puts one decision between the engine's answer and the golden one.

    It is the package's own, of the network's evidence alone: the weight of another engine's does not count.
    """
    shifted = of_log_odds(lambda odds: odds + np.float32(0.004))  # too little for any other criterion
    assert judged(package, golden, random, shifted).passed
    here = golden.case == 0
    evidence = [
        region_log_odds(
            infarct_probability(*(arm[here] for arm in answers), golden.share[here].astype(np.float64)),
            golden.regions[here],
            golden.brain[here],
        )[RegionId("M1", "right")]
        for answers in (golden.answers, Answers(*shifted(golden.slices, 1)))
    ]
    between = Calibration(1.0, -float(np.mean(evidence)), 0.7)
    sharp = replace(package, calibration={**package.calibration, "M1": between})
    assert judged(sharp, golden, random, shifted).failed == ("regions",)


def test_outlines_are_compared_where_a_joined_package_draws_them(
    package: ModelPackage, golden: Golden, random: Float4D
) -> None:
    """Joined with the weight-free engine, the decision lies at other log-odds of the network."""
    weights = VoxelWeights(1.0, 0.5, 1.5)
    joined = replace(package, combination=Combination("0" * 64, weights, weights))
    assert judged(joined, golden, random).passed
    # turns what lies between the two decisions, and nothing at the network's own
    between = of_log_odds(lambda odds: np.where((odds > -1.6) & (odds < -0.4), np.float32(-1.6), odds))
    assert judged(package, golden, random, between).values["dice_loss"] == 0
    assert judged(joined, golden, random, between).values["dice_loss"] > 0


@pytest.mark.parametrize(
    "name",
    ["a NaN in one pixel", "zeros", "background everywhere", "infarct everywhere", "mirrored answers",
     "mirrored input", "swapped input channels", "swapped classes", "background swapped with a class",
     "half precision arrays", "too few slices", "the last part of a batch stale"],
)  # fmt: skip
def test_the_slice_with_a_known_answer_shows_what_is_wrong_with_a_run(name: str, golden: Golden) -> None:
    for last in (2, 3):  # those with infarct
        known = Answers(*(arm[last : last + 1] for arm in golden.answers))
        given = np.concatenate([golden.slices[4:], golden.slices[last : last + 1]])
        rows = np.array([len(given) - 1])
        assert wrong_answer(Answers(*mirror_answers(given)), known, rows, len(given)) is None
        assert wrong_answer(Answers(*fault_of(name)(given, 1)), known, rows, len(given)) is not None


def test_a_report_survives_json(package: ModelPackage, golden: Golden, random: Float4D) -> None:
    for fault in (None, fault_of("a NaN in one pixel"), fault_of("mirrored answers")):
        found = judged(package, golden, random, fault)
        again = GateReport.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
        assert (again.passed, again.reason, again.date) == (found.passed, found.reason, found.date)
        assert again.to_dict() == found.to_dict()
    altered = {**judged(package, golden, random, fault_of("zeros")).to_dict(), "passed": True}
    with pytest.raises(ValueError, match="does not follow"):
        GateReport.from_dict(altered)


def test_a_value_that_cannot_be_measured_is_beyond_its_limit() -> None:
    assert report({"dice_loss": math.nan}).failed == ("dice_loss",)
    assert report({"dice_loss": 0.09, "regions": 0}).reason == "dice_loss 0.09 > 0.005"
    assert report({"dice_loss": 0.005}).passed
    assert not report({}).passed


@pytest.mark.parametrize("size", [(136, 112), (64, 48)])
def test_random_slices_differ_by_seed_slice_and_side(size: tuple[int, int]) -> None:
    spec = InputSpec(size=size, pixel_mm=1.5 * 136 / size[0])
    first, same, other = (random_slices(spec, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert first.shape == (HEADS + 2, 3, *size)
    assert np.isfinite(first).all()
    stroke = first[:HEADS, 1]
    assert min(np.abs(stroke[a] - stroke[a - 1]).mean() for a in range(HEADS)) > 0.1
    assert np.abs(stroke - stroke[..., ::-1]).mean() > 0.05
    inside = np.abs(stroke - stroke[:, :1, :1]) > 0.5
    assert (
        (inside.mean(axis=(1, 2)) > 0.2) & (inside.mean(axis=(1, 2)) < 0.8)
    ).all()  # a head, air around it


def test_reports_name_no_path(package: ModelPackage, golden: Golden, random: Float4D, tmp_path: Path) -> None:
    from strokecore.errors import EngineError
    from tests.unit.learned.engine_cases import raises

    found = judged(package, golden, random, raises(EngineError(f"{tmp_path} cannot be read")))
    assert str(tmp_path) not in json.dumps(found.to_dict()) + found.reason
