"""The optional 16-bit graphs of a package; test_trainer_export has that they are written."""

from __future__ import annotations

import logging
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

import trainer.package.typed
from strokecore.learned.package import OUTPUT_NAMES
from tests.unit.trainer.package.typed_cases import exported, graph, slices
from trainer.package.graph import run_onnx
from trainer.package.graph_types import infer_types
from trainer.package.typed import difference, rounded_graph, typed_networks
from trainer.package.typed_graph import PrecisionError, typed_graph

KINDS = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}


def arrays(shift: float = 0.0) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {"slices": slices(1)}
    for name, values in zip(OUTPUT_NAMES.values(), run_onnx(exported(), found["slices"]), strict=True):
        found[name] = values + np.float32(shift)
    return found


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_rounded_graph_computes_in_fp32_and_rounds_each_result(precision: str) -> None:
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(4, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    body = "g (float[n,4] x) => (float[n,4] y) { product = MatMul(x, w)  y = Add(product, b) }"
    content = rounded_graph(typed_graph(graph(body, w=weight, b=bias), precision))
    kinds = {found.kind for found in infer_types(onnx.load_model_from_string(content)).values()}
    assert onnx.TensorProto.FLOAT in kinds

    def rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return values.astype(KINDS[precision]).astype(np.float32)

    x = rng.normal(size=(50, 4)).astype(np.float32)
    expected = rounded(rounded(rounded(x) @ rounded(weight)) + rounded(bias))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, x @ weight + bias)


def test_a_graph_is_as_far_from_golden_outputs_as_its_answers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(exported(), arrays()) == 0
    assert difference(exported(), arrays(0.01)) == pytest.approx(0.01, abs=1e-6)
    bad = (np.zeros((1, 9, 2, 2), np.float32), np.full((1, 6, 2, 2), np.nan, np.float32))
    monkeypatch.setattr(trainer.package.typed, "run_onnx", lambda *_: bad)
    assert difference(exported(), arrays()) == np.inf


def test_graphs_whose_roundings_show_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert typed_networks(exported(), arrays(0.1)) == {}
    assert "no bf16 graph: in it probabilities differ by 0.1" in caplog.text
    assert "no fp16 graph" in caplog.text
    monkeypatch.setattr(trainer.package.typed, "run_onnx", lambda *_: (np.full((1, 9, 2, 2), np.nan),) * 2)
    assert typed_networks(exported(), arrays()) == {}
    assert "differ by inf" in caplog.text


def test_a_precision_that_cannot_be_had_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_fp16(network: bytes, precision: str) -> bytes:
        if precision == "fp16":
            raise PrecisionError("weights reach 1e6")
        return typed_graph(network, precision)

    monkeypatch.setattr(trainer.package.typed, "typed_graph", without_fp16)
    monkeypatch.setattr(trainer.package.typed, "TYPED_TOLERANCE", 0.1)  # random weights make much of noise
    with caplog.at_level(logging.WARNING):
        found = typed_networks(exported(), arrays())
    assert list(found) == ["bf16"]
    assert "no fp16 graph: weights reach 1e6" in caplog.text
