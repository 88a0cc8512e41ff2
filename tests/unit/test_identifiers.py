from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from pydicom.uid import UID

from strokecore import identifiers as uids
from tests.unit.reports import output_cases as cases


def key(series, software=cases.SOFTWARE, model=cases.MODEL):
    return uids.result_key(series, software, model)


def test_key_is_a_uuid_and_repeats():
    series = cases.small_series()
    assert key(series) == key(cases.small_series())
    assert UUID(key(series)).version == 5


def test_every_input_changes_the_key():
    series = cases.small_series()
    headers = list(series.datasets)
    changed = [
        key(cases.recoded(series, PatientID="PID-2")),
        key(cases.recoded(series, PatientID=None)),
        key(cases.recoded(series, StudyInstanceUID="1.2.3.5")),
        key(replace(series, datasets=tuple(headers[:-1]))),
        key(replace(series, digest="0" * 64)),
        key(series, software=replace(cases.SOFTWARE, version="9")),
        key(series, software=replace(cases.SOFTWARE, atlas_sha256="0" * 64)),
        key(series, software=replace(cases.SOFTWARE, config_sha256="0" * 64)),
        key(series, model=replace(cases.MODEL, engine="onnx")),
        key(series, model=replace(cases.MODEL, precision="bfloat16")),
        key(series, model=replace(cases.MODEL, sha256="0" * 64)),
        key(series, model=replace(cases.MODEL, fallbacks=("openvino bf16: could not be started",))),
    ]
    assert len({key(series), *changed}) == len(changed) + 1


def test_file_order_does_not_change_the_key():
    series = cases.small_series()
    assert key(replace(series, datasets=series.datasets[::-1])) == key(series)


def test_a_value_cannot_move_into_the_next():
    assert uids.refusal_key(("ab", "c", "d"), cases.SOFTWARE, ()) != uids.refusal_key(
        ("a", "bc", "d"), cases.SOFTWARE, ()
    )


def test_output_uids_are_valid_and_distinct():
    name = key(cases.small_series())
    made = {uids.output_uid(name, kind, index) for kind in ("seg", "sr", "sc") for index in range(3)}
    assert len(made) == 9
    for uid in made:
        assert uid.startswith("2.25.")
        assert UID(uid).is_valid
        assert len(uid) <= 64
