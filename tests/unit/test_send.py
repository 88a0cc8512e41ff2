"""Sending by C-STORE to a real storage SCP on this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import CTImageStorage, EnhancedCTImageStorage

from strokecore.errors import UsageError
from strokecore.send import SendError, send_folder
from tests.ct_factory import write_series
from tests.enhanced_factory import enhanced


@contextmanager
def receiver(handle: Callable[[Any], int], syntaxes: list[str] = ALL_TRANSFER_SYNTAXES) -> Iterator[int]:
    """A storage SCP called RECEIVER that stores CT; yields its port."""
    entity = AE(ae_title="RECEIVER")
    entity.require_called_aet = True
    for kind in (CTImageStorage, EnhancedCTImageStorage):
        entity.add_supported_context(kind, syntaxes)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def test_every_instance_arrives_as_it_is_native_and_compressed(tmp_path: Path) -> None:
    plain = write_series(tmp_path / "a", slices=3, size=32, series="a")
    packed = write_series(tmp_path / "b", slices=2, size=32, series="b", transfer_syntax=RLELossless)
    (tmp_path / "notes.txt").write_text("not DICOM")
    got: dict[str, tuple[str, bytes]] = {}
    senders = set()

    def handle(event: Any) -> int:
        got[event.request.AffectedSOPInstanceUID] = (event.context.transfer_syntax, event.dataset.PixelData)
        senders.add(event.assoc.requestor.ae_title)
        return 0x0000

    steps: list[tuple[int, int]] = []
    with receiver(handle) as port:
        report = send_folder(
            tmp_path, "127.0.0.1", port, "RECEIVER", progress=lambda *done: steps.append(done)
        )

    assert report.sent == 5
    assert report.ok
    assert senders == {"STROKECORE"}
    assert steps[-1] == (5, 5)
    expected = {
        (d := dcmread(path)).SOPInstanceUID: (d.file_meta.TransferSyntaxUID, d.PixelData)
        for path in (*plain, *packed)
    }
    assert got == expected


def test_an_image_of_many_frames_is_sent_once(tmp_path: Path) -> None:
    path = enhanced(write_series(tmp_path / "classic", slices=3, size=32), tmp_path / "e" / "e.dcm")
    got: list[tuple[str, bytes]] = []

    def handle(event: Any) -> int:
        got.append((event.request.AffectedSOPInstanceUID, event.dataset.PixelData))
        return 0x0000

    with receiver(handle) as port:
        assert send_folder(path.parent, "127.0.0.1", port, "RECEIVER").sent == 1
    image = dcmread(path)
    assert got == [(image.SOPInstanceUID, image.PixelData)]


def test_small_packets_are_not_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, slices=1, size=32)
    options = []
    original = socket.socket.setsockopt

    def record(self: socket.socket, *arguments: Any) -> None:
        options.append(arguments)
        original(self, *arguments)

    monkeypatch.setattr(socket.socket, "setsockopt", record)
    with receiver(lambda event: 0x0000) as port:
        send_folder(tmp_path, "127.0.0.1", port, "RECEIVER")
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in options


def test_wrong_application_entity_title_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, slices=1, size=32)
    with receiver(lambda event: 0x0000) as port, pytest.raises(SendError, match="called ELSEWHERE"):
        send_folder(tmp_path, "127.0.0.1", port, "ELSEWHERE")


# pynetdicom leaves the socket of a refused connection to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_listens(tmp_path: Path) -> None:
    write_series(tmp_path, slices=1, size=32)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SendError, match="No DICOM connection"):
        send_folder(tmp_path, "127.0.0.1", port, "RECEIVER", timeout_s=2)


def test_failures_of_single_instances_are_counted_by_status(tmp_path: Path) -> None:
    write_series(tmp_path, slices=6, size=32, patient="secret-id")
    answers = iter([0x0000, 0xA700, 0xB000, 0xA700, 0xC001, 0x0000])
    with receiver(lambda event: next(answers)) as port:
        report = send_folder(tmp_path, "127.0.0.1", port, "RECEIVER")
    assert report.sent == 3  # 0xB000 is a warning: coerced, but stored
    assert report.failed == {"0xA700": 2, "0xC001": 1}
    assert not report.ok
    assert report.summary() == "3 images stored, not stored: 2 x 0xA700, 1 x 0xC001"
    assert "secret-id" not in repr(report)


def test_receiver_that_takes_no_compression(tmp_path: Path) -> None:
    write_series(tmp_path / "a", slices=2, size=32, series="a")
    write_series(tmp_path / "b", slices=1, size=32, series="b", transfer_syntax=RLELossless)
    with receiver(lambda event: 0x0000, [ExplicitVRLittleEndian]) as port:
        report = send_folder(tmp_path, "127.0.0.1", port, "RECEIVER")
    assert report.sent == 2
    assert report.failed == {"no presentation context": 1}


def test_receiver_that_hangs_up(tmp_path: Path) -> None:
    write_series(tmp_path, slices=3, size=32)

    def handle(event: Any) -> int:
        event.assoc.abort()
        return 0x0000

    with receiver(handle) as port:
        report = send_folder(tmp_path, "127.0.0.1", port, "RECEIVER", timeout_s=5)
    assert report.sent == 0
    assert report.failed == {"connection lost": 3}


def test_folder_must_exist_and_may_be_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        send_folder(tmp_path / "nowhere", "127.0.0.1", 1, "RECEIVER")
    report = send_folder(tmp_path, "127.0.0.1", 1, "RECEIVER")
    assert report.sent == 0
    assert not report.ok
