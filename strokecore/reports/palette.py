"""What is drawn, named and coloured how: the one table of every output.

Segments, pictures, legends, the report's page and its PDF read it, so that a colour means one thing. Marks of
tissue differ by pattern as well as by hue, for readers who do not see hues and for grey print. No mark has
the colour of a region of the region segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from strokecore.result import HAEMORRHAGE, INFARCT, OLD_INFARCT, OTHER_HYPODENSITY

Rgb = tuple[int, int, int]
Pattern = Literal["filled", "hatched", "crossed", "outlined"]


@dataclass(frozen=True)
class Mark:
    """One kind of marked tissue.

    Attributes
    ----------
    label: its name, in segments and legends. A density rule sees hypodensity and does not say infarct.
    colour, pattern: how it is drawn. A viewer draws a segment in its colour alone.
    """

    label: str
    colour: Rgb
    pattern: Pattern


_EARLY: Final[Rgb] = (224, 36, 36)

# by SourceMasks.lesion value, most important first: the order of segments and legends, and what lies on top
MARKS: Final[Mapping[int, Mark]] = {
    HAEMORRHAGE: Mark("Suspected haemorrhage", (214, 20, 245), "outlined"),
    INFARCT["left"]: Mark("Early ischaemic change left", _EARLY, "filled"),
    INFARCT["right"]: Mark("Early ischaemic change right", _EARLY, "filled"),
    OTHER_HYPODENSITY: Mark("Other hypodensity, age unknown, not counted", (206, 212, 218), "hatched"),
    OLD_INFARCT: Mark("Old infarct, not counted", (176, 112, 62), "crossed"),
}

# outlines of regions
AFFECTED: Final[Rgb] = (255, 146, 43)
BORDERLINE: Final[Rgb] = (255, 224, 102)
UNAFFECTED: Final[Rgb] = (92, 190, 206)
NOT_ASSESSABLE: Final[Rgb] = (150, 156, 168)

# by region, for the segmentation object, where a viewer draws all twenty at once
REGION_COLOURS: Final[Mapping[str, Rgb]] = {
    "C": (0, 150, 136),
    "L": (170, 190, 20),
    "IC": (255, 255, 255),
    "I": (247, 103, 170),
    "M1": (105, 219, 124),
    "M2": (56, 217, 169),
    "M3": (30, 170, 240),
    "M4": (77, 120, 247),
    "M5": (116, 143, 252),
    "M6": (177, 151, 252),
}

# surfaces and words
PAPER: Final[Rgb] = (13, 17, 23)
CARD: Final[Rgb] = (22, 27, 36)
RULE: Final[Rgb] = (48, 56, 70)
TEXT: Final[Rgb] = (236, 239, 244)
MUTED: Final[Rgb] = (170, 178, 192)
WARNING: Final[Rgb] = (255, 200, 87)
ALARM: Final[Rgb] = (255, 107, 107)
AFFECTED_ROW: Final[Rgb] = (74, 40, 22)


def css(colour: Rgb) -> str:
    """ "#ff922b"."""
    return "#" + "".join(f"{value:02x}" for value in colour)
