from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.arrays import BoolArray
from strokecore.head.canonical import Head
from strokecore.learned.arms import level_plane_mm
from strokecore.learned.engine import (
    LEAST_OUTLINED,
    LearnedEngine,
    Run,
    best_outline,
    infarct_map,
    region_log_odds,
)
from strokecore.learned.package import Calibration, ModelPackage, load_package
from strokecore.learned.preprocessing import slice_centres_mm
from strokecore.scoring.aspects import find_regions
from strokecore.scoring.asymmetry import AsymmetryEngine
from strokecore.scoring.engine import Lesion
from tests.unit.learned.engine_cases import MirrorRuntime
from tests.unit.learned.package_cases import SPEC, write_package
from tests.unit.scoring.heads import darken, flat_head, region_slices

LEFT_L, RIGHT_L = RegionId("L", "left"), RegionId("L", "right")
RIGHT_M5 = RegionId("M5", "right")

Float4D = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def answers(bg_infarct: np.ndarray, sg_infarct: np.ndarray) -> tuple[Float4D, Float4D]:
    """Class probabilities with all infarct in class 1."""
    out = []
    for infarct, classes in ((bg_infarct, 9), (sg_infarct, 6)):
        arm = np.zeros((len(infarct), classes, *infarct.shape[1:]), np.float32)
        arm[:, 0], arm[:, 1] = 1 - infarct, infarct
        out.append(arm)
    return out[0], out[1]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("package") / "model"))


@pytest.fixture(scope="module")
def engine(package: ModelPackage) -> LearnedEngine:
    return LearnedEngine(package, MirrorRuntime(package))


def saying(package: ModelPackage, bg: float, sg: float) -> LearnedEngine:
    """An engine whose arms' answers are the same everywhere."""
    run = constant(bg, sg)
    return LearnedEngine(package, MirrorRuntime(package, fault=lambda slices, _: run(slices)))


def called(lesion: Lesion) -> list[RegionId]:
    return [r for r in ALL_REGIONS if (lesion.evidence[r].probability or 0.0) >= 0.5]


def constant(bg: float, sg: float) -> Run:
    """An arm's answer is the same everywhere."""

    def run(slices: Float4D) -> tuple[Float4D, Float4D]:
        shape = (len(slices), *slices.shape[2:])
        return answers(np.full(shape, bg, np.float32), np.full(shape, sg, np.float32))

    return run


@pytest.mark.parametrize("region", [LEFT_L, RIGHT_L, RIGHT_M5], ids=lambda r: f"{r.side}-{r.name}")
def test_a_dark_region_is_found_on_its_own_side_and_level(engine: LearnedEngine, region: RegionId) -> None:
    lesion = engine.segment(darken(flat_head(noise_hu=1.0), region, 6.0))
    assert called(lesion) == [region]
    assert lesion.acute[region_slices(region)].mean() > 0.7
    assert lesion.acute[region_slices(region)].sum() > 0.75 * lesion.acute.sum()  # its border is blurred
    assert not (lesion.acute & ~(lesion.probability >= LEAST_OUTLINED)).any()


def test_the_finding_reaches_the_score(engine: LearnedEngine) -> None:
    head = darken(flat_head(noise_hu=1.0), LEFT_L, 6.0)
    affected = [(f.name, f.side) for f in find_regions(head, engine.segment(head)) if f.affected]
    assert affected == [("L", "left")]


def test_regions_are_measured_as_the_weight_free_engine_does(engine: LearnedEngine) -> None:
    head = darken(flat_head(), RIGHT_M5, 5.0)
    parenchyma = head.brain.parenchyma.copy()
    parenchyma[region_slices(RIGHT_L)] = False
    head = replace(head, brain=replace(head.brain, parenchyma=parenchyma))
    ours, reference = engine.segment(head), AsymmetryEngine().segment(head)
    for region in ALL_REGIONS:
        mine, other = ours.evidence[region], reference.evidence[region]
        assert mine.mean_hu == other.mean_hu
        assert mine.contralateral_difference_hu == other.contralateral_difference_hu
        assert (mine.probability is None) == (other.probability is None)
    assert ours.evidence[LEFT_L].contralateral_difference_hu is None
    assert ours.evidence[RIGHT_L].probability is None
    assert np.array_equal(ours.old, reference.old)


