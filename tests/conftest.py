"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the test data; skips where it is absent, fails when STROKECORE_REQUIRE_DATA is set."""
    folder = Path(
        os.environ.get("STROKECORE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    )
    if not (folder / "real_head_ct").is_dir():
        message = "test data not found: set STROKECORE_TEST_DATA to the folder that holds real_head_ct"
        if os.environ.get("STROKECORE_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
