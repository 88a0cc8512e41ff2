"""strokecore/learned/gate.py: the whole gate once, a few slices later, and what is remembered."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.arrays import Float4D
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned import gate as module
from strokecore.learned import runtimes
from strokecore.learned.gate import FAILED_FOR, PASSED_FOR, WRONG_FOR, Gate
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.parity import LIMITS, GateReport
from tests.unit.learned.engine_cases import Arms, MirrorRuntime, fault_of, of_arms, of_log_odds, raises
from tests.unit.learned.package_cases import SPEC, golden_arrays, mirror_answers, write_package
from tests.unit.learned.test_golden import packed

RIGHT = ("openvino", "fp32")
EVERY_START = {"failed_runs", "sum_error", "log_odds_error", "fp32_difference"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("gate") / "model"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "parity"


@pytest.fixture(autouse=True)
def reference(monkeypatch: pytest.MonkeyPatch) -> list[MirrorRuntime]:
    """ONNX Runtime's place is taken by the network itself; the list holds those that were started."""
    started: list[MirrorRuntime] = []

    def start(package: ModelPackage, name: str, precision: str, threads: int) -> MirrorRuntime:
        started.append(MirrorRuntime(package, name, precision))
        return started[-1]

    monkeypatch.setattr(runtimes, "start", start)
    return started


def age(cache: Path, by: timedelta) -> None:
    """Make what is remembered older."""
    for path in cache.glob("*.json"):
        content = json.loads(path.read_text())
        date = datetime.fromisoformat(content["report"]["date"]) - by
        content["report"]["date"] = date.isoformat()
        path.write_text(json.dumps(content))


def test_the_whole_gate_runs_once_then_a_few_slices(
    package: ModelPackage, reference: list[MirrorRuntime]
) -> None:
    runtime = MirrorRuntime(package, *RIGHT)
    first = Gate(package, 2).examine(runtime)
    assert first.passed
    assert set(first.values) == set(LIMITS)
    assert [made.closed for made in reference] == [1]
    slices = sum(runtime.runs)
    assert slices == first.slices
    second = Gate(package, 2).examine(runtime)
    assert second.passed
    assert set(second.values) == EVERY_START
    assert sum(runtime.runs) - slices == second.slices == 3
    assert len(reference) == 1  # ONNX Runtime is not even loaded


def test_random_input_is_new_in_each_process_and_one_for_all_its_engines(
    package: ModelPackage, reference: list[MirrorRuntime]
) -> None:
    gates = [Gate(package, 2) for _ in range(3)]
    assert len({gate.examine_fully(MirrorRuntime(package, *RIGHT)).seed for gate in gates}) == 3
    reports = [gates[0].examine_fully(MirrorRuntime(package, "openvino", p)) for p in ("bf16", "fp32")]
    assert reports[0].seed == reports[1].seed == gates[0].seed
    assert len(reference) == 3
    gates[0].release()
    assert gates[0].examine_fully(MirrorRuntime(package, *RIGHT)).passed
    assert len(reference) == 4


@pytest.mark.parametrize("batch", [1, 3, 8, 17, 32, 64])
def test_more_slices_than_the_engines_own_batch_are_run(batch: int, package: ModelPackage) -> None:
    runtime = MirrorRuntime(package, *RIGHT, batch=batch)
    assert Gate(package, 2).examine(runtime).passed
    assert runtime.runs[0] >= max(17, batch + 1)
    assert runtime.runs[0] % 2 == 1
    assert batch == 1 or runtime.runs[0] % batch
    assert runtime.runs[-3:] == [5, 1, 5]
    assert runtime.runs[1] == min(29, runtime.runs[0])  # as many as a head has
    assert runtime.runs[2:-3] == [size for size in (32, 16, 8, 2) if size <= batch // 2]


@pytest.mark.parametrize("right", [slice(-1, None), slice(12, None), slice(0, 9)])
def test_a_padded_batch_that_is_wrong_in_a_part_of_it_is_found(right: slice, package: ModelPackage) -> None:
    """A head's slices are padded to 32; what only the padded batch gets wrong would meet a patient first."""

    def fault(slices: Float4D, run: int) -> Arms:
        answers = mirror_answers(slices)
        if not 16 < len(slices) < 32:
            return answers
        dead = fault_of("background everywhere")(slices, run)
        for arm, answer in zip(dead, answers, strict=True):
            arm[right] = answer[right]
        return dead

    found = Gate(package, 2).examine(MirrorRuntime(package, *RIGHT, fault=fault, batch=64))
    assert "log_odds_error" in found.failed


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64])
def test_a_batch_size_that_is_wrong_by_itself_is_found(size: int, package: ModelPackage) -> None:
    """A GPU engine has kernels for each size; most slices of a head can be right and some not."""

    def fault(slices: Float4D, run: int) -> Arms:
        parts = []
        left = slices
        while len(left):
            taken = left[: 1 << (len(left).bit_length() - 1)][:64]
            bg, sg = mirror_answers(taken)
            parts.append((bg[..., ::-1], sg[..., ::-1]) if len(taken) == size else (bg, sg))
            left = left[len(taken) :]
        bg, sg = (np.concatenate(arms) for arms in zip(*parts, strict=True))
        return bg, sg

    found = Gate(package, 2).examine(MirrorRuntime(package, *RIGHT, fault=fault, batch=64))
    assert "log_odds_error" in found.failed


