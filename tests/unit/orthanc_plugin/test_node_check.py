"""orthanc_plugin/node_check.py: what is wrong with the node is named, and passes when it is mended."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orthanc_plugin import worker
from orthanc_plugin.health import Health
from orthanc_plugin.node_check import NodeCheck
from orthanc_plugin.terminal_states import Tally
from tests.unit.orthanc_plugin.fakes import make_settings


class Bench:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.health = Health()
        self.proofs = 0
        self.error: Exception | None = None
        monkeypatch.setattr(worker, "check_scorer", lambda *_: None)
        monkeypatch.setattr(worker, "prove_engine", self._prove)
        settings = make_settings(folder, reconcile_s=0.0, **options)
        self.check = NodeCheck(settings, threading.Event(), self.health, Tally())

    def _prove(self, *_: object) -> None:
        self.proofs += 1
        if self.error:
            raise self.error

    def codes(self) -> list[str]:
        return [c.code for c in self.health.conditions()]


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs"
    folder.mkdir()
    return folder


def test_a_sound_node_is_fit_once_its_engine_serves(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(jobs, monkeypatch)
    assert not bench.check.fit
    bench.check.look()
    bench.check.look()
    assert (bench.check.fit, bench.codes(), bench.proofs) == (True, [], 1)
    assert list(jobs.iterdir()) == []


def test_an_engine_that_does_not_serve(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(jobs, monkeypatch)
    bench.error = worker.AttemptError("engine_unusable")
    bench.check.look()
    assert (bench.check.fit, bench.codes()) == (False, ["engine_unusable"])
    bench.error = None
    bench.check.look()
    assert (bench.check.fit, bench.codes()) == (True, [])


def test_after_a_failed_attempt_the_scorer_is_looked_at_again(
    jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(jobs, monkeypatch)
    bench.check.look()
    assert bench.check.fit_after("scorer_failed", pytest.fail)
    assert bench.check.fit_after("worker_timeout", pytest.fail)  # looking would take as long again
    assert bench.proofs == 2
    bench.error = worker.AttemptError("engine_unusable")
    assert not bench.check.fit_after("scorer_usage", pytest.fail)
    assert bench.codes() == ["engine_unusable"]


def test_a_work_folder_that_is_gone_and_comes_back(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(jobs, monkeypatch)
    bench.check.look()
    jobs.rmdir()
    bench.check.look()
    assert (bench.check.fit, bench.codes()) == (False, ["work_folder_unusable"])
    jobs.mkdir()
    bench.check.look()
    assert (bench.check.fit, bench.codes()) == (True, [])


@pytest.mark.parametrize(
    ("blocks", "free", "files", "free_files", "full"),
    [
        (10**6, 10**5, 1000, 1000, False),
        (10**6, 10, 1000, 1000, True),
        (10**6, 10**5, 1000, 0, True),  # no inode left
        (2500, 2000, 0, 0, False),  # a small file system made for this; it does not count files
        (2500, 20, 0, 0, True),
        (0, 0, 0, 0, False),  # one that counts nothing
    ],
)
def test_what_counts_as_full(
    jobs: Path,
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
    free: int,
    files: int,
    free_files: int,
    full: bool,
) -> None:
    found = SimpleNamespace(f_bavail=free, f_frsize=4096, f_blocks=blocks, f_files=files, f_favail=free_files)
    bench = Bench(jobs, monkeypatch, storage_folders=("/storage",))
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    monkeypatch.setattr(os, "access", lambda *_: True)
    bench.check.look()
    assert bench.codes() == (["work_folder_full", "storage_full"] if full else [])


def test_what_an_attempt_left_is_no_fault_of_the_node(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(jobs, monkeypatch)
    bench.check.look()
    jobs.rmdir()
    assert bench.check.fit_after("io_error", jobs.mkdir)
    jobs.rmdir()
    assert not bench.check.fit_after("io_error", lambda: None)


def test_orthancs_own_folders(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(jobs, monkeypatch, storage_folders=(str(jobs / "none"), str(jobs / "nor this")))
    bench.check.look()
    assert (bench.check.fit, bench.codes()) == (False, ["storage_unusable"])


def test_a_region_cut_that_is_gone_or_damaged(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = jobs / "cut.json"
    bench = Bench(jobs, monkeypatch, region_cut=str(cut))
    bench.check.look()
    assert (bench.check.fit, bench.codes()) == (False, ["region_cut_invalid"])
    cut.write_text("{")
    bench.check.look()
    assert bench.codes() == ["region_cut_invalid"]
    cut.write_text('{"schema": 1, "threshold": 0.5}')
    bench.check.look()
    assert (bench.check.fit, bench.codes()) == (True, [])
