"""Heads from label maps of real people: axes, own nuclei, sides, definitions, identity, wide ventricles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId
from strokecore.arrays import BoolArray, dice
from strokecore.errors import UsageError
from strokecore.simulate import SampleSpec, simulate
from strokecore.simulate import people as people_module
from strokecore.simulate.anatomy import BaseHead, Structure
from strokecore.simulate.head import bend_person, build_head
from strokecore.simulate.people import load_person, read_label_map
from strokecore.simulate.true_regions import true_regions

pytestmark = pytest.mark.timeout(900)  # a head is made once: half a minute, more on a busy machine
PERSON = "person_01"
COARSE = {"matrix": 96, "pixel_mm": 2.4, "thickness_mm": 5.0}


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    if not (shared_data / "anatomies").is_dir():
        pytest.skip("the test data has no label maps of whole heads (anatomies)")
    return shared_data


@pytest.fixture(scope="module")
def person(folder: Path) -> BaseHead:
    """Made once and kept in the cache of the tests; about half a minute."""
    return load_person(folder / "anatomies" / f"{PERSON}.nii.gz", folder / "aspects_masks_mni152")


@pytest.fixture(scope="module")
def native(folder: Path) -> dict[int, float]:
    """Millilitres of each label of the file."""
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "anatomies" / f"{PERSON}.nii.gz")))
    numbers, counts = np.unique(values.astype(int), return_counts=True)
    return dict(zip(numbers.tolist(), (counts / 1000).tolist(), strict=True))


def structure(head: BaseHead, *wanted: Structure) -> BoolArray:
    assert head.interior is not None
    return np.isin(head.interior.structures, wanted)


def on_side(head: BaseHead, side: str) -> BoolArray:
    x, _, _ = head.axes_mm
    return np.broadcast_to((x > 0 if side == "left" else x < 0)[None, None, :], head.labels.shape)


def test_caudate_and_lentiform_are_the_persons_own(person: BaseHead, native: dict[int, float]) -> None:
    numbers = {("C", "left"): (11,), ("C", "right"): (50,), ("L", "left"): (12, 13), ("L", "right"): (51, 52)}
    own = {"C": (Structure.CAUDATE,), "L": (Structure.PUTAMEN, Structure.PALLIDUM)}
    for (name, side), labels in numbers.items():
        region = person.labels == RegionId(name, side).label
        assert dice(region, structure(person, *own[name]) & on_side(person, side)) > 0.95
        assert region.sum() / 1000 == pytest.approx(sum(native[n] for n in labels), rel=0.08)


def test_every_region_is_there_on_its_side(person: BaseHead) -> None:
    x, _, _ = person.axes_mm
    volumes = {}
    for region in ALL_REGIONS:
        columns = np.nonzero(person.labels == region.label)[2]
        volumes[region] = len(columns) / 1000
        assert volumes[region] > (1.0 if region.name in ("C", "L", "IC", "I") else 5.0), region
        assert (x[columns].mean() > 0) == (region.side == "left"), region
    for region in ALL_REGIONS:
        assert volumes[region] == pytest.approx(volumes[region.mirror], rel=0.6), region


def test_the_capsule_is_white_matter_between_the_nuclei(person: BaseHead) -> None:
    x, _, _ = person.axes_mm
    for side in SIDES:
        capsule = person.labels == RegionId("IC", side).label
        assert structure(person, Structure.WHITE)[capsule].all()
        away = {
            name: np.abs(x[np.nonzero(mask & on_side(person, side))[2]]).mean()
            for name, mask in {
                "central": structure(person, Structure.CAUDATE, Structure.THALAMUS),
                "capsule": capsule,
                "lentiform": structure(person, Structure.PUTAMEN, Structure.PALLIDUM),
            }.items()
        }
        assert away["central"] < away["capsule"] < away["lentiform"]


def test_insula_and_sectors_are_cortex_and_white_matter(person: BaseHead) -> None:
    insula = np.isin(person.labels, [RegionId("I", side).label for side in SIDES])
    assert structure(person, Structure.CORTEX)[insula].all()
    sectors = np.isin(person.labels, [r.label for r in ALL_REGIONS if r.name.startswith("M")])
    assert structure(person, Structure.CORTEX, Structure.WHITE)[sectors].all()
    to_putamen = sitk.GetArrayFromImage(
        sitk.SignedMaurerDistanceMap(
            sitk.GetImageFromArray(structure(person, Structure.PUTAMEN).astype(np.uint8)),
            squaredDistance=False,
        )
    )
    assert np.percentile(to_putamen[insula], 95) < 16


def test_head_axes_are_the_atlas_s(person: BaseHead) -> None:
    """The midline is at 0, the nuclei lie at the heights that the atlas's regions have."""
    x, y, z = person.axes_mm
    for name, place in {"C": (13, -11, 12), "L": (25, 1, 2)}.items():
        for side in SIDES:
            k, j, i = np.nonzero(person.labels == RegionId(name, side).label)
            centre = (abs(x[i].mean()), y[j].mean(), z[k].mean())
            assert centre == pytest.approx(place, abs=5.0)


