from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strokecore.anatomy.regions import REGION_NAMES
from strokecore.errors import ModelPackageError
from strokecore.learned.package import Calibration, load_package
from tests.unit.learned.package_cases import SPEC, read_manifest, write_manifest, write_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "model")


def refused(folder: Path, words: str) -> str:
    with pytest.raises(ModelPackageError, match=words) as caught:
        load_package(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def change(folder: Path, path: str, value: Any) -> None:
    """Replace one value of model.json, named by its keys joined with slashes; ... removes it."""
    whole = content = read_manifest(folder)
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("/"))
    for part in parents:
        content = content[part]  # type: ignore[index]
    if value is ...:
        del content[last]  # type: ignore[arg-type]
    else:
        content[last] = value  # type: ignore[index]
    write_manifest(folder, whole)


def test_a_package_is_read(package: Path) -> None:
    read = load_package(package)
    assert (read.name, read.version, read.licence) == ("mirror", "1.2.3+test", "Apache-2.0")
    assert read.spec == SPEC
    assert (read.lesion_threshold, read.minimum_component_ml) == (0.5, 0.7)
    assert set(read.calibration) == set(REGION_NAMES)
    assert read.calibration["M1"] == Calibration(1.0, 0.5)
    assert read.onnx.is_file()
    assert read.golden.is_file()


def test_the_package_hash_is_that_of_its_manifest_and_so_of_every_file(package: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256((package / "model.json").read_bytes()).hexdigest()
    assert load_package(package).sha256 == digest
    other = shutil.copytree(package, tmp_path / "other")
    (other / "MODEL_CARD.md").write_bytes(b"# Another card\n")
    change(other, "files/MODEL_CARD.md", hashlib.sha256(b"# Another card\n").hexdigest())
    assert load_package(other).sha256 != digest


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema", 2, "schema 2, this version reads 1"),
        ("schema", ..., "schema None"),
        ("name", "has a space", "at name"),
        ("version", "1.0", "at version"),
        ("surprise", 1, "surprise"),
        ("intended_use", ..., "intended_use"),
        ("lesion/threshold", 0, "at lesion/threshold"),
        ("lesion/threshold", True, "at lesion/threshold"),
        ("lesion/threshold", "0.5", "at lesion/threshold"),
        ("lesion/minimum_component_ml", -1, "minimum_component_ml"),
        ("regions/aggregation", "maximum", "at regions/aggregation"),
        ("regions/calibration/M1", ..., r"calibration \(M1\)"),
        ("regions/calibration/M7", {"slope": 1, "offset": 0}, r"calibration \(M7\)"),
        ("regions/calibration/M1/slope", 0, "at regions/calibration/M1/slope"),
        ("preprocess_version", "0", "preprocessing 0, this run has"),
        ("atlas_sha256", "f" * 64, "atlas f+, this run has"),
        ("minimum_strokecore", "99.1", "needs strokecore 99.1 or newer"),
        ("arms/blend_mm", 5.0, "arm blend .* 5.0"),
        ("arms/rule", "by hand", "at arms/rule"),
        ("input/name", "pixels", "at input/name"),
        ("input/channels/2", ..., "input shape"),
        ("input/shape/1", 4, "input shape"),
        ("input/channels/0/window_hu", [80, 0], "impossible input"),
        ("outputs/0/classes/0", "healthy", "bg classes healthy"),
        ("outputs/1/shape/1", 9, "sg_probability has shape"),
        ("outputs/1", ..., "at outputs"),
        ("files/LICENSE", ..., "LICENSE"),
        ("files/../LICENSE", "0" * 64, "at files"),
        ("files/notes.txt", "0" * 64, "at files"),
        ("files/model.onnx", "ABC", "at files/model.onnx"),
        ("files/model.fp16.onnx", "0" * 64, "lacks model.fp16.onnx"),
    ],
)
def test_a_wrong_manifest_is_refused_by_name(package: Path, path: str, value: Any, words: str) -> None:
    if path.startswith("files/.."):
        manifest = read_manifest(package)
        manifest["files"]["../LICENSE"] = value
        write_manifest(package, manifest)
    else:
        change(package, path, value)
    refused(package, words)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"schema": NaN}', '{"schema": 1e999}', "[" * 100_000, "\xff"]
)
def test_what_is_not_a_manifest_is_refused(package: Path, content: str) -> None:
    (package / "model.json").write_bytes(content.encode("latin-1"))
    refused(package, "not JSON|schema None")


