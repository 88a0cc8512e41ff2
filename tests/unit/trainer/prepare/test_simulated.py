"""Simulated training data: seeds and splits, patterns that are what their names say, whole datasets."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from strokecore.errors import Refusal, UsageError
from strokecore.simulate import TEST_SEEDS, TUNE_SEEDS, VALIDATE_SEEDS, random_person_spec
from strokecore.simulate.write import write_dicom
from tests.unit.trainer.prepare import miniature_aisd as mini
from tests.unit.trainer.prepare.fakes import FakeCanonical
from trainer.data.canonical import pattern
from trainer.data.cases import Dataset, write_case
from trainer.prepare import simulated
from trainer.prepare.patterns import training_spec
from trainer.prepare.simulated import (
    choose_seeds,
    find_anatomies,
    parse_seeds,
    prepare_seed,
    prepare_simulated,
    split_of,
)


def test_splits_are_the_simulators_seed_ranges():
    assert [split_of(s) for s in (0, 9_999, 10_000, 19_999, 20_000, 29_999)] == [
        "train", "train", "validate", "validate", "test", "test",
    ]  # fmt: skip
    for seed in (-1, 30_000):
        with pytest.raises(UsageError):
            split_of(seed)


def test_seeds_are_chosen_in_shares_and_grow():
    chosen = choose_seeds(100, range(30_000))
    assert len(set(chosen)) == 100
    counts = Counter(split_of(seed) for seed in chosen)
    assert counts == {"train": 70, "validate": 10, "test": 20}
    assert set(chosen) <= set(choose_seeds(200, range(30_000)))
    for seeds, split in ((TUNE_SEEDS, "train"), (VALIDATE_SEEDS, "validate"), (TEST_SEEDS, "test")):
        assert {split_of(seed) for seed in choose_seeds(7, seeds)} == {split}
    with pytest.raises(UsageError, match="wider range"):
        choose_seeds(11, range(5_000, 5_010))
    with pytest.raises(UsageError, match="no split"):
        choose_seeds(1, range(40_000, 50_000))


def test_seeds_are_read_from_text():
    assert parse_seeds("5..9") == range(5, 10)
    for text in ("5", "9..5", "a..b", "-1..5", "5...9"):
        with pytest.raises(UsageError, match=r"expected A\.\.B"):
            parse_seeds(text)


def test_patterns_are_what_their_names_say():
    """What a case is asked to show is what ``pattern`` calls it, for every seed of 600."""
    counts: Counter[str] = Counter()
    for seed in range(600):
        spec, wanted = training_spec(seed)
        affected = tuple(f"{region.side}:{region.name}" for region in wanted.affected)
        counts[wanted.group] += 1
        lesion = bool(affected or spec.other_territory)
        if wanted.group == "mixed":
            assert affected
        else:
            assert pattern(affected, lesion) == wanted.group, seed
        assert spec.affected == wanted.affected
        assert len({region.side for region in wanted.affected}) <= 1
        assert not set(spec.old_infarct) & set(spec.affected)
        assert training_spec(seed) == (spec, wanted)
    for group, share in (("coupled", 0.34), ("lesion_free", 0.2), ("sg_only", 0.1), ("outside", 0.08)):
        assert counts[group] / 600 == pytest.approx(share, abs=0.05)
    faint = np.mean([training_spec(s)[0].supraganglionic_share < 1 for s in range(600)])
    assert faint == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
    ("affected", "lesion", "group"),
    [
        ("", False, "lesion_free"),
        ("", True, "outside"),
        ("left:M1 left:M4", True, "coupled"),
        ("left:L left:M2 left:M5", True, "coupled"),
        ("left:M1", True, "bg_only"),
        ("right:C right:IC", True, "bg_only"),
        ("right:M6", True, "sg_only"),
        ("right:M1 left:M4", True, "mixed"),  # the levels do not match across the midline
        ("right:I right:M5", True, "mixed"),
        ("right:M1 right:M4 right:M2", True, "mixed"),
    ],
)
def test_pattern_of_affected_regions(affected, lesion, group):
    assert pattern(tuple(affected.split()), lesion) == group


@pytest.fixture
def quick(monkeypatch):
    """prepare_seed without simulating: the miniature's case under the seed's id."""
    made: list[int] = []

    def stand_in(out, seed):
        made.append(seed)
        if seed == 3:
            return "no_brain: not this one"
        case = mini.dicom_case()
        record = replace(case.record, id=simulated.case_id(seed), split=split_of(seed))
        return write_case(out, replace(case, record=record), {"seed": str(seed)})

    monkeypatch.setattr(simulated, "prepare_seed", stand_in)
    return made


def test_dataset_names_what_it_holds_and_what_it_left_out(tmp_path, quick):
    steps = list(prepare_simulated(tmp_path / "out", 3, range(2, 5), workers=1))
    assert steps[:-1] == [1, 2, 3]
    dataset = Dataset(tmp_path / "out")
    assert [record.id for record in dataset.records] == ["sim-00002", "sim-00004"]
    assert dataset.about["skipped"] == [{"id": "sim-00003", "reason": "no_brain: not this one"}]
    assert dataset.about["cases"] == {"train": 2, "validate": 0, "test": 0}
    assert len(dataset.about["simulator"]["sha256"]) == 64
    with pytest.raises(UsageError, match="already holds"):
        list(prepare_simulated(tmp_path / "out", 1, range(9), workers=1))


def test_half_written_dataset_is_refused(tmp_path, quick):
    started = prepare_simulated(tmp_path / "out", 3, range(5, 9), workers=1)
    next(started)
    started.close()
    assert list((tmp_path / "out" / "cases").glob("*.npz"))
    with pytest.raises(UsageError, match="not a finished dataset"):
        Dataset(tmp_path / "out")


def test_bad_numbers_are_refused(tmp_path):
    for number, workers in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="at least 1"):
            list(prepare_simulated(tmp_path / "out", number, range(9), workers))


def test_one_seed_goes_through_dicom_and_is_kept(tmp_path, monkeypatch):
    """The truth lies on the voxels that the reader returned; a stopped run takes the case as it is."""
    head, fake = mini.head(), FakeCanonical()
    monkeypatch.setattr(simulated, "simulate", lambda spec: head)
    monkeypatch.setattr(simulated, "write_dicom", lambda out, spec, *a: write_dicom(out, mini.SPEC, *a))
    monkeypatch.setattr(simulated, "canonical_case", fake)
    (tmp_path / "cases").mkdir()
    record = prepare_seed(tmp_path, 41)
    assert record.id == "sim-00041"
    assert record.split == "train"
    assert record.provenance["seed"] == "41"
    spec, _ = training_spec(41)
    assert set(record.affected) == {f"{r.side}:{r.name}" for r in mini.SPEC.affected}  # of what was drawn
    seen = fake.seen["sim-00041"]
    np.testing.assert_array_equal(seen.series.hu, head.hu)
    np.testing.assert_array_equal(seen.lesion, head.infarct)
    np.testing.assert_array_equal(seen.territory, head.infarct_regions)
    assert prepare_seed(tmp_path, 41) == record
    assert fake.calls == 1
    made_from = json.loads((tmp_path / "cases" / "sim-00041.json").read_text())["made_from"]
    assert json.loads(made_from["spec"]) == json.loads(json.dumps(spec.to_dict()))


@pytest.fixture
def label_maps(tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    for name in ("person_03", "person_01", "person_02"):
        (folder / f"{name}.nii.gz").touch()
    return folder


def test_persons_are_chosen_by_name_and_drawn_per_seed(label_maps):
    def names(anatomies):
        return [path.name[:9] for path in anatomies.paths]

    everybody = find_anatomies(label_maps)
    assert names(everybody) == ["person_01", "person_02", "person_03"]
    assert names(find_anatomies(label_maps, "03,01")) == ["person_01", "person_03"]
    assert names(find_anatomies(label_maps, "*_0[12]")) == ["person_01", "person_02"]
    for persons in ("04", "01,04", "x*", "", "01,"):
        with pytest.raises(UsageError, match=r"label map|--persons"):
            find_anatomies(label_maps, persons)
    drawn = Counter(everybody.of(seed) for seed in range(300))
    assert set(drawn) == set(everybody.paths)
    assert min(drawn.values()) > 70


def test_people_are_kept_to_validation(label_maps):
    kept = find_anatomies(label_maps, "01,02", validate="03")
    assert {path.name[:9] for path in map(kept.of, range(1000, 1040))} == {"person_01", "person_02"}
    assert {path.name[:9] for path in map(kept.of, range(10000, 10010))} == {"person_03"}
    assert {path.name[:9] for path in map(kept.of, range(20000, 20040))} == {"person_01", "person_02"}
    with pytest.raises(UsageError, match=r"person_02 would be trained on and validated with"):
        find_anatomies(label_maps, "01,02", validate="02,03")
    with pytest.raises(UsageError, match="--validate-persons is '07'"):
        find_anatomies(label_maps, "01", validate="07")


def test_a_persons_case_says_whose_head_it_is(tmp_path, label_maps, monkeypatch):
    """A second definition that is not there becomes the atlas's; a stopped run takes the case as it is."""
    head, fake = mini.head(), FakeCanonical()
    base = SimpleNamespace(anatomy="person_01:0123456789ab", definitions=("atlas",), second_sha256="")
    seen = []
    monkeypatch.setattr(simulated, "load_person", lambda path, second: base)
    monkeypatch.setattr(simulated, "simulate", lambda spec, given: seen.append((spec, given)) or head)
    monkeypatch.setattr(simulated, "write_dicom", lambda out, spec, *a: write_dicom(out, mini.SPEC, *a))
    monkeypatch.setattr(simulated, "canonical_case", fake)
    people = find_anatomies(label_maps, "01")
    monkeypatch.setattr(simulated, "PERSON_FREE_SHARE", 0.0)
    steps = list(prepare_simulated(tmp_path / "out", 4, range(41, 45), 1, people))
    assert [record.id for record in steps[-1].records] == [f"sim-{seed:05d}" for seed in range(41, 45)]
    for spec, given in seen:
        assert given is base
        assert spec == replace(random_person_spec(spec.seed, base.anatomy), definition="atlas")
    provenance = steps[-1].records[0].provenance
    assert (provenance["anatomy"], provenance["definition"]) == (base.anatomy, "atlas")
    assert provenance["wanted"] == "population"
    simulated.prepare_person(people, tmp_path / "out", 41)
    assert fake.calls == len(seen) == 4