def test_old_infarct_and_its_rim_are_not_acute(engine: LearnedEngine) -> None:
    head = darken(flat_head(noise_hu=1.0), LEFT_L, 25.0)
    csf = head.brain.csf.copy()
    csf[region_slices(LEFT_L)] = True
    brain = replace(head.brain, csf=csf, parenchyma=head.brain.parenchyma & ~csf)
    lesion = engine.segment(replace(head, brain=brain))
    assert lesion.old[region_slices(LEFT_L)].mean() > 0.8
    assert not lesion.acute.any()
    assert lesion.evidence[LEFT_L].probability is None
    assert lesion.probability[lesion.old].max() == 0.0


def test_nothing_is_called_outside_skull_and_scan(package: ModelPackage) -> None:
    head = flat_head()
    intracranial, covered = head.brain.intracranial.copy(), head.covered.copy()
    intracranial[:, :20], covered[:8] = False, False
    brain = replace(head.brain, intracranial=intracranial, parenchyma=intracranial & covered)
    lesion = saying(package, 0.9, 0.9).segment(replace(head, brain=brain, covered=covered))
    assert not (lesion.acute & ~(intracranial & covered)).any()
    inner = slice(12, -1)  # the slab at the scan's end is partly empty, the grid's last plane is in none
    assert np.array_equal(lesion.acute[inner], intracranial[inner])


def test_small_components_are_dropped(package: ModelPackage) -> None:
    head = flat_head(noise_hu=0.1)
    z, y, x = region_slices(LEFT_L)
    hu = head.hu.copy()
    hu[z.start : z.start + 3, y.start : y.start + 4, x.start : x.start + 8] -= 10.0  # 6 x 8 x 8 mm, 0.4 ml
    head = replace(head, hu=hu)
    strict, lenient = (
        LearnedEngine(replace(package, minimum_component_ml=ml), MirrorRuntime(package)).segment(head)
        for ml in (0.7, 0.05)
    )
    assert not strict.acute.any()
    assert lenient.acute.any()
    assert np.array_equal(strict.probability, lenient.probability)


def test_where_no_region_is_called_the_threshold_is_the_packages(package: ModelPackage) -> None:
    for threshold, found in ((0.59, True), (0.61, False)):
        engine = saying(replace(package, lesion_threshold=threshold, region_threshold=0.9), 0.6, 0.6)
        assert engine.segment(flat_head()).acute.any() == found


def test_a_sites_own_cut_calls_and_outlines(package: ModelPackage) -> None:
    head = darken(flat_head(noise_hu=1.0), LEFT_L, 6.0)
    runtime = MirrorRuntime(package)
    silent = LearnedEngine(replace(package, lesion_threshold=0.999), runtime, 0.9999).segment(head)
    assert (silent.threshold, silent.acute.any()) == (0.9999, False)
    found = LearnedEngine(replace(package, lesion_threshold=0.999), runtime, 0.5).segment(head)
    assert found.threshold == 0.5
    assert found.acute[region_slices(LEFT_L)].mean() > 0.7
    right = head.grid.side_columns("right")
    assert not found.acute[right].any()


