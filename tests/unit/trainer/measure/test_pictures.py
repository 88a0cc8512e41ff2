"""Which planes of a patient are shown."""

from __future__ import annotations

import numpy as np

from tests.unit.trainer.evaluation_cases import M2, make_case
from trainer.measure.pictures import SLICES, choose_slices


def test_pictures_show_planes_from_end_to_end_of_what_is_there() -> None:
    case = make_case("x", "test", "coupled", (M2,))
    planes = choose_slices(case, np.zeros(case.lesion.shape, bool))
    held = np.flatnonzero(case.lesion.any(axis=(1, 2)))
    assert len(planes) == SLICES
    assert (np.diff(planes) > 0).all()
    assert held[0] <= planes[0] < planes[-1] <= held[-1]