def test_definitions_differ(person: BaseHead) -> None:
    assert person.definitions == ("atlas", "second", "between")
    atlas, second = (true_regions(person, definition, 0) for definition in ("atlas", "second"))
    deep = np.isin(atlas, [r.label for r in ALL_REGIONS if r.name in ("C", "L", "IC")])
    np.testing.assert_array_equal(atlas[deep], second[deep])
    overlap = [dice(atlas == r.label, second == r.label) for r in ALL_REGIONS if r.name in ("M3", "M4", "M5")]
    assert min(overlap) > 0.2
    assert max(overlap) < 0.97


def test_identity_is_the_label_map_s_and_is_checked(person: BaseHead) -> None:
    stem, _, digest = person.anatomy.partition(":")
    assert (stem, len(digest)) == (PERSON, 12)
    for spec, base in (
        (SampleSpec(seed=1), person),
        (SampleSpec(seed=1, anatomy="person_99:000000000000"), person),
        (SampleSpec(seed=1, anatomy=person.anatomy), None),
    ):
        with pytest.raises(UsageError, match="anatomy is"):
            build_head(spec, base)


def test_the_same_specification_gives_the_same_arrays(person: BaseHead, folder: Path) -> None:
    """A head from the cache is the head that was made."""
    spec = SampleSpec(seed=7, anatomy=person.anatomy, definition="between", **COARSE)
    people_module._load.cache_clear()
    again = load_person(folder / "anatomies" / f"{PERSON}.nii.gz", folder / "aspects_masks_mni152")
    assert again is not person
    for name in ("gm", "wm", "intracranial_mm", "ventricle_mm", "outer_hu", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(person, name))
    first, second = simulate(spec, person), simulate(spec, again)
    np.testing.assert_array_equal(first.hu, second.hu)
    np.testing.assert_array_equal(first.regions, second.regions)
    assert first.truth == second.truth
    assert (first.truth["anatomy"], first.truth["definition"]) == (person.anatomy, "between")


def test_wide_ventricles_push_the_nuclei_aside(person: BaseHead) -> None:
    sizes = {}
    for atrophy in (0.0, 1.0):
        spec = SampleSpec(seed=3, anatomy=person.anatomy, atrophy=atrophy)
        made, _ = bend_person(spec, person)
        ml = made.brain_grid.spacing_mm**3 / 1000
        sizes[atrophy] = np.count_nonzero(made.ventricle_mm < 0) * ml
        regions = build_head(spec, person).lesions.own_regions
        caudate = np.isin(regions, [RegionId("C", side).label for side in SIDES])
        sizes["C", atrophy] = caudate.sum() * ml
        assert (made.grey + made.white > 0.5)[caudate].mean() > 0.85
    assert sizes[1.0] > 1.6 * sizes[0.0]
    assert sizes["C", 1.0] == pytest.approx(sizes["C", 0.0], rel=0.3)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.full((20, 20, 20), 0.5, np.float32), "whole numbers"),
        (np.full((20, 20, 20), 1002, np.int16), "labels 0 to 999"),
        (np.full((20, 20, 20), -5, np.int16), "labels 0 to 999"),
        (np.full((20, 20, 20), 3, np.int16), "whole head"),
    ],
)
def test_what_is_no_label_map_of_a_head_is_refused(tmp_path: Path, values: np.ndarray, match: str) -> None:
    path = tmp_path / "labels.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    with pytest.raises(UsageError, match=match):
        read_label_map(path)


def test_sides_that_are_swapped_are_refused(tmp_path: Path) -> None:
    values = np.full((100, 100, 100), 515, np.int16)
    values[:, :, :45], values[:, :, 55:] = 3, 42
    image = sitk.GetImageFromArray(values)  # in ITK's axes x grows towards the left
    sitk.WriteImage(image, str(tmp_path / "labels.nii.gz"))
    with pytest.raises(UsageError, match="on the patient's right"):
        read_label_map(tmp_path / "labels.nii.gz")
    values[:, :, :45], values[:, :, 55:] = 42, 3
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "labels.nii.gz"))
    assert read_label_map(tmp_path / "labels.nii.gz").identity.startswith("labels:")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.nii.gz"
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        read_label_map(path)
    sitk.WriteImage(sitk.GetImageFromArray(np.full((20, 20, 20), 3, np.int16)), str(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match="cannot be read"):
        read_label_map(path)
