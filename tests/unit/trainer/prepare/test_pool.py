"""The loop that all readers share: in this process, in others, and when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from strokecore.errors import UsageError
from tests.unit.trainer.prepare.fakes import make_record
from trainer.data.cases import DatasetWriter
from trainer.prepare.pool import drop_copies, prepare_cases


@pytest.mark.parametrize("workers", [1, 2])
def test_every_case_ends_as_record_or_reason(tmp_path, workers):
    writer = DatasetWriter(tmp_path)
    jobs = {"a": "a", "b": "left out", "c": "c"}
    assert list(prepare_cases(writer, jobs, make_record, workers)) == [1, 2, 3]
    assert sorted(record.id for record in writer.records) == ["a", "c"]
    assert writer.skipped == [{"id": "b", "reason": "not usable"}]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_defect_names_its_case(tmp_path, workers):
    with pytest.raises(ZeroDivisionError) as caught:
        list(prepare_cases(DatasetWriter(tmp_path), {"a": "defect", "b": "b"}, make_record, workers))
    assert "while preparing case a" in caught.value.__notes__


def test_a_killed_worker_is_explained(tmp_path):
    with pytest.raises(UsageError, match="fewer --workers"):
        list(prepare_cases(DatasetWriter(tmp_path), {"a": "killed", "b": "killed"}, make_record, 2))


def test_copies_are_dropped_but_not_the_test_case(tmp_path):
    writer = DatasetWriter(tmp_path)
    list(prepare_cases(writer, {n: n for n in "abc"}, make_record, 1))
    same = {"source_sha256": "one"}
    splits = {"a": "train", "b": "test", "c": "validate"}
    writer.records = [replace(r, split=splits[r.id], provenance=same) for r in writer.records]
    drop_copies(writer)
    assert [record.id for record in writer.records] == ["b"]
    assert {s["id"] for s in writer.skipped} == {"a", "c"}
    assert all("case b (test)" in s["reason"] for s in writer.skipped)
    assert sorted(path.name for path in (tmp_path / "cases").iterdir()) == ["b.npz"]


def test_workers_end_when_the_run_is_killed(tmp_path):
    code = (
        "import os, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from trainer.prepare.pool import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    context = get_context('spawn')\n"
        "    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        time.sleep(600)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        os.kill(worker, 0)  # it lives
        run.kill()
    for _ in range(200):
        try:
            state = Path(f"/proc/{worker}/stat").read_text("utf-8").split()[2]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return  # ended; nobody has collected it yet
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its run")
