"""The README's first command, as a user runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STILL_RUNNING = "An Orthanc of this checkout is still running"


@pytest.mark.orthanc
def test_deploy_run_ends_with_the_score_of_its_patient() -> None:
    if not shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin"):
        pytest.skip("Orthanc is not installed: run ./deploy/test, which installs it")
    done = subprocess.run(
        [ROOT / "deploy" / "run"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if STILL_RUNNING in done.stdout + done.stderr:
        pytest.skip("a demonstration of this checkout is running: ./deploy/stop ends it")
    assert done.returncode == 0, done.stdout + done.stderr
    # The patient's infarct is found on its side; how many regions more are called is the engine's business.
    found = re.search(r"ASPECTS right [0-7] .*: (.*); left 10", done.stdout)
    assert found, done.stdout
    assert {"I", "M1", "M2"} <= set(found.group(1).split(", "))
    assert "from the last slice to the result" in done.stdout
    assert (ROOT / ".strokecore" / "out" / "report.html").is_file()
    assert (ROOT / ".strokecore" / "out" / "report.pdf").read_bytes().startswith(b"%PDF-")
