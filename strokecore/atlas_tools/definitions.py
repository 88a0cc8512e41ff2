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

What readers agree on (the outlines of nuclei, thalamus, capsule and insula) stands first. What they
differ on is a ``Definition``: ``FIRST`` is the node's, ``SECOND`` another honest reader's. That they do
differ on the cortical regions show the smallest and largest ones of six experts (Pexman et al., Fig. 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Point = tuple[float, float]


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
    """A plane drawn on axial slices as the line from ``deep`` to ``surface``.

    ``recedes``: mm by which the line moves backwards per mm of height above the level border.
    """

    deep: Point
    surface: Point
    recedes: float = 0.0


# Head and body of the caudate nucleus. The outline is loose on the ventricle's side, where the
# tissue criterion decides. Below z -3 it keeps in front of and lateral to the nucleus accumbens: the head
# reaches down to z -7 in the CIT168 templates and in six people's labels after an affine fit.
CAUDATE: Final = Outline(
    {
        -7.0: ((9, 19), (12, 23), (16, 21), (16, 18), (13, 16), (11, 15), (9, 15), (8, 17)),
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
# tip, then along the internal capsule to its genu and back. Ventral putamen and pallidum reach to z -12 and,
# beside the temporal stem, to y -15: six people's labels after an affine fit and others' masks hold 1.7 times
# the area of our atlas 1.0 there. The upper end stands: it is visible on the T1, as high as in the CIT168
# templates and 2 mm above the six people's.
LENTIFORM: Final = Outline(
    {
        -12.0: (
            *((15, 12.5), (17.5, 13.5), (20, 12), (21.5, 9.5), (22, 7), (21.5, 5)),
            *((20.5, 4), (19, 3.5), (17.5, 3.5), (16, 4.5), (15, 6.5), (14.5, 9.5)),
        ),
        -10.0: (
            *((16, 16), (20, 17.5), (23.5, 15.5), (26, 11), (27.5, 6), (28.5, 1)),
            *((27, -1), (23.5, 0.5), (20, 1.5), (17, 2.5), (15.5, 7), (15.5, 12)),
        ),
        -8.0: (
            *((17, 19), (23, 21), (26.5, 17), (29, 11), (31, 3), (33, -6)),
            *((31.5, -8.5), (27.5, -4.5), (22, -1.5), (17, 1.5), (16, 7), (16, 13)),
        ),
        -6.0: (
            *((18.5, 20.5), (23.5, 21), (27.5, 15.5), (30.5, 8), (32, -2), (33, -12)),
            *((31.5, -14), (27.5, -9.5), (21.5, -6), (15.5, -2.5), (15, 4), (16, 13)),
        ),
        -4.0: (
            *((20, 20.5), (24.5, 20.5), (28.5, 13.5), (31, 4.5), (32.3, -6), (32.5, -15)),
            *((31, -15.5), (26, -12), (20, -9), (14, -4), (13.5, 4), (16.5, 13)),
        ),
        0.0: (
            *((22, 20), (27, 17), (30.5, 10), (32.5, 1), (33, -9), (32, -19)),
            *((29.5, -17.5), (24.5, -13.5), (18.5, -9), (13, -2.5), (13, 4), (18, 11.5)),
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


@dataclass(frozen=True)
class Growth:
    """mm by which a structure reaches further than its outline, on axial slices."""

    medial_mm: int = 0
    lateral_mm: int = 0
    front_mm: int = 0
    back_mm: int = 0


@dataclass(frozen=True)
class Definition:
    """Where one reader puts the borders; lengths and positions in mm.

    Attributes
    ----------
    ganglionic_bottom_mm, level_border_mm, supraganglionic_top_mm: MNI z; M1-M3 lie between the first two,
        M4-M6 between the last two.
    caudate_top_mm: the caudate body is read up to here.
    caudate, lentiform, insula: how far each reaches beyond its outline. Deep grey matter wins over capsule
        and insula, and the caudate over the lentiform.
    claustrum_mm: width left free between lentiform and insula.
    capsule_front_mm: the internal capsule is read behind this MNI y; both limbs or the posterior one alone.
    ganglionic_*, supraganglionic_*: the cortical borders. ``aca`` and ``pca`` cut off the territories of the
        anterior and posterior cerebral arteries; ``anterior`` parts M1 | M2 and M4 | M5, ``posterior``
        M2 | M3 and M5 | M6.
    m2_medial_mm: temporal M2 begins lateral to this where there is no insula.
    supraganglionic_medial: (MNI z, lateral) points between which the medial limit of M4-M6 runs.
    """

    ganglionic_bottom_mm: float
    level_border_mm: float
    supraganglionic_top_mm: float
    caudate_top_mm: float
    caudate: Growth
    lentiform: Growth
    claustrum_mm: int
    capsule_front_mm: float
    insula: Growth
    ganglionic_aca: Border
    ganglionic_anterior: Border
    ganglionic_posterior: Border
    ganglionic_pca: Border
    m2_medial_mm: float
    supraganglionic_medial: tuple[Point, ...]
    supraganglionic_aca: Border
    supraganglionic_anterior: Border
    supraganglionic_posterior: Border
    supraganglionic_pca: Border


FIRST: Final = Definition(
    # the lowest plane that still shows insula and the opening of the Sylvian fissure; below it a slice shows
    # temporal pole and orbital cortex, which ASPECTS does not read
    ganglionic_bottom_mm=-12.0,
    # just above lentiform nucleus (top z 16), insula (z 18) and caudate head: "rostral to the basal ganglia"
    level_border_mm=20.5,
    # all slices are read (Pexman); above this the watershed of MCA and ACA comes to the lateral surface
    supraganglionic_top_mm=60.0,
    # the body counts as well as the head (Puetz et al., Int J Stroke 2009;4:354)
    caudate_top_mm=30.0,
    caudate=Growth(),
    # the external capsule is thinner than a CT pixel is sharp: a reader's L ends where the claustrum begins
    lentiform=Growth(lateral_mm=1),
    claustrum_mm=2,
    # both limbs, as in the study form (Barber, Pexman)
    capsule_front_mm=30.0,
    # to the retroinsular cortex, and with the extreme capsule: the sign is the lost contrast of the two
    # (Truwit et al., Radiology 1990;176:801)
    insula=Growth(back_mm=3),
    # from 4 mm beside the frontal horn, whose own wall is fed by perforators, to the frontal pole
    ganglionic_aca=Border((23, 28), (33, 66)),
    # through the front of the insula
    ganglionic_anterior=Border((33, 23), (75, 11)),
    # through the back of the insula, then along the temporal lobe's gyri; seven millimetres in front of the
    # line that other readers draw, and five behind our own of atlas 1.0
    ganglionic_posterior=Border((38, -28), (80, -38)),
    # past hippocampus and trigone to the occipital surface
    ganglionic_pca=Border((36, -28), (47, -88)),
    # medial to it lie temporal stem, amygdala and hippocampus: anterior choroidal and posterior cerebral
    # arteries
    m2_medial_mm=38.0,
    # 5 mm beside the ventricle (roof z 30) runs the corona radiata of the perforators, in many patients with
    # leukoaraiosis; higher up the limit is the superior frontal sulcus, leaning outwards to the watershed
    supraganglionic_medial=((20.5, 29.0), (30.0, 28.0), (38.0, 24.0), (50.0, 24.0), (60.0, 28.0)),
    # superior frontal sulcus to the frontal pole
    supraganglionic_aca=Border((23, 15), (30, 60)),
    # above M1 | M2, and back with the brain's centre as the slices rise, so that M4 keeps its third
    supraganglionic_anterior=Border((24, 20), (75, 8), recedes=0.35),
    # above M2 | M3, and upright
    supraganglionic_posterior=Border((24, -27), (80, -39)),
    # behind the ventricle to the parieto-occipital surface
    supraganglionic_pca=Border((24, -54), (40, -92)),
)

SECOND: Final = Definition(
    # where FIRST says nothing else, the reason is a choice that readers make either way
    ganglionic_bottom_mm=-12.0,
    # the last slice with lentiform nucleus closes the lower level
    level_border_mm=17.5,
    # up to the vertex
    supraganglionic_top_mm=70.0,
    # head and the beginning of the body
    caudate_top_mm=22.0,
    # the ventricle's grey rim is left to partial volume, the border to the anterior limb drawn wide
    caudate=Growth(medial_mm=-2, lateral_mm=1),
    # the pallidum drawn into the pale capsule, the external capsule left out
    lentiform=Growth(medial_mm=2, lateral_mm=-1),
    claustrum_mm=0,
    # genu and posterior limb (Puetz et al. name the posterior limb alone)
    capsule_front_mm=4.0,
    # claustrum included, and the frontal and temporal folds that meet the insula
    insula=Growth(medial_mm=2, front_mm=2, back_mm=5),
    # a shallow M1: cortex and a centimetre of white matter
    ganglionic_aca=Border((31, 24), (29, 66)),
    # along the frontal operculum
    ganglionic_anterior=Border((33, 19), (75, 17)),
    # at the end of the Sylvian fissure
    ganglionic_posterior=Border((38, -36), (80, -45)),
    # a shallow M3 that reaches further to the occipital pole
    ganglionic_pca=Border((42, -36), (38, -94)),
    m2_medial_mm=40.0,
    # cortex and the white matter of the gyri alone at the height of the corona radiata
    supraganglionic_medial=((17.5, 37.0), (26.0, 36.0), (38.0, 31.0), (48.0, 27.0), (70.0, 27.0)),
    supraganglionic_aca=Border((26, 30), (44, 52)),
    # along the precentral sulcus, which moves back as the slices rise
    supraganglionic_anterior=Border((24, 15), (75, 10), recedes=0.5),
    # at the end of the Sylvian fissure
    supraganglionic_posterior=Border((24, -37), (80, -39)),
    supraganglionic_pca=Border((24, -60), (38, -94)),
)