@given(st.integers(0, 10_000), st.floats(0.3, 3.0))
def test_the_outline_is_the_one_with_the_best_overlap_to_be_expected(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    p = (1 / (1 + np.exp(-rng.normal(-2, spread, 400)))).astype(np.float32)

    def expected(outlined: BoolArray) -> float:
        return float(2 * p[outlined].sum() / (outlined.sum() + p.sum()))

    found = best_outline(p)
    assert p[found].min(initial=1.0) >= LEAST_OUTLINED
    best = max(expected(p >= cut) for cut in np.linspace(LEAST_OUTLINED, 1, 71))
    assert expected(found) == pytest.approx(best, abs=1e-4)


def test_nothing_is_outlined_where_nothing_is_probable() -> None:
    assert not best_outline(np.zeros((3, 4, 5), np.float32)).any()
    assert not best_outline(np.full((3, 4, 5), 0.1, np.float32)).any()


def test_each_region_name_has_its_own_calibration_for_both_sides(package: ModelPackage) -> None:
    own = {**package.calibration, "M5": Calibration(2.0, -1.0)}
    engine = saying(replace(package, calibration=own), 0.3, 0.3)
    evidence = engine.segment(flat_head()).evidence
    logit = np.log(0.3 / 0.7)
    for region, found in evidence.items():
        slope, offset = (2.0, -1.0) if region.name == "M5" else (1.0, 0.5)
        expected = 1 / (1 + np.exp(-(slope * logit + offset)))
        assert found.probability == pytest.approx(expected, abs=1e-4)


def test_below_the_plane_one_arm_answers_above_it_the_other(package: ModelPackage) -> None:
    head = flat_head()
    everywhere = np.ones(head.hu.shape, bool)
    found = infarct_map(constant(0.2, 0.8), head.hu, head.regions, everywhere, head.grid, SPEC)
    plane = level_plane_mm(head.regions, head.grid)
    z = head.grid.axes_mm[0]
    middle = found[:, 50, 60]
    inner = (z > z[0] + 5) & (z < z[-1] - 5)
    assert middle[inner & (z < plane - 10)] == pytest.approx(0.2, abs=1e-5)
    assert middle[inner & (z > plane + 10)] == pytest.approx(0.8, abs=1e-5)
    assert (np.diff(middle[inner]) >= -1e-6).all()


@pytest.mark.parametrize(("kept", "expected"), [("lower", 0.2), ("upper", 0.8), ("none", 0.2)])
def test_without_one_level_the_other_arm_answers_alone(kept: str, expected: float) -> None:
    head = flat_head()
    regions = head.regions.copy()
    if kept != "lower":
        regions[:21] = 0
    if kept != "upper":
        regions[21:] = 0
    everywhere = np.ones(head.hu.shape, bool)
    found = infarct_map(constant(0.2, 0.8), head.hu, regions, everywhere, head.grid, SPEC)
    assert found[5:-5, 50, 60] == pytest.approx(expected, abs=1e-5)


def test_only_slices_that_hold_brain_are_run() -> None:
    head = flat_head()
    brain = np.zeros(head.hu.shape, bool)
    brain[9:30] = True
    shown: list[Float4D] = []

    def run(slices: Float4D) -> tuple[Float4D, Float4D]:
        shown.append(slices)
        return constant(0.5, 0.5)(slices)

    found = infarct_map(run, head.hu, head.regions, brain, head.grid, SPEC)
    centres = slice_centres_mm(head.grid, SPEC)
    expected = (centres > head.grid.axes_mm[0][9] - 3) & (centres < head.grid.axes_mm[0][29] + 3)
    assert len(shown) == 1
    assert len(shown[0]) == expected.sum() < len(centres)
    assert found[:5].max() == 0.0
    none = infarct_map(run, head.hu, head.regions, np.zeros_like(brain), head.grid, SPEC)
    assert len(shown) == 1
    assert none.max() == 0.0


def test_an_answer_that_is_no_number_is_a_defect_not_a_healthy_brain(package: ModelPackage) -> None:
    with pytest.raises(FloatingPointError):
        saying(package, np.nan, np.nan).segment(flat_head())


def test_it_is_named_by_its_package_and_runtime(package: ModelPackage) -> None:
    runtime = MirrorRuntime(package, "openvino", "bf16")
    engine = LearnedEngine(package, runtime)
    assert (engine.name, engine.version, engine.sha256) == (package.name, package.version, package.sha256)
    assert (engine.engine, engine.precision, engine.fallbacks) == ("openvino", "bf16", ())
    runtime.name, runtime.fallbacks = "onnx", ("openvino bf16: failed",)  # as when the next one takes over
    assert (engine.engine, engine.fallbacks) == ("onnx", ("openvino bf16: failed",))


def test_the_log_odds_of_a_region_are_those_of_its_mean_and_finite() -> None:
    head = flat_head()
    probability = np.zeros(head.hu.shape, np.float32)
    z, y, x = region_slices(LEFT_L)
    probability[z, y, x.start : x.start + (x.stop - x.start) // 2] = 0.5
    probability[region_slices(RIGHT_L)] = 1.0
    usable = np.ones(head.hu.shape, bool)
    usable[region_slices(RIGHT_M5)] = False
    found = region_log_odds(probability, head.regions, usable)
    assert found[LEFT_L] == pytest.approx(np.log(0.25 / 0.75))
    assert found[RIGHT_L] == pytest.approx(np.log(9999))
    assert found[RIGHT_M5.mirror] == pytest.approx(-np.log(9999))
    assert RIGHT_M5 not in found


def test_the_mirror_image_gives_the_mirror_result(engine: LearnedEngine) -> None:
    head = darken(flat_head(seed=4), RIGHT_M5, 5.0)
    labels = head.regions[:, :, ::-1]
    swapped = np.where(labels > 10, labels - 10, np.where(labels > 0, labels + 10, 0)).astype(np.uint8)
    mirrored: Head = replace(head, hu=head.hu[:, :, ::-1].copy(), regions=swapped)
    lesion, other = engine.segment(head), engine.segment(mirrored)
    assert np.allclose(lesion.probability, other.probability[:, :, ::-1], atol=1e-4)
    for region in ALL_REGIONS:
        mine = lesion.evidence[region].probability
        assert mine == pytest.approx(other.evidence[region.mirror].probability, abs=1e-4)
