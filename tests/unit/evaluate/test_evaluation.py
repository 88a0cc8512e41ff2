"""A study from the command line to its files, and two studies set against each other."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from strokecore.cli import main
from strokecore.config import ScoringConfig
from strokecore.errors import UsageError
from strokecore.evaluate.cases import find_cases
from strokecore.evaluate.evaluation import REGION_KEYS, compare, evaluate, study_record, write_study
from strokecore.evaluate.figures import summarise
from strokecore.evaluate.outcomes import Outcome
from strokecore.evaluate.plots import draw_all
from tests.unit.evaluate.cases import affected, fake_score, random_outcomes, said, said_of, write_case
from tests.unit.reports.output_cases import MODEL, SOFTWARE

PICTURES = {"roc.png", "regions.png", "bland_altman.png", "aspects_confusion.png", "reliability.png"}


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    folder = tmp_path / "cases"
    right = affected(right=("I", "M1"))
    write_case(folder / "a", right | {"infarct_ml": {"left": 0, "right": 5}}, {"affected": "right:I,M2"})
    write_case(folder / "b", right, {"refuse": "too_few_slices"})
    write_case(folder / "c", affected(), {"crash": "DOE^JANE 19500101"})
    return folder


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command scores with fake_score."""
    monkeypatch.setitem(evaluate.__kwdefaults__, "score", fake_score)


def record_of(outcomes: list[Outcome]) -> dict[str, Any]:
    return study_record(
        outcomes,
        summarise(outcomes, draws=50),
        command="strokecore evaluate",
        date="2026-11-23",
        workers=1,
        model=MODEL,
        software=SOFTWARE,
    )


def test_the_command_writes_the_study(
    scorer: None, cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--out", str(out), "--workers", "2", "--engine", "asymmetry"]
    assert main(["evaluate", str(cases), *words]) == 0
    assert {path.name for path in out.iterdir()} == PICTURES | {"study.json", "cases.csv"}

    text = (out / "study.json").read_text()
    study = json.loads(text)
    assert study["command"].startswith("strokecore evaluate ")
    assert study["figures"]["processed"]["by_status"] == {"scored": 1, "refused": 1, "failed": 1}
    assert study["model"]["engine"] == "asymmetry"
    assert len(study["software"]["atlas_sha256"]) == len(study["software"]["config_sha256"]) == 64
    assert study["cases_from"]["splits"] == ["not stated"]
    assert study["region_order"] == list(REGION_KEYS)
    first = study["cases"][0]
    assert dict(zip(study["region_order"], first["probability"], strict=True))["right:M2"] == 0.9
    assert [r for r, t in zip(study["region_order"], first["truth"], strict=True) if t] == [
        "right:I",
        "right:M1",
    ]

    with (out / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["scored", "refused", "failed"]
    assert rows[0]["found"] == "right:I"
    assert rows[0]["missed"] == "right:M1"
    assert rows[0]["false_alarms"] == "right:M2"
    assert (rows[0]["true_aspects_right"], rows[0]["aspects_right"]) == ("8", "8")
    assert (rows[0]["true_infarct_ml_right"], rows[1]["true_infarct_ml_right"]) == ("5.0", "")
    assert (rows[1]["code"], rows[2]["code"], rows[2]["detail"]) == (
        "too_few_slices",
        "crashed",
        "ValueError",
    )

    said = capsys.readouterr()
    for words in ("region AUC", "ICC(2,1)", ">=8 kappa", "b: refused, too_few_slices", "c: failed, crashed"):
        assert words in said.out
    assert "DOE" not in text + said.out + said.err + (out / "cases.csv").read_text()


def test_a_study_in_which_nothing_was_scored_fails(scorer: None, tmp_path: Path) -> None:
    write_case(tmp_path / "cases" / "a", affected(), {"refuse": "too_few_slices"})
    out = tmp_path / "out"
    assert main(["evaluate", str(tmp_path / "cases"), "--out", str(out)]) == 1
    assert (out / "study.json").exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--split", "test"], "No case belongs to the split"),
        (["--engine", "tensorrt"], "engine"),
        (["--workers", "0"], "above 0"),
        (["--normals", "2"], "simulated cases only"),
    ],
)
def test_wrong_use_is_said_before_anything_is_scored(
    extra: list[str], said: str, cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(cases), "--out", str(tmp_path / "out"), *extra]) == 2
    assert said in capsys.readouterr().err


def test_mixed_simulated_splits_are_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "simulated:9999..10000", "--out", str(tmp_path / "out")]) == 2
    assert "--mixed-splits" in capsys.readouterr().err


