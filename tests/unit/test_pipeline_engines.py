"""A wrong engine never scores a patient silently: from the DICOM folder to result.json, SR and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from strokecore import pipeline
from strokecore.cli import main
from strokecore.config import ScoringConfig
from strokecore.errors import EngineError
from strokecore.learned import engine as learned
from strokecore.learned import selection
from strokecore.learned.openvino import OpenVinoRuntime
from strokecore.learned.package import load_package
from strokecore.pipeline import score_folder
from strokecore.reports.dicom import sr
from strokecore.reports.dicom.instance import Stamp
from strokecore.reports.result_json import to_json
from strokecore.result import Scored
from tests.unit.learned.engine_cases import BROKEN, NO_GPU, ONNX, OPENVINO, fault_of, pretend_machine
from tests.unit.learned.package_cases import mirror_answers, write_package

# Steps before an engine is asked; they are the same for all engines, so this module takes them once.
STEPS = {
    pipeline: (*("read_series", "align_series", "scan_flags", "blood_flags"),),
    learned: ("hu_slices", "mask_slices", "measure_regions"),
    learned.Tissue: ("of",),
}
MOMENT = "2026-11-25T12:00:00+00:00"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("pipeline") / "model")


@pytest.fixture(scope="module")
def head_taken_once() -> Iterator[None]:
    def once(step: Callable[..., Any]) -> Callable[..., Any]:
        kept: list[Any] = []

        def run(*arguments: Any, **named: Any) -> Any:
            if not kept:
                kept.append(step(*arguments, **named))
            return kept[0]

        return run

    with pytest.MonkeyPatch.context() as patch:
        for place, names in STEPS.items():
            for name in names:
                patch.setattr(place, name, once(getattr(place, name)))
        yield


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """OpenVINO and ONNX Runtime; returns where to set faults."""
    yield pretend_machine(monkeypatch, tmp_path / "cache", *NO_GPU, OPENVINO, ONNX)
    selection._kept.cache_clear()


def sr_words(scored: Scored) -> str:
    assert scored.series is not None
    assert scored.masks is not None
    assert scored.result.model is not None
    built = sr.build(
        scored.series, scored.result, scored.masks, scored.result.model, Stamp.of(scored.result),
        lesion=None, segments={}, regions=None,
    )  # fmt: skip
    return text_of(built)


def text_of(dataset: pydicom.Dataset) -> str:
    return "\n".join(str(item.value) for item in dataset.iterall() if item.keyword == "TextValue")


@pytest.fixture(scope="module")
def expected(
    sample_ct: Path, folder: Path, head_taken_once: None, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What a right engine says of the sample."""
    with pytest.MonkeyPatch.context() as patch:
        pretend_machine(patch, tmp_path_factory.mktemp("cache"), ONNX)
        result = score_folder(sample_ct, ScoringConfig(model=folder)).result
    selection._kept.cache_clear()
    assert result.affected_side == "right"
    return result


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_engine_is_named_and_none_has_a_say(
    name: str, machine: dict[str, Any], sample_ct: Path, folder: Path, expected: Any
) -> None:
    machine["openvino bf16"] = fault_of(name)
    machine["openvino fp32"] = EngineError("not here")  # one that is wrong is enough
    scored = score_folder(sample_ct, ScoringConfig(model=folder), content_datetime=MOMENT)
    record = to_json(scored.result)
    assert (record["model"]["engine"], record["model"]["precision"]) == ("onnx", "fp32")
    fallbacks = record["model"]["fallbacks"]
    assert fallbacks[0].startswith("openvino bf16: refused by the parity gate (")
    assert fallbacks[1:] == ["openvino fp32: could not be started"]
    flags = {flag["code"]: flag for flag in record["quality"]}
    assert flags["engine_fallback"]["severity"] == "info"
    words = sr_words(scored)
    for text in fallbacks:
        assert text in flags["engine_fallback"]["message"]
        assert text in words
    assert scored.result.regions == expected.regions
    # the same key is the same bytes, and these bytes name what was passed over
    assert scored.result.result_key != expected.result_key


def test_without_a_fallback_nothing_is_said_of_one(
    machine: dict[str, Any], sample_ct: Path, folder: Path, expected: Any
) -> None:
    scored = score_folder(sample_ct, ScoringConfig(model=folder))
    assert scored.result.model is not None
    assert (scored.result.model.engine, scored.result.model.precision) == ("openvino", "bf16")
    assert scored.result.model.fallbacks == ()
    assert "engine_fallback" not in {flag.code for flag in scored.result.quality}
    assert "fallbacks: none" in sr_words(scored)
    assert scored.result.result_key != expected.result_key


def test_an_engine_that_is_lost_on_the_patient_is_replaced_and_named(
    machine: dict[str, Any], sample_ct: Path, folder: Path, expected: Any
) -> None:
    def lost(slices: Any, run: int) -> Any:
        if len(slices) >= 20:  # the gate's runs are smaller
            raise EngineError("the device is lost")
        return mirror_answers(slices)

    machine["openvino bf16"] = lost
    result = score_folder(sample_ct, ScoringConfig(model=folder)).result
    assert result.model is not None
    assert (result.model.engine, result.model.precision) == ("openvino", "fp32")
    assert result.model.fallbacks == ("openvino bf16: failed (EngineError) while running",)
    assert result.regions == expected.regions


@pytest.mark.parametrize("error", [EngineError("lost"), None], ids=["lost", "NaN"])
def test_when_the_last_engine_is_lost_the_run_has_failed_and_says_so(
    error: Exception | None,
    machine: dict[str, Any],
    sample_ct: Path,
    folder: Path,
    expected: Any,
    tmp_path: Path,
) -> None:
    def broken(slices: Any, run: int) -> Any:
        if len(slices) < 20:  # the gate's runs; the head has more
            return mirror_answers(slices)
        if error is not None:
            raise error
        return tuple(arm * np.float32(np.nan) for arm in mirror_answers(slices))

    for name in ("openvino bf16", "openvino fp32", "onnx fp32"):
        machine[name] = broken
    out = tmp_path / "out"
    assert main(["score", str(sample_ct), "--out", str(out), "--model", str(folder)]) == 1
    record = json.loads((out / "result.json").read_text())
    assert record["status"] == "failed"
    assert record["quality"][0]["code"] == "internal_error"
    assert len(record["model"]["fallbacks"]) == 3
    assert len(list((out / "sc").glob("*.dcm"))) == 1


def test_no_engine_at_all_is_a_matter_of_the_set_up(
    machine: dict[str, Any], sample_ct: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("openvino bf16", "openvino fp32", "onnx fp32"):
        machine[name] = EngineError("broken installation")
    arguments = ["score", str(sample_ct), "--out", str(tmp_path / "out"), "--model", str(folder)]
    assert main(arguments) == 2
    assert "engines --model DIR --check" in capsys.readouterr().err


def test_with_the_real_runtimes_a_broken_one_is_replaced_on_every_output(
    sample_ct: Path, folder: Path, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO mirrors its answers; ONNX Runtime takes over."""
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "cache"))
    answer = OpenVinoRuntime._answer

    def mirrored(self: OpenVinoRuntime, slices: Any, bg: Any, sg: Any) -> None:
        answer(self, slices, bg, sg)
        bg[:], sg[:] = bg[..., ::-1].copy(), sg[..., ::-1].copy()

    monkeypatch.setattr(OpenVinoRuntime, "_answer", mirrored)
    out = tmp_path / "out"
    words = ["score", str(sample_ct), "--out", str(out), "--model", str(folder), "--engine", "openvino"]
    assert main(words) == 0
    record = json.loads((out / "result.json").read_text())
    model = record["model"]
    assert (model["engine"], model["precision"]) == ("onnx", "fp32")
    assert model["sha256"] == load_package(folder).sha256
    assert all(text.startswith("openvino ") and "parity gate (" in text for text in model["fallbacks"])
    assert model["fallbacks"][-1].startswith("openvino fp32: ")
    assert record["affected_side"] == "right"
    found = [(r["name"], r["side"]) for r in record["regions"] if r["affected"]]
    assert found == [(r.name, r.side) for r in expected.regions if r.affected]
    words_of_sr = text_of(pydicom.dcmread(out / "sr.dcm"))
    assert all(text in words_of_sr for text in model["fallbacks"])
    assert "engine_fallback" in words_of_sr
    assert "openvino fp32: refused by the parity gate" in (out / "report.html").read_text()
    for path in (out / "result.json", out / "report.html"):
        assert str(folder) not in path.read_text()
    # the second scan does not even start what was refused
    started: list[str] = []
    monkeypatch.setattr(OpenVinoRuntime, "__init__", lambda self, *a, **k: started.append("openvino"))
    selection._kept.cache_clear()
    assert main(words) == 0
    again = json.loads((out / "result.json").read_text())
    assert (again["model"], again["result_key"]) == (model, record["result_key"])
    assert started == []
