"""What strokecore calls of TensorRT and CUDA, read out of its own source, and the types that it declares."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from strokecore.learned import tensorrt_api

SOURCE = Path(tensorrt_api.__file__).parents[1]
# The variable that holds the module is called so everywhere.
MODULE = "trt"


@cache
def used_of_trt() -> dict[tuple[str, ...], bool]:
    """Names used of the module, such as ("BuilderFlag", "TF32"); True where the code lives without it too."""
    used: dict[tuple[str, ...], bool] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text("utf-8")
        if MODULE not in text:
            continue
        tree = ast.parse(text)
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and id(node) not in inner and (names := _chain(node)):
                used[names] = False
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "getattr"
                and len(node.args) == 3
                and (names := _chain(node.args[0]))
                and isinstance(node.args[1], ast.Constant)
            ):
                used.setdefault((*names, str(node.args[1].value)), True)
    return used


def _chain(node: ast.expr) -> tuple[str, ...]:
    """("BuilderFlag", "TF32") of trt.BuilderFlag.TF32 or self._trt.BuilderFlag.TF32; empty for others."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        if node.attr == f"_{MODULE}":
            return tuple(reversed(names))
        names.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id == MODULE:
        return tuple(reversed(names))
    return ()


def declared() -> dict[str, type]:
    """The types of tensorrt_api by TensorRT's name."""
    return {
        name: value
        for name, value in vars(tensorrt_api).items()
        if isinstance(value, type)
        and value.__module__ == tensorrt_api.__name__
        and getattr(value, "_is_protocol", False)
    }


def members(declaration: type) -> Iterator[tuple[str, Any]]:
    """(name, inspect.Signature) of every method, and (name, None) of every property."""
    for name in declaration.__annotations__:
        yield name, None
    for name, value in vars(declaration).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            yield name, inspect.signature(value)


def used_of_cuda() -> set[str]:
    """Functions of libcuda that are named in the source."""
    return {
        node.value
        for path in (SOURCE / "engines" / "cuda.py", SOURCE / "engines" / "devices.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"cu[A-Z]\w+", node.value)
    }