def test_an_infinite_setting_is_refused(package: Path) -> None:
    text = (package / "model.json").read_text().replace('"offset": 0.5', '"offset": 1e999', 1)
    (package / "model.json").write_text(text)
    refused(package, "not JSON")


def add_file(folder: Path) -> None:
    (folder / "weights.pkl").write_bytes(b"\x80")


def add_folder(folder: Path) -> None:
    (folder / "more").mkdir()


def alter(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)


def remove(folder: Path) -> None:
    (folder / "golden.npz").unlink()


def link(folder: Path) -> None:
    os.replace(folder / "model.onnx", folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def link_manifest(folder: Path) -> None:
    os.replace(folder / "model.json", folder.parent / "model.json")
    (folder / "model.json").symlink_to(folder.parent / "model.json")


def replace_by_folder(folder: Path) -> None:
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (add_file, r"does not name \(weights.pkl\)"),
        (add_folder, r"does not name \(more\)"),
        (alter, "altered model.onnx: sha256 [0-9a-f]{12}.* expected [0-9a-f]{12}"),
        (remove, "lacks golden.npz"),
        (link, "lacks model.onnx as a plain file"),
        (link_manifest, "no file model.json"),
        (replace_by_folder, "lacks LICENSE as a plain file"),
    ],
)
def test_altered_missing_and_foreign_files_are_refused(
    package: Path, damage: Callable[[Path], None], words: str
) -> None:
    load_package(package)
    damage(package)
    assert "export the model again" in refused(package, words)


def test_a_packaged_typed_graph_is_taken_as_it_is(package: Path) -> None:
    assert load_package(package).typed_precisions == ()
    (package / "model.bf16.onnx").write_bytes(b"its own")
    refused(package, r"does not name \(model.bf16.onnx\)")
    change(package, "files/model.bf16.onnx", hashlib.sha256(b"its own").hexdigest())
    read = load_package(package)
    assert read.typed_precisions == ("bf16",)
    assert read.typed("bf16") == b"its own"
    (package / "model.bf16.onnx").write_bytes(b"another")
    refused(package, "altered model.bf16.onnx")
    (package / "model.bf16.onnx").unlink()
    with pytest.raises(ModelPackageError, match=r"bf16 graph that cannot be read \(FileNotFoundError\)"):
        read.typed("bf16")


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32", "../model"])
def test_a_missing_typed_graph_names_the_command_that_makes_it(precision: str, package: Path) -> None:
    with pytest.raises(
        ModelPackageError, match=f"has no {precision} graph; make one with trainer export --typed"
    ):
        load_package(package).typed(precision)


def test_what_is_no_package_says_how_to_go_without(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        assert "--engine auto or asymmetry" in refused(folder, "model package")


def test_another_atlas_of_this_run_is_refused(package: Path) -> None:
    with pytest.raises(ModelPackageError, match="atlas"):
        load_package(package, atlas_sha256="e" * 64)
    own = "e" * 64
    change(package, "atlas_sha256", own)
    assert load_package(package, atlas_sha256=own).name == "mirror"


def test_an_older_minimum_version_is_welcome(package: Path) -> None:
    for version in ("0", "0.0.9", "0.1", "0.1.0"):
        change(package, "minimum_strokecore", version)
        assert load_package(package).manifest["minimum_strokecore"] == version


def test_probabilities_rise_with_the_evidence_and_stay_finite() -> None:
    calibration = Calibration(slope=2.0, offset=-1.0)
    assert calibration.probability(0.5) == pytest.approx(0.5)
    values = [calibration.probability(x) for x in (-1e6, -9.0, 0.0, 9.0, 1e6)]
    assert values == sorted(values)
    assert values[0] == 0.0
    assert values[-1] == 1.0


def test_the_schema_is_itself_valid_and_ships() -> None:
    from jsonschema import Draft202012Validator

    import strokecore

    schema = json.loads(
        (Path(strokecore.__file__).parent / "learned" / "model.schema.json").read_text("utf-8")
    )
    Draft202012Validator.check_schema(schema)
    assert re.match("https://json-schema.org", schema["$schema"])
