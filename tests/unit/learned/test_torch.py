from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.cuda_graphs import Recording, Recordings
from strokecore.learned.onnx import OnnxEngine
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.shipped import SHIPPED
from strokecore.learned.torch import TorchEngine
from strokecore.learned.torch_network import TorchNetwork, read_graph
from strokecore.learned.torch_settings import torch_settings
from tests.unit.learned.network_cases import (
    SPEC,
    nano_backbones,
    random_network,
    random_slices,
    write_network_package,
)
from tests.unit.learned.package_cases import mirror_network, write_package
from trainer.network.network import StrokeNet
from trainer.package.graph import ProbabilityNet

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
Packages = dict[str, tuple[ModelPackage, StrokeNet]]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packages]:
    """Networks with weights drawn at random, and what torch itself makes of them."""
    folder = tmp_path_factory.mktemp("torch")
    with nano_backbones():
        nets = {name: random_network(name) for name in ("nano", "nano-gated")}
        yield {name: (load_package(write_network_package(folder / name, n)), n) for name, n in nets.items()}


@pytest.fixture(scope="module")
def package(packages: Packages) -> ModelPackage:
    return packages["nano"][0]


def largest(found: Any, expected: Any) -> float:
    return max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["nano", "nano-gated"])
def test_it_computes_what_the_class_and_onnx_runtime_do(name: str, packages: Packages) -> None:
    package, net = packages[name]
    slices = random_slices(3)
    found = TorchEngine(package, "fp32", 1, device="cpu").run(slices)
    assert np.ptp(found[0]) > 0.5  # else everything is alike
    with torch.inference_mode():
        expected = [arm.numpy() for arm in ProbabilityNet(net)(torch.from_numpy(slices))]
    assert largest(found, expected) < 1e-5
    assert largest(found, OnnxEngine(package, threads=1).run(slices)) < 1e-5


def test_it_gives_the_shipped_models_golden_answers() -> None:
    package = load_package(SHIPPED)
    with np.load(package.golden, allow_pickle=False) as file:
        slices, golden = file["slices"], (file["bg_probability"], file["sg_probability"])
    assert largest(TorchEngine(package, "fp32", 1, device="cpu").run(slices), golden) < 1e-4


def test_attention_and_products_are_run_as_a_whole(package: ModelPackage) -> None:
    """Not needed to be right, but to be quick: a change of the exporter would lose it in silence."""
    joined = TorchNetwork(read_graph(package.onnx), CPU, torch.float32)
    nodes = read_graph(package.onnx).nodes
    by_type = {op: sum(node.op == op for node in nodes) for op in ("MatMul", "Softmax")}
    layers, arms = 4, 2
    assert by_type == {"MatMul": layers * 8, "Softmax": layers + arms}
    # of each layer: softmax and scores go into one step, and five of six constant products take their bias
    assert len(joined._steps) == len(nodes) - layers * (2 + 5)


def test_with_bf16_products_the_answer_is_near_and_the_rest_stays_fp32(packages: Packages) -> None:
    package, _ = packages["nano"]
    slices = random_slices(3)
    network = TorchNetwork(read_graph(package.onnx), CPU, torch.bfloat16)
    with torch.inference_mode():
        found = network(torch.from_numpy(slices))
    assert [arm.dtype for arm in found] == [torch.float32] * 2
    off = largest([arm.numpy() for arm in found], OnnxEngine(package, threads=1).run(slices))
    assert 1e-4 < off < 0.1


def test_values_are_let_go_when_nobody_reads_them_any_more(package: ModelPackage) -> None:
    network = TorchNetwork(read_graph(package.onnx), CPU, torch.float32)
    made: set[str] = set()
    most = 0
    for step in network._steps:
        assert all(n in made or n in network._constants or n in ("slices", "") for n in step.inputs)
        made |= set(step.outputs)
        most = max(most, len(made))
        made -= set(step.dead)
    assert made == {"bg_probability", "sg_probability"}
    assert most < 20


def test_batches_do_not_change_the_answer(package: ModelPackage) -> None:
    engine = TorchEngine(package, "fp32", 1, device="cpu")
    slices = random_slices(5)
    whole = engine.run(slices)
    engine.batch = 2
    assert largest(engine.run(slices), whole) < 1e-6


def test_it_says_what_it_is(package: ModelPackage) -> None:
    engine = TorchEngine(package, "fp32", 2, device="cpu")
    assert (engine.engine, engine.precision, engine.on_gpu) == ("torch", "fp32", False)
    assert engine.device.endswith(", 2 threads")
    assert engine.library == f"torch {torch.__version__}"


