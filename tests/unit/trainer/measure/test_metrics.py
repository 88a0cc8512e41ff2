"""Measurements of one patient, against hand-made volumes and brute force."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays

from strokecore.anatomy.regions import REGION_NAMES
from strokecore.head.grid import CANONICAL_GRID, Grid
from tests.unit.trainer.evaluation_cases import LEVEL_MM, M2, M5, box, make_case
from trainer.measure.metrics import CLASS_NAMES, LesionMatch, Overlap, class_names, hd95_mm, measure

GRID = Grid(shape=(6, 7, 8), spacing_mm=(2.0, 1.0, 1.0), origin_mm=(-3.5, -3.0, 0.0))
MASKS = arrays.arrays(bool, GRID.shape, elements=some.booleans(), fill=some.just(False))


def block(*spans: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(GRID.shape, bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask with a face on a voxel outside it; the array's own border counts as outside."""
    padded = np.pad(mask, 1)
    kept = padded.copy()
    for axis in range(3):
        kept &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    return np.argwhere(mask & ~kept[1:-1, 1:-1, 1:-1])


def brute_hd95(predicted: np.ndarray, truth: np.ndarray) -> float:
    a, b = (surface(mask) * GRID.spacing_mm for mask in (predicted, truth))
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return float(max(np.percentile(distance.min(1), 95), np.percentile(distance.min(0), 95)))


