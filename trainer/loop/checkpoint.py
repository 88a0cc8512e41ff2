"""What is written so that a kill at any moment leaves it whole: weights, and the state to resume from.

safetensors and JSON only; no pickle is ever read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from strokecore.errors import StrokeCoreError, UsageError
from strokecore.files import write_atomically

CHECKPOINT_SCHEMA: Final = 1


class CheckpointNotWrittenError(StrokeCoreError):
    """The disk is full or not writable; what was there before is still whole."""


def write_file(path: Path, content: bytes) -> None:
    """Write a file of a run and its folder: the old one or the whole new one, power cuts included.

    Raises CheckpointNotWrittenError when the disk does not take it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise CheckpointNotWrittenError(
            f"{path} could not be written ({error.strerror}); what was saved before is still whole. "
            "Make room or give write permission, then run the same command again: it continues."
        ) from error


def write_json(path: Path, content: object) -> None:
    """``write_file`` of readable JSON."""
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 hex of names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_weights(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Write one safetensors file whose header holds ``about`` and the hash of its tensors, which is returned.

    The hash lies in the file itself, so that no kill can part them.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sha256 = tensors_sha256(held)
    write_file(path, safetensors.torch.save(held, {**about, "sha256": sha256}))
    return sha256


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and what the header says of them.

    Raises UsageError when the file is missing, damaged, or not what was written.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not there; a training run writes it at its first validation.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    except Exception as error:  # the Rust library's own exceptions, and the system's
        raise UsageError(f"{path} cannot be read ({type(error).__name__}); train again.") from error
    if tensors_sha256(tensors) != about.get("sha256"):
        raise UsageError(f"{path} is damaged: its tensors are not those that were written; train again.")
    return tensors, about


def save_state(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace the resume state in ``folder``: ``state.json``, which names the file of the tensors.

    The tensors are written first under a name of their own; the rename of state.json makes them count.
    Raises CheckpointNotWrittenError; the state before is then still whole.
    """
    name = f"state-{state['step']:07d}.safetensors"
    sha256 = write_weights(folder / name, tensors, {})
    content = {"schema": CHECKPOINT_SCHEMA, "tensors": name, "sha256": sha256, **state}
    write_json(folder / "state.json", content)
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What ``save_state`` wrote last, or None when nothing was.

    Raises UsageError when it is damaged.
    """
    path = folder / "state.json"
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = json.loads(path.read_text("utf-8"))
        named, sha256 = Path(state["tensors"]).name, state["sha256"]
        schema = state["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read ({type(error).__name__}); remove {folder} to start from the beginning."
        ) from error
    if schema != CHECKPOINT_SCHEMA:
        raise UsageError(
            f"{path} has schema {schema}, this version writes {CHECKPOINT_SCHEMA}; "
            "finish the run with the version that started it, or give another run folder."
        )
    tensors, about = read_weights(folder / named)
    if about["sha256"] != sha256:
        raise UsageError(f"{folder / named} is not the file that {path} was written with; remove {folder}.")
    return tensors, state
