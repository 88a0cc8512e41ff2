"""The part of ``deploy/run`` behind the installation: a node of its own, a simulated patient, the result."""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent))
from configure import Node, write_configuration, write_private

ROOT: Final = Path(__file__).resolve().parents[1]
STATE: Final = ROOT / ".strokecore"
NODE: Final = STATE / "node"
SAMPLE: Final = STATE / "sample"
OUT: Final = STATE / "out"
CACHE: Final = STATE / "cache"

START_PATIENCE_S: Final = 120.0  # the first import after an installation compiles everything
RESULT_PATIENCE_S: Final = 300.0
# The simulated patient. Its infarct and everything else follow from these.
PATIENT: Final = (
    *("--affected", "right:I,M1,M2", "--delta-hu", "6"),
    *("--seed", "3", "--thickness", "5", "--tilt", "12"),
)
EXPECTED_SIDE: Final = "right"
INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """Something failed; the message is for the person at the terminal."""


class Orthanc:
    """The running node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.url = f"http://127.0.0.1:{node.http_port}"
        with (NODE / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(node.configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=NODE,
                # TCP_NODELAY: three times as many images per second
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(NODE), "TCP_NODELAY": "1"},
                start_new_session=True,
            )
        try:
            write_private(NODE / "pid", f"{self.process.pid}\n")
        except OSError:
            self.process.kill()  # nobody would find it
            raise

    def get_bytes(self, path: str, accept: str = "*/*") -> bytes:
        """Raises DemoError, OSError."""
        connection = http.client.HTTPConnection("127.0.0.1", self.node.http_port, timeout=30)
        secret = base64.b64encode(f"{self.node.user}:{self.node.password}".encode()).decode()
        try:
            connection.request("GET", path, headers={"Authorization": f"Basic {secret}", "Accept": accept})
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException as error:
            raise OSError(type(error).__name__) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise DemoError(f"Orthanc answered {answer.status} to GET {path}.")
        return body

    def get(self, path: str) -> Any:
        return json.loads(self.get_bytes(path))

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_PATIENCE_S
        while True:
            self.check_alive()
            status = None
            with contextlib.suppress(OSError, DemoError):
                status = self.get("/strokecore/status")
            if status and status["problems"]:
                raise DemoError(
                    "The plugin's configuration is wrong: "
                    + "; ".join(f"{p['code']}: {p['message']}" for p in status["problems"])
                )
            if status and status["state"] == "ready":
                return
            if time.monotonic() > deadline or (status and status["last_error"]):
                code = status["last_error"] if status else "no answer"
                raise DemoError(f"The plugin does not get ready ({code}); see {NODE / 'log'}.")
            time.sleep(0.1)

    def check_alive(self) -> None:
        if self.process.poll() is not None:
            tail = (NODE / "log").read_text("utf-8", "replace").splitlines()[-8:]
            raise DemoError("Orthanc ended by itself:\n  " + "\n  ".join(tail))

    def stop(self) -> None:
        """End Orthanc, within seconds; an impatient second Ctrl-C must not leave it running."""
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        (NODE / "pid").unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--model")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda received, _: sys.exit(128 + received))
    orthanc = None
    kept = False
    try:
        _refuse_second_node()
        _step(1, "Starting Orthanc")
        node = _configure(options)
        with _interrupts_held_back():
            orthanc = Orthanc(node)
        _step(2, "Simulating a head CT with an infarct on the right")
        shutil.rmtree(SAMPLE, ignore_errors=True)
        _strokecore("sample", str(SAMPLE), *PATIENT)
        orthanc.wait_ready()
        _step(3, "Sending it by C-STORE")
        _strokecore("send", str(SAMPLE), "127.0.0.1", str(orthanc.node.dicom_port), orthanc.node.aet)
        sent = time.monotonic()
        _step(4, "Waiting for the result")
        series, state = _wait_for_result(orthanc)
        elapsed = time.monotonic() - sent
        _fetch(orthanc, series, state)
        side = _show(json.loads((OUT / "result.json").read_text("utf-8")))
        print(f"\n{elapsed:.1f} s from the last slice to the result, the wait for more slices included.")
        kept = options.keep
        _say_where(orthanc, kept)
        if side != EXPECTED_SIDE:
            raise DemoError(
                f"The infarct is on the {EXPECTED_SIDE}, the result says {side or 'neither side'}."
            )
    except (DemoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted, stopping Orthanc", file=sys.stderr)
        return 130
    finally:
        if orthanc is not None and not kept:
            orthanc.stop()
    return 0


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Signals take effect at the end of the block: an Orthanc that starts just then would not be ended."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda got, _: received.append(got))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def _refuse_second_node() -> None:
    """Raises DemoError when a node of this checkout still runs."""
    try:
        pid = int((NODE / "pid").read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return
    if str(NODE / "orthanc.json").encode() in arguments:
        raise DemoError("An Orthanc of this checkout is still running; end it with ./deploy/stop.")


def _configure(options: argparse.Namespace) -> Node:
    for folder in (NODE, OUT):
        shutil.rmtree(folder, ignore_errors=True)
    jobs = NODE / "jobs"
    jobs.mkdir(parents=True)
    return write_configuration(
        NODE,
        ROOT / ".venv" / "bin" / "python",
        strokecore={
            "Engine": options.engine,
            "Model": options.model,
            "TemporaryDirectory": str(jobs),
            "CacheDirectory": str(CACHE),  # survives this run
        },
    )


def _step(number: int, words: str) -> None:
    print(f"[{number}/4] {words}", flush=True)


def _strokecore(*arguments: str) -> None:
    """Raises DemoError."""
    command = [sys.executable, "-I", "-m", "strokecore", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise DemoError(f"strokecore {arguments[0]} failed:\n  " + "\n  ".join(tail))
    print("      " + done.stdout.strip().splitlines()[-1], flush=True)


def _wait_for_result(orthanc: Orthanc) -> tuple[str, Any]:
    """(Orthanc id of the CT series, its state). Raises DemoError."""
    deadline = time.monotonic() + RESULT_PATIENCE_S
    shown = ""
    while time.monotonic() < deadline:
        orthanc.check_alive()
        (series,) = (s for s in orthanc.get("/series") if _is_ct(orthanc, s))
        state = orthanc.get(f"/strokecore/series/{series}")
        status = str(state["status"])
        if status != shown:
            print(f"      {status}", flush=True)
            shown = status
        if status in ("scored", "withheld"):
            return series, state
        if status not in ("pending", "queued", "claimed"):
            raise DemoError(f"The simulated head CT ended {status} ({state['reason']}); see {NODE / 'log'}.")
        time.sleep(0.1)
    raise DemoError(f"No result within {RESULT_PATIENCE_S:.0f} s; see {NODE / 'log'}.")


def _is_ct(orthanc: Orthanc, series: str) -> bool:
    return bool(orthanc.get(f"/series/{series}")["MainDicomTags"].get("Modality") == "CT")


def _fetch(orthanc: Orthanc, series: str, state: Any) -> None:
    """The stored objects into .strokecore/out, pictures as PNG too."""
    OUT.mkdir()
    OUT.chmod(0o700)
    for name, kind in (("result.json", "result"), ("report.html", "report")):
        (OUT / name).write_bytes(orthanc.get_bytes(f"/strokecore/series/{series}/{kind}"))
    pictures = 0
    for instance in state["result"]["outputs"]:
        tags = orthanc.get(f"/instances/{instance}/simplified-tags")
        name = str(tags["Modality"]).lower()
        if name == "seg":
            name = "regions" if "regions" in str(tags.get("SeriesDescription", "")) else "seg"
        elif name == "doc":
            name = "pdf"
            (OUT / "report.pdf").write_bytes(orthanc.get_bytes(f"/instances/{instance}/pdf"))
        elif name != "sr":
            pictures += 1
            name = f"picture-{pictures:02d}"
            png = orthanc.get_bytes(f"/instances/{instance}/preview", "image/png")
            (OUT / f"{name}.png").write_bytes(png)
        (OUT / f"{name}.dcm").write_bytes(orthanc.get_bytes(f"/instances/{instance}/file"))


def _show(result: Any) -> str | None:
    """Print the table as ``strokecore score`` does; returns the affected side."""
    from rich.console import Console

    from strokecore.flags import QualityFlag
    from strokecore.reports.terminal import print_table
    from strokecore.result import AspectsScore, RegionFinding, Result, SoftwareInfo

    print_table(
        Result(
            status=result["status"],
            aspects={side: AspectsScore(**score) for side, score in result["aspects"].items()},
            affected_side=result["affected_side"],
            regions=tuple(RegionFinding(**row) for row in result["regions"]),
            infarct_volume_ml=result["infarct_volume_ml"],
            old_infarct_volume_ml=result["old_infarct_volume_ml"],
            outside_regions_volume_ml=result["outside_regions_volume_ml"],
            quality=tuple(QualityFlag(**flag) for flag in result["quality"]),
            series=None,
            model=None,
            software=SoftwareInfo(**result["software"]),
        ),
        Console(soft_wrap=True),
    )
    side = result["affected_side"]
    return None if side is None else str(side)


def _say_where(orthanc: Orthanc, kept: bool) -> None:
    print(f"\nThe stored objects, as pictures too:  {OUT}")
    print(f"The report:                           {OUT / 'report.html'}")
    if not kept:
        print("Orthanc is stopped; with --keep it goes on, to look at the study in a browser.")
        return
    node = orthanc.node
    print(f"Orthanc:                              {orthanc.url}/app/explorer.html")
    print(f"User and password:                    {node.user}, in {NODE / 'password'}")
    print(
        f"DICOM:                                {node.aet} at 127.0.0.1:{node.dicom_port}, from AE STROKECORE"
    )
    print("Its ports are open on every interface (Orthanc knows no other way) but answer this machine only.")
    print("./deploy/stop ends it.")


if __name__ == "__main__":
    sys.exit(main())
