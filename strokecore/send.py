"""Send a folder of DICOM files by C-STORE."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from strokecore.errors import StrokeCoreError
from strokecore.reading import tags
from strokecore.reading.files import DicomFile, find_dicom

_log = logging.getLogger(__name__)

MAX_CONTEXTS: Final = 128  # presentation contexts of one association, PS3.8
TIMEOUT_S: Final = 30.0
AE_TITLE_LENGTH: Final = 16  # PS3.5


class SendError(StrokeCoreError):
    """Nothing could be sent: nobody listens, or the association was refused."""


@dataclass(frozen=True)
class SendReport:
    """What became of the files.

    Attributes
    ----------
    sent: number of instances the receiver stored (warnings included).
    failed: reason to number of instances; the reason is a DICOM status as "0xA700", "no presentation
        context", "unreadable" or "connection lost".
    """

    sent: int
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something was sent and nothing failed."""
        return self.sent > 0 and not self.failed

    def summary(self) -> str:
        """One line for a terminal."""
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(self.failed.items()))
        return f"{self.sent} images stored" + (f", not stored: {reasons}" if reasons else "")


def send_folder(
    folder: Path,
    host: str,
    port: int,
    called_aet: str,
    calling_aet: str = "STROKECORE",
    *,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[int, int], None] | None = None,
) -> SendReport:
    """C-STORE every DICOM instance below ``folder``, compressed ones as they are.

    ``progress(done, total)`` is called after each instance. Raises UsageError when ``folder`` is no folder,
    SendError when nothing could be sent at all; failures of single instances are counted in the report.
    """
    files = [file for file in find_dicom(folder).files if not file.frame]  # the frames of an image are one
    failed: Counter[str] = Counter()
    sent = done = 0
    for batch in _batches(files):
        association = _associate(batch, host, port, called_aet, calling_aet, timeout_s)
        try:
            for file in batch:
                reason = _store(association, file)
                if reason is None:
                    sent += 1
                else:
                    failed[reason] += 1
                done += 1
                if progress is not None:
                    progress(done, len(files))
        finally:
            if association.is_established:
                association.release()
    if failed:
        _log.warning("%d of %d instances were not stored: %s", sum(failed.values()), len(files), dict(failed))
    return SendReport(sent, dict(failed))


def _context(file: DicomFile) -> tuple[str, str]:
    """SOP class and transfer syntax of a file."""
    meta = getattr(file.header, "file_meta", None)
    syntax = str(getattr(meta, "TransferSyntaxUID", "") or ImplicitVRLittleEndian)
    return tags.text(file.header, "SOPClassUID"), syntax


def _batches(files: Sequence[DicomFile]) -> Iterator[list[DicomFile]]:
    """Files whose contexts fit into one association."""
    batch: list[DicomFile] = []
    contexts: set[tuple[str, str]] = set()
    for file in sorted(files, key=_context):
        if _context(file) not in contexts and len(contexts) == MAX_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        contexts.add(_context(file))
        batch.append(file)
    if batch:
        yield batch


def _associate(
    files: Sequence[DicomFile], host: str, port: int, called_aet: str, calling_aet: str, timeout_s: float
) -> Any:
    entity = AE(ae_title=calling_aet[:AE_TITLE_LENGTH])
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = (
        timeout_s
    )
    # one syntax per context: the receiver then cannot choose one the file is not written in
    entity.requested_contexts = [build_context(*context) for context in sorted({_context(f) for f in files})]
    association = entity.associate(
        host,
        port,
        ae_title=called_aet[:AE_TITLE_LENGTH],
        evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay)],
    )
    if association.is_established:
        return association
    if association.is_rejected:
        raise SendError(
            f"{host}:{port} rejected the association; check the AE titles "
            f"(called {called_aet}, calling {calling_aet}) in the receiver's settings."
        )
    raise SendError(f"No DICOM connection to {host}:{port}; check address, port and that the receiver runs.")


def _without_delay(event: Any) -> None:
    """Small requests wait for each other's answers: Nagle's algorithm costs two thirds of the speed."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _store(association: Any, file: DicomFile) -> str | None:
    """None when stored, otherwise the reason why not."""
    if not association.is_established:
        return "connection lost"
    if _context(file) not in {
        (c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts
    }:
        return "no presentation context"
    try:
        status = association.send_c_store(pydicom.dcmread(file.path, force=True))
    except Exception:  # damaged behind the header; pydicom and pynetdicom raise many kinds
        return "unreadable" if association.is_established else "connection lost"
    if "Status" not in status:
        return "connection lost"
    code = int(status.Status)
    # PS3.4 B.2.3: 0xBxxx are warnings, the instance was stored
    return None if code == 0 or code & 0xF000 == 0xB000 else f"0x{code:04X}"
