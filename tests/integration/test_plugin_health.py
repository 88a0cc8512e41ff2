"""The plugin in a real Orthanc on a node that is ill: full disks, lost files, no scorer or no engine."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from strokecore.cli import main
from tests.integration.conftest import FakeNode
from tests.integration.ct_files import Study
from tests.integration.orthanc_server import SETTLE_S
from tests.integration.test_plugin_faults import MakeNode, only_state, send

pytestmark = pytest.mark.orthanc


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], Path]]:
    """Put a small file system of its own on a folder."""
    mounted: list[Path] = []

    def mount(folder: Path, megabytes: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", folder],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip("no file system can be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], capture_output=True, check=False)


def fill(folder: Path, number: int = 0) -> Path:
    """Leave no byte on a file system."""
    path = folder / f"filling-{number}"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return path


def codes(node: FakeNode) -> list[str]:
    return [c["code"] for c in node.status()["codes"]]


def health(node: FakeNode) -> tuple[int, Any]:
    status, body = node.request("GET", "/strokecore/health")
    return status, json.loads(body)


def test_a_sound_node_says_ok(fake_node: FakeNode) -> None:
    status, answer = health(fake_node)
    assert (status, answer) == (200, {"health": "ok", "codes": [], "oldest_waiting_s": None})
    assert fake_node.request("GET", "/strokecore/health", authorized=False)[0] == 401
    assert fake_node.request("POST", "/strokecore/health", b"")[0] == 405


def test_what_an_administrator_reads(make_fake_node: MakeNode) -> None:
    """Metrics, series by state and lines of JSON, of a real Orthanc, without a word of the patient."""
    node = make_fake_node("crash", "crash", LogFormat="json")
    send(node, Study().series(4))
    node.wait_for("failed")
    send(node, Study().series(4))
    node.wait_for("scored")
    status, text = node.request("GET", "/strokecore/metrics")
    assert status == 200
    assert b'strokecore_states_total{state="scored"} 1.0' in text
    assert b'strokecore_errors_total{code="worker_died"} 2.0' in text
    assert b"strokecore_ready 1.0" in text
    (failed,) = node.get("/strokecore/studies?state=failed")["series"]
    assert (failed["state"], failed["reason"]) == ("failed", "quarantined")
    assert node.get("/strokecore/studies")["found"] == 2
    assert node.request("GET", "/strokecore/studies?state=dead")[0] == 400
    assert node.request("GET", "/strokecore/metrics", authorized=False)[0] == 401
    lines = [line.partition("StrokeCore: ")[2] for line in node.log.splitlines() if "StrokeCore: {" in line]
    ended = [line for line in map(json.loads, lines) if line["message"].startswith("run ended")]
    assert [line["outcome"] for line in ended] == ["attempt_failed", "failed", "scored"]
    assert node.get(f"/strokecore/series/{failed['series']}")["run"] == ended[1]["run"]
    node.request("DELETE", f"/studies/{failed['study']}")
    node.wait(lambda: node.get("/strokecore/studies")["found"] == 1, "the deleted series to be forgotten")
    for words in (text.decode(), node.log, json.dumps(node.get("/strokecore/studies"))):
        assert "SECRET" not in words
        assert "TEST" not in words


def test_the_doctor_sees_a_node_that_is_well_and_one_that_is_not(
    make_fake_node: MakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_fake_node(Engine="asymmetry")
    words = ["doctor", "--config", str(node.node.configuration), "--json"]

    def doctor() -> tuple[int, dict[str, str]]:
        status = main(words)
        checks = json.loads(capsys.readouterr().out)["checks"]
        return status, {c["name"]: c["level"] for c in checks}

    status, levels = doctor()
    assert (status, levels["plugin"], levels["engine"], levels["DICOM port"]) == (0, "ok", "ok", "ok")
    (node.plan_folder / "broken").touch()
    node.plan("fail")
    send(node, Study().series(4))
    node.wait(lambda: "scorer_unusable" in codes(node), "the fault to be said")
    status, levels = doctor()
    assert (status, levels["plugin"], levels["scorer_unusable"]) == (1, "failed", "failed")
    node.kill()
    status, levels = doctor()
    assert (status, levels["Orthanc"], levels["DICOM port"]) == (1, "failed", "failed")


def test_storage_full_while_idle(make_fake_node: MakeNode, small_disk: Callable[[Path, int], Path]) -> None:
    """SetGlobalProperty raises: nothing may end with it, and whoever comes afterwards is scored."""
    node = make_fake_node(start=False)
    storage = small_disk(node.folder / "storage", 24)
    node.start()
    send(node, Study().series(4))
    node.wait_for("scored")
    send(node, Study().series(4, Modality="MR"))  # something that moves the mark
    filling = fill(storage)
    node.wait(lambda: "storage_full" in codes(node), "the full storage to be said")
    assert node.status()["state"] == "degraded"
    assert health(node)[0] == 503
    time.sleep(12)
    filling.unlink()
    node.wait(lambda: health(node)[0] == 200, "the node to be well")
    send(node, Study().series(4))
    node.wait_for("scored", 2)
    assert node.status()["state"] == "ready"


def test_storage_full_while_results_are_stored(
    make_fake_node: MakeNode, small_disk: Callable[[Path, int], Path]
) -> None:
    """No attempt is spent, nothing is given up, and the result is stored once there is room."""
    node = make_fake_node("slow 2", start=False, MaxAttempts=2)
    storage = small_disk(node.folder / "storage", 24)
    node.start()
    send(node, Study().series(4))
    node.wait(lambda: len(node.runs) == 1, "the first run")
    fillings = [fill(storage, 0)]
    node.wait(lambda: "storage_full" in codes(node), "the fault to be said")
    for number in range(1, 50):  # whatever the database gives back is taken too
        time.sleep(0.2)
        fillings.append(fill(storage, number))
    for filling in fillings:
        filling.unlink()
    node.wait_for("scored")
    node.wait_idle(SETTLE_S)
    assert only_state(node)["attempts"] == 1
    assert len(node.instances("SR")) == len(node.instances("OT")) == 1
    assert len({r["content_datetime"] for r in node.runs}) == 1


@pytest.mark.parametrize("fault", ["full", "no folder"])
def test_a_work_folder_that_is_of_no_use_spends_no_attempt(
    make_fake_node: MakeNode, small_disk: Callable[[Path, int], Path], fault: str
) -> None:
    node = make_fake_node(start=False)
    small_disk(node.jobs, 4)
    jobs = node.jobs
    filling = None
    node.start()
    if fault == "full":
        filling = fill(jobs)
    else:
        subprocess.run(["umount", "-l", jobs], check=True)
        jobs.rmdir()
        jobs.touch()
    send(node, Study().series(4))
    expected = "work_folder_full" if fault == "full" else "work_folder_unusable"
    node.wait(lambda: expected in codes(node), "the fault to be said")
    node.wait(lambda: node.status()["queue"] == 1, "the study to wait")
    time.sleep(3)
    assert node.status()["state"] == "degraded"
    assert only_state(node).get("attempts", 0) == 0
    assert (health(node)[1]["oldest_waiting_s"] or 0) > 1
    if filling:
        filling.unlink()
    else:
        jobs.unlink()
        small_disk(jobs, 4)
    node.wait_for("scored")
    assert only_state(node)["attempts"] == 1
    assert node.status()["state"] == "ready"


def test_who_waits_for_an_ill_node_is_told_in_the_study_itself(
    make_fake_node: MakeNode, small_disk: Callable[[Path, int], Path]
) -> None:
    """No disk is needed for the picture; it goes with the score, and nobody who is no head CT gets one."""
    node = make_fake_node(start=False, AlarmSeconds=10)
    small_disk(node.jobs, 4)
    node.start()
    filling = fill(node.jobs)
    node.wait(lambda: "work_folder_full" in codes(node), "the fault to be said")
    send(node, Study().series(4))
    send(node, Study().series(4, ContrastBolusAgent="IOHEXOL"))
    node.wait(lambda: len(node.instances("OT")) == 1, "the picture")
    (told,) = [s for s in node.states().values() if s.get("notices")]
    assert (told["status"], told["reason"], told["attempts"]) == ("queued", "work_folder_full", 0)
    time.sleep(12)
    assert node.instances("OT") == told["notices"]
    filling.unlink()
    node.wait_for("scored")
    node.wait_idle(SETTLE_S)
    assert len(node.instances("SR")) == len(node.instances("OT")) == 1
    assert node.instances("OT") != told["notices"]


def test_a_read_only_work_folder(make_fake_node: MakeNode, small_disk: Callable[[Path, int], Path]) -> None:
    node = make_fake_node(start=False)
    small_disk(node.jobs, 4)
    node.start()
    subprocess.run(["mount", "-o", "remount,ro", node.jobs], check=True)
    send(node, Study().series(4))
    node.wait(lambda: codes(node) == ["work_folder_unusable"], "the fault to be said")
    subprocess.run(["mount", "-o", "remount,rw", node.jobs], check=True)
    node.wait_for("scored")
    assert only_state(node)["attempts"] == 1


def test_a_study_larger_than_the_work_folder_ends_failed(
    make_fake_node: MakeNode, small_disk: Callable[[Path, int], Path]
) -> None:
    """It fills the folder by itself; the others must not wait for it, nor it for ever."""
    node = make_fake_node(start=False, MaxAttempts=2)
    small_disk(node.jobs, 1)
    node.start()
    send(node, Study().series(4, TextValue="x" * 400_000))
    node.wait_for("failed")
    assert only_state(node)["reason"] == "io_error"
    send(node, Study().series(4))
    node.wait_for("scored")
    assert node.status()["state"] == "ready"


@pytest.mark.parametrize("fault", ["broken", "unserving"])
def test_a_scorer_or_engine_that_goes_missing_while_patients_come(
    make_fake_node: MakeNode, fault: str
) -> None:
    node = make_fake_node("fail", "fail", "fail", "fail", ReconcileSeconds=1)
    (node.plan_folder / fault).touch()
    send(node, Study().series(4))
    send(node, Study().series(4))
    expected = {"broken": "scorer_unusable", "unserving": "engine_unusable"}[fault]
    node.wait(lambda: codes(node) == [expected], "the fault to be said")
    time.sleep(3)
    assert node.status()["state"] == "degraded"
    assert len(node.runs) == 1  # and nobody else pays
    node.plan()
    (node.plan_folder / fault).unlink()
    node.wait_for("scored", 2)
    assert {s["attempts"] for s in node.states().values()} == {1}
    assert node.status()["state"] == "ready"


@pytest.mark.parametrize("fault", ["broken", "unserving"])
def test_ready_is_said_only_when_the_engine_serves(make_fake_node: MakeNode, fault: str) -> None:
    node = make_fake_node(start=False, ReconcileSeconds=1)
    (node.plan_folder / fault).touch()
    node.start(until="degraded")
    send(node, Study().series(4))
    time.sleep(3)
    assert node.runs == []
    (node.plan_folder / fault).unlink()
    node.wait(lambda: node.status()["state"] == "ready", "the node to be ready")
    node.wait_for("scored")
    assert only_state(node)["attempts"] == 1


def test_a_python_that_is_gone_spends_no_attempt(make_fake_node: MakeNode, tmp_path: Path) -> None:
    import sys

    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    node = make_fake_node(Python=str(python), ReconcileSeconds=1)
    python.unlink()
    send(node, Study().series(4))
    node.wait(lambda: codes(node) == ["scorer_unusable"], "the fault to be said")
    python.symlink_to(sys.executable)
    node.wait_for("scored")
    assert only_state(node)["attempts"] == 1


def test_files_that_orthanc_lost_end_in_failed(make_fake_node: MakeNode) -> None:
    node = make_fake_node(MaxAttempts=2)
    send(node, Study().series(2))
    node.kill()  # Orthanc keeps new files in memory
    for folder in (node.folder / "storage").iterdir():
        if folder.is_dir() and len(folder.name) == 2:
            shutil.rmtree(folder)
    node.start()
    node.wait_for("failed")
    assert only_state(node)["reason"] == "source_unreadable"


def test_a_ct_of_fifty_nested_sequences_ends_nothing(make_fake_node: MakeNode) -> None:
    """It comes through the DICOM door; whoever has Orthanc open the file in an HTTP thread ends Orthanc."""
    node = make_fake_node()
    slices = Study().series(3)
    with_nested = pydicom.dcmread(io.BytesIO(slices[0]))
    inner = Dataset()
    for _ in range(60):
        outer = Dataset()
        outer.ContrastBolusAgentSequence = [inner]
        inner = outer
    with_nested.ReferencedStudySequence = [inner]
    sender = AE("STROKECORE")
    sender.add_requested_context(with_nested.SOPClassUID, ExplicitVRLittleEndian)
    association = sender.associate("127.0.0.1", node.node.dicom_port, ae_title=node.node.aet)
    assert association.is_established
    assert association.send_c_store(with_nested).Status == 0
    association.release()
    send(node, slices[1:])
    node.wait_for("scored")
    (series,) = node.series("CT")
    assert node.get(f"/strokecore/series/{series}")["status"] == "scored"
    node.kill()  # and none of the next start's looks ends it either
    node.start()
    node.wait_idle(SETTLE_S)
    assert len(node.runs) == 1


def test_many_questions_at_once_hold_up_nobody(make_fake_node: MakeNode) -> None:
    node = make_fake_node()
    send(node, Study().series(2))
    node.wait_for("scored")
    (series,) = node.series("CT")
    slowest = 0.0

    def ask(kind: int) -> int:
        path = f"/strokecore/series/{series}" + ("", "/result", "/report")[kind % 3]
        return node.request("GET", path)[0]

    with ThreadPoolExecutor(200) as pool:
        answers = [pool.submit(ask, number) for number in range(400)]
        while not all(answer.done() for answer in answers):
            start = time.monotonic()
            assert node.request("GET", "/system")[0] == 200
            slowest = max(slowest, time.monotonic() - start)
    assert {answer.result() for answer in answers} == {200}
    assert slowest < 10  # two minutes when each held a second thread; 0.2 s on a quiet machine


def test_an_event_that_is_lost_is_found_by_the_next_round(make_fake_node: MakeNode) -> None:
    """Orthanc's HTTP server does not answer for as long as its only threads are held."""
    node = make_fake_node(ReconcileSeconds=1)
    send(node, Study().series(4))
    os.kill(node.pid, 19)  # SIGSTOP
    time.sleep(3)
    os.kill(node.pid, 18)
    node.wait_for("scored")
    node.wait_idle(SETTLE_S)
    assert len(node.runs) == 1


