"""Agreement of two readers' regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import REGION_NAMES
from strokecore.atlas_tools.compare import agreement, read_masks, table

SPACING_MM = (1.5, 1.5, 1.5)


def slab(first_row: int) -> np.typing.NDArray[np.bool_]:
    mask = np.zeros((12, 40, 12), dtype=bool)
    mask[2:10, first_row : first_row + 20, 2:10] = True
    return mask


def test_a_region_agrees_with_itself() -> None:
    found = agreement(slab(5), slab(5), SPACING_MM)
    assert (found.dice, found.border_mm) == (1.0, 0.0)


def test_a_moved_region_shares_less_and_its_ends_lie_apart() -> None:
    found = agreement(slab(5), slab(9), SPACING_MM)
    assert found.dice == pytest.approx(16 / 20)
    assert 0 < found.border_mm < 4 * 1.5  # only the two ends have moved by four voxels
    assert found == agreement(slab(9), slab(5), SPACING_MM)


def test_table_has_a_row_per_region_and_a_pair_per_reader(shared_data: Path) -> None:
    atlas = load_atlas()
    masks = read_masks(shared_data / "aspects_masks_mni152", atlas)
    rows = [row.strip("| ").split(" | ") for row in table(atlas, masks).splitlines()]
    assert [row[0] for row in rows[2:]] == list(REGION_NAMES)
    assert {len(row) for row in rows} == {5}
    lentiform = rows[2 + REGION_NAMES.index("L")]
    assert float(lentiform[1].split(" / ")[2]) == pytest.approx(
        8.3, abs=0.1
    )  # the others' L, and nothing else
    assert len(table(atlas).splitlines()[0].split("|")) == 5  # without others: region, volumes, one pair
