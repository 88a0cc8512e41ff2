"""Names and label values of the 20 ASPECTS regions, and the levels they belong to.

Regions as in Barber et al., Lancet 2000;355:1670 and Pexman et al., AJNR 2001;22:1534.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Side = Literal["left", "right"]
SIDES: Final[tuple[Side, Side]] = ("left", "right")

REGION_NAMES: Final = ("C", "L", "IC", "I", "M1", "M2", "M3", "M4", "M5", "M6")
GANGLIONIC: Final = ("C", "L", "IC", "I", "M1", "M2", "M3")
SUPRAGANGLIONIC: Final = ("M4", "M5", "M6")
CORTICAL: Final = ("M1", "M2", "M3", "M4", "M5", "M6")
DEEP: Final = ("C", "L", "IC", "I")

FULL_NAMES: Final = {
    "C": "caudate nucleus",
    "L": "lentiform nucleus",
    "IC": "internal capsule",
    "I": "insular ribbon",
    "M1": "anterior MCA cortex",
    "M2": "lateral MCA cortex",
    "M3": "posterior MCA cortex",
    "M4": "anterior MCA cortex above M1",
    "M5": "lateral MCA cortex above M2",
    "M6": "posterior MCA cortex above M3",
}


class RegionId(NamedTuple):
    """One region of one hemisphere; ``side`` is the patient's."""

    name: str
    side: Side

    @property
    def label(self) -> int:
        """Value in region label volumes: 1-10 left, 11-20 right, in REGION_NAMES order."""
        return REGION_NAMES.index(self.name) + 1 + (10 if self.side == "right" else 0)

    @property
    def mirror(self) -> RegionId:
        return RegionId(self.name, "right" if self.side == "left" else "left")


ALL_REGIONS: Final[tuple[RegionId, ...]] = tuple(
    RegionId(name, side) for side in SIDES for name in REGION_NAMES
)
