"""The cache of plans: what is read, what is not, and who may build."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from strokecore.errors import EngineError
from strokecore.learned import plans
from strokecore.learned.devices import Gpu
from strokecore.learned.plans import PlanKey, Profile

GPU = Gpu(0, "NVIDIA L4", (8, 9), 24 * 2**30, "ab" * 16)
KEY = PlanKey.of(GPU, "10.16.1.11", "bf16", "0" * 64, Profile(1, 32, 64))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the plans; made by the first store."""
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


def test_a_plan_comes_back(cache: Path) -> None:
    assert plans.load(KEY) is None
    assert plans.find(KEY) is None
    path = plans.store(KEY, b"a plan", 12.3)
    assert path == plans.path_of(KEY)
    assert path.parent == cache
    assert plans.load(KEY) == b"a plan"
    assert plans.find(KEY) == KEY
    assert {stat.S_IMODE(file.stat().st_mode) for file in cache.iterdir()} == {0o600}
    assert json.loads(path.with_suffix(".json").read_text())["build_seconds"] == 12.3
    plans.discard(KEY)
    assert plans.load(KEY) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, gpu="NVIDIA L40"),
        replace(KEY, compute_capability=(9, 0)),
        replace(KEY, tensorrt="11.4.0.106"),
        replace(KEY, precision="fp16"),
        replace(KEY, package_sha256="1" * 64),
        replace(KEY, strokecore="0.0.1"),
    ],
)
def test_a_plan_for_something_else_is_not_found(other: PlanKey) -> None:
    plans.store(KEY, b"a plan", 1.0)
    assert plans.load(other) is None
    assert plans.find(other) is None


def test_another_profile_is_found_but_not_taken_for_the_same() -> None:
    small = replace(KEY, profile=Profile(1, 8, 8))
    plans.store(small, b"small", 1.0)
    assert plans.load(KEY) is None
    assert plans.find(KEY) == small
    plans.store(KEY, b"large", 1.0)
    assert plans.find(KEY) == KEY


@pytest.mark.parametrize("numbers", [(0, 1, 1), (2, 1, 3), (1, 4, 3)])
def test_a_profile_rises(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="minimum <= optimum"):
        Profile(*numbers)


@pytest.mark.parametrize(
    "damage", ["plan", "short", "record", "no json", "list", "other key", "writable", "link"]
)
def test_an_unsound_plan_is_left_alone(
    damage: str, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = plans.store(KEY, b"a plan", 1.0)
    about = path.with_suffix(".json")
    record = json.loads(about.read_text())
    match damage:
        case "plan":
            path.write_bytes(b"b plan")
        case "short":
            path.write_bytes(b"a p")
        case "record":
            about.write_text(json.dumps({"sha256": record["sha256"]}))
        case "no json":
            about.write_bytes(b"\xff\x00")
        case "list":
            about.write_text("[]")
        case "other key":  # a plan of another GPU under this one's name
            about.write_text(json.dumps({**record, "key": {**record["key"], "gpu": "Tesla T4"}}))
        case "writable":
            path.chmod(0o666)
        case "link":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
    assert plans.load(KEY) is None
    assert "is not used and will be built again" in caplog.text
    plans.store(KEY, b"a new plan", 1.0)
    assert plans.load(KEY) == b"a new plan"


def test_plans_are_not_read_from_a_folder_of_others(cache: Path) -> None:
    plans.store(KEY, b"a plan", 1.0)
    cache.chmod(0o777)
    with pytest.raises(EngineError, match="can be written by others"):
        plans.load(KEY)
    with pytest.raises(EngineError, match="can be written by others"):
        plans.store(KEY, b"a plan", 1.0)


def test_the_longest_unused_plans_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MAX_PLANS", 3)
    keys = [replace(KEY, precision=f"p{i}") for i in range(4)]
    for age, key in enumerate(keys[:3]):
        about = plans.store(key, b"x" * 100, 1.0).with_suffix(".json")
        os.utime(about, (1000.0 + age, 1000.0 + age))
    assert plans.load(keys[0]) is not None  # used just now
    plans.store(keys[3], b"x" * 100, 1.0)
    assert [plans.load(key) is not None for key in keys] == [True, False, True, True]
    monkeypatch.setattr(plans, "MAX_BYTES", 150)
    plans.store(keys[1], b"x" * 100, 1.0)
    assert len(list(cache.glob("*.plan"))) == len(list(cache.glob("*.json"))) == 1
    assert plans.load(keys[1]) is not None


def test_what_a_crash_left_is_removed_later(cache: Path) -> None:
    plans.store(KEY, b"a plan", 1.0)
    lonely, half = cache / "0123.plan", cache / ".0123.plan.tmp"
    for path in (lonely, half):
        path.write_bytes(b"half")
    plans.store(KEY, b"a plan", 1.0)
    assert lonely.exists()  # perhaps of a build that is at work
    assert half.exists()
    old = time.time() - 7200
    for path in (lonely, half):
        os.utime(path, (old, old))
    plans.store(KEY, b"a plan", 1.0)
    assert not lonely.exists()
    assert not half.exists()


def test_no_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plans, "write_own", full)
    with pytest.raises(EngineError, match=r"cannot be written to .* \(No space left on device\); make room"):
        plans.store(KEY, b"a plan", 1.0)


