"""Every TensorRT name that strokecore calls, against what the vendor's bindings of several versions offer.

tensorrt_record.json was read out of the bindings' wheels by tensorrt_record.py; where a wheel of the bindings
is installed (tensorrt-cu13-bindings, 1.3 MB, needs no GPU), the record is compared with it as well.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.learned import tensorrt_fake_build, tensorrt_fake_run
from tests.unit.learned.cuda_fake import FakeCuda
from tests.unit.learned.tensorrt_fake import FakeTensorRt
from tests.unit.learned.tensorrt_fake_base import RECORD, VERSIONS, Strict
from tests.unit.learned.tensorrt_record import look, without_needs
from tests.unit.learned.tensorrt_uses import SOURCE, declared, members, used_of_trt

INSTALLED = importlib.util.find_spec("tensorrt_bindings")
# Made up by no class: attributes of the module itself and methods of str.
NO_CLASS = {"__version__"}


def parameters(signature: str) -> list[str]:
    """["index"] of "get_input(self: INetworkDefinition, index: typing.SupportsInt) -> ITensor"."""
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    inside = re.sub(r"<[^>]*>|\[[^\]]*\]", "", inside)
    return [part.split(":")[0].strip() for part in inside.split(",")][1:]


def optional(signature: str) -> int:
    """How many parameters have a default."""
    return signature[: signature.rindex(") ->")].count(" = ")


def test_the_oldest_and_the_newest_versions_were_read() -> None:
    assert VERSIONS == ["10.16.1.11", "10.3.0", "11.0.0.114", "11.4.0.106"]


def test_the_source_is_read() -> None:
    used = used_of_trt()
    assert ("Builder",) in used
    assert ("BuilderFlag", "TF32") in used
    assert used["PreviewFeature", "RUNTIME_ACTIVATION_RESIZE_10_10"]


@pytest.mark.parametrize("version", VERSIONS)
def test_names_of_the_module(version: str) -> None:
    classes, enums = RECORD[version]["classes"], RECORD[version]["enums"]
    for (name, *rest), lives_without in used_of_trt().items():
        if name in NO_CLASS:
            continue
        table = enums.get(name) or classes[name]
        assert lives_without or all(member in table for member in rest), (name, *rest)


def test_names_that_are_not_everywhere_are_somewhere() -> None:
    for (name, *rest), lives_without in used_of_trt().items():
        if lives_without:
            assert any(rest[0] in RECORD[version]["enums"][name] for version in VERSIONS), (name, *rest)


@pytest.mark.parametrize("version", VERSIONS)
def test_methods_and_their_arguments(version: str) -> None:
    for name, declaration in declared().items():
        if name in RECORD[version]["enums"]:
            continue
        table = RECORD[version]["classes"][name]
        for member, signature in members(declaration):
            where = f"{name}.{member} in TensorRT {version}"
            assert member in table, where
            if signature is None:
                assert table[member] in ("property", "settable property"), where
                continue
            ours = list(signature.parameters)[1:]
            offered = [
                theirs
                for text in table[member]
                if (theirs := parameters(text))[: len(ours)] == ours
                and len(theirs) - optional(text) <= len(ours)
            ]
            assert offered, f"{where}: {ours} is not among {table[member]}"


@pytest.mark.parametrize("version", VERSIONS)
def test_answers(version: str) -> None:
    """What a method is said to return is what the bindings return, but for None and buffers."""
    same = {
        "list[Sequence[int]]": "list[Dims]",
        "Sequence[int]": "Dims",
        "ParserError": "nvonnxparser::IParserError",
    }
    for name, declaration in declared().items():
        for member, signature in members(declaration):
            if signature is None or signature.return_annotation == "Any":
                continue
            ours = signature.return_annotation.removesuffix(" | None")
            theirs = [text.split("-> ")[-1] for text in RECORD[version]["classes"][name][member]]
            expected = same.get(ours, ours)
            assert expected in [text.replace("List[", "list[") for text in theirs], (name, member, theirs)


def test_nothing_is_declared_that_is_not_called() -> None:
    text = "".join(path.read_text("utf-8") for path in sorted((SOURCE / "engines").glob("tensorrt*.py")))
    text = text.replace((SOURCE / "engines" / "tensorrt_api.py").read_text("utf-8"), "")
    unused = [
        f"{name}.{member}"
        for name, declaration in declared().items()
        for member, _ in members(declaration)
        if not re.search(rf"\.{member}\b", text)
    ]
    assert unused == []


def test_max_aux_streams_can_be_set() -> None:
    for version in VERSIONS:
        assert RECORD[version]["classes"]["IBuilderConfig"]["max_aux_streams"] == "settable property"


def test_eleven_knows_no_precision_flags() -> None:
    flags = {version: set(RECORD[version]["enums"]["BuilderFlag"]) for version in VERSIONS}
    assert {"FP16", "BF16"} <= flags["10.3.0"]
    assert not {"FP16", "BF16"} & flags["11.0.0.114"]
    assert RECORD["10.3.0"]["enums"]["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == 1
    assert RECORD["11.4.0.106"]["enums"]["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_the_stand_in_has_the_bindings_arguments(version: str) -> None:
    for name, table in RECORD[version]["classes"].items():
        kind = getattr(tensorrt_fake_build, name, None) or getattr(tensorrt_fake_run, name, None)
        if kind is None or not issubclass(kind, Strict):
            continue
        for member, function in vars(kind).items():
            if member.startswith("_") or not inspect.isfunction(function):
                continue
            ours = list(inspect.signature(function).parameters)[1:]
            assert any(parameters(text)[: len(ours)] == ours for text in table[member]), (name, member)


def test_the_stand_in_refuses_unknown_names() -> None:
    config = tensorrt_fake_build.IBuilderConfig(FakeTensorRt("11.4.0.106", FakeCuda()))
    for name in ("max_workspace_size", "no_such_thing"):
        with pytest.raises(AttributeError, match=name):
            getattr(config, name)
        with pytest.raises(AttributeError, match=name):
            setattr(config, name, 1)


@pytest.mark.skipif(INSTALLED is None, reason="no TensorRT bindings here: pip install tensorrt-cu13-bindings")
def test_the_record_is_what_the_installed_bindings_offer(tmp_path: Path) -> None:
    assert INSTALLED is not None and INSTALLED.origin is not None  # noqa: PT018
    source, copy = Path(INSTALLED.origin).parent, tmp_path / "tensorrt_bindings"
    copy.mkdir()
    for path in source.iterdir():
        if path.suffix in (".py", ".so"):
            content = path.read_bytes()
            (copy / path.name).write_bytes(without_needs(content) if path.suffix == ".so" else content)
    found = look(tmp_path)
    version = found["version"]
    if version not in RECORD:
        version = max(VERSIONS, key=lambda text: [int(part) for part in text.split(".")])
    # a newer one may say more; what strokecore uses must be there unchanged
    for kind in ("classes", "enums"):
        for name, table in RECORD[version][kind].items():
            for member, text in table.items():
                assert found[kind][name].get(member) == text, (name, member)


def test_the_record_holds_only_what_is_used() -> None:
    used: dict[str, set[str]] = {}
    for name, *rest in used_of_trt():
        used.setdefault(name, {"__init__"}).update(rest)
    for name, declaration in declared().items():
        used.setdefault(name, set()).update(member for member, _ in members(declaration))
    record: dict[str, Any] = json.loads(json.dumps(RECORD))
    for version in VERSIONS:
        for name, table in record[version]["classes"].items():
            assert set(table) <= used[name] | {"__init__"}, "run tensorrt_record.py again"
