"""The plugin in a real Orthanc against a scorer that crashes, hangs, lies or is slow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from tests.integration.conftest import FakeNode
from tests.integration.ct_files import Study
from tests.integration.orthanc_server import SETTLE_S, STABLE_AGE_S, OrthancServer

pytestmark = pytest.mark.orthanc

MakeNode = Callable[..., FakeNode]


def send(node: OrthancServer, slices: list[bytes]) -> None:
    for content in slices:
        status, _ = node.request("POST", "/instances", content)
        assert status == 200


def is_running(pid: int) -> bool:
    """A zombie does not run; where nobody collects orphans they stay zombies."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def only_state(node: OrthancServer) -> dict:
    (state,) = node.states().values()
    return state


def test_a_series_is_scored_once_and_outputs_never_trigger(fake_node: FakeNode) -> None:
    node = fake_node
    send(node, Study().series(4))
    node.wait_for("scored")
    node.wait_idle(SETTLE_S)
    assert len(node.runs) == 1
    assert node.runs[0]["mode"] == "0o700"
    assert not Path(node.runs[0]["folder"]).exists()
    assert len(node.instances("SR")) == len(node.instances("OT")) == 1
    state = only_state(node)
    assert state["attempts"] == 1
    assert set(state["result"]["outputs"]) == {*node.instances("SR"), *node.instances("OT")}
    assert node.status()["reached_since_start"]["scored"] >= 1
    assert "SECRET" not in node.log
    series = node.series("CT")[0]
    assert node.get(f"/strokecore/series/{series}/result")["status"] == "scored"
    assert b"report" in node.request("GET", f"/strokecore/series/{series}/report")[1]


def test_the_same_series_again_runs_nothing_and_stores_nothing(fake_node: FakeNode) -> None:
    node = fake_node
    slices = Study().series(4)
    send(node, slices)
    node.wait_for("scored")
    before = node.get("/statistics")["CountInstances"]
    send(node, slices)
    node.wait_idle(SETTLE_S)
    assert len(node.runs) == 1
    assert node.get("/statistics")["CountInstances"] == before


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ("crash", "worker_died"),
        ("hang", "worker_timeout"),
        ("garbage", "result_unreadable"),
        ("fail", "scorer_failed"),
        ("wrong study", "output_wrong_study"),
    ],
)
def test_a_fault_costs_one_attempt(fake_node: FakeNode, behaviour: str, code: str) -> None:
    node = fake_node
    node.plan(behaviour)
    send(node, Study().series(4))
    node.wait_for("scored")
    state = only_state(node)
    assert state["attempts"] == 2
    assert node.status()["last_error"] == code
    assert node.runs[0]["content_datetime"] == node.runs[1]["content_datetime"]
    assert len(node.instances("SR")) == len(node.instances("OT")) == 1
    assert "JANE" not in node.log
    node.wait(lambda: not list(node.jobs.iterdir()), "the working folders to be gone")
    assert not is_running(node.runs[0]["pid"])


def test_kill_9_of_the_worker_costs_one_attempt(fake_node: FakeNode) -> None:
    node = fake_node
    node.plan("hang")
    send(node, Study().series(4))
    node.wait(lambda: len(node.runs) == 1, "the first run")
    os.kill(node.runs[0]["pid"], signal.SIGKILL)
    node.wait_for("scored")
    assert only_state(node)["attempts"] == 2


def test_faults_end_in_failed_and_a_new_order_starts_again(fake_node: FakeNode) -> None:
    node = fake_node
    node.plan("crash", "crash")
    send(node, Study().series(4))
    node.wait_for("failed")
    node.wait_idle(SETTLE_S)
    state = only_state(node)
    assert (state["attempts"], state["reason"], len(node.runs)) == (2, "quarantined", 2)
    assert state["notices"] == node.instances("OT")
    assert len(node.instances("OT")) == 1
    assert node.instances("SR") == []
    series = node.series("CT")[0]
    status, _ = node.request("POST", f"/strokecore/series/{series}/score", b"")
    assert status == 202
    node.wait_for("scored")
    assert only_state(node)["attempts"] == 1


