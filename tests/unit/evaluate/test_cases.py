"""Which cases a study is made of, and what is true of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.errors import UsageError
from strokecore.evaluate.cases import find_cases, of_one_split, simulated_cases
from strokecore.evaluate.truth import Blood, Simulator, read_truth, split_of
from strokecore.simulate import SIMULATOR_VERSION, random_affected, simulator_sha256
from tests.unit.evaluate.cases import affected, write_case


def rows(*called: RegionId) -> list[dict[str, object]]:
    return [{"name": r.name, "side": r.side, "affected": r in called} for r in ALL_REGIONS]


def test_the_minimal_truth_is_enough(tmp_path: Path) -> None:
    truth = read_truth(write_case(tmp_path / "a", affected(left=("M1", "M2"), right=("C",))))
    assert truth.affected == {RegionId("M1", "left"), RegionId("M2", "left"), RegionId("C", "right")}
    assert truth.scores == {"left": 8, "right": 9}
    assert truth.side == "left"
    assert truth.regions[ALL_REGIONS.index(RegionId("C", "right"))]
    assert sum(truth.regions) == 3
    assert (truth.infarct_ml, truth.split, truth.seed, truth.simulator) == (None, None, None, None)


def test_a_head_without_infarct_has_no_side(tmp_path: Path) -> None:
    assert read_truth(write_case(tmp_path / "a", affected())).side is None


def test_optional_values_are_read(tmp_path: Path) -> None:
    given = affected(right=("I",)) | {
        "split": "test",
        "infarct_ml": {"left": 0, "right": 12.5},
        "aspects": {"left": 10, "right": 9},
        "affected_side": "right",
        "reader": "anything else is ignored",
    }
    truth = read_truth(write_case(tmp_path / "a", given))
    assert truth.split == "test"
    assert truth.infarct_ml == {"left": 0.0, "right": 12.5}


def test_what_the_simulator_writes_is_read(sample_ct: Path) -> None:
    truth = read_truth(sample_ct)
    assert truth.affected == {RegionId(name, "right") for name in ("I", "M1", "M2")}
    assert truth.split == "tune"
    assert truth.seed == 3
    assert truth.simulator == Simulator(SIMULATOR_VERSION, simulator_sha256())
    assert truth.infarct_ml is not None
    assert truth.infarct_ml["right"] > 20 > truth.infarct_ml["left"]


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    case = write_case(tmp_path / "a", affected(left=("C",)))
    path = case / "truth" / "truth.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(read_truth(case).affected) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("\xff", "cannot be read"),
        ('{"schema": 1, "affected": {"left": [], "right": []}, "infarct_ml": NaN}', "cannot be read"),
        ("[]", "is not of type 'object'"),
        ('{"schema": 1}', "neither affected nor regions is given"),
        ('{"schema": 2, "affected": {"left": [], "right": []}}', "schema: 1 was expected"),
        ('{"schema": 1, "affected": {"left": ["M1"]}}', "'right' is a required property"),
        ('{"schema": 1, "affected": {"left": ["M7"], "right": []}}', "affected.left.0: 'M7'"),
        ('{"schema": 1, "affected": {"links": [], "left": [], "right": []}}', "'links' was unexpected"),
        (
            '{"schema": 1, "affected": {"left": [], "right": []}, "infarct_ml": {"left": -1, "right": 0}}',
            "infarct_ml.left: -1",
        ),
        (
            '{"schema": 1, "affected": {"left": ["C"], "right": []}, "aspects": {"left": 10, "right": 9}}',
            "aspects.left is 10, but the affected regions make it 9",
        ),
        (
            '{"schema": 1, "affected": {"left": ["C"], "right": []}, "affected_side": "right"}',
            "every affected region is on the other side",
        ),
        (json.dumps({"schema": 1, "regions": rows()[:19]}), "regions"),
        (json.dumps({"schema": 1, "regions": rows()[:19] + rows()[:1]}), "each of the 20 regions once"),
        (
            json.dumps({"schema": 1, "regions": rows(), "affected": {"left": ["C"], "right": []}}),
            "name different regions",
        ),
    ],
)
def test_a_broken_truth_names_the_case_and_the_fault(content: str, said: str, tmp_path: Path) -> None:
    write_case(tmp_path / "good", affected())
    case = write_case(tmp_path / "case 7", affected())
    (case / "truth" / "truth.json").write_text(content, encoding="latin-1")
    with pytest.raises(UsageError) as caught:
        find_cases(str(tmp_path))
    message = str(caught.value)
    assert message.startswith("case case 7: truth/truth.json")
    assert said in message
    assert "good" not in message
    assert len(message) < 600


def test_every_case_without_truth_is_named(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"case-{number}").mkdir()
    with pytest.raises(UsageError, match=r"case case-0: .* is missing[\s\S]*case-4[\s\S]*and 2 more"):
        find_cases(str(tmp_path))


def test_cases_are_the_sub_folders_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        write_case(tmp_path / name, affected())
    (tmp_path / "notes.txt").write_text("")
    cases = find_cases(str(tmp_path))
    assert [case.name for case in cases] == ["a", "b"]
    with cases[0].images() as folder:
        assert folder == tmp_path / "a"


def test_a_folder_that_cannot_be_cases_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        find_cases(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="holds no case"):
        find_cases(str(tmp_path))
    case = write_case(tmp_path / "a", affected())
    with pytest.raises(UsageError, match="itself one case"):
        find_cases(str(case))
    with pytest.raises(UsageError, match="simulated cases only"):
        find_cases(str(tmp_path), normals=3)


def test_simulated_cases_follow_their_seeds() -> None:
    cases = find_cases("simulated:20000..20005", delta_hu=4.0, normals=2)
    assert [case.truth.seed for case in cases] == list(range(20000, 20006))
    assert [bool(case.truth.affected) for case in cases] == [True] * 4 + [False] * 2
    assert cases[0].truth.affected == set(random_affected(20000))
    assert all(case.spec is not None and case.spec.delta_hu == 4.0 for case in cases)
    assert {case.truth.split for case in cases} == {"test"}
    assert len([c for c in find_cases("simulated:0..8") if not c.truth.affected]) == 3


@pytest.mark.parametrize("text", ["simulated:", "simulated:5", "simulated:5..4", "simulated:-1..4"])
def test_seeds_that_cannot_be_read_are_said(text: str) -> None:
    with pytest.raises(UsageError, match="simulated:20000"):
        find_cases(text)


def test_impossible_simulated_cases_are_said() -> None:
    with pytest.raises(UsageError, match="of 3 heads"):
        simulated_cases(range(3), normals=4)
    with pytest.raises(UsageError, match="expected above 0"):
        simulated_cases(range(3), delta_hu=0.0)


def test_seeds_belong_to_splits() -> None:
    assert [split_of(s) for s in (0, 9999, 10000, 19999, 20000, 29999, 30000)] == [
        "tune",
        "tune",
        "validate",
        "validate",
        "test",
        "test",
        None,
    ]


def test_splits_are_not_mixed_unless_asked() -> None:
    cases = simulated_cases(range(9998, 10002))
    with pytest.raises(UsageError, match=r"tune \(2\), validate \(2\)"):
        of_one_split(cases)
    assert of_one_split(cases, mixed=True) == cases
    assert of_one_split(cases, "validate") == cases[2:]
    assert of_one_split(cases[:2]) == cases[:2]
    with pytest.raises(UsageError, match="20000-29999"):
        of_one_split(cases, "test")


def label_maps(folder: Path) -> list[Path]:
    paths = [folder / f"person_0{n}.nii.gz" for n in (7, 8)]
    for path in paths:
        path.touch()
    return paths


def test_persons_take_turns_and_infarcts_are_of_the_population(tmp_path: Path) -> None:
    cases = find_cases("simulated:10000..10008", normals=3, persons=label_maps(tmp_path))
    assert [case.truth.person for case in cases[:3]] == ["person_07", "person_08", "person_07"]
    assert [bool(case.truth.affected) for case in cases] == [True] * 6 + [False] * 3
    assert {case.truth.delta_hu for case in cases[:6]} <= {2.0, 3.0, 5.0, 8.0}
    assert cases[6].truth.delta_hu is None
    specs = [case.spec for case in cases if case.spec is not None]
    assert all(0.3 <= share <= 1 for spec in specs for share in spec.involvement)
    assert {spec.definition for spec in specs} == {"atlas", "second", "between"}
    deep = find_cases("simulated:10000..10002", delta_hu=8.0, normals=0, persons=label_maps(tmp_path))
    assert {case.truth.delta_hu for case in deep} == {8.0}


def test_a_missing_label_map_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no label map person_03\.nii\.gz"):
        find_cases("simulated:0..1", persons=[tmp_path / "person_03.nii.gz"])
    with pytest.raises(UsageError, match="simulated cases only"):
        find_cases(str(tmp_path), persons=label_maps(tmp_path))


def test_a_person_belongs_to_one_split(tmp_path: Path) -> None:
    persons = label_maps(tmp_path)
    cases = simulated_cases(range(9998, 10_002), persons=persons)  # each of them in both splits
    with pytest.raises(UsageError, match=r"person_07 is in several splits: tune, validate"):
        of_one_split(cases, "validate")
    assert of_one_split(cases, "validate", mixed=True) == cases[2:]
    apart = [*simulated_cases([9998], persons=persons[:1]), *simulated_cases([10_001], persons=persons[1:])]
    assert of_one_split(apart, "validate") == apart[1:]


def test_what_the_simulator_says_of_a_person_s_regions_is_read(tmp_path: Path) -> None:
    little, whole = RegionId("M2", "left"), RegionId("M1", "left")
    written = rows(whole)
    for row in written:
        row["judged"] = (row["name"], row["side"]) != ("M2", "left")
        row["observer_difference_hu"] = -4.5 if (row["name"], row["side"]) == ("M1", "left") else 0.25
    spec = {"seed": 12, "anatomy": "person_07:0123456789ab", "delta_hu": 5.0, "blood_ml": 0.0}
    truth = read_truth(
        write_case(
            tmp_path / "a",
            {
                "affected": {"left": ["M1"], "right": []},
                "regions": written,
                "spec": spec,
                "confounder": "plain",
            },
        )
    )
    assert (truth.affected, truth.unjudged) == ({whole}, {little})
    assert truth.judged[ALL_REGIONS.index(little)] is False
    assert truth.observer_hu[ALL_REGIONS.index(whole)] == -4.5
    assert (truth.person, truth.delta_hu, truth.confounder, truth.blood) == ("person_07", 5.0, "plain", None)
    assert truth.clean_sides == ("right",)
    assert not truth.clean


def test_blood_is_part_of_the_truth(tmp_path: Path) -> None:
    spec = {"seed": 12, "blood_ml": 12.5, "blood_place": "subdural", "delta_hu": 6.0}
    truth = read_truth(write_case(tmp_path / "a", affected() | {"spec": spec}))
    assert truth.blood == Blood("subdural", 12.5)
    assert truth.delta_hu is None  # there is no infarct
    assert truth.clean_sides == ()


def test_a_case_without_split_does_not_mix_with_one_that_has(tmp_path: Path) -> None:
    write_case(tmp_path / "a", affected())
    write_case(tmp_path / "b", affected() | {"split": "test"})
    with pytest.raises(UsageError, match=r"not stated \(1\), test \(1\)"):
        of_one_split(find_cases(str(tmp_path)))
