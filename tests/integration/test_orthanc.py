"""From C-STORE to SEG, SR and Secondary Capture with a real Orthanc and the real scorer."""

from __future__ import annotations

import base64
import http.client
import io
import itertools
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset

from strokecore.send import SendError, send_folder
from strokecore.simulate import SampleSpec, parse_affected, write_sample
from tests.enhanced_factory import enhanced
from tests.integration.conftest import FakeNode
from tests.integration.orthanc_server import SETTLE_S, OrthancServer
from tests.integration.variants import Patient

pytestmark = pytest.mark.orthanc

SEG, SR, CAPTURE, PDF = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.88.34",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.104.1",
)
RESULT_S = 120  # 10 s alone; the machine may be busy
_numbers = itertools.count(1)


@pytest.fixture
def patient() -> Patient:
    return Patient(next(_numbers))


@pytest.fixture
def node(real_node: OrthancServer) -> Iterator[OrthancServer]:
    """The shared Orthanc with the real scorer, emptied afterwards."""
    yield real_node
    for study in real_node.get("/studies"):
        real_node.request("DELETE", f"/studies/{study}")
    real_node.wait_idle()


def c_store(node: OrthancServer, folder: Path) -> None:
    assert send_folder(folder, "127.0.0.1", node.node.dicom_port, node.node.aet).ok


def stored(node: OrthancServer) -> list[Dataset]:
    """Everything in Orthanc that is no CT, as Orthanc hands it out."""
    identifiers = [i for i in node.get("/instances") if i not in set(node.instances("CT"))]
    return [pydicom.dcmread(io.BytesIO(node.request("GET", f"/instances/{i}/file")[1])) for i in identifiers]


