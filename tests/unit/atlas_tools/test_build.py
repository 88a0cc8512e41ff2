"""The shipped atlas is what its tools build."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from strokecore.anatomy.atlas import ATLAS_FILES, SECOND_REGIONS_FILE, SHIPPED_FOLDER


def test_build_gives_the_shipped_bytes(tmp_path: Path) -> None:
    pytest.importorskip("nilearn", reason="the ICBM152 maps come with nilearn (dev extra)")
    from strokecore.atlas_tools.build import build

    build(tmp_path)
    for name in (*ATLAS_FILES.values(), SECOND_REGIONS_FILE):
        assert sitk_content(tmp_path / name) == sitk_content(SHIPPED_FOLDER / name), name


def sitk_content(path: Path) -> bytes:
    """Uncompressed: zlib versions may differ between machines."""
    return gzip.decompress(path.read_bytes())
