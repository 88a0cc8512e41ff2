"""What ``strokecore info`` says: everything a support request needs, nothing about patients."""

from __future__ import annotations

import platform
from importlib import metadata

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strokecore._version import __version__
from strokecore.anatomy.atlas import load_atlas
from strokecore.config import ScoringConfig
from strokecore.learned.runtimes import RUNTIME_NAMES, Availability, availability
from strokecore.learned.selection import select_engine

_LIBRARIES = ("numpy", "scipy", "SimpleITK", "pydicom", "highdicom", "pynetdicom")


def print_info(console: Console) -> None:
    """Versions, atlas and engines as a table."""
    atlas, engine = load_atlas(), select_engine(ScoringConfig())
    table = Table(show_header=False, box=None)
    table.add_row("strokecore", __version__)
    table.add_row("Python", platform.python_version())
    for name in _LIBRARIES:
        table.add_row(name, metadata.version(name))
    table.add_row("atlas", f"{atlas.name} {atlas.version}, sha256 {atlas.sha256[:12]}")
    runs = "weight-free" if engine.engine == engine.name else f"{engine.engine} {engine.precision}"
    table.add_row("engine", f"{engine.name} {engine.version} ({runs}), sha256 {engine.sha256[:12]}")
    for name in RUNTIME_NAMES:
        table.add_row(f"engine {name}", escape(f"for model packages; {_described(availability(name))}"))
    table.add_row("configuration", f"sha256 {ScoringConfig().sha256[:12]} (defaults)")
    table.add_row("intended use", "research use only, until a site has validated it")
    console.print(table)


def _described(found: Availability) -> str:
    if not found.available:
        return f"{found.reason}{f': {found.install}' if found.install else ''}"
    return f"{found.library} on {found.device}, {', '.join(found.precisions)}"
