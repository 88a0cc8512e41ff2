"""Facts about this process that every run's record holds: software, git state, device, memory."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from strokecore import __version__

PACKAGES: Final = (
    "torch",
    "transformers",
    "lightning-fabric",
    "monai",
    "numpy",
    "scipy",
    "SimpleITK",
    "safetensors",
)


def software() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"strokecore": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def git_state(folder: Path = Path(__file__).parent) -> dict[str, Any] | None:
    """Commit of the checkout that ``folder`` lies in and whether tracked files differ from it; None outside
    a checkout or without git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def device_name(device: torch.device) -> str:
    """What the numbers were computed on, as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """Most memory that this process has held so far, in MB: resident, and on the GPU."""
    found = {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.max_memory_allocated(device) / 2**20
    return {name: round(value, 1) for name, value in found.items()}