def test_a_broken_scorer_burns_no_attempts(make_fake_node: MakeNode) -> None:
    node = make_fake_node(start=False)
    (node.plan_folder / "broken").touch()
    node.start(until=None)
    node.wait(lambda: node.status().get("last_error") == "scorer_unusable", "the check of the scorer")
    send(node, Study().series(4))
    time.sleep(2 * STABLE_AGE_S)
    assert node.status()["state"] == "degraded"
    assert node.runs == []
    assert only_state(node)["status"] == "pending"


def test_late_slices_are_scored_again_and_supersede(fake_node: FakeNode) -> None:
    node = fake_node
    study, uid = Study(), generate_uid()
    send(node, study.series(4, uid=uid))
    node.wait_for("scored")
    first = only_state(node)["result"]
    send(node, study.series(2, first=4, uid=uid))
    node.wait(lambda: len(node.runs) == 2, "the second run")
    node.wait_idle()
    state = only_state(node)
    assert state["instances"] == 6
    assert state["result"]["result_key"] != first["result_key"]
    assert state["result"]["supersedes"] == first["result_key"] == node.runs[1]["supersedes"]
    assert [(p["result_key"], p["status"]) for p in state["history"]] == [(first["result_key"], "superseded")]
    assert len(node.instances("SR")) == 2  # nothing that was read by somebody is taken away


def test_a_refusal_is_shown_and_its_picture_goes_when_a_score_comes(fake_node: FakeNode) -> None:
    node = fake_node
    node.plan("refused")
    study, uid = Study(), generate_uid()
    send(node, study.series(4, uid=uid))
    node.wait_for("refused")
    state = only_state(node)
    assert state["reason"] == "missing_slice"
    assert state["notices"] == node.instances("OT")
    assert node.instances("SR") == []
    refused = node.instances("OT")
    send(node, study.series(2, first=4, uid=uid))
    node.wait_for("scored")
    node.wait_idle()
    assert len(node.instances("OT")) == 1
    assert node.instances("OT") != refused
    assert only_state(node)["notices"] == []


def test_ineligible_stores_nothing(fake_node: FakeNode) -> None:
    node = fake_node
    node.plan("ineligible")
    send(node, Study().series(4))
    node.wait_for("ineligible")
    node.wait_idle()
    assert node.series() == node.series("CT")


def test_series_of_one_acquisition_get_one_result(fake_node: FakeNode) -> None:
    node = fake_node
    study = Study()
    send(node, study.series(8, ConvolutionKernel="BONE"))
    send(node, study.series(4, ConvolutionKernel="SOFT"))
    send(node, study.series(1, ImageType="ORIGINAL\\PRIMARY\\LOCALIZER"))
    node.wait_for("scored")
    node.wait_idle()
    states = node.states()
    chosen = next(s for s in states.values() if s["status"] == "scored")
    others = [s for s in states.values() if s is not chosen]
    assert [s["status"] for s in others] == ["not_selected", "not_selected"]
    assert {s["selected_series"] for s in others} == {chosen["id"]}
    assert {s["reason"] for s in others} == {None, "localizer_only"}
    assert len(node.instances("SR")) == 1
    assert [r["instances"] for r in node.runs] == [13]


def test_a_better_series_that_comes_late_supersedes(fake_node: FakeNode) -> None:
    node = fake_node
    study = Study()
    send(node, study.series(8, ConvolutionKernel="BONE"))
    node.wait_for("scored")
    (bone,) = node.series("CT")
    send(node, study.series(4, ConvolutionKernel="SOFT"))
    node.wait_for("superseded")
    node.wait_for("scored")
    node.wait_idle(SETTLE_S)
    states = node.states()
    assert states[bone]["status"] == "superseded"
    assert states[bone]["result"] is None
    assert states[bone]["history"][0]["result_key"] == node.runs[1]["supersedes"]
    # a worse one that comes later changes nothing in the PACS
    before = len(node.instances("SR"))
    send(node, study.series(2, ConvolutionKernel="BONE"))
    node.wait_for("not_selected")
    node.wait_idle()
    assert len(node.instances("SR")) == before
    assert node.states()[bone]["status"] == "superseded"