def test_what_was_drawn_is_the_truth_not_what_was_wanted(tmp_path, monkeypatch):
    """0.6 of a region are affected, 0.2 are not judged, 0.02 are healthy."""
    made, fake = mini.head(), FakeCanonical()
    share = {"I": 0.6, "L": 0.2, "M1": 0.02}
    rows = [
        {"name": name, "side": "right", "affected": part >= 0.3, "judged": not 0.05 <= part < 0.3}
        for name, part in share.items()
    ]
    head = replace(made, truth={**made.truth, "regions": rows})
    monkeypatch.setattr(simulated, "simulate", lambda spec: head)
    monkeypatch.setattr(simulated, "write_dicom", lambda out, spec, *a: write_dicom(out, mini.SPEC, *a))
    monkeypatch.setattr(simulated, "canonical_case", fake)
    (tmp_path / "cases").mkdir()
    record = prepare_seed(tmp_path, 41)
    assert record.affected == ("right:I",)
    assert record.not_judged == ("right:L",)
    assert prepare_seed(tmp_path, 41) == record  # as it was read back


def test_some_people_have_no_infarct(tmp_path, monkeypatch):
    base = SimpleNamespace(anatomy="person_01:0123456789ab", definitions=("atlas",), second_sha256="")
    seen = []
    monkeypatch.setattr(simulated, "load_person", lambda path, second: base)
    monkeypatch.setattr(simulated, "_prepare", lambda out, spec, wanted, base: seen.append((spec, wanted)))
    people = simulated.Anatomies((tmp_path / "person_01.nii.gz",))
    for seed in range(200):
        simulated.prepare_person(people, tmp_path, seed)
    free = [not spec.affected for spec, _ in seen]
    assert np.mean(free) == pytest.approx(0.5, abs=0.1)
    assert free == [wanted == "lesion_free" for _, wanted in seen]


def test_refusal_of_a_head_is_a_reason(tmp_path, monkeypatch):
    head = mini.head()
    monkeypatch.setattr(simulated, "simulate", lambda spec: head)
    monkeypatch.setattr(simulated, "write_dicom", lambda *a: None)

    def refuse(folder):
        raise Refusal("no_dicom", "nothing.", "send it.")

    monkeypatch.setattr(simulated, "read_series", refuse)
    assert prepare_seed(tmp_path, 7).startswith("no_dicom")
