"""A small analytic head for tests of engines and rules: boxes for regions, no atlas, no scanner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, SUPRAGANGLIONIC, RegionId
from strokecore.head.brain import Brain
from strokecore.head.canonical import Head
from strokecore.head.grid import Grid
from strokecore.scoring.decision import GROUPS, Company, Decision, Normal, Scatter, Weights
from strokecore.scoring.tissue import QUANTILES

SHAPE = (40, 100, 121)
SPACING_MM = (2.0, 2.0, 1.0)
NORMAL_HU = 33.0


def region_slices(region: RegionId) -> tuple[slice, slice, slice]:
    """The box of one region; 30 x 10 x 20 mm or larger, mirrored about the middle column."""
    upper = region.name in SUPRAGANGLIONIC
    order = REGION_NAMES.index(region.name)
    row = 8 + 12 * (order - 7 if upper else order)
    z = slice(22, 36) if upper else slice(6, 20)
    half = SHAPE[2] // 2
    x = slice(half + 15, half + 45) if region.side == "left" else slice(half - 44, half - 14)
    return z, slice(row, row + 10), x


def flat_head(noise_hu: float = 3.0, seed: int = 0, slice_thickness_mm: float = 4.0) -> Head:
    """A head of uniform tissue with Gaussian noise; white and grey alike."""
    rng = np.random.default_rng(seed)
    hu = (NORMAL_HU + rng.normal(0, noise_hu, SHAPE)).astype(np.float32)
    everywhere, nowhere = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    regions = np.zeros(SHAPE, np.uint8)
    for region in ALL_REGIONS:
        regions[region_slices(region)] = region.label
    brain = Brain(everywhere, nowhere, nowhere, everywhere, nowhere, noise_hu)
    half_width = SPACING_MM[2] * (SHAPE[2] - 1) / 2
    return Head(
        hu=hu,
        grid=Grid(SHAPE, SPACING_MM, (-half_width, -100.0, -40.0)),
        brain=brain,
        haemorrhage=None,
        regions=regions,
        tissue=np.ones(SHAPE, np.float32),
        covered=everywhere,
        field=np.zeros(SHAPE, np.float32),
        second_regions=np.zeros(SHAPE, np.uint8),
        slice_thickness_mm=slice_thickness_mm,
    )


def darken(head: Head, region: RegionId, delta_hu: float) -> Head:
    """The head with one region ``delta_hu`` darker (brighter when negative)."""
    hu = head.hu.copy()
    hu[region_slices(region)] -= delta_hu
    return replace(head, hu=hu)


def plain_decision(threshold: float = 0.5) -> Decision:
    """Constants for a head of uniform tissue: 2.5 HU below the mirror and the person's level is even odds."""
    count = len(QUANTILES)
    weights = Weights(offset=-7.5, differences=(1.2, 0.6, 0.6), levels=(0.3, 0.3, 0.0))
    alone = Weights(offset=-7.5, differences=(0.0,) * count, levels=(1.5, 1.0, 0.5))
    normal = Normal((1.0,) * count, (1.0,) * count, (0.0,) * count)
    return Decision(
        threshold,
        slope=1.0,
        offset=0.0,
        normal=dict.fromkeys(REGION_NAMES, normal),
        scatter=Scatter(1.0, 0.0, 0.0),
        weights=dict.fromkeys(GROUPS.values(), weights),
        alone=dict.fromkeys(GROUPS.values(), alone),
        company=dict.fromkeys(GROUPS.values(), Company(0.0, 1.0, 0.0, 0.0, 0.0)),
    )