def test_a_closed_engine_says_so(package: ModelPackage) -> None:
    engine = TorchEngine(package, "fp32", 1, device="cpu")
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(random_slices(1))


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_on_the_cpu_there_is_fp32_only(precision: str, package: ModelPackage) -> None:
    with pytest.raises(EngineError, match=f"torch in {precision} needs an NVIDIA GPU"):
        TorchEngine(package, precision, 1, device="cpu")


def test_an_older_gpu_has_fp32_only(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Old")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(EngineError, match=r"NVIDIA Old has compute capability 7\.5, and bf16 needs 8\.0"):
        TorchEngine(package, "bf16", 1)


def test_without_a_gpu_cuda_cannot_be_had(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for build, remedy in ((None, "install torch's build for CUDA"), ("13.0", "look at nvidia-smi")):
        monkeypatch.setattr(torch.version, "cuda", build)
        with pytest.raises(EngineError, match=f"sees no NVIDIA GPU; {remedy}"):
            TorchEngine(package, "fp32", 1, device="cuda")
    assert not TorchEngine(package, "fp32", 1).on_gpu


@pytest.mark.parametrize("missing", ["torch", "onnx"])
def test_a_missing_library_is_named_with_its_command(
    missing: str, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EngineError, match="pip install"):
        TorchEngine(package, "fp32", 1, device="cpu")


def test_a_file_that_is_no_graph_is_an_engine_error(tmp_path: Path) -> None:
    broken = load_package(write_package(tmp_path / "model", network=b"not a graph"))
    with pytest.raises(EngineError, match=r"model\.onnx cannot be read as ONNX"):
        TorchEngine(broken, "fp32", 1, device="cpu")


def test_a_graph_that_is_not_the_described_one_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "model", network=mirror_network(classes=(6, 6)))
    with pytest.raises(ModelPackageError, match=r"has tensors .*expected"):
        TorchEngine(load_package(package), "fp32", 1, device="cpu")


def test_an_operation_that_it_does_not_know_is_named(tmp_path: Path) -> None:
    model = onnx.load_from_string(mirror_network())
    model.graph.node[0].op_type = "Einsum"
    package = load_package(write_package(tmp_path / "model", network=model.SerializeToString()))
    with pytest.raises(EngineError, match="does not know the operation Einsum; use another engine"):
        TorchEngine(package, "fp32", 1, device="cpu")


def test_a_product_whose_bias_is_used_twice_stays_as_it_is() -> None:
    """The sum takes the product only when nobody else reads it."""
    shape = ["n", 4]
    nodes = [
        helper.make_node("MatMul", ["slices", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["bg_probability"]),
        helper.make_node("Relu", ["product"], ["sg_probability"]),
    ]
    rng = np.random.default_rng(0)
    matrix, bias = rng.normal(size=(4, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("slices", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
            for n in ("bg_probability", "sg_probability")
        ],
        [onnx.numpy_helper.from_array(matrix, "matrix"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    bg, sg = run_model(model, x)
    assert np.abs(bg - (x @ matrix + bias)).max() < 1e-5
    assert np.abs(sg - np.maximum(x @ matrix, 0)).max() < 1e-5


def run_model(model: onnx.ModelProto, x: Any) -> tuple[Any, Any]:
    path = Path(os.environ["STROKECORE_CACHE"]) / "one.onnx"
    path.write_bytes(model.SerializeToString())
    network = TorchNetwork(read_graph(path), CPU, torch.float32)
    bg, sg = network(torch.from_numpy(x))
    return bg.numpy(), sg.numpy()


def state() -> tuple[Any, ...]:
    cudnn = torch.backends.cudnn
    return (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        cudnn.allow_tf32,
        cudnn.benchmark,
        cudnn.deterministic,
        torch.is_inference_mode_enabled(),
    )


@pytest.mark.parametrize("tf32", [False, True])
def test_settings_of_the_process_are_as_they_were(tf32: bool, package: ModelPackage) -> None:
    before = state()
    with torch_settings(before[0] + 1, tf32=tf32):
        assert state()[:4] == (before[0] + 1, "high" if tf32 else "highest", tf32, tf32)
        assert state()[4:6] == (False, True)
    assert state() == before
    with pytest.raises(RuntimeError), torch_settings(before[0] + 1, tf32=tf32):
        raise RuntimeError("in between")
    assert state() == before
    TorchEngine(package, "fp32", before[0] + 1, device="cpu").run(random_slices(1))
    assert state() == before


def test_it_works_with_the_threads_it_was_given(package: ModelPackage) -> None:
    engine = TorchEngine(package, "fp32", 3, device="cpu")
    seen = []
    network = engine._network
    assert network is not None
    engine._network = lambda slices: (seen.append(torch.get_num_threads()), network(slices))[1]  # type: ignore[assignment]
    engine.run(random_slices(1))
    assert seen == [3]


def test_the_engine_needs_neither_transformers_nor_a_heavy_import() -> None:
    code = (
        "import sys\nimport strokecore.learned.torch\nassert 'torch' not in sys.modules\n"
        "import strokecore.learned.torch_network, strokecore.learned.cuda_graphs\n"
        "assert 'transformers' not in sys.modules\nassert 'onnx' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# CUDA graphs, with a recording that is a call: what is padded, copied and kept can be seen without a GPU.


class FakeRecorder:
    """Records the mean of a slice as both answers; fails for more than ``room`` slices."""

    def __init__(self, room: int = 64) -> None:
        self.room = room
        self.recorded: list[int] = []
        self.replayed: list[int] = []

    def __call__(self, slices: torch.Tensor) -> Recording:
        batch = len(slices)
        if batch > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.recorded.append(batch)
        bg, sg = torch.zeros(batch, 9, *SPEC.size), torch.zeros(batch, 6, *SPEC.size)

        def replay() -> None:
            self.replayed.append(batch)
            bg[:], sg[:] = slices.mean((1, 2, 3))[:, None, None, None], 7.0

        return Recording(slices, bg, sg, replay)


@pytest.fixture
def recorder() -> FakeRecorder:
    return FakeRecorder()


@pytest.fixture
def engine(package: ModelPackage, recorder: FakeRecorder) -> TorchEngine:
    """An engine that believes in recordings, on the CPU."""
    made = TorchEngine(package, "fp32", 1, device="cpu")
    made.batch = 64
    made._recordings = Recordings(lambda: recorder, (3, *SPEC.size), CPU)
    return made


def right(found: Any, slices: Any) -> bool:
    means = slices.mean((1, 2, 3))[:, None, None, None]
    return bool(np.abs(found[0] - means).max() < 1e-6 and (found[1] == 7).all())


def test_slices_are_padded_to_the_next_recording(engine: TorchEngine, recorder: FakeRecorder) -> None:
    for number, batches in ((30, [32]), (34, [32, 2]), (70, [64, 8]), (1, [1])):
        recorder.replayed.clear()
        slices = random_slices(number, seed=number)
        assert right(engine.run(slices), slices)
        assert recorder.replayed == batches
    assert recorder.recorded == [32, 2, 64, 8, 1]  # each once


def test_answers_of_an_earlier_run_stay_as_they_were(engine: TorchEngine) -> None:
    first, second = random_slices(3, seed=1), random_slices(3, seed=2)
    kept = engine.run(first)
    engine.run(second)
    assert right(kept, first)


def test_without_memory_recordings_are_made_anew_for_fewer(
    engine: TorchEngine, recorder: FakeRecorder
) -> None:
    few = random_slices(4, seed=3)
    assert right(engine.run(few), few)
    recorder.room = 8
    many = random_slices(30, seed=4)
    assert right(engine.run(many), many)
    assert engine.batch == 8
    assert recorder.replayed == [4, 8, 8, 8, 8]
    assert recorder.recorded == [4, 8]
    assert right(engine.run(few), few)
    assert recorder.recorded == [4, 8, 4]  # the earlier one was let go with the rest


def test_without_memory_for_one_slice_the_next_engine_takes_over(
    engine: TorchEngine, recorder: FakeRecorder
) -> None:
    recorder.room = 0
    with pytest.raises(EngineError, match="no memory left for even one slice of 64 x 48"):
        engine.run(random_slices(2))


@pytest.mark.parametrize("kind", [RuntimeError, getattr(torch, "AcceleratorError", RuntimeError)])
def test_a_lost_device_is_an_engine_error(
    kind: type[Exception], engine: TorchEngine, recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: object, slices: torch.Tensor) -> Recording:
        raise kind("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    monkeypatch.setattr(FakeRecorder, "__call__", lost)
    with pytest.raises(EngineError, match=r"failed on .*: CUDA error: an illegal memory access was encount"):
        engine.run(random_slices(2))
    assert recorder.recorded == []
