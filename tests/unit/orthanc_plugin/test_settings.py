"""orthanc_plugin/settings.py: the configuration section, and what is said about a wrong one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin.settings import SHIPPED_MODEL, Settings, SettingsError, parse_settings
from strokecore.config import OUTPUT_KINDS
from strokecore.learned import shipped

TEMPLATE = Path(__file__).resolve().parents[3] / "deploy" / "orthanc.json"


def configuration(**strokecore: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(TEMPLATE.read_text())
    values["StrokeCore"].update({"Python": sys.executable, **strokecore})
    return values


def codes(values: dict[str, Any]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse_settings(values)
    return [p.code for p in caught.value.problems]


def test_the_shipped_template_has_the_defaults() -> None:
    command = (sys.executable, "-I", "-m", "strokecore")
    assert parse_settings(configuration()) == Settings(command=command, python=sys.executable)


def test_options_are_taken(tmp_path: Path) -> None:
    settings = parse_settings(
        {
            **configuration(Workers=4, TimeoutSeconds=30.5, Engine="onnx", Model=str(tmp_path)),
            "StableAge": 7,
            "HttpPort": 8043,
            "SslEnabled": True,
        }
    )
    assert (settings.workers, settings.timeout_s, settings.engine) == (4, 30.5, "onnx")
    assert (settings.stable_age_s, settings.http_port, settings.tls) == (7, 8043, True)
    assert settings.model == str(tmp_path)


def test_the_shipped_model_is_named_without_a_folder() -> None:
    assert SHIPPED_MODEL == shipped.NAME
    assert parse_settings(configuration(Model="shipped")).model == "shipped"


def test_a_region_cut_is_read_when_the_plugin_loads(tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    assert codes(configuration(RegionCut=str(cut))) == ["region_cut_invalid"]
    cut.write_text('{"schema": 1, "threshold": 42}')
    with pytest.raises(SettingsError, match=r"RegionCut: .* between 0 and 1"):
        parse_settings(configuration(RegionCut=str(cut)))
    assert codes(configuration(RegionCut="cut.json")) == ["option_invalid"]  # relative to what?
    cut.write_text('{"schema": 1, "threshold": 0.42}')
    assert parse_settings(configuration(RegionCut=str(cut))).region_cut == str(cut)


def test_outputs_are_some_of_those_that_there_are() -> None:
    assert parse_settings(configuration()).outputs == OUTPUT_KINDS
    assert parse_settings(configuration(Outputs=["sr", "sc"])).outputs == ("sc", "sr")
    for wrong in ("sc,sr", ["sc", "png"], ["seg", "regions"], [], [1]):
        assert codes(configuration(Outputs=wrong)) == ["option_invalid"], wrong


def test_the_cache_lies_beside_orthancs_database_unless_it_is_named() -> None:
    index = {"IndexDirectory": "/var/lib/orthanc/db", "StorageDirectory": "/var/lib/orthanc/files"}
    assert (
        parse_settings({**configuration(), **index}).cache_directory == "/var/lib/orthanc/db/strokecore-cache"
    )
    relative = {**index, "IndexDirectory": "db"}  # to the configuration file, which is not known here
    found = parse_settings({**configuration(), **relative}).cache_directory
    assert found == "/var/lib/orthanc/files/strokecore-cache"
    assert parse_settings({**configuration(), "StorageDirectory": "files"}).cache_directory is None
    assert parse_settings({**configuration(CacheDirectory="/c"), **index}).cache_directory == "/c"
    assert codes(configuration(CacheDirectory="c")) == ["option_invalid"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("Workers", 0),
        ("Workers", 1.5),
        ("Workers", True),
        ("TimeoutSeconds", "120"),
        ("MaxAttempts", 0),
        ("Engine", "magic"),
        ("Command", "strokecore"),
        ("Command", []),
        ("RecoveryHours", -1),
    ],
)
def test_a_value_that_does_not_fit_is_named(option: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"option_invalid: StrokeCore.{option} must be"):
        parse_settings(configuration(**{option: value}))


def test_every_problem_is_reported_at_once() -> None:
    values = configuration(Python="/no/such/python", Model="/no/such/folder", Wrokers=2)
    values.update(CheckRevisions=False, UserMetadata={}, HttpServerEnabled=False, UserContentType={})
    assert codes(values) == [
        "python_missing",
        "model_missing",
        "option_unknown",
        "user_metadata_missing",
        "user_content_type_missing",
        "user_content_type_missing",
        "check_revisions_off",
        "http_server_off",
    ]


def test_metadata_below_orthancs_own_numbers_is_not_registered() -> None:
    assert codes({**configuration(), "UserMetadata": {"StrokeCore": 7}}) == ["user_metadata_missing"]


def test_a_section_that_is_no_object() -> None:
    assert codes({**configuration(), "StrokeCore": "on"}) == ["section_invalid"]
