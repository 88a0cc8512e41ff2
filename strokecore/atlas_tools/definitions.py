"""Where the ASPECTS regions are: our anatomical definitions, in MNI152 millimetres.

All outlines are for one hemisphere and written as (lateral, anterior): ``lateral`` is the distance
from the mid-sagittal plane, ``anterior`` is the MNI y coordinate (anterior positive, zero at the
anterior commissure). Heights are MNI z. The other hemisphere is the mirror image, so that the two sides
are symmetric by construction.

Deep structures are outlined on a few axial planes (``Outline``) and interpolated between them; a
tissue criterion then fits them to the template. Cortical regions are sectors between straight
borders (``Border``), as neuroradiologists draw them on an axial slice (Barber et al., Lancet
2000;355:1670; Pexman et al., AJNR 2001;22:1534), and are cut at the territories of the
anterior and posterior cerebral arteries (Tatu et al., Neurology 1998;50:1699).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Point = tuple[float, float]

# Vertical limits, MNI z in mm.
GANGLIONIC_BOTTOM_MM: Final = -12.0
"""Floor of M1-M3: the lowest plane that still shows insula and the opening of the Sylvian fissure;
below it a slice shows temporal pole and orbital cortex, which ASPECTS does not read."""
LEVEL_BORDER_MM: Final = 20.5
"""Between M1-M3 and M4-M6: just above the lentiform nucleus (top z 16), the insula (z 18) and the
head of the caudate; "above the caudate head" is the supraganglionic level of Pexman et al."""
SUPRAGANGLIONIC_TOP_MM: Final = 54.0
"""Roof of M4-M6: about 25 mm above the roof of the lateral ventricles (z 30); higher slices show the
convexity, where the MCA-ACA watershed approaches the lateral surface."""


@dataclass(frozen=True)
class Outline:
    """A structure outlined on axial planes: {z_mm: vertices}; equal vertex counts, matching order."""

    planes: dict[float, tuple[Point, ...]]

    def __post_init__(self) -> None:
        if len({len(vertices) for vertices in self.planes.values()}) != 1:
            raise ValueError("all planes of an outline need the same number of vertices")

    @property
    def bottom_mm(self) -> float:
        return min(self.planes)

    @property
    def top_mm(self) -> float:
        return max(self.planes)


@dataclass(frozen=True)
class Border:
    """A vertical plane drawn on axial slices as the line from ``deep`` to ``surface``."""

    deep: Point
    surface: Point


# Head and body of the caudate nucleus. The outline is loose on the ventricle's side, where the
# tissue criterion decides; it begins above the nucleus accumbens.
CAUDATE: Final = Outline(
    {
        -3.0: ((3, 20), (10, 24), (16, 20), (16, 14), (12, 9), (8, 6), (4, 5), (2, 12)),
        0.0: ((3, 20), (12, 27), (19, 24), (19, 17), (14, 10), (9, 6), (4, 5), (3, 12)),
        4.0: ((4, 20), (12, 28), (21, 25), (21, 16), (16, 10), (11, 5), (7, 5), (4, 12)),
        8.0: ((5, 20), (13, 28), (22, 26), (21, 15), (17, 8), (12, 3), (8, 3), (5, 12)),
        12.0: ((6, 20), (14, 28), (22, 24), (21, 12), (18, 6), (14, 1), (10, 1), (7, 10)),
        16.0: ((8, 18), (14, 25), (22, 20), (22, 10), (20, 0), (16, -6), (12, -5), (8, 6)),
        20.0: ((9, 15), (14, 20), (22, 16), (22, 5), (22, -10), (20, -18), (14, -14), (9, 0)),
        26.0: ((9, 8), (14, 12), (22, 8), (22, -2), (23, -14), (22, -22), (15, -18), (10, -4)),
        30.0: ((10, 4), (14, 8), (21, 5), (22, -3), (23, -14), (22, -20), (15, -16), (11, -6)),
    }
)

# Putamen and pallidum together. From the anterior tip along the external capsule to the posterior
# tip, then along the internal capsule to its genu and back.
LENTIFORM: Final = Outline(
    {
        -10.0: (
            *((17, 17), (21, 18), (24, 15), (26, 11), (26.5, 8), (26, 5)),
            *((24, 4), (22, 3.5), (20, 3.5), (18, 4), (16.5, 7), (16.5, 12)),
        ),
        -8.0: (
            *((17, 18), (23, 21), (26, 16), (28, 11), (29, 6), (29, 2)),
            *((26, 1.5), (23, 1.5), (20, 1.5), (17, 2.5), (16, 7), (16, 13)),
        ),
        -4.0: (
            *((20, 20), (24, 20), (28, 13), (30.5, 4), (32, -6), (32, -14)),
            *((29.5, -13), (25, -10), (19, -7), (14, -2), (14, 4), (16.5, 13)),
        ),
        0.0: (
            *((22, 20), (27, 17), (30.5, 10), (32.5, 1), (33, -9), (32, -19)),
            *((29.5, -16.5), (24.5, -12), (18.5, -8), (13, -2), (13, 4), (18, 11.5)),
        ),
        4.0: (
            *((23.5, 19), (28, 15), (31, 8), (33, 0), (33, -10), (31, -20)),
            *((29, -18), (25.5, -12), (20.5, -7), (15, -0.5), (16, 4.5), (20, 10.5)),
        ),
        8.0: (
            *((22, 16.5), (26, 14), (29.5, 7), (31.5, -2), (32, -12), (30.5, -20)),
            *((28.5, -18), (26, -12), (23, -5), (20.5, 0), (20.5, 5), (21, 11)),
        ),
        12.0: (
            *((22.5, 13), (26, 12), (29, 6), (30.5, -2), (31, -8), (30, -16)),
            *((28.5, -15), (26.5, -9), (24.5, -5), (23.5, 0), (22.5, 4), (22, 8)),
        ),
        16.0: (
            *((24.5, 8), (27, 7), (28.5, 3), (29.5, -1), (29.5, -5), (29, -8)),
            *((28, -8), (27, -5), (26, -2), (25, 1), (24.5, 3), (24, 6)),
        ),
    }
)

# Not an ASPECTS region: kept out of the internal capsule, and grey on CT.
THALAMUS: Final = Outline(
    {
        -3.0: ((3, -6), (8, -8), (12, -11), (15, -15), (18, -22), (16, -29), (9, -27), (3, -16)),
        0.0: ((3, -2), (7, -3), (12, -8), (17, -14), (21, -23), (19, -29), (9, -30), (3, -20)),
        4.0: ((3, 0), (8, 0), (13, -5), (18, -13), (21.5, -23), (19, -31), (9, -31), (3, -20)),
        8.0: ((3, 2), (9, 2), (14, -5), (19, -14), (22, -24), (19, -32), (9, -31), (3, -20)),
        12.0: ((4, 1), (9, 1), (14, -6), (18, -14), (20, -22), (17, -29), (8, -28), (4, -18)),
        16.0: ((6, -3), (9, -3), (13, -8), (16, -14), (17, -20), (14, -26), (9, -24), (6, -14)),
        18.0: ((8, -8), (9, -8), (11, -11), (13, -14), (13, -18), (12, -21), (10, -20), (8, -14)),
    }
)

# Anterior limb, genu and posterior limb: the white matter in this outline that is neither caudate,
# thalamus nor lentiform. It ends behind the putamen (the retrolenticular part is not read in ASPECTS).
INTERNAL_CAPSULE: Final = Outline(
    {
        -2.0: ((14, 19), (19, 18), (22, 5), (27, -13), (22, -17), (14, -14), (9, 3), (9, 10)),
        0.0: ((16, 22), (22, 20), (25, 0), (31, -20), (23, -24), (14, -14), (9, 3), (11, 14)),
        4.0: ((17, 23), (24, 20), (28, -5), (31, -21), (23, -25), (14, -14), (9, 3), (12, 15)),
        8.0: ((18, 23), (24, 17), (28, -8), (30.5, -21), (23, -26), (14, -14), (9, 3), (14, 15)),
        12.0: ((19, 21), (25, 14), (28, -5), (29.5, -20), (22, -26), (14, -14), (11, 1), (15, 12)),
        16.0: ((20, 16), (26, 12), (28, -5), (28.5, -18), (21, -24), (15, -14), (13, 0), (17, 10)),
    }
)

# Insular ribbon: from the extreme capsule (inner side) to the Sylvian fissure (outer side).
# Vertices: inner front, outer front, down the outer side, back, up the inner side.
INSULA: Final = Outline(
    {
        -11.0: (
            *((30, 20), (38, 20), (43, 14), (45, 6), (44.5, 0), (41, -6)),
            *((39, -6), (36, -2), (35, 3), (33, 8), (30, 14)),
        ),
        -8.0: (
            *((29, 25), (39, 25), (44, 18), (45.5, 10), (46, 0), (42, -13)),
            *((38.5, -13), (36, -6), (34, 2), (32, 10), (30, 18)),
        ),
        -4.0: (
            *((29, 27), (39, 27), (44, 19), (46, 11), (45.5, 0), (42, -15)),
            *((38.5, -15), (36.5, -8), (35, 0), (33, 10), (30.5, 19)),
        ),
        0.0: (
            *((30, 28), (37, 27), (41, 20), (43, 10), (43.5, -2), (41, -21)),
            *((37.5, -21), (36.3, -12), (36, 0), (34, 10), (31.5, 20)),
        ),
        4.0: (
            *((30, 27), (38, 26), (41, 15), (42, 5), (43, -8), (40, -22)),
            *((36, -23), (36.5, -12), (35.7, 0), (34, 10), (31.5, 19)),
        ),
        8.0: (
            *((30, 27), (38, 26), (41, 15), (42, 5), (44, -9), (38, -25)),
            *((34.5, -24), (36, -14), (36.3, -4), (34, 10), (31, 20)),
        ),
        12.0: (
            *((30, 26), (38, 25), (41, 15), (42, 5), (44, -9), (37.5, -26)),
            *((33.5, -25), (36, -14), (36, -5), (33.5, 8), (31, 19)),
        ),
        16.0: (
            *((32, 10), (37, 10), (39, 5), (39, 0), (38, -12), (36, -26)),
            *((32, -25), (33.5, -14), (33.5, -8), (32.5, -2), (32, 4)),
        ),
        18.0: (
            *((33, 2), (36, 2), (37, 0), (37, -5), (36.5, -12), (35.5, -22)),
            *((33, -22), (33.5, -14), (33.5, -8), (33, -4), (33, -1)),
        ),
    }
)

# Ganglionic sectors.
GANGLIONIC_ACA: Final = Border((19, 30), (33, 66))  # frontal horn to the frontal pole
GANGLIONIC_ANTERIOR: Final = Border((33, 23), (75, 11))  # front of the insula, M1 | M2
GANGLIONIC_POSTERIOR: Final = Border((38, -23), (80, -33))  # back of the insula, M2 | M3
GANGLIONIC_PCA: Final = Border((34, -24), (50, -86))  # past hippocampus and trigone to the occipital surface
M2_MEDIAL_MM: Final = 38.0
"""Temporal M2 begins lateral to this where there is no insula; medial to it lie temporal stem, amygdala and
hippocampus (anterior choroidal and posterior cerebral arteries)."""

# Supraganglionic sectors.
SUPRAGANGLIONIC_MEDIAL_MM: Final = 23.0
"""Lateral to the ventricle and to the superior frontal sulcus; medial to it lie the territories of
the anterior cerebral artery and, behind, of the posterior."""
SUPRAGANGLIONIC_ACA: Final = Border((23, 15), (28, 60))  # superior frontal sulcus to the frontal pole
SUPRAGANGLIONIC_ANTERIOR: Final = Border((24, 20), (75, 10))  # M4 | M5
SUPRAGANGLIONIC_POSTERIOR: Final = Border((24, -24), (80, -36))  # M5 | M6
SUPRAGANGLIONIC_PCA: Final = Border(
    (24, -52), (40, -92)
)  # behind the ventricle to the parieto-occipital surface
