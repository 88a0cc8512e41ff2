"""result.json and its schema."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from strokecore.config import RegionCut
from strokecore.reports import marks, result_json
from strokecore.reports.marks import Volumes
from strokecore.result import AspectsScore, HaemorrhageInfo
from tests.unit.reports import output_cases as cases


def test_json_is_the_contract(result, tmp_path):
    result_json.write_json(result, tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(result_json.schema())
    jsonschema.validate(written, result_json.schema())
    assert written["schema"] == 1
    assert written["aspects"] == {
        "left": {"score": 9, "assessed": 9, "range": [8, 9]},
        "right": {"score": 7, "assessed": 10, "range": [6, 8]},
    }
    assert written["affected_side"] == "right"
    assert len(written["regions"]) == 20
    assert written["regions"][0] == {
        "name": "C",
        "side": "left",
        "affected": False,
        "borderline": False,
        "probability": 0.08,
        "involved_fraction": 0.0,
        "volume_ml": 0.0,
        "mean_hu": 33.1,
        "contralateral_difference_hu": 0.4,
        "assessable": True,
        "reason": None,
    }
    assert written["infarct_volume_ml"] == {"left": 0.0, "right": 21.75}
    assert (written["other_hypodensity_ml"], written["haemorrhage"]) == (2.6, None)
    assert written["software"]["region_cut"] is None
    assert written["quality"][0]["code"] == "noisy"
    assert written["series"]["slices"] == 8
    assert written["model"]["fallbacks"] == ["no model package given"]
    assert written["result_key"] == result.result_key
    assert written["content_datetime"] == cases.MOMENT
    assert list(tmp_path.iterdir()) == [tmp_path / "result.json"]


def test_json_has_exactly_the_keys_of_the_design_and_five_more(result):
    assert set(result_json.to_json(result)) == {
        *("schema", "status", "aspects", "affected_side", "regions", "infarct_volume_ml"),
        *("old_infarct_volume_ml", "outside_regions_volume_ml", "other_hypodensity_ml", "haemorrhage"),
        *("quality", "series", "model", "software", "supersedes", "timings_s"),
        *("result_key", "content_datetime", "not_selected"),
        *("shown_ml", "intended_use"),
    }


def test_json_says_what_the_outputs_mark(result, series, masks, tmp_path):
    volumes = Volumes.of(series, marks.shown(series, result, masks))
    result_json.write_json(result, tmp_path / "result.json", volumes)
    said = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["shown_ml"]
    assert said["early_right"] == volumes.early["right"] > 0
    assert said["early_left"] == 0.0
    assert set(said) == {"early_left", "early_right", "other_hypodensity", "old_infarct"}


@pytest.mark.parametrize("status", ["refused", "ineligible", "failed"])
def test_json_of_a_run_without_a_score(status, tmp_path):
    bare = replace(cases.refused(cases.GAP), status=status, aspects={}, infarct_volume_ml={})
    result_json.write_json(bare, tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert written["regions"] == []
    assert written["aspects"]["left"] == {"score": None, "assessed": 0, "range": None}
    assert written["series"] is None


def test_json_of_a_withheld_result_names_the_haemorrhage_and_no_call(result, tmp_path):
    result_json.write_json(cases.withheld(result), tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert written["haemorrhage"] == {"side": "right", "ml": 12.3, "place": "right, most of it in right L"}
    assert written["infarct_volume_ml"] == {"left": 0.0, "right": 0.0}
    assert [side["range"] for side in written["aspects"].values()] == [None, None]
    for row in written["regions"]:
        assert (row["affected"], row["borderline"], row["probability"]) == (False, False, None)
        assert (row["involved_fraction"], row["volume_ml"]) == (0.0, 0.0)
        # what was measured, and why a region could not be, is no call
        assert (row["mean_hu"] is None) == (row["reason"] == "old_infarct") == (not row["assessable"])


def test_json_shows_the_cut_of_the_site(result, tmp_path):
    software = replace(cases.SOFTWARE, region_cut=RegionCut(0.42, "f" * 64))
    result_json.write_json(replace(result, software=software), tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert written["software"]["region_cut"] == {"threshold": 0.42, "sha256": "f" * 64}


def test_json_takes_numpy_numbers(result):
    finding = replace(result.regions[0], probability=np.float32(0.5), affected=np.bool_(False))
    written = result_json.to_json(replace(result, regions=(finding, *result.regions[1:])))
    jsonschema.validate(written, result_json.schema())
    assert written["regions"][0]["probability"] == 0.5


def test_a_value_that_is_not_a_number_is_a_defect(result, tmp_path):
    finding = replace(result.regions[0], mean_hu=float("nan"))
    broken = replace(result, regions=(finding, *result.regions[1:]))
    with pytest.raises(ValueError, match="not JSON compliant"):
        result_json.write_json(broken, tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"regions": ()},
        {"status": "done"},
        {"infarct_volume_ml": {"left": -1.0, "right": 0.0}},
        {"series": None},
        {"result_key": None},
        {"haemorrhage": HaemorrhageInfo("right", 2.0, "")},
        {"aspects": {"left": AspectsScore(9, 9, (8, 11)), "right": AspectsScore(7, 10, (6, 8))}},
    ],
    ids=str,
)
def test_a_result_that_breaks_its_contract_is_not_written(broken, result, tmp_path):
    with pytest.raises(jsonschema.ValidationError):
        result_json.write_json(replace(result, **broken), tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []
