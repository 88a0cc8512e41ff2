from __future__ import annotations

from collections import Counter

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from strokecore.errors import ModelPackageError
from strokecore.learned.package import TYPED_PRECISIONS
from strokecore.learned.parity import large_difference
from tests.unit.learned.package_cases import mirror_network
from tests.unit.trainer.package.typed_cases import SIZE, exported, eye, graph, slices
from trainer.package.graph import run_onnx
from trainer.package.graph_types import infer_types
from trainer.package.precision_rule import MOVERS, PRODUCTS
from trainer.package.typed import rounded_graph
from trainer.package.typed_graph import PrecisionError, to_bf16, typed_graph

LAYERS = 4
LOW = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}
# 99.9th percentile of a probability's difference, twice what was measured: random weights make much of noise.
CLOSE = {"bf16": 4e-2, "fp16": 6e-3}


def typed(precision: str, content: bytes | None = None) -> onnx.ModelProto:
    return onnx.load_model_from_string(typed_graph(content or exported(), precision))


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {name: found.kind for name, found in infer_types(model).items()}


def nodes(model: onnx.ModelProto, *operators: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in operators]


def parsers_errors(content: bytes) -> list[str]:
    """What TensorRT's own ONNX parser (that of its edition for RTX) has against a strongly typed graph."""
    rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="no tensorrt-rtx-cu13-bindings and -libs here")
    logger = rtx.Logger(rtx.Logger.ERROR)
    network = rtx.Builder(logger).create_network()
    parser = rtx.OnnxParser(network, logger)
    return [] if parser.parse(content) else [str(parser.get_error(i)) for i in range(parser.num_errors)]


both = pytest.mark.parametrize("precision", TYPED_PRECISIONS)


@both
def test_every_type_fits_and_the_interface_is_unchanged(precision: str) -> None:
    model, source = typed(precision), onnx.load_model_from_string(exported())
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input == source.graph.input
    assert model.graph.output == source.graph.output
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    assert {TensorProto.FLOAT, LOW[precision], TensorProto.INT64} == set(kinds(model).values())


@both
def test_products_are_in_16_bits_but_scores_norms_and_tables_in_fp32(precision: str) -> None:
    model = typed(precision)
    kind = kinds(model)
    for node in nodes(model, "Softmax", "LayerNormalization"):
        assert {kind[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
    wide = [n for n in nodes(model, *PRODUCTS) if kind[n.output[0]] == TensorProto.FLOAT]
    # one score in each layer, and the last convolution of both arms
    assert Counter(node.op_type for node in wide) == {"MatMul": LAYERS, "Conv": 2}
    readers = {name: node for node in model.graph.node for name in node.input}
    assert {readers[n.output[0]].op_type for n in wide} == {"Softmax", "Resize"}
    assert len(nodes(model, *PRODUCTS)) == 8 * LAYERS + 24 + 2
    assert not nodes(model, "ConvTranspose")
    # cosines and sines turn queries and keys in fp32
    patches = SIZE[0] * SIZE[1] // 64
    tables = [c for c in model.graph.initializer if list(c.dims) == [patches, 16]]
    assert tables
    assert {c.data_type for c in tables} == {TensorProto.FLOAT}
    assert all(kind[readers[c.name].output[0]] == TensorProto.FLOAT for c in tables)


@both
def test_weights_are_stored_once_and_in_half_the_space(precision: str) -> None:
    model = typed(precision)
    names = [constant.name for constant in model.graph.initializer]
    assert len(set(names)) == len(names)
    low = [c for c in model.graph.initializer if c.data_type == LOW[precision]]
    source = {
        c.name: numpy_helper.to_array(c) for c in onnx.load_model_from_string(exported()).graph.initializer
    }
    for constant in low:
        value = source.get(constant.name.removesuffix(f"_{precision}"))
        if value is None:  # of a transposed convolution that was rewritten
            continue
        kind = ml_dtypes.bfloat16 if precision == "bf16" else np.float16
        assert np.array_equal(numpy_helper.to_array(constant), value.astype(kind))
    large = sum(value.nbytes for value in source.values() if value.ndim > 1 and value.size > 1000)
    assert sum(len(c.raw_data) for c in low) > 0.48 * large


@both
def test_no_cast_is_made_twice_or_undone(precision: str) -> None:
    model = typed(precision)
    kind = kinds(model)
    casts = nodes(model, "Cast")
    assert len({(c.input[0], kind[c.output[0]]) for c in casts}) == len(casts)
    assert all(kind[c.input[0]] != kind[c.output[0]] for c in casts)
    made = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    assert all(readers[c.output[0]] for c in casts)
    rounded = 0
    for cast in casts:
        before = made.get(cast.input[0])
        if before is not None and before.op_type == "Cast":
            # from fp32 to 16 bits and back: the operands of attention scores, and nothing else
            assert kind[cast.output[0]] == TensorProto.FLOAT
            assert kind[before.input[0]] == TensorProto.FLOAT
            rounded += 1
        elif kind[cast.output[0]] == LOW[precision]:
            while before is not None and before.op_type in MOVERS:
                before = made.get(before.input[0])
            assert before is None or before.op_type != "Cast"  # widened, moved and narrowed again
    assert rounded == 2 * LAYERS


@both
def test_the_same_network_gives_the_same_bytes(precision: str) -> None:
    assert typed_graph(exported(), precision) == typed_graph(exported(), precision)


@both
def test_only_the_number_of_slices_is_free(precision: str) -> None:
    model = typed(precision)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 5
    del model.graph.value_info[:]
    found = infer_types(model)
    assert [name for name, tensor in found.items() if tensor.free_axes != 0] == []


@both
def test_tensorrt_knows_every_operator_in_its_type(precision: str) -> None:
    """By NVIDIA's own parser, and by the restrictions of its documentation on what is used here."""
    assert parsers_errors(typed_graph(exported(), precision)) == []
    for node in nodes(typed(precision), "LayerNormalization", "Resize"):
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Resize":
            assert (values["mode"], values["coordinate_transformation_mode"]) == (b"linear", b"half_pixel")
            assert not values["antialias"]
            assert values["keep_aspect_ratio_policy"] == b"stretch"
            assert "axes" not in values
        assert len(node.output) == 1


def answers(content: bytes) -> npt.NDArray[np.float32]:
    return np.concatenate(run_onnx(content, slices()), axis=1)


@both
def test_rounded_to_16_bits_the_answers_stay_close(precision: str) -> None:
    reference, found = answers(exported()), answers(rounded_graph(typed_graph(exported(), precision)))
    assert reference.std() > 0.2  # probabilities from 0 to 1, where roundings show
    assert large_difference(found, reference) < CLOSE[precision]
    # and bf16, which keeps 3 bits less, shows that roundings are there
    assert large_difference(found, reference) > CLOSE[precision] / 20


def test_the_fp16_graph_runs_in_onnx_runtime() -> None:
    difference = large_difference(answers(typed_graph(exported(), "fp16")), answers(exported()))
    assert 0 < difference < CLOSE["fp16"]


def test_a_residual_stream_beyond_fp16_is_none_of_its_business() -> None:
    content = exported(layer_scale=5e6)
    source = onnx.load_model_from_string(content)
    norms = [node.input[0] for node in nodes(source, "LayerNormalization")]
    source.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in norms)
    largest = run_all(source, norms)
    assert largest > 65504
    # one channel a million times the others is all that norms see of them, so this is only nearly the same
    fp16, reference = answers(rounded_graph(typed_graph(content, "fp16"))), answers(content)
    assert np.isfinite(fp16).all()
    assert large_difference(fp16, reference) < 0.05


def run_all(model: onnx.ModelProto, names: list[str]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return max(float(np.abs(value).max()) for value in session.run(names, {"slices": slices()}))


@both
def test_a_gated_network_and_one_without_attention_are_typed_too(precision: str) -> None:
    gated = typed(precision, exported(gated_mlp=True))
    kind = kinds(gated)
    products = Counter(kind[node.output[0]] for node in nodes(gated, "MatMul"))
    assert products == {LOW[precision]: 8 * LAYERS, TensorProto.FLOAT: LAYERS}
    content = mirror_network()  # its only product gives class logits
    assert kinds(typed(precision, content)) == kinds(onnx.load_model_from_string(content))


def test_results_in_16_bits_are_cast_back_under_their_names() -> None:
    body = """
    g (float[n,4] x) => (float[n,4] y, float[n,4] z) {
      y = MatMul(x, w)
      z = Relu(y)
    }"""
    model = typed("bf16", graph(body, w=eye()))
    assert [node.op_type for node in model.graph.node] == ["Cast", "MatMul", "Cast", "Relu", "Cast"]
    assert nodes(model, "Relu")[0].input[0] == nodes(model, "MatMul")[0].output[0]
    assert [value.name for value in model.graph.output] == ["y", "z"]
    assert {kinds(model)[name] for name in "xyz"} == {TensorProto.FLOAT}


def test_tensorrt_has_no_transposed_convolution_in_bf16() -> None:
    body = """
    g (float[n,4,6,6] x) => (float[n,4,h,w] y) {
      features = Conv(x, w1)
      y = ConvTranspose <strides = [2, 2]> (features, w3)
    }"""
    weights = {"w1": np.ones((4, 4, 1, 1), np.float32), "w3": np.ones((4, 4, 3, 3), np.float32)}
    for precision, expected in (("bf16", TensorProto.FLOAT), ("fp16", TensorProto.FLOAT16)):
        model = typed(precision, graph(body, **weights))
        (node,) = nodes(model, "ConvTranspose")
        assert {kinds(model)[name] for name in (*node.input, *node.output)} == {expected}
        assert parsers_errors(model.SerializeToString()) == []


def test_inputs_with_a_type_of_their_own_keep_it() -> None:
    body = """
    g (float[n,4,6,6] x) => (float[n,4,12,12] y) {
      features = Conv(x, w)
      large = Resize <mode = "linear"> (features, , scales)
      y = Conv(large, w)
    }"""
    scales = np.float32([1, 1, 2, 2])
    model = typed("bf16", graph(body, w=np.ones((4, 4, 1, 1), np.float32), scales=scales))
    (resize,) = nodes(model, "Resize")
    kind = kinds(model)
    assert [kind[name] for name in (resize.input[0], resize.input[2])] == [LOW["bf16"], TensorProto.FLOAT]


@pytest.mark.parametrize("large", [65505.0, 1e6, np.inf, np.nan])
def test_weights_beyond_fp16_are_refused_by_name(large: float) -> None:
    weight = eye()
    weight[1, 2] = -large
    content = graph("g (float[n,4] x) => (float[n,4] y) { y = MatMul(x, heavy) }", heavy=weight)
    with pytest.raises(PrecisionError, match=r"weights heavy reach .* ends at 65504; use bf16 or fp32"):
        typed_graph(content, "fp16")
    if np.isfinite(large):
        typed_graph(content, "bf16")
    else:
        with pytest.raises(PrecisionError, match="use fp32"):
            typed_graph(content, "bf16")


def test_the_largest_fp16_number_is_taken() -> None:
    content = graph("g (float[n,4] x) => (float[n,4] y) { y = MatMul(x, w) }", w=eye(times=65504.0))
    (weight,) = typed("fp16", content).graph.initializer
    assert numpy_helper.to_array(weight).max() == 65504.0


RELU = "g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }"
BRANCHES = """
g (float[4] x, bool c) => (float[4] y) {
  y = If (c) <then_branch = t () => (float[4] a) { a = Relu(x) },
              else_branch = e () => (float[4] b) { b = Neg(x) }>
}"""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (graph(RELU, opset=19), "has opset 19"),
        (graph(BRANCHES), "has subgraphs"),
        (graph(RELU.replace("float[", "float16[")), "has tensors of FLOAT16"),
    ],
)
def test_other_kinds_of_graphs_are_refused(content: bytes, words: str) -> None:
    with pytest.raises(PrecisionError, match=f"{words}.* Export the model again, or use fp32"):
        typed_graph(content, "bf16")


def test_what_is_no_graph_is_a_damaged_package() -> None:
    for content in (b"not a graph", mirror_network()[:-9]):
        with pytest.raises(ModelPackageError, match=f"of {len(content)} bytes is no ONNX graph"):
            typed_graph(content, "bf16")
    with pytest.raises(PrecisionError, match="opset 0"):
        typed_graph(b"", "bf16")


def test_a_graph_that_contradicts_itself_is_a_damaged_package() -> None:
    content = graph("g (float[n,4] x) => (float[n,4] y) { y = MatMul(x, w) }", w=np.zeros((5, 4), np.float32))
    with pytest.raises(ModelPackageError, match="contradicts itself"):
        typed_graph(content, "bf16")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "int8", ""])
def test_other_precisions_have_no_graph(precision: str) -> None:
    with pytest.raises(PrecisionError, match=f"precision is '{precision}'"):
        typed_graph(exported(), precision)


def test_rounding_to_bf16_is_to_nearest_and_ties_to_even() -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, 100_000, dtype=np.uint32)
    ties = np.arange(0, 2**32, 2**15, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate([bits, ties]).view(np.float32)
    values = values[np.abs(values) <= float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)]
    assert values.size > 100_000
    assert np.array_equal(to_bf16(values), values.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.study
@pytest.mark.parametrize("backbone", ["vits16", "vitb16"])
def test_networks_of_the_papers_size(backbone: str) -> None:
    """Random weights at 512 x 416: 3 GB of memory and some minutes of one core for ViT-B."""
    import torch

    from trainer.network.vit_dpt import NetworkConfig, StrokeNet
    from trainer.package.graph import to_onnx

    torch.manual_seed(0)
    size = (512, 416)
    content = to_onnx(StrokeNet(NetworkConfig(backbone, features=64)).eval().requires_grad_(False), size)
    one = np.random.default_rng(1).normal(size=(1, 3, *size)).astype(np.float32)
    reference = np.concatenate(run_onnx(content, one), axis=1)
    for precision in TYPED_PRECISIONS:
        found = typed_graph(content, precision)
        assert len(found) < 0.51 * len(content)
        assert parsers_errors(found) == []
        onnx.checker.check_model(onnx.load_model_from_string(found), full_check=True)
        answer = np.concatenate(run_onnx(rounded_graph(found), one), axis=1)
        assert large_difference(answer, reference) < (1e-3 if precision == "bf16" else 1e-4)