def test_a_contrast_phase_alone_is_ineligible_without_a_run(fake_node: FakeNode) -> None:
    node = fake_node
    send(node, Study().series(4, ContrastBolusAgent="IOHEXOL"))
    node.wait_for("ineligible")
    assert only_state(node)["reason"] == "contrast_agent"
    assert node.runs == []


def test_kill_9_of_orthanc_before_stable(make_fake_node: MakeNode) -> None:
    node = make_fake_node()
    send(node, Study().series(4))
    node.kill()
    node.start()
    node.wait_for("scored")
    node.wait_idle()
    node.kill()  # the next start looks at every study of the last day, and this one is done
    node.start()
    node.wait(lambda: "start-up scan: 1 CT studies" in node.log.split("Orthanc has started")[-1], "the scan")
    node.wait_idle(SETTLE_S)
    assert len(node.runs) == 1
    assert len(node.instances("SR")) == 1


def test_kill_9_of_orthanc_while_scoring(make_fake_node: MakeNode) -> None:
    node = make_fake_node("hang")
    send(node, Study().series(4))
    node.wait(lambda: len(node.runs) == 1, "the first run")
    node.kill()
    pid, folder = node.runs[0]["pid"], Path(node.runs[0]["folder"])
    node.wait(lambda: not folder.exists(), "the images to be gone", 5)
    node.wait(lambda: not is_running(pid), "the orphan to be ended", 5)
    node.start()
    node.wait_for("scored")
    node.wait_idle()
    assert only_state(node)["attempts"] == 2
    assert node.runs[0]["content_datetime"] == node.runs[1]["content_datetime"]
    assert len(node.instances("SR")) == 1


def test_an_orderly_stop_while_scoring_costs_no_attempt(make_fake_node: MakeNode) -> None:
    node = make_fake_node("hang")
    send(node, Study().series(4))
    node.wait(lambda: len(node.runs) == 1, "the first run")
    node.stop()
    node.start()
    node.wait_for("scored")
    assert only_state(node)["attempts"] == 1


def test_a_service_manager_that_ends_every_process_costs_no_attempt(make_fake_node: MakeNode) -> None:
    """``systemctl stop`` signals the scorer at the same moment as Orthanc."""
    node = make_fake_node("hang")
    send(node, Study().series(4))
    node.wait(lambda: len(node.runs) == 1, "the first run")
    os.kill(node.runs[0]["pid"], signal.SIGTERM)
    node.stop()
    node.start()
    node.wait_for("scored")
    assert only_state(node)["attempts"] == 1


def test_a_series_that_changes_while_it_is_scored_is_scored_again(fake_node: FakeNode) -> None:
    node = fake_node
    node.plan("slow 2")
    study, uid = Study(), generate_uid()
    send(node, study.series(4, uid=uid))
    node.wait(lambda: len(node.runs) == 1, "the first run")
    send(node, study.series(1, first=4, uid=uid))
    node.wait_for("scored")
    node.wait_idle()
    assert [r["instances"] for r in node.runs] == [4, 5]
    assert len(node.instances("SR")) == 1
    assert only_state(node)["attempts"] == 1


def test_a_study_deleted_while_it_is_scored_stays_deleted(fake_node: FakeNode) -> None:
    node = fake_node
    node.plan("slow 2")
    send(node, Study().series(4))
    node.wait(lambda: len(node.runs) == 1, "the run")
    (study,) = node.get("/studies")
    node.request("DELETE", f"/studies/{study}")
    node.wait(lambda: node.status()["busy"] == 0, "the end of the run")
    node.wait_idle()
    assert node.get("/studies") == []