def test_cases_may_be_links_to_folders_beside_the_output(scorer: None, cases: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for case in cases.iterdir():
        (linked / case.name).symlink_to(case)
    assert main(["evaluate", str(linked), "--out", str(linked / "out")]) == 2
    assert main(["evaluate", str(linked), "--out", str(cases / "out")]) == 0


def test_the_output_is_not_written_among_the_cases(cases: Path) -> None:
    with pytest.raises(UsageError, match="among the cases"):
        evaluate(find_cases(str(cases)), ScoringConfig(), cases / "out", command="")
    assert not (cases / "out").exists()


def test_a_missing_extra_names_the_command(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "matplotlib" else find_spec(n))
    with pytest.raises(UsageError, match=r"needs matplotlib; .* pip install 'strokecore\[evaluate\]'"):
        evaluate(find_cases(str(cases)), ScoringConfig(), tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "outcomes", [random_outcomes(9, 2), [said("a", "", "")], [said("a", "left:C", "")]], ids=len
)
def test_pictures_are_drawn_whatever_there_is(outcomes: list[Outcome], tmp_path: Path) -> None:
    paths = draw_all(outcomes, summarise(outcomes, draws=20), tmp_path)
    assert {path.name for path in paths} == PICTURES
    for path in paths:
        assert np.asarray(Image.open(path).convert("L")).std() > 5


def test_infarcts_of_known_depth_are_drawn_by_depth(tmp_path: Path) -> None:
    outcomes = [said_of(f"{d}", "left:M1", "left:M1", delta_hu=d) for d in (2.0, 5.0)] + [said("n", "", "")]
    assert draw_all(outcomes, summarise(outcomes, draws=20), tmp_path)[-1].name == "by_depth.png"


def test_a_site_s_cut_is_written_when_there_are_hemispheres_enough(
    scorer: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        write_case(
            tmp_path / "cases" / f"{number}", affected(), {"affected": "left:M1" if number < 3 else ""}
        )
    out = tmp_path / "out"
    assert main(["evaluate", str(tmp_path / "cases"), "--out", str(out)]) == 0
    cut = json.loads((out / "region_cut.json").read_text())
    assert (cut["threshold"], cut["hemispheres_without_infarct"], cut["kept"]) == (0.1001, 20, 0.85)
    assert "0.1001" in capsys.readouterr().out
    # an earlier study's cut does not outlive it
    assert main(["evaluate", str(tmp_path / "cases"), "--out", str(out), "--split", "test"]) == 2
    (tmp_path / "few").mkdir()
    write_case(tmp_path / "few" / "a", affected())
    assert main(["evaluate", str(tmp_path / "few"), "--out", str(out)]) == 0
    assert not (out / "region_cut.json").exists()


def test_where_simulated_cases_come_from_is_recorded() -> None:
    outcomes = random_outcomes(4, 1)
    seeded = [
        Outcome(**{**vars(o), "truth": type(o.truth)(o.truth.affected, split="test", seed=20_000 + n)})
        for n, o in enumerate(outcomes)
    ]
    origin = record_of(seeded)["cases_from"]
    assert (origin["splits"], origin["seeds"]) == (["test"], [20_000, 20_003])
    assert origin["sha256"] != record_of(seeded[:3])["cases_from"]["sha256"]


def test_the_same_study_compared_with_itself_does_not_differ(tmp_path: Path) -> None:
    path = write_study(record_of(random_outcomes(10, 3)), tmp_path)
    found = compare(path, path, draws=100)
    assert found.difference.value == found.difference.low == found.difference.high == 0.0
    assert found.first == found.second


def test_a_better_study_is_found_better_on_the_same_cases(tmp_path: Path) -> None:
    middling = random_outcomes(30, 3)
    perfect = [
        Outcome(**{**vars(o), "probability": tuple(float(t) for t in o.truth.regions)}) for o in middling
    ]
    for name, outcomes in (("a", middling), ("b", perfect)):
        (tmp_path / name).mkdir()
        write_study(record_of(outcomes), tmp_path / name)
    found = compare(tmp_path / "a" / "study.json", tmp_path / "b" / "study.json", draws=300)
    assert found.second.value == 1.0
    assert found.difference.value == pytest.approx(1.0 - found.first.value)
    assert 0 < found.difference.low < found.difference.value < found.difference.high
    # paired: as wide as the first study's own interval, since the second does not vary
    assert found.difference.high - found.difference.low == pytest.approx(found.first.high - found.first.low)


def test_studies_of_different_cases_are_not_compared(tmp_path: Path) -> None:
    outcomes = random_outcomes(6, 3)
    other = [Outcome(**{**vars(o), "digest": "e" * 64}) for o in outcomes]
    for name, cases in (("a", outcomes), ("fewer", outcomes[:5]), ("images", other)):
        (tmp_path / name).mkdir()
        write_study(record_of(cases), tmp_path / name)
    for name in ("fewer", "images"):
        with pytest.raises(UsageError, match="same cases"):
            compare(tmp_path / "a" / "study.json", tmp_path / name / "study.json")
    (tmp_path / "not.json").write_text("{}")
    with pytest.raises(UsageError, match=r"not\.json is no study\.json"):
        compare(tmp_path / "not.json", tmp_path / "a" / "study.json")
