from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.arrays import dice
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned import compiled_cache
from strokecore.learned import openvino as module
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.openvino import OpenVinoRuntime, load_openvino
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.parity import LIMITS
from strokecore.learned.shipped import SHIPPED
from tests.unit.learned.package_cases import SPEC, mirror_network, write_package

ROOT = Path(__file__).resolve().parents[3]
# The parity gate's own limit, here on all pixels of the shipped model's golden slices.
LARGEST_AT_999 = 0.02
# Of each arm alone at one half, where its soft maps have their plateaus; the gate looks at what is outlined.
LEAST_DICE = 0.98


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("openvino") / "model"))


@pytest.fixture(scope="module")
def shipped() -> ModelPackage:
    return load_package(SHIPPED)


@pytest.fixture(scope="module")
def golden(shipped: ModelPackage) -> dict[str, Any]:
    with np.load(shipped.golden, allow_pickle=False) as file:
        return {name: file[name] for name in ("slices", "bg_probability", "sg_probability")}


def has_bf16() -> bool:
    return "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def slices(number: int = 3) -> Any:
    return np.random.default_rng(0).normal(size=(number, 3, *SPEC.size)).astype(np.float32)


def differences(found: Any, golden: dict[str, Any]) -> Any:
    arms = zip(found, (golden["bg_probability"], golden["sg_probability"]), strict=True)
    return np.concatenate([np.abs(f - g).ravel() for f, g in arms])


def test_fp32_gives_the_golden_answers(shipped: ModelPackage, golden: dict[str, Any]) -> None:
    engine = OpenVinoRuntime(shipped, "fp32", 1)
    assert engine.precision == "fp32"
    assert differences(engine.run(golden["slices"]), golden).max() < LIMITS["fp32_difference"]


def test_bf16_is_within_the_gates_limits_and_is_bf16(shipped: ModelPackage, golden: dict[str, Any]) -> None:
    if not has_bf16():
        pytest.skip("this CPU has no bf16, says OpenVINO")
    found = OpenVinoRuntime(shipped, "bf16", 1).run(golden["slices"])
    off = differences(found, golden)
    assert 1e-4 < np.quantile(off, 0.999) < LARGEST_AT_999
    for arm, name in zip(found, ("bg_probability", "sg_probability"), strict=True):
        ours, theirs = (1 - probability[:, 0] >= 0.5 for probability in (arm, golden[name]))
        assert dice(ours, theirs) >= LEAST_DICE


def test_batches_do_not_change_the_answer(package: ModelPackage) -> None:
    engine = OpenVinoRuntime(package, "fp32", 1)
    whole = engine.run(slices(11))
    engine.batch = 3
    for arm, same in zip(whole, engine.run(slices(11)), strict=True):
        assert np.abs(arm - same).max() < 1e-6
    for arm, reference in zip(whole, OnnxRuntime(package, threads=1).run(slices(11)), strict=True):
        assert np.abs(arm - reference).max() < 1e-5


