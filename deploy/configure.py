"""Write an Orthanc configuration from the template orthanc.json. Standard library only.

Used by ``deploy/run`` and by the tests, so that what is tested is what is shipped. As a command:
``configure.py FOLDER PYTHON`` writes FOLDER/orthanc.json, FOLDER/password and FOLDER/ports.json.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
USER = "strokecore"
# Debian links some plugins here and leaves others in the second folder with a version behind the name.
PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")


@dataclass(frozen=True)
class Node:
    """Where an Orthanc is that was configured here."""

    configuration: Path
    http_port: int
    dicom_port: int
    aet: str
    user: str
    password: str


def write_configuration(
    folder: Path,
    python: Path,
    *,
    orthanc: Mapping[str, Any] | None = None,
    strokecore: Mapping[str, Any] | None = None,
) -> Node:
    """Configuration, storage folder and a random password below ``folder``, readable by its owner only.

    ``orthanc`` and ``strokecore`` replace options of the template and of its StrokeCore section.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    configuration = json.loads((HERE / "orthanc.json").read_text("utf-8"))
    password = secrets.token_urlsafe(18)
    http_port, dicom_port = free_ports(2)
    configuration.update(
        StorageDirectory=str(folder / "storage"),
        IndexDirectory=str(folder / "storage"),
        Plugins=[str(find_plugin("Python")), str(find_plugin("Gdcm"))],
        PythonScript=str(HERE.parent / "orthanc_plugin" / "plugin.py"),
        HttpPort=http_port,
        DicomPort=dicom_port,
        RegisteredUsers={USER: password},
    )
    configuration["StrokeCore"]["Python"] = str(python)
    configuration.update(orthanc or {})
    configuration["StrokeCore"].update(strokecore or {})
    path = folder / "orthanc.json"
    write_private(path, json.dumps(configuration, indent=2))
    write_private(folder / "password", password + "\n")
    return Node(path, http_port, dicom_port, configuration["DicomAet"], USER, password)


def write_private(path: Path, text: str) -> None:
    """Write a file that never was readable by others, not even for a moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on, on any interface."""
    sockets = []
    try:
        for _ in range(count):
            probe = socket.socket()
            sockets.append(probe)
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def find_plugin(name: str) -> Path:
    """Path of an Orthanc plugin's library. Raises FileNotFoundError."""
    for folder in PLUGIN_FOLDERS:
        for pattern in (f"libOrthanc{name}.so", f"libOrthanc{name}.so.*"):
            found = sorted(Path(folder).glob(pattern))
            if found:
                return found[-1]
    raise FileNotFoundError(f"Orthanc's plugin {name} is not installed (Debian: orthanc-{name.lower()}).")


def main(arguments: list[str]) -> int:
    folder, python = Path(arguments[0]), Path(arguments[1])
    node = write_configuration(folder, python)
    ports = {"http": node.http_port, "dicom": node.dicom_port, "aet": node.aet, "user": node.user}
    write_private(folder / "ports.json", json.dumps(ports))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
