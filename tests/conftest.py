"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gate reports, TensorRT engines and compiled models of the tests lie in a folder of their own."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("STROKECORE_CACHE")
    os.environ["STROKECORE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["STROKECORE_CACHE"]
    else:
        os.environ["STROKECORE_CACHE"] = before


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


@pytest.fixture(scope="session")
def sample_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated head CT with an infarct in right I, M1 and M2, 5 mm slices, tilted gantry."""
    from strokecore.simulate import SampleSpec, parse_affected, write_sample

    spec = SampleSpec(
        seed=3, affected=parse_affected("right:I,M1,M2"), delta_hu=6.0, thickness_mm=5.0, tilt_deg=12.0
    )
    return write_sample(tmp_path_factory.mktemp("sample") / "ct", spec)