def test_deleted_outputs_are_made_again_as_they_were(fake_node: FakeNode) -> None:
    node = fake_node
    send(node, Study().series(4))
    node.wait_for("scored")
    (report,) = node.instances("SR")
    before = node.request("GET", f"/instances/{report}/file")[1]
    node.request("DELETE", f"/instances/{report}")
    time.sleep(1.1)  # another second, so that a new content date would show
    node.request("POST", f"/strokecore/series/{node.series('CT')[0]}/score", b"")
    node.wait(lambda: node.instances("SR") == [report], "the report")
    assert node.request("GET", f"/instances/{report}/file")[1] == before


def test_two_workers_score_two_studies_at_once(make_fake_node: MakeNode) -> None:
    node = make_fake_node("slow 3", "slow 3", Workers=2)
    send(node, Study().series(4))
    send(node, Study().series(4))
    node.wait(lambda: len(node.runs) == 2 and node.status()["busy"] == 2, "two runs at once")
    node.wait_for("scored", 2)


def test_a_service_without_a_locale(make_fake_node: MakeNode) -> None:
    node = make_fake_node(locale="C")  # the folder's name is not ASCII
    send(node, Study().series(4))
    node.wait_for("scored")


def test_a_wrong_configuration_is_said_and_orthanc_lives(make_fake_node: MakeNode) -> None:
    node = make_fake_node(start=False, Workers=0, Enigne="auto")
    node.start(until="misconfigured")
    problems = node.status()["problems"]
    assert [p["code"] for p in problems] == ["option_invalid", "option_unknown"]
    assert "StrokeCore: option_invalid: StrokeCore.Workers must be a whole number from 1 to 64." in node.log
    send(node, Study().series(1))
    status, body = node.request("POST", f"/strokecore/series/{node.series('CT')[0]}/score", b"")
    assert status == 503
    assert b'"option_invalid"' in body


def test_rest_errors_are_coded(fake_node: FakeNode) -> None:
    node = fake_node
    unknown = "0" * 8 + "-00000000" * 4
    for method, path, expected, code in (
        ("GET", f"/strokecore/series/{unknown}", 404, b"unknown_series"),
        ("POST", f"/strokecore/series/{unknown}/score", 404, b"unknown_series"),
        ("GET", f"/strokecore/series/{unknown}/score", 405, b""),
        ("GET", f"/strokecore/series/{unknown}/result", 404, b"unknown_series"),
    ):
        status, body = node.request(method, path, b"" if method == "POST" else None)
        assert (status, code in body) == (expected, True), path
    assert node.request("GET", "/strokecore/status", authorized=False)[0] == 401


def whole_head(study: Study, **tags: str) -> list[bytes]:
    return study.series(30, ConvolutionKernel="SOFT", **tags)


def test_a_head_that_looks_whole_is_scored_before_orthanc_calls_it_stable(make_fake_node: MakeNode) -> None:
    node = make_fake_node(orthanc={"StableAge": 15}, QuietSeconds=1)
    send(node, whole_head(Study()))
    node.wait_for("scored", seconds=14)
    (series,) = node.series("CT")
    assert not node.get(f"/series/{series}")["IsStable"]
    assert only_state(node)["provisional"] is True
    node.wait(lambda: only_state(node)["provisional"] is False, "the final word", 60)
    assert node.get(f"/series/{series}")["IsStable"]
    node.wait_idle()
    assert len(node.runs) == 1
    assert len(node.instances("SR")) == 1


def test_slices_after_a_provisional_score_replace_it(make_fake_node: MakeNode) -> None:
    node = make_fake_node(orthanc={"StableAge": 9}, QuietSeconds=1)
    study, uid = Study(), generate_uid()
    send(node, study.series(28, uid=uid, ConvolutionKernel="SOFT"))
    node.wait_for("scored", seconds=8)
    first = only_state(node)["result"]["result_key"]
    send(node, study.series(6, first=28, uid=uid, ConvolutionKernel="SOFT"))
    node.wait(
        lambda: only_state(node)["instances"] == 34 and only_state(node)["status"] == "scored", "both", 40
    )
    node.wait(lambda: only_state(node)["provisional"] is False, "the final word", 40)
    assert [run["instances"] for run in node.runs] == [28, 34]
    assert node.runs[1]["supersedes"] == first


