"""The gate and its memory: the whole gate once, a quick check later, and what is remembered."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import strokecore.learned.verdicts as verdicts
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned import runtimes
from strokecore.learned.fresh import fresh_slices
from strokecore.learned.gate import Gate
from strokecore.learned.golden import Answers, read_golden
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.parity_report import ParityReport
from strokecore.learned.probes import QUICK_LIMITS, check_quickly, choose_probes, pack, unpack
from strokecore.learned.verdicts import FAILED_FOR, PASSED_FOR, WRONG_FOR, key_of
from tests.unit.learned.engine_cases import MirrorRuntime, fault_of, of_log_odds, raises
from tests.unit.learned.package_cases import SPEC, mirror_answers, write_package

RIGHT = ("openvino", "fp32")


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
        content["date"] = (datetime.fromisoformat(content["date"]) - by).isoformat()
        path.write_text(json.dumps(content))


def names(report: ParityReport) -> set[str]:
    return {criterion.name for criterion in report.criteria}


def test_the_whole_gate_runs_once_then_a_quick_check(
    package: ModelPackage, reference: list[MirrorRuntime]
) -> None:
    engine = MirrorRuntime(package, *RIGHT)
    first = Gate(package, 2).examine(engine)
    assert first.passed
    assert names(first) > names(first) & set(QUICK_LIMITS)
    assert [made.closed for made in reference] == [1]
    slices = sum(engine.runs)
    again = Gate(package, 2)
    second = again.examine(engine)
    assert second.passed
    assert names(second) == set(QUICK_LIMITS)
    assert sum(engine.runs) - slices == second.slices == 3
    assert len(reference) == 1  # ONNX Runtime is not even loaded
    assert again.probes is not None


def test_random_input_is_new_in_each_process(package: ModelPackage) -> None:
    seeds = {Gate(package, 2).examine_fully(MirrorRuntime(package, *RIGHT)).seed for _ in range(3)}
    assert len(seeds) == 3


def test_engines_of_one_process_are_judged_on_the_same_input(
    package: ModelPackage, reference: list[MirrorRuntime]
) -> None:
    gate = Gate(package, 2)
    reports = [gate.examine_fully(MirrorRuntime(package, "openvino", p)) for p in ("bf16", "fp32")]
    assert reports[0].seed == reports[1].seed
    assert len(reference) == 1
    gate.forget_material()
    assert gate.examine_fully(MirrorRuntime(package, *RIGHT)).seed != reports[0].seed


def test_a_refusal_is_remembered_with_its_figures(package: ModelPackage, cache: Path) -> None:
    broken = MirrorRuntime(package, *RIGHT, fault=fault_of("mirrored answers"))
    report = Gate(package, 2).examine(broken)
    assert not report.passed
    again = Gate(package, 2)
    verdict = again.refused(*RIGHT)
    assert verdict is not None
    assert verdict.report.reason == report.reason
    assert again.refused("openvino", "bf16") is None
    assert Gate(package, 3).refused(*RIGHT) is None  # other threads, other kernels
    assert Gate(replace(package, sha256="0" * 64), 2).refused(*RIGHT) is None
    age(cache, WRONG_FOR - timedelta(minutes=1))
    assert again.refused(*RIGHT) is not None
    age(cache, timedelta(minutes=1))
    assert again.refused(*RIGHT) is None  # tried again a day later


def test_one_that_could_not_answer_is_tried_again_sooner(package: ModelPackage, cache: Path) -> None:
    gate = Gate(package, 2)
    gate.examine(MirrorRuntime(package, *RIGHT, fault=raises(EngineError("no memory"))))
    assert gate.refused(*RIGHT) is not None
    age(cache, FAILED_FOR)
    assert gate.refused(*RIGHT) is None


def test_what_passed_long_ago_passes_the_whole_gate_again(package: ModelPackage, cache: Path) -> None:
    engine = MirrorRuntime(package, *RIGHT)
    Gate(package, 2).examine(engine)
    age(cache, PASSED_FOR)
    assert "dice" in names(Gate(package, 2).examine(engine))
    age(cache, -timedelta(hours=1))  # the clock was set back
    assert "dice" in names(Gate(package, 2).examine(engine))


def test_an_engine_that_became_wrong_is_refused_by_the_quick_check_and_stays_out(
    package: ModelPackage,
) -> None:
    Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
    broken = MirrorRuntime(package, *RIGHT, fault=fault_of("slices reordered in a batch"))
    assert Gate(package, 2).examine(broken).passed  # of 2 and 1 slices, none is reordered
    broken.fault = fault_of("mirrored answers")
    gate = Gate(package, 2)
    assert not gate.examine(broken).passed
    assert gate.refused(*RIGHT) is not None


@pytest.mark.parametrize(
    "name",
    ["a NaN in one pixel", "zeros", "background everywhere", "infarct everywhere", "mirrored answers",
     "mirrored input", "swapped input channels", "background swapped with a class", "an error",
     "half precision arrays", "an answer that is one run late"],
)  # fmt: skip
def test_what_the_quick_check_sees(name: str, package: ModelPackage) -> None:
    fresh = fresh_slices(SPEC, seed=5)
    probes = choose_probes(read_golden(package), fresh, Answers(*mirror_answers(fresh.slices)))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        assert check_quickly(MirrorRuntime(package), probes, rng).passed
        engine = MirrorRuntime(package, fault=fault_of(name))
        assert not check_quickly(engine, probes, rng).passed
    # it must not refuse for what precision costs
    blurred = MirrorRuntime(package, fault=of_log_odds(lambda odds: odds * np.float32(1.01)))
    assert check_quickly(blurred, probes, rng).passed


def test_probes_survive_their_file(package: ModelPackage) -> None:
    fresh = fresh_slices(SPEC, seed=5)
    answers = Answers(*mirror_answers(fresh.slices))
    probes = choose_probes(read_golden(package), fresh, answers)
    again = unpack(pack(probes))
    assert (again.seed, again.golden) == (probes.seed, probes.golden) == (5, 3)
    assert np.array_equal(again.slices, probes.slices)
    assert np.array_equal(again.answers.sg, probes.answers.sg)
    known = probes.answers.bg[0, 0]
    assert (known < 0.5).any()  # the first of all shows infarct
    for wrong in (b"", b"PK\x03\x04", pack(probes)[:-100]):
        with pytest.raises(ValueError, match=r"."):
            unpack(wrong)


def test_large_slices_leave_few_probes(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = fresh_slices(SPEC, seed=5)
    monkeypatch.setattr("strokecore.learned.probes._KEPT_BYTES", 1)
    probes = choose_probes(read_golden(package), fresh, Answers(*mirror_answers(fresh.slices)))
    assert (probes.golden, len(probes.slices)) == (1, 3)
    assert check_quickly(MirrorRuntime(package), probes, np.random.default_rng(0)).passed


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"not json", b'{"facts": 1}'])
def test_a_damaged_memory_means_the_whole_gate(content: bytes, package: ModelPackage, cache: Path) -> None:
    Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
    for path in cache.iterdir():
        path.write_bytes(content)
    report = Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
    assert report.passed
    assert "dice" in names(report)


def test_a_verdict_that_was_altered_is_not_believed(package: ModelPackage, cache: Path) -> None:
    gate = Gate(package, 2)
    gate.examine(MirrorRuntime(package, *RIGHT, fault=fault_of("zeros")))
    path = cache / f"{key_of(package, *RIGHT, 2).digest}.json"
    content = json.loads(path.read_text())
    content["report"]["passed"] = True
    path.write_text(json.dumps(content))
    assert verdicts.remembered(key_of(package, *RIGHT, 2)) is None
    path.chmod(0o666)
    assert verdicts.remembered(key_of(package, *RIGHT, 2)) is None


def test_without_a_cache_the_whole_gate_runs_each_time(
    package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "open"))
    for _ in range(2):
        report = Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
        assert report.passed
        assert "dice" in names(report)
    assert not list((tmp_path / "open").iterdir())


def test_the_reference_itself_is_held_to_the_golden_answers(
    package: ModelPackage, reference: list[MirrorRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drift of ONNX Runtime must not become everyone's truth."""

    def drifted(package: ModelPackage, *_: object) -> MirrorRuntime:
        reference.append(MirrorRuntime(package, fault=fault_of("a bias of +0.03")))
        return reference[-1]

    monkeypatch.setattr(runtimes, "start", drifted)
    for _ in range(2):  # also when it is remembered
        with pytest.raises(ModelPackageError, match=r"does not give its golden answers \("):
            Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
    assert [made.closed for made in reference] == [1, 1]
    wrong = MirrorRuntime(package, "onnx", "fp32", fault_of("mirrored answers"))
    with pytest.raises(ModelPackageError, match="golden answers"):
        Gate(package, 2).examine(wrong)


