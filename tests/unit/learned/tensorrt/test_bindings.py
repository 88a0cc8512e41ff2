"""Every name that strokecore calls of TensorRT and of CUDA's driver, against NVIDIA's published bindings.

The names are read out of the source. Names and arguments of TensorRT are compared with the bindings of
TensorRT for RTX, which can be imported without a GPU and come from the same source as TensorRT's own; those
cannot be imported without TensorRT's libraries, so that only the names are looked for in their file. The
stand-ins of the other tests are compared as well. Skipped where the wheels are not installed (extra "dev").
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from strokecore.learned import devices
from strokecore.learned.tensorrt import build, library, runtime
from tests.unit.learned.cuda_fake import L4, FakeDriver
from tests.unit.learned.tensorrt import fakes

MODULES = (runtime, build, library, devices)
# What the source calls an object, and its class in TensorRT; of two that are called alike, in each module.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "shapes": "IOptimizationProfile",
    "cache": "ITimingCache",
    "measured": "ITimingCache",
    "_runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
}
CONFIGS = {runtime: "IRuntimeConfig", build: "IBuilderConfig"}
# Only the edition for RTX has them, and is_rtx asks for it.
ONLY_RTX = {
    "ComputeCapability",
    "DynamicShapesKernelSpecializationStrategy",
    "EAGER",
    "dynamic_shapes_kernel_specialization_strategy",
    "num_compute_capabilities",
    "set_compute_capability",
}


class Use(NamedTuple):
    """``owner.name``, called with so many arguments; None for an attribute that is read or set."""

    owner: str
    name: str
    arguments: int | None


def uses() -> Iterator[Use]:
    for module in MODULES:
        names = {**CLASSES, "config": CONFIGS.get(module, ""), "driver": "driver", "trt": "trt"}
        tree = ast.parse(Path(module.__file__ or "").read_text("utf-8"))
        called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            call = called.get(id(node))
            arguments = None
            if call is not None:
                starred = any(isinstance(argument, ast.Starred) for argument in call.args)
                # 4: the input's name and a profile's three shapes
                arguments = 4 if starred else len(call.args) + len(call.keywords)
                arguments -= node.attr == "__init__"  # which is given self
            owner = node.value
            if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
                if owner.value.id == "trt" and not owner.attr.startswith("__"):  # a member of an enum
                    yield Use(owner.attr, node.attr, arguments)
                elif owner.value.id == "self" and owner.attr in names:
                    yield Use(names[owner.attr], node.attr, arguments)
            elif isinstance(owner, ast.Name) and names.get(owner.id):
                yield Use(names[owner.id], node.attr, arguments)


USES = sorted(set(uses()), key=str)


def parameters(signature: str) -> tuple[int, int]:
    """Fewest and most arguments of "name(self: Class, a: int, b: int = 0) -> None", without self."""
    inside = re.sub(r"<[^>]*>|\[[^\]]*\]", "", signature[signature.index("(") + 1 : signature.rindex(")")])
    found = [part.strip() for part in inside.split(",") if part.strip()]
    found = found[1:] if found and found[0].startswith("self") else found
    return sum(" = " not in part for part in found), len(found)


def signatures(member: Any) -> list[str]:
    """Those of pybind11's docstring, which numbers overloads."""
    lines = (member.__doc__ or "").splitlines()
    return [re.sub(r"^\d+\. ", "", line) for line in lines if "(self" in line and "->" in line]


def fits(arguments: int, signature: str) -> bool:
    fewest, most = parameters(signature)
    return fewest <= arguments <= most


def test_the_source_is_read() -> None:
    assert Use("IExecutionContext", "execute_async_v3", 1) in USES
    assert Use("IRuntimeConfig", "set_execution_context_allocation_strategy", 1) in USES
    assert Use("IOptimizationProfile", "set_shape", 4) in USES
    assert Use("ICudaEngine", "get_tensor_name", None) in USES
    assert Use("BuilderFlag", "TF32", None) in USES
    assert Use("driver", "cuMemAlloc", 1) in USES
    assert len({use.owner for use in USES}) > 15


def test_names_and_arguments_are_tensorrts() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="no tensorrt-rtx-cu13-bindings and -libs here")
    for use in USES:
        if use.owner == "driver":
            continue
        owner = trt if use.owner == "trt" else getattr(trt, use.owner)
        member = getattr(owner, use.name)
        if use.arguments is None or use.owner == "trt":
            continue
        found = signatures(member)
        assert any(fits(use.arguments, signature) for signature in found), (use, found)
    for name in ("Builder", "OnnxParser", "Runtime"):
        made = next(use for use in USES if use.owner == "trt" and use.name == name)
        assert any(fits(made.arguments or 0, text) for text in signatures(getattr(trt, name).__init__)), name
    assert isinstance(inspect.getattr_static(trt.IBuilderConfig, "max_aux_streams"), property)


def test_the_names_are_in_tensorrts_own_bindings() -> None:
    found = importlib.util.find_spec("tensorrt_bindings")
    if found is None or found.origin is None:
        pytest.skip("no tensorrt-cu13-bindings here")
    content = Path(found.origin).with_name("tensorrt.so").read_bytes()
    missing = {
        name
        for use in USES
        if use.owner != "driver"
        for name in (use.owner, use.name)
        # a string may be stored as the end of a longer one
        if name not in ("trt", "__name__", "__version__") and name.encode() + b"\0" not in content
    }
    assert missing == ONLY_RTX


def test_functions_and_their_arguments_are_the_drivers() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="no cuda-bindings here")
    for use in USES:
        if use.owner == "driver" and use.arguments is not None:
            signature = getattr(driver, use.name).__doc__.splitlines()[0]
            assert fits(use.arguments, signature), (use, signature)
        elif use.owner == "driver":
            assert hasattr(driver, use.name), use
    assert driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY.name == "CUDA_ERROR_OUT_OF_MEMORY"
    assert driver.CUresult.CUDA_SUCCESS.name == "CUDA_SUCCESS"
    fake = FakeDriver(L4)
    about = driver.CUdevice_attribute
    for name, number in vars(fake.CUdevice_attribute).items():
        assert getattr(about, name) == number
    assert fake.CUstream_flags.CU_STREAM_NON_BLOCKING == driver.CUstream_flags.CU_STREAM_NON_BLOCKING


def test_the_stand_ins_have_these_arguments() -> None:
    for use in USES:
        kind = {
            "ICudaEngine": fakes.FakeEngine,
            "IExecutionContext": fakes.FakeContext,
            "driver": FakeDriver,
        }.get(use.owner)
        if kind is None or use.arguments is None:
            continue
        assert len(inspect.signature(getattr(kind, use.name)).parameters) - 1 == use.arguments, use