def test_the_same_slices_give_the_same_bytes(shipped: ModelPackage, golden: dict[str, Any]) -> None:
    engine = OpenVinoRuntime(shipped, "bf16" if has_bf16() else "fp32", 2)
    first, second = (engine.run(golden["slices"][:3]) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_says_what_it_is(package: ModelPackage) -> None:
    engine = OpenVinoRuntime(package, "fp32", 2)
    version = load_openvino().__version__
    assert engine.device.endswith(", 2 threads")
    assert engine.library == f"openvino {version.split('-')[0]}"


def test_threads_are_not_pinned_to_cores(package: ModelPackage) -> None:
    """Every worker of a machine would pin its threads to the same first cores."""
    code = (
        "import os, sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from strokecore.learned.package import load_package\n"
        "from strokecore.learned.openvino import OpenVinoRuntime\n"
        "package = load_package(Path(sys.argv[1]))\n"
        "engine = OpenVinoRuntime(package, 'fp32', 2)\n"
        "engine.run(np.zeros((8, 3, *package.spec.size), np.float32))\n"
        "free = os.sched_getaffinity(0)\n"
        "assert all(os.sched_getaffinity(int(t)) == free for t in os.listdir('/proc/self/task'))\n"
    )
    run_python(code, str(package.folder))


def test_a_closed_engine_says_so(package: ModelPackage) -> None:
    engine = OpenVinoRuntime(package, "fp32", 1)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(slices())


def test_the_next_start_takes_the_compiled_model(
    package: ModelPackage, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = OpenVinoRuntime(package, "fp32", 1).run(slices())
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(module, "check_tensors", None)  # only what is compiled anew is checked
    again = OpenVinoRuntime(package, "fp32", 1).run(slices())
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("damage", ["flipped", "half", "empty", "foreign"])
def test_a_damaged_compiled_model_is_made_again(
    damage: str, package: ModelPackage, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = OpenVinoRuntime(package, "fp32", 1).run(slices())
    (kept,) = cache.iterdir()
    sound = kept.read_bytes()
    middle = len(sound) // 2
    if damage == "foreign":  # whole, but of something that the library does not take
        key: dict[str, str] = {}
        stored = b"not a compiled model at all"
        module._COMPILED.store(key, stored)
        (other,) = set(cache.iterdir()) - {kept}
        os.replace(other, kept)
    else:
        flipped = sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :]
        kept.write_bytes({"flipped": flipped, "half": sound[:middle], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again = OpenVinoRuntime(package, "fp32", 1).run(slices())
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert kept.read_bytes()[32:] != b"not a compiled model at all"
    assert len(kept.read_bytes()) == len(sound)
    assert ("damaged" in caplog.text) == (damage != "foreign")


def test_without_a_cache_it_works_and_warns(
    package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        OpenVinoRuntime(package, "fp32", 1).run(slices())
    assert "is not used" in caplog.text
    assert "is not kept" in caplog.text


def test_a_cache_that_others_may_write_to_is_not_read(
    package: ModelPackage, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    OpenVinoRuntime(package, "fp32", 1)
    cache.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        OpenVinoRuntime(package, "fp32", 1).run(slices())
    assert "can be written by others" in caplog.text


def test_a_full_disk_costs_time_only(
    package: ModelPackage, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiled_cache, "write_own", full)
    with caplog.at_level(logging.WARNING):
        OpenVinoRuntime(package, "fp32", 1).run(slices())
    assert "No space left on device" in caplog.text
    assert list(cache.iterdir()) == []


def test_a_cpu_without_bf16_is_told_what_to_use(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = load_openvino()

    class Core(openvino.Core):  # type: ignore[misc, name-defined]
        def get_property(self, *names: str) -> Any:
            return ["FP32", "INT8"] if "OPTIMIZATION_CAPABILITIES" in names else super().get_property(*names)

    monkeypatch.setattr(openvino, "Core", Core)
    with pytest.raises(
        EngineError, match=r"does not compute in bf16.*\(it has FP32, INT8\); use openvino in"
    ):
        OpenVinoRuntime(package, "bf16", 1)
    assert OpenVinoRuntime(package, "fp32", 1).run(slices(1))[0].shape == (1, 9, *SPEC.size)


def test_a_graph_that_it_cannot_read_is_an_engine_error(tmp_path: Path) -> None:
    broken = load_package(write_package(tmp_path / "model", network=b"not a graph"))
    with pytest.raises(EngineError, match=r"cannot run model\.onnx of mirror in fp32"):
        OpenVinoRuntime(broken, "fp32", 1)


def test_a_graph_that_is_not_the_described_one_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "model", network=mirror_network(classes=(6, 6)))
    with pytest.raises(ModelPackageError, match=r"has tensors .*expected"):
        OpenVinoRuntime(load_package(package), "fp32", 1)


def test_without_openvino_the_command_that_installs_it_is_said(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"pip install 'strokecore\[cpu\]'"):
        OpenVinoRuntime(package, "fp32", 1)


def test_openvino_sends_nothing(tmp_path: Path) -> None:
    """Its import reports to a web service and leaves an id in the home folder, unless kept from that."""
    code = (
        "import socket, sys, threading\n"
        "def refused(*a, **k): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = refused\n"
        "from strokecore.learned.openvino import load_openvino\n"
        "openvino = load_openvino()\nassert load_openvino() is openvino\nopenvino.Core()\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "import openvino.tools.ovc\n"  # whoever does it later in this process
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    run_python(code, HOME=str(tmp_path), CI="")
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_its_own_file_imports_openvino() -> None:
    found = set()
    for package in ("strokecore", "trainer", "orthanc_plugin", "tests", "deploy"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                if any(name.split(".")[0] == "openvino" for name in names):
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == {"strokecore/learned/openvino.py"}


def test_the_module_itself_is_light() -> None:
    run_python("import strokecore.learned.openvino, sys\nassert 'openvino' not in sys.modules\n")


def run_python(code: str, *arguments: str, **variables: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
