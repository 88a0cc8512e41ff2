"""orthanc_plugin/worker.py, supervise.py and workspace.py: real processes that misbehave."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from orthanc_plugin import worker
from orthanc_plugin.settings import Settings
from orthanc_plugin.worker import AttemptError
from orthanc_plugin.workspace import PREFIX, sweep, workspace
from tests.ct_factory import write_series
from tests.unit.orthanc_plugin.fakes import make_settings

NO_STOP = threading.Event()


def scorer(tmp_path: Path, code: str, timeout_s: float = 20) -> Settings:
    """Settings whose scorer is this Python code."""
    script = tmp_path / "scorer.py"
    script.write_text(code)
    return make_settings(
        tmp_path, command=(sys.executable, str(script)), python=sys.executable, timeout_s=timeout_s
    )


def score(settings: Settings, folder: Path) -> worker.Answer:
    (folder / "in").mkdir()
    return worker.score(settings, folder, NO_STOP, "2026-01-01T00:00:00+00:00", None)


WRITE = """
import json, os, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
(out / "sc").mkdir(parents=True)
for name in {files}:
    (out / name).write_text(name)
(out / "result.json").write_text(json.dumps({result}))
sys.exit({status})
"""
SCORED = {
    "schema": 1,
    "status": "scored",
    "result_key": "k",
    "series": {"series_instance_uid": "1.2"},
}


def test_outputs_come_in_the_order_of_storing(tmp_path: Path) -> None:
    names = ["sc/02.dcm", "sr.dcm", "sc/01.dcm", "regions.dcm", "pdf.dcm", "seg.dcm"]
    code = WRITE.format(files=names, result=repr(SCORED), status=0)
    with workspace(str(tmp_path)) as folder:
        answer = score(scorer(tmp_path, code), folder)
        stored = ["seg.dcm", "regions.dcm", "sr.dcm", "pdf.dcm", "01.dcm", "02.dcm"]
        assert [f.name for f in answer.files] == stored
        assert (answer.result_key, answer.series_uid, answer.status) == ("k", "1.2", "scored")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "worker_died"),
        ("import os; os.abort()", "worker_died"),
        ("raise SystemExit(1)", "scorer_failed"),
        ("raise SystemExit(2)", "scorer_usage"),
        ("raise SystemExit(9)", "scorer_failed"),
        ("", "result_unreadable"),
        (WRITE.format(files=["sr.dcm"], result=repr(SCORED), status=0), "result_incomplete"),
        (WRITE.format(files=["sr.dcm", "sc/1.dcm"], result=repr(SCORED), status=0), "result_incomplete"),
        (WRITE.format(files=["sr.dcm", "sc/1.dcm"], result=repr(SCORED), status=3), "result_unexpected"),
        (WRITE.format(files=[], result="[]", status=0), "result_unreadable"),
        (
            WRITE.format(files=["sr.dcm", "sc/1.dcm"], result=repr({**SCORED, "result_key": None}), status=0),
            "result_incomplete",
        ),
    ],
)
def test_faults_have_codes(tmp_path: Path, code: str, expected: str) -> None:
    with workspace(str(tmp_path)) as folder, pytest.raises(AttemptError) as caught:
        score(scorer(tmp_path, code), folder)
    assert caught.value.code == expected


def test_a_scorer_that_is_not_there(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, command=("/no/such/scorer",), python=sys.executable)
    with workspace(str(tmp_path)) as folder, pytest.raises(AttemptError, match="worker_not_started"):
        score(settings, folder)


def test_a_hang_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    with workspace(str(tmp_path)) as folder, pytest.raises(AttemptError, match="worker_timeout"):
        score(scorer(tmp_path, code, timeout_s=2), folder)
    wait_for_end(int((tmp_path / "pid").read_text()))


def test_a_stop_ends_the_run(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    settings = scorer(tmp_path, "import time; time.sleep(600)")
    with workspace(str(tmp_path)) as folder, pytest.raises(worker.Stopped):
        worker.run(settings, settings.command, folder, stop, 600)


def test_the_log_gets_places_and_kinds_but_no_messages(tmp_path: Path) -> None:
    code = "def read():\n    raise ValueError('the patient is DOE^JANE')\nread()\n"
    with workspace(str(tmp_path)) as folder, pytest.raises(AttemptError) as caught:
        score(scorer(tmp_path, code), folder)
    assert caught.value.detail == "scorer.py:3 scorer.py:2 ValueError"


def test_the_environment_is_small_and_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("SECRET", "x")
    code = f"import json, os; open({str(tmp_path / 'env')!r}, 'w').write(json.dumps(dict(os.environ)))"
    settings = scorer(tmp_path, code)
    with workspace(str(tmp_path)) as folder:
        worker.run(settings, settings.command, folder, NO_STOP, 20)
        environment = json.loads((tmp_path / "env").read_text())
        assert environment["TMPDIR"] == str(folder / "tmp")
    assert not {"PYTHONPATH", "SECRET"} & set(environment)


def environment_of(settings: Settings, tmp_path: Path) -> dict[str, str]:
    with workspace(str(tmp_path)) as folder:
        worker.run(settings, settings.command, folder, NO_STOP, 20)
    found: dict[str, str] = json.loads((tmp_path / "env").read_text())
    return found


def test_the_cache_outlives_the_attempt_and_is_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STROKECORE_CACHE", raising=False)
    code = f"import json, os; open({str(tmp_path / 'env')!r}, 'w').write(json.dumps(dict(os.environ)))"
    cache = tmp_path / "new" / "cache"
    settings = replace(scorer(tmp_path, code), cache_directory=str(cache))
    for _ in range(2):
        assert environment_of(settings, tmp_path)["STROKECORE_CACHE"] == str(cache)
    assert cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("STROKECORE_CACHE", "/elsewhere")  # the administrator's word
    assert environment_of(settings, tmp_path)["STROKECORE_CACHE"] == "/elsewhere"


def test_without_a_cache_folder_the_scan_is_scored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("STROKECORE_CACHE", raising=False)
    code = f"import json, os; open({str(tmp_path / 'env')!r}, 'w').write(json.dumps(dict(os.environ)))"
    (tmp_path / "file").touch()
    settings = replace(scorer(tmp_path, code), cache_directory=str(tmp_path / "file" / "cache"))
    assert "STROKECORE_CACHE" not in environment_of(settings, tmp_path)
    assert "no cache folder" in caplog.text


def test_workers_share_the_cores_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in worker.THREADS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=True)
    code = f"import json, os; open({str(tmp_path / 'env')!r}, 'w').write(json.dumps(dict(os.environ)))"
    settings = scorer(tmp_path, code)
    assert "STROKECORE_THREADS" not in environment_of(settings, tmp_path)
    assert environment_of(replace(settings, workers=3), tmp_path)["STROKECORE_THREADS"] == "2"
    assert environment_of(replace(settings, workers=64), tmp_path)["STROKECORE_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert "STROKECORE_THREADS" not in environment_of(replace(settings, workers=3), tmp_path)


def test_the_scorer_gets_the_sites_options(tmp_path: Path) -> None:
    note = tmp_path / "words"
    code = f"import sys; open({str(note)!r}, 'w').write(' '.join(sys.argv[1:]))"
    settings = replace(scorer(tmp_path, code), engine="onnx", model="shipped", region_cut="/etc/cut.json")
    settings = replace(settings, outputs=("sc", "sr"))
    with workspace(str(tmp_path)) as folder, pytest.raises(AttemptError):
        score(settings, folder)
    assert note.read_text().endswith("--model shipped --region-cut /etc/cut.json --outputs sc,sr")


def test_a_choice_of_outputs_is_complete_without_the_others(tmp_path: Path) -> None:
    code = WRITE.format(files=["pdf.dcm"], result=repr(SCORED), status=0)
    settings = scorer(tmp_path, code)
    with workspace(str(tmp_path)) as folder, pytest.raises(AttemptError, match="missing: sc, sr"):
        score(settings, folder)
    with workspace(str(tmp_path)) as folder:
        assert score(replace(settings, outputs=("pdf", "seg")), folder).status == "scored"


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_engine_is_proved_before_the_first_patient(tmp_path: Path, status: int) -> None:
    note = tmp_path / "words"
    code = f"import sys; open({str(note)!r}, 'w').write(' '.join(sys.argv[1:])); sys.exit({status})"
    settings = replace(scorer(tmp_path, code), engine="onnx", model=str(tmp_path))
    with workspace(str(tmp_path)) as folder:
        if status:
            with pytest.raises(AttemptError, match=f"engine_unusable: exit status {status}"):
                worker.prove_engine(settings, folder, NO_STOP)
        else:
            worker.prove_engine(settings, folder, NO_STOP)
    assert note.read_text() == f"engines --engine onnx --model {tmp_path}"


def test_the_engines_that_were_passed_over_are_in_the_answer(tmp_path: Path) -> None:
    fallbacks = ["openvino bf16: refused by the parity gate (dice_loss 0.1 > 0.005)"]
    result = {**SCORED, "model": {"fallbacks": fallbacks}}
    code = WRITE.format(files=["sr.dcm", "pdf.dcm", "sc/01.dcm"], result=repr(result), status=0)
    with workspace(str(tmp_path)) as folder:
        assert score(scorer(tmp_path, code), folder).fallbacks == tuple(fallbacks)
    assert worker.Answer({"model": None}, (), None).fallbacks == ()


def head(folder: Path, **tags: str) -> list[bytes]:
    return [path.read_bytes() for path in write_series(folder, slices=3, tags=tags)]


@pytest.mark.parametrize("waits", [False, True])
def test_a_picture_is_made_without_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    settings = make_settings(tmp_path / "gone", python=sys.executable)
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    images = head(tmp_path)
    moment = "2026-01-01T00:00:00+00:00"
    (picture,) = worker.notice(settings, images, NO_STOP, "quarantined", moment, waits=waits)
    dataset = pydicom.dcmread(io.BytesIO(picture))
    source = pydicom.dcmread(io.BytesIO(images[0]))
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (dataset.PatientID, dataset.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert worker.notice(settings, images, NO_STOP, "quarantined", moment, waits=waits) == (picture,)


@pytest.mark.parametrize("what", ["nothing", "no image", "contrast", "two persons", "cut off"])
def test_no_picture_where_there_is_no_head_ct(tmp_path: Path, what: str) -> None:
    images = {
        "nothing": list,
        "no image": lambda: [b"", b"x" * 5000],
        "contrast": lambda: head(tmp_path, ContrastBolusAgent="IOHEXOL"),
        "two persons": lambda: head(tmp_path) + head(tmp_path / "b", PatientName="OTHER^PERSON"),
        "cut off": lambda: [image[:200] for image in head(tmp_path)],
    }[what]()
    settings = make_settings(tmp_path, python=sys.executable)
    assert worker.notice(settings, images, NO_STOP, "io_error", "2026-01-01T00:00:00+00:00") == ()


def test_a_picture_that_cannot_be_made_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "notice.py"
    monkeypatch.setattr(worker, "NOTICE", script)
    call = ([b"x" * 1_000_000], NO_STOP, "io_error", "2026-01-01T00:00:00+00:00")
    script.write_text("raise ValueError('the patient is DOE^JANE')")  # and reads nothing
    assert worker.notice(make_settings(tmp_path, python=sys.executable), *call) == ()
    script.write_text("import time; time.sleep(600)")
    assert worker.notice(make_settings(tmp_path, python=sys.executable, timeout_s=1.0), *call) == ()
    assert worker.notice(make_settings(tmp_path, python="/no/such/python"), *call) == ()
    assert "JANE" not in caplog.text
    assert "notice.py:1 ValueError" in caplog.text
    stop = threading.Event()
    stop.set()
    with pytest.raises(worker.Stopped):
        worker.notice(make_settings(tmp_path, python=sys.executable), call[0], stop, *call[2:])


def test_the_scorer_and_its_images_go_with_the_server(tmp_path: Path) -> None:
    """kill -9 of the process that holds the supervisor's pipe."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "image").write_text("x")
    note = tmp_path / "pid"
    scorer_code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    command = [sys.executable, "-I", str(worker.SUPERVISOR), str(folder), sys.executable, "-c", scorer_code]
    server_code = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen({command!r}, stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", server_code]) as server:
        until(lambda: note.exists() and note.read_text() != "")
        server.kill()
    wait_for_end(int(note.read_text()))
    until(lambda: not folder.exists())


def test_out_of_memory_ends_the_scorer_before_the_server(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'score')!r}, 'w').write(open('/proc/self/oom_score_adj').read())"
    settings = scorer(tmp_path, code)
    with workspace(str(tmp_path)) as folder:
        worker.run(settings, settings.command, folder, NO_STOP, 20)
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert int((tmp_path / "score").read_text()) == min(own + 500, 1000)


def test_a_workspace_is_private_and_goes(tmp_path: Path) -> None:
    with workspace(str(tmp_path)) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "in").mkdir()
    assert not folder.exists()


def test_sweep_takes_the_dead_and_leaves_the_living(tmp_path: Path) -> None:
    dead = tmp_path / f"{PREFIX}dead"
    (dead / "in").mkdir(parents=True)
    (dead / "lock").touch()
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(other)
    with workspace(str(tmp_path)) as living:
        assert sweep(str(tmp_path)) == 1
        assert living.exists()
    assert not dead.exists()
    assert other.exists()


def until(done, seconds: float = 20) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_end(pid: int) -> None:
    """Until the process is gone; a zombie that nobody collects counts as gone."""

    def gone() -> bool:
        try:
            os.kill(pid, 0)
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (ProcessLookupError, FileNotFoundError):
            return True

    try:
        until(gone)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise
