from __future__ import annotations

import json

import pytest

from strokecore.bench import subjects
from strokecore.bench.subjects import KINDS, Kind, Subject, find_subjects
from strokecore.errors import UsageError
from strokecore.learned.runtimes import Availability

FAKES = "tests.unit.bench.fakes"
FOUND = {
    "onnx": Kind(FAKES, "Reference"),
    "biased": Kind(FAKES, "Biased"),
    "on-gpu": Kind(FAKES, "Biased", gpu=True),
}


def names(*engines: str, precisions: tuple[str, ...] = (), gpu: bool = False) -> list[str]:
    return [subject.name for subject in find_subjects(engines, precisions, FOUND, gpu=gpu)]


def test_the_reference_is_first_and_always_there() -> None:
    assert names() == ["onnx fp32", "biased bf16", "biased fp32"]
    assert names("biased") == ["onnx fp32", "biased bf16", "biased fp32"]
    assert names(precisions=("bf16",)) == ["onnx fp32", "biased bf16"]


def test_engines_for_a_gpu_need_one_or_their_name() -> None:
    assert names(gpu=True)[-2:] == ["on-gpu bf16", "on-gpu fp32"]
    assert names("on-gpu", precisions=("bf16",)) == ["onnx fp32", "on-gpu bf16"]


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="magic; expected some of onnx"):
        names("magic")
    with pytest.raises(UsageError, match="fp4; expected some of bf16, fp32"):
        names(precisions=("fp4",))


def test_only_precisions_of_this_machine_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Availability("openvino", "openvino 1", "a CPU", ("fp32",))
    monkeypatch.setattr(subjects, "availability", lambda engine: here)
    kinds = {"onnx": FOUND["onnx"], "openvino": KINDS["openvino"]}
    assert [one.precision for one in find_subjects((), (), kinds)[1:]] == ["fp32"]
    assert [one.precision for one in find_subjects((), ("bf16",), kinds)[1:]] == ["bf16"]


def test_an_engine_that_is_not_here_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Availability("openvino", None, None, (), "not installed", "pip install it")
    monkeypatch.setattr(subjects, "availability", lambda engine: absent)
    kinds = {"onnx": FOUND["onnx"], "openvino": KINDS["openvino"]}
    assert [one.name for one in find_subjects((), (), kinds)] == ["onnx fp32", "openvino bf16"]


def test_a_subject_survives_the_way_to_another_process() -> None:
    subject = Subject("onnx-cuda", "fp32", Kind(FAKES, "Reference", {"provider": "cuda"}, gpu=True))
    assert Subject.from_dict(json.loads(json.dumps(subject.to_dict()))) == subject


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_a_class_with_precisions(name: str) -> None:
    precisions = KINDS[name].precisions()
    assert precisions
    assert set(precisions) <= {"bf16", "fp16", "tf32", "fp32", "int8"}