def by_class(datasets: list[Dataset]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for dataset in datasets:
        counts[dataset.SOPClassUID] = counts.get(dataset.SOPClassUID, 0) + 1
    return counts


def errors(path: Path) -> set[str]:
    """Error lines of dciodvfy."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed: run ./deploy/test, which installs it")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return {line for line in done.stderr.splitlines() if line.startswith("Error")}


def chosen_result(node: OrthancServer) -> tuple[Any, Any]:
    """(state, result.json) of the scored series."""
    (series,) = (s for s, state in node.states().items() if state["status"] in ("scored", "withheld"))
    return node.states()[series], node.get(f"/strokecore/series/{series}/result")


def test_a_head_ct_comes_back_scored_and_only_once(
    node: OrthancServer, sample_ct: Path, patient: Patient, tmp_path: Path
) -> None:
    folder = patient.copy(sample_ct.glob("*.dcm"), tmp_path / "ct")
    c_store(node, folder)
    node.wait_for("scored", seconds=RESULT_S)
    node.wait_idle(SETTLE_S)

    outputs = stored(node)
    counts = by_class(outputs)
    assert counts[SR] == 1
    assert counts[SEG] == 2  # infarct and regions
    assert counts[PDF] == 1
    assert counts[CAPTURE] >= 1
    source_errors = errors(next(folder.glob("*.dcm")))
    for index, dataset in enumerate(outputs):
        assert dataset.StudyInstanceUID == patient.study_uid
        assert dataset.PatientID == patient.identifier
        assert dataset.SOPInstanceUID.startswith("2.25.")
        path = tmp_path / f"{index}.dcm"
        dataset.save_as(path)
        assert errors(path) <= source_errors
    state, result = chosen_result(node)
    assert result["affected_side"] == "right"
    assert result["aspects"]["left"]["score"] == 10
    assert len(state["result"]["outputs"]) == len(outputs)
    assert "SECRET" not in node.log

    c_store(node, folder)  # the same series again
    node.wait_idle(SETTLE_S)
    assert len(stored(node)) == len(outputs)
    assert node.status()["reached_since_start"]["scored"] == 1


def test_deleted_results_come_back_as_they_were_and_a_corrected_patient_has_one_result(
    node: OrthancServer, sample_ct: Path, patient: Patient, tmp_path: Path
) -> None:
    folder = patient.copy(sample_ct.glob("*.dcm"), tmp_path / "ct")
    c_store(node, folder)
    node.wait_for("scored", seconds=RESULT_S)
    node.wait_idle()
    outputs = {dataset.SOPInstanceUID: dataset for dataset in stored(node)}
    for series in set(node.series()) - set(node.series("CT")):
        node.request("DELETE", f"/series/{series}")
    c_store(node, folder)
    node.wait(lambda: len(stored(node)) == len(outputs), "the results", RESULT_S)
    node.wait_idle(seconds=RESULT_S)
    assert {dataset.SOPInstanceUID: dataset for dataset in stored(node)} == outputs

    (study,) = node.get("/studies")
    order = {"Replace": {"PatientName": "SECRET^CORRECTED"}, "KeepSource": False}
    assert node.request("POST", f"/studies/{study}/modify", json.dumps(order).encode())[0] == 200
    node.wait_for("scored", seconds=RESULT_S)
    node.wait_idle(SETTLE_S)
    corrected = stored(node)
    assert by_class(corrected) == by_class(list(outputs.values()))
    assert {str(dataset.PatientName) for dataset in corrected} == {"SECRET^CORRECTED"}
    images = {i["MainDicomTags"]["SOPInstanceUID"] for i in node.get("/instances?expand&since=0&limit=1000")}
    for segmentation in (d for d in corrected if d.SOPClassUID == SEG):
        (series,) = segmentation.ReferencedSeriesSequence
        assert {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence} <= images


def test_an_enhanced_ct_of_one_instance_is_scored(
    node: OrthancServer, sample_ct: Path, patient: Patient, tmp_path: Path
) -> None:
    slices = patient.copy(sample_ct.glob("*.dcm"), tmp_path / "slices")
    path = enhanced(slices.glob("*.dcm"), tmp_path / "ct" / "image.dcm", name=patient.study_uid)
    c_store(node, path.parent)
    node.wait_for("scored", seconds=RESULT_S)
    node.wait_idle(SETTLE_S)
    assert len(node.instances("CT")) == 1
    _, result = chosen_result(node)
    assert result["affected_side"] == "right"
    image = pydicom.dcmread(path, stop_before_pixels=True)
    segmentations = [d for d in stored(node) if d.SOPClassUID == SEG]
    assert len(segmentations) == 2
    for segmentation in segmentations:
        (series,) = segmentation.ReferencedSeriesSequence
        (instance,) = series.ReferencedInstanceSequence
        assert instance.ReferencedSOPInstanceUID == image.SOPInstanceUID


def test_four_series_of_one_acquisition_get_one_report(
    node: OrthancServer, sample_ct: Path, patient: Patient, tmp_path: Path
) -> None:
    spec = SampleSpec(
        seed=3, affected=parse_affected("right:I,M1,M2"), delta_hu=6.0, thickness_mm=2.5, tilt_deg=12.0
    )
    thin = write_sample(tmp_path / "thin source", spec)

    def soft(dataset: Dataset) -> None:
        dataset.ConvolutionKernel = "SOFT"

    def bone(dataset: Dataset) -> None:
        dataset.ConvolutionKernel = "BONE"

    def scout(dataset: Dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    slices = sorted(sample_ct.glob("*.dcm"))
    study = tmp_path / "study"
    patient.copy(slices[:1], study / "scout", scout)
    patient.copy(thin.glob("*.dcm"), study / "thin", soft)
    patient.copy(slices, study / "bone", bone)
    thick = patient.copy(slices, study / "thick", soft)
    c_store(node, study)
    node.wait_for("not_selected", series=3, seconds=RESULT_S)
    node.wait_idle(SETTLE_S)
    assert by_class(stored(node))[SR] == 1
    state, result = chosen_result(node)
    expected = pydicom.dcmread(next(thick.glob("*.dcm")), stop_before_pixels=True).SeriesInstanceUID
    assert result["series"]["series_instance_uid"] == expected
    others = [s for s in node.states().values() if s["id"] != state["id"]]
    assert {s["selected_series"] for s in others} == {state["id"]}


def test_kill_9_before_stable_loses_nothing(sample_ct: Path, patient: Patient, tmp_path: Path) -> None:
    node = OrthancServer(tmp_path / "node")
    node.start()
    try:
        c_store(node, patient.copy(sample_ct.glob("*.dcm"), tmp_path / "ct"))
        node.kill()
        node.start()
        node.wait_for("scored", seconds=RESULT_S)
        node.wait_idle(SETTLE_S)
        assert by_class(stored(node))[SR] == 1
    finally:
        node.stop()


def test_a_missing_slice_is_refused_in_a_picture(
    node: OrthancServer, sample_ct: Path, patient: Patient, tmp_path: Path
) -> None:
    slices = sorted(sample_ct.glob("*.dcm"))
    c_store(node, patient.copy(slices[:14] + slices[15:], tmp_path / "ct"))
    node.wait_for("refused", seconds=RESULT_S)
    node.wait_idle(SETTLE_S)
    (state,) = node.states().values()
    assert state["reason"] == "missing_slice"
    (picture,) = stored(node)
    assert picture.SOPClassUID == CAPTURE
    assert picture.StudyInstanceUID == patient.study_uid
    assert errors_of(picture, tmp_path) <= errors(slices[0])


def errors_of(dataset: Dataset, folder: Path) -> set[str]:
    path = folder / "picture.dcm"
    dataset.save_as(path)
    return errors(path)


def test_a_final_failure_of_a_head_ct_is_said_in_a_picture(
    fake_node: FakeNode, sample_ct: Path, patient: Patient, tmp_path: Path
) -> None:
    fake_node.plan("crash", "crash")
    c_store(fake_node, patient.copy(sample_ct.glob("*.dcm"), tmp_path / "ct"))
    fake_node.wait_for("failed", seconds=RESULT_S)
    (state,) = fake_node.states().values()
    (picture,) = stored(fake_node)
    assert picture.SOPClassUID == CAPTURE
    assert state["notices"] == fake_node.instances("OT")


def test_a_phantom_ends_ineligible_without_outputs(node: OrthancServer, shared_data: Path) -> None:
    c_store(node, shared_data / "head_phantom")
    node.wait(lambda: len(node.series("CT")) > 0, "the phantom")
    node.wait_idle(SETTLE_S, seconds=RESULT_S)
    assert {s["status"] for s in node.states().values()} == {"ineligible"}, node.states()
    assert stored(node) == []


def test_a_wrong_called_or_calling_title_is_rejected(node: OrthancServer, sample_ct: Path) -> None:
    for called, calling in (("SOMEBODY", "STROKECORE"), (node.node.aet, "STRANGER")):
        with pytest.raises(SendError):
            send_folder(sample_ct, "127.0.0.1", node.node.dicom_port, called, calling)
    assert node.series() == []


def test_from_another_address_nothing_is_answered(node: OrthancServer, sample_ct: Path) -> None:
    """The ports are open on every interface; this machine's own outer address stands for a stranger's."""
    address = outer_address()
    if address.startswith("127."):
        pytest.skip("this machine has no address but the loopback")
    connection = http.client.HTTPConnection(address, node.node.http_port, timeout=10)
    credentials = base64.b64encode(f"{node.node.user}:{node.node.password}".encode()).decode()
    connection.request("GET", "/system", headers={"Authorization": f"Basic {credentials}"})
    assert connection.getresponse().status in (401, 403)
    connection.close()
    with pytest.raises(SendError):
        send_folder(sample_ct, address, node.node.dicom_port, node.node.aet)
    assert node.series() == []


def outer_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address; a datagram socket sends nothing here
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def test_without_password_nothing_is_answered(node: OrthancServer) -> None:
    for path in ("/system", "/strokecore/status", "/app/explorer.html"):
        assert node.request("GET", path, authorized=False)[0] == 401
