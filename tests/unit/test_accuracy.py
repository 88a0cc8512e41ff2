"""A small accuracy check for every run of the tests; the figures of the README come from tests/studies."""

from __future__ import annotations

from pathlib import Path

import pytest

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.pipeline import score_folder
from strokecore.simulate import VALIDATE_SEEDS, random_affected, random_spec, write_sample


@pytest.mark.parametrize("offset", [0, 1])
def test_an_infarct_of_5_hu_is_found_on_its_side(offset: int, tmp_path: Path) -> None:
    seed = VALIDATE_SEEDS[offset]
    affected = random_affected(seed)
    result = score_folder(write_sample(tmp_path, random_spec(seed, affected=affected, delta_hu=5.0))).result
    assert result.status == "scored"
    assert result.affected_side == affected[0].side
    right = sum(f.affected == (r in affected) for f, r in zip(result.regions, ALL_REGIONS, strict=True))
    assert right >= 17


def test_a_head_without_infarct_is_not_called_affected(tmp_path: Path) -> None:
    result = score_folder(write_sample(tmp_path, random_spec(VALIDATE_SEEDS[40]))).result
    assert result.status == "scored"
    assert all(score.score is not None and score.score >= 9 for score in result.aspects.values())