def test_priors_wait_for_the_stroke(make_fake_node: MakeNode) -> None:
    node = make_fake_node("slow 4")
    now = time.localtime()
    today = {"SeriesDate": time.strftime("%Y%m%d", now), "SeriesTime": time.strftime("%H%M%S", now)}
    send(node, Study().series(1))
    node.wait(lambda: len(node.runs) == 1, "the first run")
    for year in range(2015, 2019):
        send(node, Study().series(2, SeriesDate=f"{year}0101", SeriesTime="120000"))
    send(node, Study().series(3, **today))
    node.wait_for("scored", 6)
    assert [r["instances"] for r in node.runs] == [1, 3, 2, 2, 2, 2]


def test_the_mark_stands_before_what_has_no_terminal_state(make_fake_node: MakeNode) -> None:
    """A start that looks no further back than the mark still finds who was never scored."""
    node = make_fake_node("fail", RecoveryHours=0, ReconcileSeconds=1)
    (node.plan_folder / "broken").touch()
    send(node, Study().series(4))
    node.wait(lambda: codes(node) == ["scorer_unusable"], "the fault to be said")
    send(node, Study().series(4, Modality="MR"))
    time.sleep(7)  # a round saves the mark
    node.kill()
    (node.plan_folder / "broken").unlink()
    node.plan()
    node.start()
    node.wait_for("scored")
