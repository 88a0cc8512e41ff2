"""What the vendor's bindings really offer: read out of their wheels, without a GPU or TensorRT's libraries.

    python -m tests.unit.learned.tensorrt_record FOLDER

FOLDER holds wheels (pip download --no-deps tensorrt-cu13-bindings==..., about 1.3 MB each; for CUDA's driver
the header in nvidia-cuda-runtime, 2.5 MB). What strokecore uses of their interfaces is written to
tensorrt_record.json and cuda_record.json beside this file, which the tests and the stand-ins for TensorRT and
CUDA read: run this again when strokecore calls something new.

The bindings are a compiled module that needs libnvinfer. Nothing of it is called when the module is only
looked at, so a copy is loaded with these needs struck out.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TENSORRT_RECORD = HERE / "tensorrt_record.json"
CUDA_RECORD = HERE / "cuda_record.json"
CUDA_VALUES = (
    "CUDA_ERROR_",
    "CU_STREAM_NON_BLOCKING",
    "CU_STREAM_CAPTURE_MODE_",
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_",
)
# The libraries that the bindings need, and the functions that they take from them.
MISSING_LIBRARIES = (b"libnvinfer", b"libnvonnxparser", b"libtensorrt_")
MISSING_FUNCTIONS = (b"createInfer", b"createNv", b"getNv", b"getPlugin", b"getBuilder", b"initLibNv")

# ELF: section types, a tag that loaders pass over, and the weak binding of a symbol.
_DYNAMIC, _SYMBOLS = 6, 11
_NEEDED, _PASSED_OVER = 1, 21
_GLOBAL, _WEAK = 1 << 4, 2 << 4


def without_needs(module: bytes) -> bytes:
    """A 64-bit ELF module that needs neither the libraries nor the functions that are missing."""
    changed = bytearray(module)
    start, size, count = *struct.unpack_from("<Q", module, 40), *struct.unpack_from("<HH", module, 58)
    # type, offset, size, index of the strings
    sections = [
        [struct.unpack_from("<IIQQQQII", module, start + index * size)[field] for field in (1, 4, 5, 6)]
        for index in range(count)
    ]
    for kind, offset, length, link in sections:
        if kind not in (_DYNAMIC, _SYMBOLS):
            continue
        strings = sections[link][1]
        for at in range(offset, offset + length, 16 if kind == _DYNAMIC else 24):
            if kind == _DYNAMIC:
                tag, value = struct.unpack_from("<QQ", module, at)
                if tag == _NEEDED and module.startswith(MISSING_LIBRARIES, strings + value):
                    struct.pack_into("<Q", changed, at, _PASSED_OVER)
            else:
                name, info, _, section = struct.unpack_from("<IBBH", module, at)
                missing = module.startswith(MISSING_FUNCTIONS, strings + name)
                if section == 0 and info & 0xF0 == _GLOBAL and missing:
                    changed[at + 4] = _WEAK | info & 0x0F
    return bytes(changed)


# Run in a process of its own: two versions of the bindings do not share one.
_LOOK = """
import importlib, json, sys
folder, package = sys.argv[1:]
sys.path.insert(0, folder)
module = importlib.import_module(package)

def described(member):
    text = (getattr(member, "__doc__", None) or "").splitlines()
    lines = [line.split(". ", 1)[-1] if line[:1].isdigit() else line for line in text]
    found = [line.replace(package + "." + module.Builder.__module__.split(".")[-1] + ".", "")
             for line in lines if "(self: " in line and "->" in line]
    if found:
        return found
    return "settable property" if getattr(member, "fset", None) else "property"

classes, enums = {}, {}
for name in dir(module):
    value = getattr(module, name)
    if not isinstance(value, type) or name.startswith("_"):
        continue
    if hasattr(value, "__members__"):
        enums[name] = {key: int(member) for key, member in value.__members__.items()}
    else:
        classes[name] = {key: described(getattr(value, key)) for key in dir(value)
                         if key == "__init__" or not key.startswith("_")}
print(json.dumps({"version": module.__version__, "classes": classes, "enums": enums}))
"""


def look(folder: Path) -> dict[str, Any]:
    """Version, classes with their members' signatures, and enums of bindings unpacked in ``folder``."""
    package = next(path.name for path in folder.iterdir() if path.name.endswith("_bindings"))
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, str(folder), package], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def unpacked(wheel: Path, folder: Path) -> Path:
    """The bindings of a wheel, ready to be looked at."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith((".py", ".so")):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.read(name)
                target.write_bytes(without_needs(content) if name.endswith(".so") else content)
    return folder


def header_of(wheel: Path) -> str:
    """cuda.h of a wheel of the CUDA runtime."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("include/cuda.h"))
        return archive.read(name).decode()


def cuda_interface(header: str) -> dict[str, Any]:
    """Version, functions (exported name to parameter types) and the enums' values of cuda.h."""
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.DOTALL)
    plain = r"#\s*define\s+(cu\w+)\s+(?:__CUDA_API_PT[DS]+Z\()?(cu\w+)\)?\s*$"
    names = dict(re.findall(plain, text, flags=re.MULTILINE))
    functions: dict[str, list[str]] = {}
    for name, parameters in re.findall(r"CUresult CUDAAPI (cu\w+)\(([^)]*)\);", text):
        types = [re.sub(r"\s*\b\w+$", "", part.strip()).replace(" *", "*") for part in parameters.split(",")]
        # older versions of the same functions follow the current ones
        functions.setdefault(names.get(name, name), types)
    values = {
        name: int(value, 0)
        for name, value in re.findall(r"\b(CU(?:DA)?_\w+)\s*=\s*(0x[0-9a-fA-F]+|\d+)\s*,?", text)
    }
    version = re.search(r"#define CUDA_VERSION (\d+)", text)
    assert version is not None, "a header of CUDA"
    return {"version": int(version[1]), "functions": functions, "values": values}


def main(wheels: Path) -> None:
    """Write both records: of TensorRT the classes and enums that strokecore names, of CUDA the functions."""
    from tests.unit.learned.tensorrt_uses import declared, members, used_of_cuda, used_of_trt

    used: dict[str, set[str]] = {name: {"__init__", *rest} for name, *rest in used_of_trt()}
    for name, *rest in used_of_trt():
        used[name] |= set(rest)
    for name, declaration in declared().items():
        used.setdefault(name, set()).update(member for member, _ in members(declaration))
    record = {}
    for wheel in sorted(wheels.glob("tensorrt_cu*_bindings*.whl")):
        with tempfile.TemporaryDirectory() as folder:
            found = look(unpacked(wheel, Path(folder)))
        record[found["version"]] = {
            "classes": {
                name: {member: text for member, text in described.items() if member in used[name]}
                for name, described in found["classes"].items()
                if name in used
            },
            "enums": {name: values for name, values in found["enums"].items() if name in used},
        }
    write(TENSORRT_RECORD, record)
    cuda = {}
    for wheel in sorted(wheels.glob("nvidia_cuda_runtime*.whl")):
        found = cuda_interface(header_of(wheel))
        functions, values = found["functions"], found["values"]
        cuda[str(found["version"])] = {
            "functions": {name: functions[name] for name in sorted(used_of_cuda()) if name in functions},
            "values": {name: value for name, value in values.items() if name.startswith(CUDA_VALUES)},
        }
    write(CUDA_RECORD, cuda)


def write(path: Path, record: dict[str, Any]) -> None:
    """As JSON with one function or class member a line."""
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
