"""Make the NOT SCORED picture of a head CT that was not scored: ``notice.py failed|waits CODE DATETIME``.

Run by the virtual environment's python like the scorer, never inside Orthanc. Encoded instances come in
through standard input, each behind its length (8 bytes, big endian), and the picture goes out through
standard output: the node's disks may be full. Only headers are read, so that what killed the scorer does
not kill this too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO, Final

from strokecore.flags import QualityFlag
from strokecore.reports.outputs import failure_picture

LENGTH_BYTES: Final = 8
_BY_HAND: Final = "Read the scan without it and tell the administrator."
_MESSAGES: Final = {
    "quarantined": "The software died twice on this scan and does not try a third time",
    "output_refused": "The archive does not take the results of this scan",
    "source_unreadable": "The archive cannot read this scan's images",
}


def main(arguments: list[str]) -> int:
    kind, code, content_datetime = arguments
    picture = failure_picture(_flag(kind, code), list(_instances(sys.stdin.buffer)), content_datetime)
    sys.stdout.buffer.write(picture or b"")
    return 0


def _flag(kind: str, code: str) -> QualityFlag:
    if kind == "waits":
        message, remedy = (
            "The scoring node is not working at present",
            f"{_BY_HAND} Once the node works, the scan is scored and this picture is removed.",
        )
    else:
        message, remedy = _MESSAGES.get(code, "The software failed on this scan"), _BY_HAND
    return QualityFlag(code, "refusal", f"{message} ({code}).", remedy)


def _instances(stream: BinaryIO) -> Iterator[bytes]:
    while length := stream.read(LENGTH_BYTES):
        yield stream.read(int.from_bytes(length, "big"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
