"""What is marked on the scan, as every output shows it: early change that counts, and what does not.

An engine outlines hypodensity wherever it finds it. What lies in an affected region is early ischaemic
change and makes the headline's volume. All else may be old, a sulcus or another territory: it is shown as
hypodensity of unknown age, under the same name in segments, pictures and reports, and not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import SIDES, RegionId, Side
from strokecore.arrays import BoolArray
from strokecore.reading.series import Series
from strokecore.reports.palette import MARKS
from strokecore.reports.wording import marked, whole_ml
from strokecore.result import INFARCT, OLD_INFARCT, OTHER_HYPODENSITY, Result, SourceMasks

# A spot smaller than this on a slice is noise or a sulcus; readers call findings on two slices, far larger.
SPECK_MM2: Final = 10.0


@dataclass(frozen=True)
class Volumes:
    """Millilitres of what is marked.

    Attributes
    ----------
    early: early ischaemic change in affected regions, by side: the headline's volume.
    other: hypodensity of unknown age, not counted. old: old infarct, not counted.
    """

    early: dict[Side, float]
    other: float
    old: float

    @property
    def early_words(self) -> str:
        """ "right 22 ml, left 0 ml"."""
        said = {side: whole_ml(ml) if ml else "0 ml" for side, ml in self.early.items()}
        return f"right {said['right']}, left {said['left']}"

    @property
    def uncounted(self) -> list[tuple[str, str]]:
        """Name and volume of what is marked and not counted, where there is any."""
        marks = ((OTHER_HYPODENSITY, self.other), (OLD_INFARCT, self.old))
        return [(MARKS[value].label, whole_ml(volume)) for value, volume in marks if volume > 0]

    @property
    def uncounted_words(self) -> list[str]:
        """ "Old infarct, not counted: 3 ml"."""
        return [": ".join(entry) for entry in self.uncounted]

    @classmethod
    def of(cls, series: Series, masks: SourceMasks) -> Volumes:
        """Of marks as ``shown`` gives them, so that numbers say what pictures and segments show."""

        def volume(value: int) -> float:
            return round(series.ml(masks.lesion == value), 3)

        early = {side: volume(INFARCT[side]) for side in SIDES}
        return cls(early, volume(OTHER_HYPODENSITY), volume(OLD_INFARCT))


def shown(series: Series, result: Result, masks: SourceMasks) -> SourceMasks:
    """``masks`` as outputs show them: specks gone, hypodensity outside affected regions told apart.

    Blood is left as it is: however little there is, it withheld the score. Beside it nothing is shown that
    could be taken for an infarct of the score.
    """
    lesion = masks.lesion.copy()
    if result.status == "withheld":
        lesion[np.isin(lesion, (*INFARCT.values(), OLD_INFARCT))] = 0
    affected = [
        RegionId(finding.name, finding.side).label for finding in result.regions if marked(result, finding)
    ]
    outlined = np.isin(lesion, list(INFARCT.values()))
    lesion[outlined & ~np.isin(masks.regions, affected)] = OTHER_HYPODENSITY
    row_mm, column_mm = series.pixel_spacing_mm
    for value in (*INFARCT.values(), OTHER_HYPODENSITY, OLD_INFARCT):
        lesion[_specks(lesion == value, SPECK_MM2 / (row_mm * column_mm))] = 0
    return replace(masks, lesion=lesion)


def _specks(mask: BoolArray, least_voxels: float) -> BoolArray:
    """Parts of fewer than ``least_voxels`` on their slice; bool [k, j, i]."""
    specks = np.zeros_like(mask)
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        parts, count = ndimage.label(mask[k], np.ones((3, 3), bool))
        small = np.bincount(parts.ravel(), minlength=count + 1) < least_voxels
        small[0] = False
        specks[k] = small[parts]
    return specks
