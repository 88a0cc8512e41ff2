"""docs/codes.md lists every code that the package can emit, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from strokecore.scoring import quality

ROOT = Path(__file__).resolve().parents[2]
# functions and classes whose first argument is a code; local helpers included
EMITTERS = {"Refusal", "QualityFlag", "refuse", "warn", "inform"}
# functions that return a code, alone or with its reason
RETURNERS = {"exclusion", "_not_assessable"}


def text_of(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def codes_of(tree: ast.Module) -> Iterator[str | None]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EMITTERS:
            # a flag that is read back from result.json has no code of its own
            yield from map(text_of, node.args[:1])
        if isinstance(node, ast.FunctionDef) and node.name in RETURNERS:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    value = inner.value
                    yield text_of(value.elts[0] if isinstance(value, ast.Tuple) else value)


def emitted() -> set[str]:
    found = set(quality._UNCERTAIN)
    for path in (ROOT / "strokecore").rglob("*.py"):
        found |= {code for code in codes_of(ast.parse(path.read_text())) if code}
    return found


def test_every_code_is_documented_once_and_no_other() -> None:
    documented = re.findall(r"^\| `([a-z_]+)` \|", (ROOT / "docs" / "codes.md").read_text(), re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == emitted()
    assert {"internal_error", "under_age", "missing_slice", "contrast_agent", "gantry_tilt"} <= emitted()


def test_every_reason_of_a_region_becomes_a_warning() -> None:
    tree = ast.parse((ROOT / "strokecore" / "scoring" / "aspects.py").read_text())
    words = {text_of(node) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert set(quality._UNCERTAIN) <= words
    assert {code for code in codes_of(tree) if code} <= set(quality._UNCERTAIN)