def test_a_refusal_is_remembered_with_its_figures(package: ModelPackage, cache: Path) -> None:
    broken = MirrorRuntime(package, *RIGHT, fault=fault_of("mirrored answers"))
    found = Gate(package, 2).examine(broken)
    assert not found.passed
    again = Gate(package, 2)
    refused = again.refused(*RIGHT)
    assert refused is not None
    assert refused.reason == found.reason
    assert again.refused("openvino", "bf16") is None
    assert Gate(package, 3).refused(*RIGHT) is None  # other threads, other kernels
    assert Gate(replace(package, sha256="0" * 64), 2).refused(*RIGHT) is None
    age(cache, WRONG_FOR - timedelta(minutes=1))
    assert again.refused(*RIGHT) is not None
    age(cache, timedelta(minutes=1))
    assert again.refused(*RIGHT) is None  # tried again a day later


def test_other_source_means_the_whole_gate(
    package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report is of the code that was examined, that of a folder below included."""
    source = tmp_path / "learned" / "below" / "runtime.py"
    source.parent.mkdir(parents=True)
    source.write_text("one = 1\n")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "learned" / "gate.py"))
    monkeypatch.setattr(module, "_source_sha256", module._source_sha256.__wrapped__)  # asked anew each time
    runtime = MirrorRuntime(package, *RIGHT)
    assert Gate(package, 2).examine(runtime).passed
    assert Gate(package, 2).remembered(*RIGHT) is not None
    source.write_text("one = 2\n")
    assert Gate(package, 2).remembered(*RIGHT) is None


def test_one_that_could_not_answer_is_tried_again_sooner(package: ModelPackage, cache: Path) -> None:
    gate = Gate(package, 2)
    gate.examine(MirrorRuntime(package, *RIGHT, fault=raises(EngineError("no memory"))))
    assert gate.refused(*RIGHT) is not None
    age(cache, FAILED_FOR)
    assert gate.refused(*RIGHT) is None


def test_what_passed_long_ago_passes_the_whole_gate_again(package: ModelPackage, cache: Path) -> None:
    runtime = MirrorRuntime(package, *RIGHT)
    Gate(package, 2).examine(runtime)
    assert Gate(package, 2).refused(*RIGHT) is None
    age(cache, PASSED_FOR)
    assert set(Gate(package, 2).examine(runtime).values) == set(LIMITS)
    age(cache, -timedelta(hours=1))  # the clock was set back
    assert set(Gate(package, 2).examine(runtime).values) == set(LIMITS)


@pytest.mark.parametrize(
    "name",
    ["a NaN in one pixel", "zeros", "background everywhere", "infarct everywhere", "mirrored answers",
     "mirrored input", "swapped input channels", "background swapped with a class", "an error",
     "half precision arrays", "an answer that is one run late"],
)  # fmt: skip
def test_an_engine_that_became_wrong_is_seen_at_the_next_start_and_stays_out(
    name: str, package: ModelPackage
) -> None:
    Gate(package, 2).examine(MirrorRuntime(package, "openvino", "bf16"))
    # it must not be refused for what precision costs
    blurred = MirrorRuntime(package, "openvino", "bf16", of_log_odds(lambda odds: odds * np.float32(1.01)))
    assert Gate(package, 2).examine(blurred).passed
    gate = Gate(package, 2)
    found = gate.examine(MirrorRuntime(package, "openvino", "bf16", fault_of(name)))
    assert not found.passed
    assert set(found.values) <= EVERY_START
    assert gate.refused("openvino", "bf16") is not None


def test_the_slices_that_go_along_show_both_sides_and_noise_and_change_places(package: ModelPackage) -> None:
    gate = Gate(package, 2)
    places = []
    for run in range(4):
        slices, known = gate.sentinels(run)
        for arm, right in zip(known, mirror_answers(slices), strict=True):
            assert np.abs(arm - right).max() <= 2**-16
        places.append([one.tobytes() for one in slices])
    assert len(set(places[0])) == len(places[0]) == 3
    assert places[0] == places[3]
    for before, after in pairwise(places):
        assert set(before) == set(after)
        assert all(one != other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("half", [slice(None, SPEC.size[1] // 2), slice(SPEC.size[1] // 2, None)])
def test_an_engine_that_became_blind_on_one_side_is_seen_at_the_next_start(
    half: slice, package: ModelPackage
) -> None:
    def blind(arm: Float4D) -> Float4D:
        arm[..., half] = 0.0
        arm[:, 0, :, half] = 1.0
        return arm

    Gate(package, 2).examine(MirrorRuntime(package, "openvino", "bf16"))
    found = Gate(package, 2).examine(MirrorRuntime(package, "openvino", "bf16", of_arms(blind)))
    assert set(found.values) <= EVERY_START
    assert "log_odds_error" in found.failed


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"not json", b'{"report": 1}'])
def test_a_damaged_memory_means_the_whole_gate(content: bytes, package: ModelPackage, cache: Path) -> None:
    Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
    for path in cache.iterdir():
        path.write_bytes(content)
    found = Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
    assert found.passed
    assert set(found.values) == set(LIMITS)


def test_a_report_that_was_altered_is_not_believed(package: ModelPackage, cache: Path) -> None:
    gate = Gate(package, 2)
    gate.examine(MirrorRuntime(package, *RIGHT, fault=fault_of("zeros")))
    (path,) = cache.glob("*.json")
    right = path.read_text()
    content = json.loads(right)
    content["report"]["passed"] = True
    path.write_text(json.dumps(content))
    assert gate.remembered(*RIGHT) is None
    path.write_text(right)
    assert gate.remembered(*RIGHT) is not None
    path.chmod(0o666)
    assert gate.remembered(*RIGHT) is None


def test_without_a_cache_the_whole_gate_runs_each_time(
    package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "open"))
    for _ in range(2):
        found = Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
        assert found.passed
        assert set(found.values) == set(LIMITS)
    assert not list((tmp_path / "open").iterdir())


def started_with(fault: Any) -> Callable[..., MirrorRuntime]:
    return lambda package, name, precision, threads: MirrorRuntime(package, name, precision, fault)


@pytest.mark.parametrize("name", ["a bias of +0.03", "mirrored answers", "NaN everywhere", "too few slices"])
def test_the_reference_itself_is_held_to_the_golden_answers(
    name: str, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drift of ONNX Runtime must not become everyone's truth."""
    monkeypatch.setattr(runtimes, "start", started_with(fault_of(name)))
    for runtime in (
        MirrorRuntime(package, *RIGHT),
        MirrorRuntime(package, *module.REFERENCE, fault_of(name)),
    ):
        with pytest.raises((ModelPackageError, EngineError)) as caught:
            Gate(package, 2).examine(runtime)
        if name != "too few slices":
            assert "does not give its golden answers (" in str(caught.value)
        assert Gate(package, 2).remembered(*RIGHT) is None


def test_a_reference_that_fails_is_no_fault_of_the_package(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "start", started_with(raises(EngineError("no memory"))))
    with pytest.raises(EngineError, match="which all engines are compared with"):
        Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("slices", lambda v: v * np.nan),
        ("bg_probability", lambda v: v * np.inf),
        ("bg_probability", lambda v: v * 0.3),
        ("sg_probability", lambda v: v[..., ::-1]),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_golden_answers_that_are_not_the_networks_prove_nothing(
    name: str, change: Callable[[Any], Any], tmp_path: Path
) -> None:
    arrays = golden_arrays()
    content = packed({**arrays, name: change(arrays[name]).astype(np.float32)})
    package = load_package(write_package(tmp_path / "model", golden=content))
    with pytest.raises(ModelPackageError, match="golden answers"):
        Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))