def brute_components(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    left = {tuple(int(i) for i in voxel) for voxel in np.argwhere(mask)}
    found = []
    while left:
        grown, edge = set(), {left.pop()}
        while edge:
            grown |= edge
            edge = {
                v for v in left if any(max(abs(a - b) for a, b in zip(v, e, strict=True)) == 1 for e in edge)
            }
            left -= edge
        found.append(grown)
    return found


def test_dice_and_sensitivity_by_hand() -> None:
    truth, predicted = block((0, 2), (0, 2), (0, 2)), block((1, 3), (0, 2), (0, 2))
    overlap = Overlap.of(predicted, truth)
    assert (overlap.both, overlap.predicted, overlap.true) == (4, 8, 8)
    assert overlap.dice == 0.5
    assert overlap.sensitivity == 0.5
    assert Overlap.of(truth, truth).dice == 1.0


def test_without_lesion_there_is_no_dice() -> None:
    nothing = np.zeros(GRID.shape, bool)
    for predicted in (nothing, ~nothing):
        assert math.isnan(Overlap.of(predicted, nothing).dice)
        assert math.isnan(Overlap.of(predicted, nothing).sensitivity)
    assert Overlap.of(nothing, ~nothing).dice == 0.0


def test_hd95_of_a_shift_is_the_shift_in_millimetres() -> None:
    one = block((1, 2), (2, 3), (2, 3))
    assert hd95_mm(one, block((2, 3), (2, 3), (2, 3)), GRID) == 2.0  # one plane is 2 mm
    assert hd95_mm(one, block((1, 2), (4, 5), (2, 3)), GRID) == 2.0
    assert hd95_mm(one, one, GRID) == 0.0


def test_hd95_is_undefined_when_a_mask_is_empty() -> None:
    nothing, one = np.zeros(GRID.shape, bool), block((1, 2), (2, 3), (2, 3))
    assert all(
        math.isnan(hd95_mm(a, b, GRID)) for a, b in ((nothing, one), (one, nothing), (nothing, nothing))
    )


@settings(max_examples=25, deadline=None)
@given(MASKS, MASKS)
def test_hd95_equals_brute_force_and_monai(predicted: np.ndarray, truth: np.ndarray) -> None:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    predicted[2, 3, 3] = truth[3, 3, 4] = True
    found = hd95_mm(predicted, truth, GRID)
    assert found == pytest.approx(brute_hd95(predicted, truth), abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls its own deprecated argument
        theirs = compute_hausdorff_distance(
            predicted[None, None], truth[None, None], percentile=95, spacing=list(GRID.spacing_mm),
            include_background=True,
        )  # fmt: skip
    assert found == pytest.approx(float(theirs), abs=1e-4)


def test_lesions_are_matched_by_one_voxel() -> None:
    truth = block((0, 2), (0, 2), (0, 2)) | block((4, 6), (5, 7), (5, 8))
    predicted = block((1, 3), (1, 3), (1, 3)) | block((0, 1), (6, 7), (7, 8)) | block((5, 6), (0, 1), (0, 1))
    match = LesionMatch.of(predicted, truth)
    assert (match.found, match.missed, match.false) == (1, 1, 2)
    assert match.f1 == pytest.approx(2 / (2 + 1 + 2))
    assert math.isnan(LesionMatch.of(predicted, np.zeros_like(truth)).f1)
    assert LesionMatch.of(np.zeros_like(truth), truth).f1 == 0.0


def test_one_prediction_over_two_lesions_finds_both() -> None:
    truth = block((0, 1), (0, 1), (0, 1)) | block((0, 1), (0, 1), (4, 5))
    match = LesionMatch.of(block((0, 1), (0, 1), (0, 5)), truth)
    assert (match.found, match.missed, match.false, match.f1) == (2, 0, 0, 1.0)


@settings(max_examples=25, deadline=None)
@given(MASKS, MASKS)
def test_lesion_match_equals_brute_force(predicted: np.ndarray, truth: np.ndarray) -> None:
    true_parts, called_parts = brute_components(truth), brute_components(predicted)
    true_all, called_all = set().union(*true_parts), set().union(*called_parts)
    match = LesionMatch.of(predicted, truth)
    assert match.found == sum(bool(part & called_all) for part in true_parts)
    assert match.missed == sum(not part & called_all for part in true_parts)
    assert match.false == sum(not part & true_all for part in called_parts)


def test_class_names_follow_the_arms() -> None:
    assert [CLASS_NAMES[i] for i in class_names(np.array([0, 1, 6, 8]), "bg")] == [
        "background",
        "C",
        "M2",
        "other",
    ]
    assert [CLASS_NAMES[i] for i in class_names(np.array([0, 1, 3, 5]), "sg")] == [
        "background",
        "C",
        "M5",
        "other",
    ]


def test_a_patient_with_both_levels() -> None:
    """M2 fully found under its own name; of M5 the front half, and that called M4."""
    case = make_case("a", "test", "coupled", (M2, M5))
    predicted = case.lesion.copy()
    front = (M5[0], (M5[1][0], 0.0), M5[2])
    predicted[box(M5)] = False
    predicted[box(front)] = True
    names = np.zeros(case.lesion.shape, np.uint8)
    names[box(M2)] = CLASS_NAMES.index("M2")
    names[box(M5)] = CLASS_NAMES.index("M4")
    found = measure(case, predicted, names)

    m2, m5, half = (int(np.count_nonzero(case.lesion[box(b)])) for b in (M2, M5, front))
    assert found.infarct == Overlap(m2 + half, m2 + half, m2 + m5)
    assert found.level_dice("bg") == 1.0
    assert found.level_dice("sg") == pytest.approx(2 * half / (half + m5))
    assert found.sg_sensitivity == pytest.approx(half / m5)
    assert found.volume_error_ml == pytest.approx((half - m5) * 0.002)
    assert found.counted == {"M2", "M5"} == found.counted_inside
    assert found.territory_dice("M2", "class") == 1.0
    assert found.territory_dice("M5", "class") == 0.0  # found, but under another name
    assert found.territory_dice("M5", "inside") == pytest.approx(2 * half / (half + m5))
    assert math.isnan(found.territory_dice("M4", "class"))
    assert found.territories["M4"] == Overlap(0, half, 0)


def test_planes_in_which_both_arms_answer_belong_to_no_level() -> None:
    around = (LEVEL_MM - 2.0, LEVEL_MM + 2.1)
    case = make_case("a", "test", "mixed", ((around, M2[1], M2[2]), M2))
    found = measure(case, case.lesion, np.zeros(case.lesion.shape, np.uint8))
    assert found.bg.true == np.count_nonzero(case.lesion[box(M2)])
    assert found.sg.true == 0
    assert found.infarct.true > found.bg.true


def test_the_end_of_the_other_levels_lesion_is_not_a_lesion_of_this_level() -> None:
    tip = ((14.0, 16.0), M2[1], M2[2])  # one plane of twelve
    case = make_case("a", "test", "bg_only", (M2, tip))
    found = measure(case, case.lesion, np.zeros(case.lesion.shape, np.uint8))
    assert found.sg.true > 0
    assert math.isnan(found.sg_sensitivity)
    assert math.isnan(found.level_dice("sg"))
    assert found.level_dice("bg") == 1.0


def test_lesion_free_patients_have_false_volume_and_no_dice() -> None:
    case = make_case("a", "test", "lesion_free")
    predicted = np.zeros(case.lesion.shape, bool)
    predicted[box(M2)] = True
    found = measure(case, predicted, np.zeros(case.lesion.shape, np.uint8))
    assert found.lesion_free
    assert found.predicted_ml == pytest.approx(np.count_nonzero(predicted) * 0.002)
    for value in (found.infarct.dice, found.hd95_mm, found.lesions.f1, found.sg_sensitivity):
        assert math.isnan(value)
    assert found.lesions.false == 1
    assert not found.counted


def test_binary_labels_have_no_class_truth() -> None:
    case = make_case("a", "test", "mixed", (M2,), binary=True)
    found = measure(case, case.lesion, np.zeros(case.lesion.shape, np.uint8))
    assert found.territories == {}
    assert not found.counted
    assert all(math.isnan(found.territory_dice(name, "class")) for name in REGION_NAMES)
    assert found.territory_dice("M2", "inside") == 1.0


def test_a_territory_touched_by_less_than_a_tenth_is_not_counted() -> None:
    deep = (M2[2][0], M2[2][0] + 2.0)  # two of thirty columns
    case = make_case("a", "test", "mixed", ((M2[0], M2[1], deep),))
    found = measure(case, case.lesion, np.zeros(case.lesion.shape, np.uint8))
    assert found.territories["M2"].true > 0
    assert not found.counted
    assert not found.counted_inside


def test_voxels_are_two_microlitres() -> None:
    assert CANONICAL_GRID.voxel_ml == pytest.approx(0.002)