@pytest.mark.parametrize("behaviour", ["cut", "refused"])
def test_nothing_is_said_early_of_a_head_that_is_cut_or_refused(
    make_fake_node: MakeNode, behaviour: str
) -> None:
    node = make_fake_node(behaviour, "ok", orthanc={"StableAge": 9}, QuietSeconds=1)
    send(node, whole_head(Study()))
    node.wait(lambda: len(node.runs) == 1, "an early run", 8)
    time.sleep(2)
    assert len(node.runs) == 1
    assert only_state(node)["status"] == "queued"
    assert not node.instances("OT")
    node.wait_for("scored", seconds=40)
    assert only_state(node)["attempts"] == 1
    assert len(node.runs) == 2


def test_a_stack_with_a_hole_a_missing_slice_or_without_its_better_series_waits(
    make_fake_node: MakeNode,
) -> None:
    node = make_fake_node(orthanc={"StableAge": 7}, QuietSeconds=1)
    holed, thin, declared = Study(), Study(), Study()
    send(
        node,
        [
            *holed.series(14, uid="1.2.3", ConvolutionKernel="SOFT"),
            *holed.series(14, first=15, uid="1.2.3", ConvolutionKernel="SOFT"),
        ],
    )
    send(node, thin.series(30, ConvolutionKernel="BONE"))
    send(node, declared.series(30, ConvolutionKernel="SOFT", ImagesInAcquisition="31"))
    time.sleep(4)
    assert node.runs == []
    node.wait_for("scored", series=3, seconds=40)


def test_idle_associations_hold_up_nobody(fake_node: FakeNode) -> None:
    associations = []
    for timeout_s in [60.0] * 40 + [5.0]:
        sender = AE("STROKECORE")
        sender.add_requested_context(Verification)
        sender.acse_timeout = sender.network_timeout = sender.dimse_timeout = timeout_s
        node = fake_node.node
        associations.append(sender.associate("127.0.0.1", node.dicom_port, ae_title=node.aet))
    try:
        assert all(association.is_established for association in associations)
        assert associations[-1].send_c_echo().Status == 0
    finally:
        for association in associations:
            association.abort()


def test_a_page_of_another_site_cannot_order_anything(fake_node: FakeNode) -> None:
    """A browser sends the reader's password along with such a form or fetch."""
    node = fake_node
    send(node, Study().series(4))
    node.wait_for("scored")
    node.wait_idle()
    path = f"/strokecore/series/{node.series('CT')[0]}/score"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    own = f"http://127.0.0.1:{node.node.http_port}"
    for headers in (
        {"Origin": "http://evil.example", **form},
        {"Origin": "null", **form},
        {"Referer": "http://evil.example/page"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        status, body, _ = node.exchange("POST", path, b"", headers)
        assert (status, b"cross_site" in body) == (403, True), headers
    node.wait_idle(SETTLE_S)
    assert len(node.runs) == 1
    for number, headers in enumerate(({"Origin": own}, form, {}), 2):  # an own page, curl -d '', a program
        assert node.exchange("POST", path, b"", headers)[0] == 202
        node.wait(lambda number=number: len(node.runs) == number, "the run")
        node.wait_idle()


def test_what_is_served_is_neither_kept_nor_run(fake_node: FakeNode) -> None:
    node = fake_node
    send(node, Study().series(4))
    node.wait_for("scored")
    series = f"/strokecore/series/{node.series('CT')[0]}"
    for path, kind in (
        (f"{series}/report", "text/html"),
        (f"{series}/result", "application/json"),
        (series, "application/json"),
        ("/strokecore/status", "application/json"),
        ("/strokecore/studies?state=dead", "application/json"),
    ):
        _, _, headers = node.exchange("GET", path, None, {})
        found = [(name.lower(), text) for name, text in headers]
        assert ("content-type", kind) in found, path
        for name, text in (("x-content-type-options", "nosniff"), ("cache-control", "no-store")):
            assert [t for n, t in found if n == name] == [text], path
        (policy,) = [t for n, t in found if n == "content-security-policy"]
        assert policy.startswith("default-src 'none';")
        assert "script-src" not in policy