def test_the_reference_passes_as_an_engine_too(package: ModelPackage, reference: list[MirrorRuntime]) -> None:
    assert Gate(package, 2).examine(MirrorRuntime(package, "onnx", "fp32")).passed
    assert reference == []  # no second one is started beside it
    assert Gate(package, 2).examine(MirrorRuntime(package, *RIGHT)).passed
    assert len(reference) == 1


def test_a_verdict_does_not_outlive_what_it_was_made_with(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(engine: str = "openvino") -> str:
        return key_of(package, engine, "fp32", 2).digest

    before = {engine: digest(engine) for engine in ("openvino", "onnx-cuda", "onnx")}
    assert len(set(before.values())) == 3
    assert digest() == before["openvino"]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert digest() != before["openvino"]
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setenv("UNRELATED", "1")
    assert digest() == before["openvino"]
    for name, changed in (
        ("cpu_name", lambda: "Another CPU"),
        ("cpu_flags", lambda: frozenset({"sse2"})),
        ("library_versions", lambda engine: {engine: "0.0.1"}),
        ("_source_sha256", lambda: "other"),
        ("__version__", "9.9.9"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(verdicts, name, changed)
            assert digest() != before["openvino"], name
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "driver_version", lambda: (13, 1))
        assert digest("onnx-cuda") != before["onnx-cuda"]
        assert digest() == before["openvino"]


def test_old_memory_is_thrown_away(package: ModelPackage, cache: Path) -> None:
    Gate(package, 2).examine(MirrorRuntime(package, *RIGHT))
    for number in range(70):
        for suffix in ("json", "npz"):
            path = cache / f"{number:064d}.{suffix}"
            path.write_bytes(b"old")
            os.utime(path, (1, 1))
    Gate(package, 3).examine(MirrorRuntime(package, *RIGHT))
    assert len(list(cache.glob("*.json"))) == 64
    assert len(list(cache.glob("*.npz"))) == 4
    assert verdicts.remembered(key_of(package, *RIGHT, 2)) is not None
    assert datetime.now(UTC) - verdicts.remembered(key_of(package, *RIGHT, 2)).date < timedelta(hours=1)  # type: ignore[union-attr]
