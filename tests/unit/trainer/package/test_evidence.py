"""The weight-free engine's opinion of prepared cases, and the evidence of both opinions together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import trainer.package.evidence as evidence_module
from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.config import ScoringConfig
from strokecore.head.grid import CANONICAL_GRID
from strokecore.pipeline import score_folder
from strokecore.reading.series import read_series
from strokecore.scoring.engine import Lesion, RegionEvidence
from tests.unit.trainer.evaluation_cases import M2, M5, SPEC, box, make_case, make_dataset
from tests.unit.trainer.package.test_calibrate import affected_in, dark_is_infarct
from trainer.data.canonical import canonical_case
from trainer.data.cases import Case, Dataset
from trainer.measure.thresholds import THRESHOLDS
from trainer.package.calibrate import fit_regions
from trainer.package.combine import weight_free
from trainer.package.evidence import collect

LEFT_M2 = RegionId("M2", "left")
SURE, UNSURE = RegionEvidence(0.99, 20.0, -5.0), RegionEvidence(None, None, None)


def test_the_opinion_of_a_prepared_case_is_that_of_the_node(sample_ct: Path) -> None:
    """The case keeps densities to 1/32 HU, so brain and registration come out nearly the same."""
    series = read_series(sample_ct)
    case = canonical_case(series, np.zeros(series.hu.shape, bool), None, case_id="a", split="validate")
    found = weight_free(case, load_atlas()).evidence
    result = score_folder(sample_ct, ScoringConfig(engine="asymmetry")).result
    node = {RegionId(f.name, f.side): f.probability for f in result.regions}
    assert any((p or 0) > 0.9 for p in node.values())
    for region in ALL_REGIONS:
        expected, ours = node[region], found[region].probability
        assert (expected is None) == (ours is None)
        assert ours == pytest.approx(expected, abs=0.05)


def opinion(case: Case, atlas: object) -> Lesion:
    """Sure of left M2 wherever it is, silent on right M5, nothing elsewhere."""
    del atlas
    probability = np.zeros(CANONICAL_GRID.shape, np.float32)
    probability[case.brain] = 0.02
    probability[box(M2)] = 0.98
    nothing: npt.NDArray[np.bool_] = np.zeros(CANONICAL_GRID.shape, bool)
    evidence = dict.fromkeys(ALL_REGIONS, RegionEvidence(0.05, 35.0, 0.0))
    evidence |= {LEFT_M2: SURE, RegionId("M5", "right"): UNSURE}
    return Lesion(probability, nothing, nothing, evidence)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    cases = [
        affected_in(make_case("both", "validate", "coupled", (M2, M5)), "left:M2", "left:M5"),
        make_case("free", "validate", "lesion_free"),
    ]
    return make_dataset(tmp_path_factory.mktemp("evidence") / "data", cases)


def test_both_opinions_are_collected_and_joined(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence_module, "weight_free", opinion)
    seen: list[int] = []
    records = dataset.split("validate")
    joined, _, weights = collect(
        dark_is_infarct, dataset, records, SPEC, fit_regions, joined=True, done=lambda: seen.append(1)
    )
    alone, _, none = collect(dark_is_infarct, dataset, records, SPEC, fit_regions, joined=False)
    assert weights is not None
    assert none is None
    assert len(seen) == 2
    assert np.array_equal(joined.log_odds, alone.log_odds, equal_nan=True)
    assert np.array_equal(joined.affected, alone.affected)
    assert joined.asymmetry is not None
    assert alone.asymmetry is None
    assert joined.asymmetry[:, ALL_REGIONS.index(LEFT_M2)] == pytest.approx(np.log(99), rel=1e-3)
    assert np.isnan(joined.asymmetry[:, ALL_REGIONS.index(RegionId("M5", "right"))]).all()
    # the network is right in both cases, the other opinion in one of two: the outlines follow the network
    assert weights.inside.learned > weights.inside.asymmetry
    at = THRESHOLDS.index(0.5)
    assert joined.dice[0, at] > 0.9
    assert joined.called_ml[1, at] < 1.0


def test_what_the_truth_does_not_judge_is_left_out(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is said of such a region, the fit is the same; its partner is still compared with it."""
    monkeypatch.setattr(evidence_module, "weight_free", opinion)
    both, free = dataset.split("validate")
    records = (replace(both, affected=("left:M2",), not_judged=("left:M5",)), free)
    at = ALL_REGIONS.index(RegionId("M5", "left"))
    joined, _, _ = collect(dark_is_infarct, dataset, records, SPEC, fit_regions, joined=True)
    assert not joined.judged[0, at]
    assert joined.judged.sum() == joined.judged.size - 1
    assert not np.isnan(joined.log_odds[:, at]).any()
    called = joined.affected.copy()
    called[0, at] = True
    assert joined.asymmetry is not None
    plain = fit_regions(joined.log_odds, joined.affected, joined.judged, joined.asymmetry)
    assert fit_regions(joined.log_odds, called, joined.judged, joined.asymmetry) == plain