def test_failures_are_remembered_for_a_day(cache: Path) -> None:
    assert plans.failure(KEY) is None
    plans.record_failure(KEY, "no implementation")
    assert plans.failure(KEY) == "no implementation"
    assert plans.failure(replace(KEY, precision="fp16")) is None
    path = next(cache.glob("*.failed"))
    old = time.time() - 25 * 3600
    os.utime(path, (old, old))
    assert plans.failure(KEY) is None
    plans.record_failure(KEY, "again")
    plans.store(KEY, b"a plan", 1.0)
    assert plans.failure(KEY) is None


def test_timings_are_kept_by_gpu_model_and_library(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plans, "MAX_TIMINGS", 2)
    assert plans.load_timing(GPU, "10.3") == b""
    plans.store_timing(GPU, "10.3", b"times")
    assert plans.load_timing(replace(GPU, index=1, uuid="cd" * 16), "10.3") == b"times"
    assert plans.load_timing(GPU, "11.0") == b""
    assert plans.load_timing(replace(GPU, name="other"), "10.3") == b""
    for version in ("1", "2", "3"):
        plans.store_timing(GPU, version, b"times")
    assert len(list(cache.glob("*.timing"))) == 2
    next(cache.glob("*.timing")).chmod(0o622)
    assert sum(plans.load_timing(GPU, version) == b"times" for version in ("10.3", "1", "2", "3")) == 1
    assert "timing cache is not used" in caplog.text


def _hold(gpu: Gpu, held: object, release: object) -> None:
    with plans.building(gpu):
        held.set()  # type: ignore[attr-defined]
        release.wait(60)  # type: ignore[attr-defined]


def test_one_process_builds_on_a_gpu() -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(GPU, held, release))
    process.start()
    try:
        assert held.wait(60)
        assert plans.being_built(GPU)
        with pytest.raises(BlockingIOError), plans.building(GPU, wait=False):
            pass
        other = replace(GPU, index=1, uuid="cd" * 16)
        assert not plans.being_built(other)
        with plans.building(other, wait=False):
            pass
    finally:
        release.set()
        process.join(60)
    assert process.exitcode == 0
    assert not plans.being_built(GPU)
    with plans.building(GPU, wait=False):
        pass


def test_the_lock_of_a_killed_process_is_free() -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(GPU, held, release))
    process.start()
    assert held.wait(60)
    process.kill()
    process.join(60)
    with plans.building(GPU, wait=False):
        pass