def test_the_reference_passes_as_an_engine_too(package: ModelPackage, reference: list[MirrorRuntime]) -> None:
    assert Gate(package, 2).examine(MirrorRuntime(package, "onnx", "fp32")).passed
    assert reference == []  # no second one is started beside it
    assert Gate(package, 2).examine(MirrorRuntime(package, *RIGHT)).passed
    assert len(reference) == 1


def test_the_reference_is_refused_where_only_its_batches_are_wrong(package: ModelPackage) -> None:
    stale = MirrorRuntime(package, "onnx", "fp32", fault_of("the last part of a batch stale"))
    found = Gate(package, 2).examine(stale)
    assert "log_odds_error" in found.failed


def test_a_report_does_not_outlive_what_it_was_made_with(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remembers(engine: str = "openvino") -> bool:
        return Gate(package, 2).remembered(engine, "fp32") is not None

    for engine in ("openvino", "onnx-cuda"):
        assert not remembers(engine)
        Gate(package, 2).examine_fully(MirrorRuntime(package, engine, "fp32"))
        assert remembers(engine)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not remembers()
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setenv("UNRELATED", "1")
    assert remembers()
    for place, name, changed in (
        (module, "cpu_name", lambda: "Another CPU"),
        (module, "cpu_flags", lambda: frozenset({"sse2"})),
        (runtimes, "library_versions", lambda engine: {engine: "0.0.1"}),
        (module, "_source_sha256", lambda: "other"),
        (module, "__version__", "9.9.9"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, changed)
            assert not remembers(), name
    with monkeypatch.context() as patch:
        patch.setattr(module, "driver_version", lambda: (13, 1))
        assert not remembers("onnx-cuda")
        assert remembers()


def test_old_reports_are_thrown_away(package: ModelPackage, cache: Path) -> None:
    Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
    for number in range(70):
        path = cache / f"{number:064d}.json"
        path.write_bytes(b"old")
        os.utime(path, (1, 1))
    Gate(package, 3).examine(MirrorRuntime(package, *RIGHT))
    assert len(list(cache.glob("*.json"))) == 64
    kept: GateReport | None = Gate(package, 2).remembered(*RIGHT)
    assert kept is not None
    assert kept.passed
