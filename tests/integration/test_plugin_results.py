"""What becomes of results that were deleted, copied or corrected by hand, in a real Orthanc."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from tests.integration.conftest import FakeNode
from tests.integration.ct_files import Study
from tests.integration.orthanc_server import SETTLE_S
from tests.integration.test_plugin_faults import MakeNode, only_state, send

pytestmark = pytest.mark.orthanc

ROUND_S = 5.0  # how long the plugin may take to see that slices came again


def files(node: FakeNode, instances: list[str]) -> dict[str, bytes]:
    return {i: node.request("GET", f"/instances/{i}/file")[1] for i in instances}


def results(node: FakeNode) -> list[str]:
    return sorted([*node.instances("SR"), *node.instances("OT")])


def delete(node: FakeNode, instances: list[str]) -> None:
    for instance in instances:
        assert node.request("DELETE", f"/instances/{instance}")[0] == 200


def test_results_that_were_deleted_are_made_again_when_the_series_is_sent_again(fake_node: FakeNode) -> None:
    node = fake_node
    slices = Study().series(4)
    send(node, slices)
    node.wait_for("scored")
    before = files(node, results(node))
    first = only_state(node)["result"]
    delete(node, results(node))
    time.sleep(1.1)  # another second, so that a new content date would show
    send(node, slices)
    node.wait(lambda: results(node) == sorted(before), "the results")
    node.wait_idle(SETTLE_S)
    assert files(node, results(node)) == before
    assert only_state(node)["result"] == first
    runs = len(node.runs)
    send(node, slices)  # and with everything there, nothing is made
    time.sleep(ROUND_S + 1)
    node.wait_idle()
    assert len(node.runs) == runs


def test_results_that_a_site_deletes_stay_deleted_until_the_series_comes_again(
    make_fake_node: MakeNode,
) -> None:
    node = make_fake_node(ReconcileSeconds=5)
    send(node, Study().series(4))
    node.wait_for("scored")
    delete(node, results(node))
    node.stop()  # the next start looks at every study of the last day
    node.start()
    time.sleep(2 * ROUND_S + 1)
    node.wait_idle()
    assert len(node.runs) == 1
    assert results(node) == []


def test_a_refusal_that_was_deleted_is_said_again_when_the_series_is_sent_again(fake_node: FakeNode) -> None:
    node = fake_node
    node.plan("refused", "refused")
    slices = Study().series(4)
    send(node, slices)
    node.wait_for("refused")
    (picture,) = node.instances("OT")
    delete(node, [picture])
    send(node, slices)
    node.wait(lambda: node.instances("OT") == [picture], "the picture")
    node.wait_idle()
    assert only_state(node)["notices"] == [picture]


def headers(node: FakeNode, study: str) -> dict[str, Dataset]:
    """Orthanc id of every instance of a study -> its header."""
    instances = [i["ID"] for i in node.get(f"/studies/{study}/instances")]
    return {i: pydicom.dcmread(io.BytesIO(content)) for i, content in files(node, instances).items()}


def job(node: FakeNode, path: str, **options: Any) -> None:
    status, body = node.request("POST", path, json.dumps(options).encode())
    assert status == 200, body


def only_result_is(node: FakeNode, study: str, patient_name: str) -> None:
    """In a study one result, which its series names, and nothing of another patient."""
    found = headers(node, study)
    ours = {i for i, header in found.items() if header.Modality != "CT"}
    named: set[str] = set()
    for series in node.get(f"/studies/{study}/series"):
        if series["MainDicomTags"]["Modality"] == "CT":
            state = node.get(f"/strokecore/series/{series['ID']}")
            assert state["status"] == "scored"
            named |= set(state["result"]["outputs"])
    assert ours == named
    assert sorted(found[i].Modality for i in ours) == ["OT", "SR"]
    assert {str(header.PatientName) for header in found.values()} == {patient_name}


ALL_UIDS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
CORRECTED = {"PatientName": "SECRET^CORRECTED"}


@pytest.mark.parametrize(
    ("level", "order", "options", "name", "keep_source"),
    [
        ("studies", "modify", {"Replace": CORRECTED}, "SECRET^CORRECTED", True),
        ("studies", "modify", {"Replace": CORRECTED}, "SECRET^CORRECTED", False),
        ("studies", "modify", {"Replace": CORRECTED, "Keep": ["SOPInstanceUID"]}, "SECRET^CORRECTED", False),
        ("patients", "modify", {"Replace": {**CORRECTED, "PatientID": "X"}}, "SECRET^CORRECTED", True),
        (
            "patients",
            "modify",
            {"Replace": {**CORRECTED, "PatientID": "X"}, "Keep": ALL_UIDS},
            "SECRET^CORRECTED",
            False,
        ),
        ("studies", "anonymize", {"Replace": {"PatientName": "NOBODY"}}, "NOBODY", True),
    ],
)
def test_a_corrected_study_has_one_result(
    fake_node: FakeNode, level: str, order: str, options: dict[str, Any], name: str, keep_source: bool
) -> None:
    node = fake_node
    send(node, Study().series(4))
    node.wait_for("scored")
    node.wait_idle()
    (source,) = node.get("/studies")
    before = files(node, results(node))
    (identifier,) = node.get(f"/{level}")
    job(node, f"/{level}/{identifier}/{order}", **options, Force=True, KeepSource=keep_source)
    node.wait_for("scored", 1 + keep_source)
    node.wait_idle(SETTLE_S)
    (corrected,) = set(node.get("/studies")) - {source}
    only_result_is(node, corrected, name)
    if keep_source:
        only_result_is(node, source, "SECRET^NAME")
        assert before.items() <= files(node, results(node)).items()
    assert "CORRECTED" not in node.log


@pytest.mark.parametrize("keep_source", [True, False])
def test_a_merged_study_has_one_result_of_each_acquisition(fake_node: FakeNode, *, keep_source: bool) -> None:
    node = fake_node
    send(node, Study().series(4))
    node.wait_for("scored")
    (source,) = node.get("/studies")
    send(node, Study().series(4, time="180000", PatientName="SECRET^OTHER"))
    node.wait_for("scored", 2)
    node.wait_idle()
    (target,) = set(node.get("/studies")) - {source}
    job(node, f"/studies/{target}/merge", Resources=[source], KeepSource=keep_source)
    node.wait_for("scored", 2 + keep_source)
    node.wait_idle(SETTLE_S)
    found = headers(node, target)
    assert sorted(h.Modality for h in found.values()) == ["CT"] * 8 + ["OT"] * 2 + ["SR"] * 2
    assert {str(h.PatientName) for h in found.values()} == {"SECRET^OTHER"}


def test_a_study_that_was_split_off_has_one_result(fake_node: FakeNode) -> None:
    node = fake_node
    send(node, Study().series(4))
    node.wait_for("scored")
    node.wait_idle()
    (source,) = node.get("/studies")
    job(node, f"/studies/{source}/split", Series=node.series(), Replace=CORRECTED, KeepSource=False)
    node.wait_for("scored")
    node.wait_idle(SETTLE_S)
    (corrected,) = node.get("/studies")
    assert corrected != source
    only_result_is(node, corrected, "SECRET^CORRECTED")


@pytest.mark.parametrize("order", ["split", "merge"])
def test_images_that_are_moved_alone_leave_no_result_behind(fake_node: FakeNode, order: str) -> None:
    """Mostly they are another patient's than the study's that they were in."""
    node = fake_node
    study = Study()
    send(node, study.series(4))
    node.wait_for("scored")
    moved = node.series("CT")
    if order == "merge":
        send(node, Study().series(4, time="180000"))
    study.frame = generate_uid()
    send(node, study.series(4, time="150000"))  # a second acquisition, which stays
    node.wait_for("scored", 2 + (order == "merge"))
    node.wait_idle()
    (source,) = (s for s in node.get("/studies") if len(headers(node, s)) == 12)
    kept = {i for s in set(node.series("CT")) - set(moved) for i in node.states()[s]["result"]["outputs"]}
    if order == "split":
        job(node, f"/studies/{source}/split", Series=moved, Replace=CORRECTED, KeepSource=False)
    else:
        (target,) = set(node.get("/studies")) - {source}
        job(node, f"/studies/{target}/merge", Resources=moved, KeepSource=False)
    node.wait(lambda: len(headers(node, source)) == 6, "the results of the moved images to be gone")
    node.wait_for("scored", 2 + (order == "merge"))
    node.wait_idle(SETTLE_S)
    assert {i for i, h in headers(node, source).items() if h.Modality != "CT"} <= kept
    for other in set(node.get("/studies")) - {source}:
        found = [h.Modality for h in headers(node, other).values()]
        assert found.count("SR") == found.count("OT") == found.count("CT") // 4


def test_results_of_images_that_are_deleted_by_hand_stay(fake_node: FakeNode) -> None:
    node = fake_node
    send(node, Study().series(4))
    send(node, Study().series(4))
    node.wait_for("scored", 2)
    node.wait_idle()
    before = results(node)
    first, second = node.get("/studies")
    for series in node.get(f"/studies/{first}/series"):
        if series["MainDicomTags"]["Modality"] == "CT":
            node.request("DELETE", f"/series/{series['ID']}")
    job(node, f"/studies/{second}/modify", Replace=CORRECTED)
    node.wait_for("scored", 2)
    node.wait_idle(SETTLE_S)
    assert set(before) <= set(results(node))


def test_a_result_that_is_merged_into_a_scored_study_goes(fake_node: FakeNode) -> None:
    node = fake_node
    send(node, Study().series(4))
    node.wait_for("scored")
    (source,) = node.get("/studies")
    reports = node.series("SR")
    send(node, Study().series(4, PatientName="SECRET^OTHER"))
    node.wait_for("scored", 2)
    node.wait_idle(SETTLE_S)
    (target,) = set(node.get("/studies")) - {source}
    job(node, f"/studies/{target}/merge", Resources=reports, KeepSource=True)
    assert len(node.instances("SR")) == 3
    node.wait(lambda: len(node.instances("SR")) == 2, "the copied report to be gone")
    only_result_is(node, target, "SECRET^OTHER")
    only_result_is(node, source, "SECRET^NAME")


@pytest.mark.parametrize("slices", [4, 6])
def test_images_corrected_in_their_place_leave_no_result_of_another_patient(
    make_fake_node: MakeNode, slices: int
) -> None:
    """An archive sends the same images with the right name, and Orthanc overwrites; with some more, too."""
    node = make_fake_node(orthanc={"OverwriteInstances": True})
    study, uid = Study(), generate_uid()
    send(node, study.series(4, uid=uid))
    node.wait_for("scored")
    send(node, study.series(slices, uid=uid, PatientName="SECRET^CORRECTED"))
    node.wait(lambda: len(node.runs) >= 2, "the second run")
    node.wait_idle(SETTLE_S)
    (identifier,) = node.get("/studies")
    only_result_is(node, identifier, "SECRET^CORRECTED")


def test_a_corrected_study_that_is_refused_says_so_once(fake_node: FakeNode) -> None:
    node = fake_node
    node.plan("refused", "refused")
    send(node, Study().series(4))
    node.wait_for("refused")
    node.wait_idle()
    (source,) = node.get("/studies")
    job(node, f"/studies/{source}/modify", Replace=CORRECTED, KeepSource=False)
    node.wait_for("refused")
    node.wait_idle(SETTLE_S)
    (corrected,) = node.get("/studies")
    pictures = {i for i, h in headers(node, corrected).items() if h.Modality != "CT"}
    assert pictures == set(only_state(node)["notices"])
    assert len(pictures) == 1


def test_kill_9_while_deleted_results_are_made_again(make_fake_node: MakeNode) -> None:
    node = make_fake_node("ok", "hang")
    slices = Study().series(4)
    send(node, slices)
    node.wait_for("scored")
    before = files(node, results(node))
    delete(node, results(node))
    send(node, slices)
    node.wait(lambda: len(node.runs) == 2, "the second run")
    node.kill()
    node.start()
    node.wait(lambda: results(node) == sorted(before), "the results")
    node.wait_idle(SETTLE_S)
    assert files(node, results(node)) == before
