"""Fit strokecore/scoring/decision.json: the weight-free engine's weights, calibration and decision point.

Three steps, each resumable:

    python -m tests.studies.decision heads ANATOMIES OUT --count 20
    python -m tests.studies.decision heads ANATOMIES OUT --persons 07,08 --count 30
    python -m tests.studies.decision measure OUT
    python -m tests.studies.decision fit OUT

``heads`` simulates persons as DICOM with their truth, ``measure`` runs the node's own pipeline up to the
regions' measurements, ``fit`` fits the weights on the average head and persons 01-06, calibrates on persons
07-08, chooses the decision point over all nine, each by a fit without this person, and reports. Persons from
09 on are not touched.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import optimize, special

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import REGION_NAMES, RegionId
from strokecore.errors import Refusal
from strokecore.evaluate.statistics import auc
from strokecore.files import write_atomically
from strokecore.head.canonical import align_series, crop, symmetric_box
from strokecore.reading.series import read_series
from strokecore.reading.tags import quiet_pydicom
from strokecore.scoring.decision import (
    GROUPS,
    SCATTER_LIMITS,
    Company,
    Normal,
    Scatter,
    Weights,
    bounded,
    company_of,
    in_units,
)
from strokecore.scoring.evidence import Evidence, labellings, region_evidence
from strokecore.scoring.tissue import QUANTILES, Tissue
from strokecore.simulate import SIMULATOR_VERSION, write_sample
from strokecore.simulate.domain import random_person_spec
from strokecore.simulate.people import load_person

# The simulator's average of many people, which a site's first trial shows, reads like one more person.
AVERAGE: Final = "00"
FIT_PERSONS: Final = (AVERAGE, "01", "02", "03", "04", "05", "06")
VALIDATE_PERSONS: Final = ("07", "08")
DEPTHS_HU: Final = (2.0, 3.0, 5.0, 8.0)
# Of five heads one has no infarct; the other four have one depth each.
CYCLE: Final = len(DEPTHS_HU) + 1
KEPT_HEMISPHERES: Final = 0.85
# The company of a region is a hint: drawn towards 0, or two strong neighbours alone would call it.
COMPANY_PRIOR: Final = 20.0
COUNT: Final = len(QUANTILES)
# Half the usual matrix: the node's grid has pixels of 1 mm, and simulating and reading take a third.
COARSE: Final[dict[str, Any]] = {"matrix": 256, "pixel_mm": 0.9}
OUT: Final = Path("strokecore/scoring/decision.json")


@dataclass(frozen=True)
class Row:
    """One region of one head: what is true and every opinion's measurements."""

    person: str
    case: str
    region: RegionId
    delta_hu: float
    affected: bool
    judged: bool
    observer_hu: float | None
    opinions: tuple[Evidence, ...]


def make_head(task: tuple[str, int], anatomies: Path, out: Path, second: Path | None) -> None:
    person, seed = task
    folder = out / f"{person}-{seed:05d}"
    if (folder / "truth" / "truth.json").exists():
        return
    base = None if person == AVERAGE else load_person(anatomies / f"person_{person}.nii.gz", second)
    depth = (0.0, *DEPTHS_HU)[seed % CYCLE]
    changes: dict[str, Any] = {"delta_hu": depth} if depth else {"affected": ()}
    definition = ("atlas", "second", "between")[seed % 3] if base else "atlas"
    anatomy = base.anatomy if base else ""
    spec = random_person_spec(seed, anatomy, **changes, definition=definition, **COARSE)
    write_sample(folder, spec, base)


def measure_case(folder: Path) -> list[Row]:
    """The node's measurements of one head; none where it is refused."""
    kept = folder / "rows.pkl"
    if kept.exists():
        return list(pickle.loads(kept.read_bytes()))
    truth = json.loads((folder / "truth" / "truth.json").read_text())
    try:
        with quiet_pydicom():
            head = align_series(read_series(folder), load_atlas()).head
    except Refusal as refusal:
        print(folder.name, "refused", refusal.code, flush=True)
        return []
    head = crop(head, symmetric_box(head.brain.intracranial))
    tissue = Tissue.of(head)
    opinions = [region_evidence(head, tissue, regions) for regions in labellings(head)]
    rows = []
    for row in truth["regions"]:
        region = RegionId(row["name"], row["side"])
        if region in opinions[0]:
            rows.append(
                Row(
                    person=folder.name.split("-")[0],
                    case=folder.name,
                    region=region,
                    delta_hu=truth["spec"]["delta_hu"] if truth["spec"]["affected"] else 0.0,
                    affected=row["affected"],
                    judged=row.get("judged", True),
                    observer_hu=row.get("observer_difference_hu"),
                    opinions=tuple(found[region] for found in opinions if region in found),
                )
            )
    write_atomically(kept, pickle.dumps(rows))
    return rows


def healthy(rows: list[Row], name: str) -> list[Evidence]:
    return [r.opinions[0] for r in rows if r.region.name == name and r.judged and not r.affected]


def fit_scatter(rows: list[Row]) -> Scatter:
    """How regions without infarct scatter with their head's blocks: the likeliest powers, Laplace's law."""
    usual = float(np.median([s for s in {r.case: r.opinions[0].scatter_hu for r in rows}.values() if s]))

    def likeliest(measured: Callable[[Evidence], tuple[float, ...] | None]) -> float:
        groups = []
        for name in REGION_NAMES:
            mine = [(v, e.scatter_hu) for e in healthy(rows, name) if (v := measured(e)) and e.scatter_hu]
            values = np.array([v for v, _ in mine])
            ratio = np.clip(np.array([s for _, s in mine]) / usual, *SCATTER_LIMITS)
            groups.append((np.abs(values - np.median(values, axis=0)), np.log(ratio)[:, None]))

        def cost(power: float) -> float:
            """-log of the likelihood, the width of each region's law at its own optimum."""
            widths = [
                (np.mean(off * np.exp(-power * log), axis=0), log.mean(), len(off)) for off, log in groups
            ]
            return sum(float((np.log(width) + power * log).sum() * n) for width, log, n in widths)

        return _rounded(min(np.arange(0.0, 3.01, 0.05), key=cost))

    return Scatter(_rounded(usual), likeliest(lambda e: e.differences_hu), likeliest(lambda e: e.levels_hu))


def fit_normal(rows: list[Row], scatter: Scatter) -> dict[str, Normal]:
    """Scatter and means of every region name over regions without infarct, both sides together."""
    found = {}
    for name in REGION_NAMES:
        mine = healthy(rows, name)
        factors = [scatter.of_head(e.scatter_hu) for e in mine]
        levels = np.array([e.levels_hu for e in mine])
        means = np.median(levels, axis=0)
        levels = (levels - means) / np.array([[f] for _, f in factors])
        differences = np.array(
            [
                np.array(e.differences_hu) / f
                for e, (f, _) in zip(mine, factors, strict=True)
                if e.differences_hu is not None
            ]
        )
        noise = float(np.mean([e.error_hu**2 for e in mine]))
        found[name] = Normal(
            differences_sd=tuple(_without_noise(values, 2 * noise) for values in differences.T),
            levels_sd=tuple(_without_noise(values, noise) for values in levels.T),
            levels_mean=tuple(_rounded(float(value)) for value in means),
        )
    return found


def _without_noise(values: Any, noise: float) -> float:
    """Robust standard deviation less the image noise's share, at least 0.3 HU."""
    sd = float(np.median(np.abs(values - np.median(values)))) * 1.4826
    sd = max(sd, 0.7 * float(np.std(values)))
    return _rounded(float(np.sqrt(max(sd**2 - noise, 0.09))))


def units(rows: list[Row], normal: dict[str, Normal], scatter: Scatter) -> Any:
    """Differences and levels in units of their scatter, averaged over opinions; [n, 6], NaN unknown."""
    table = np.full((len(rows), 2 * COUNT), np.nan)
    for at, row in enumerate(rows):
        each = [in_units(e, normal[row.region.name], scatter) for e in row.opinions]
        table[at, COUNT:] = np.mean([levels for _, levels in each], axis=0)
        compared = [differences for differences, _ in each if differences is not None]
        if compared:
            table[at, :COUNT] = np.mean(compared, axis=0)
    return table


def fit_weights(
    rows: list[Row], normal: dict[str, Normal], scatter: Scatter, *, alone: bool = False
) -> dict[str, Weights]:
    """Logistic regression by group, drawn towards all groups together; ``alone``: by the levels only."""
    groups = sorted(set(GROUPS.values()))
    x = -units(rows, normal, scatter)
    x = x[:, COUNT:] if alone else x
    y = np.array([r.affected for r in rows], float)
    group = np.array([groups.index(GROUPS[r.region.name]) for r in rows])
    keep = np.array([r.judged for r in rows]) & ~np.isnan(x).any(axis=1)
    found = {}
    for name, values in zip(groups, _logistic(x[keep], y[keep], group[keep], len(groups)), strict=True):
        rounded = tuple(_rounded(v) for v in values)
        differences = (0.0,) * COUNT if alone else rounded[:COUNT]
        found[name] = Weights(rounded[-1], differences, rounded[-1 - COUNT : -1])
    return found


def _logistic(x: Any, y: Any, group: Any, groups: int, shared_prior: float = 0.1) -> Any:
    """Weights and offset by group [groups, k + 1], drawn towards those of all groups together.

    ``shared_prior``: how strongly those are drawn towards 0.
    """
    k = x.shape[1]

    def loss(flat: Any) -> tuple[float, Any]:
        shared, own = flat[: k + 1], flat[k + 1 :].reshape(groups, k + 1)
        weights = shared + own
        z = (x * weights[group, :k]).sum(axis=1) + weights[group, k]
        wrong = special.expit(z) - y
        terms = np.concatenate([x * wrong[:, None], wrong[:, None]], axis=1)
        by_group = np.stack([np.bincount(group, terms[:, i], groups) for i in range(k + 1)], axis=1)
        penalty = 0.5 * (own**2 * prior).sum() + 0.5 * shared_prior * (shared[:k] ** 2).sum()
        gradient = np.concatenate(
            [by_group.sum(axis=0) + np.r_[shared_prior * shared[:k], 0.0], (by_group + own * prior).ravel()]
        )
        return float((np.logaddexp(0, z) - y * z).sum() + penalty), gradient

    prior = np.r_[np.full(k, 8.0), 2.0]
    flat = optimize.minimize(loss, np.zeros((groups + 1) * (k + 1)), jac=True, method="L-BFGS-B").x
    return flat[: k + 1] + flat[k + 1 :].reshape(groups, k + 1)


def fit_company(rows: list[Row], value: Any) -> dict[str, Company]:
    """How much the other regions count: logistic regression over ``value`` and the means of both sides."""
    groups = sorted(set(GROUPS.values()))
    x = np.column_stack([value, *np.array(others_of(rows, value)).T])
    y = np.array([r.affected for r in rows], float)
    group = np.array([groups.index(GROUPS[r.region.name]) for r in rows])
    keep = np.array([r.judged for r in rows])
    return {
        name: Company(_rounded(w[-1]), *(_rounded(v) for v in w[:-1]))
        for name, w in zip(
            groups, _logistic(x[keep], y[keep], group[keep], len(groups), COMPANY_PRIOR), strict=True
        )
    }


def others_of(rows: list[Row], value: Any) -> list[tuple[float, float, float]]:
    by_case: dict[str, dict[RegionId, float]] = {}
    for row, v in zip(rows, value, strict=True):
        by_case.setdefault(row.case, {})[row.region] = float(v)
    return [company_of(by_case[row.case], row.region) for row in rows]


def with_company(rows: list[Row], value: Any, company: dict[str, Company]) -> Any:
    """Log-odds in company, before the calibration; [n]."""
    found = []
    for row, v, others in zip(rows, value, others_of(rows, value), strict=True):
        c = company[GROUPS[row.region.name]]
        found.append(c.offset + np.dot((c.own, c.same_side, c.strongest, c.other_side), (v, *others)))
    return np.array(found)


def odds(
    rows: list[Row],
    normal: dict[str, Normal],
    scatter: Scatter,
    weights: dict[str, Weights],
    alone: dict[str, Weights],
) -> Any:
    """Mean log-odds over the opinions, before the calibration; [n]."""
    value = np.zeros(len(rows))
    for at, (row, x) in enumerate(zip(rows, units(rows, normal, scatter), strict=True)):
        compared = not np.isnan(x[0])
        w = (weights if compared else alone)[GROUPS[row.region.name]]
        by_levels = -float(x[COUNT:] @ w.levels)
        value[at] = w.offset + (bounded(by_levels) if compared else by_levels)
        value[at] -= np.nan_to_num(x[:COUNT]) @ w.differences
    return value


def calibrate(value: Any, rows: list[Row]) -> tuple[float, float]:
    """Platt's slope and offset."""
    keep = np.array([r.judged for r in rows])
    y, v = np.array([r.affected for r in rows], float)[keep], value[keep]

    def loss(p: Any) -> float:
        z = p[0] * v + p[1]
        return float((np.logaddexp(0, z) - y * z).sum() + 2 * (p[0] - 1) ** 2)

    slope, offset = optimize.minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    return float(slope), float(offset)


def threshold_of(probability: Any, rows: list[Row]) -> float:
    """The lowest cut, in steps of 0.01, that keeps KEPT_HEMISPHERES of those without infarct free of calls.

    People differ more than heads of one person do: the share is the mean over persons less the standard error
    that a mean over two other people has. What so few heads of each scatter by chance is taken out of it.
    """
    worst: dict[tuple[str, str, str], float] = {}
    sick = {(r.case, r.region.side) for r in rows if r.affected or not r.judged}
    for p, row in zip(probability, rows, strict=True):
        if (row.case, row.region.side) not in sick:
            key = (row.person, row.case, row.region.side)
            worst[key] = max(worst.get(key, 0.0), float(p))
    for cut in np.arange(0.05, 1.0, 0.01):
        kept: dict[str, list[bool]] = {}
        for (person, _, _), p in worst.items():
            kept.setdefault(person, []).append(p < cut)
        shares = np.array([np.mean(each) for each in kept.values()])
        heads = np.array([len(each) for each in kept.values()])
        by_chance = np.mean(shares * (1 - shares) / (heads - 1))
        between = np.sqrt(max(0.0, np.var(shares, ddof=1) - by_chance))
        if np.mean(shares) - between / np.sqrt(2) >= KEPT_HEMISPHERES:
            return float(cut)
    raise ValueError("no cut keeps enough hemispheres")


def report(name: str, rows: list[Row], probability: Any, cut: float) -> dict[str, Any]:
    judged = np.array([r.judged for r in rows])
    y = np.array([r.affected for r in rows])
    depth = np.array([r.delta_hu for r in rows])
    observer = np.array([np.nan if r.observer_hu is None else -r.observer_hu for r in rows])
    plain = np.array([-(r.opinions[0].differences_hu or (0.0,) * COUNT)[1] for r in rows])
    lines: dict[str, Any] = {}
    for label, chosen in (
        ("all", judged),
        *((f"{d:g} HU", judged & np.isin(depth, (0, d))) for d in DEPTHS_HU),
        *((n, judged & np.array([r.region.name == n for r in rows])) for n in REGION_NAMES),
    ):
        seen = chosen & ~np.isnan(observer)
        lines[label] = [
            round(float(auc(y[c], s[c])), 3)
            for c, s in ((chosen, probability), (chosen, plain), (seen, observer))
        ]
    deep = judged & (depth >= 4)
    at95 = float(np.quantile(probability[judged & ~y], 0.95))
    lines["sensitivity >= 4 HU at cut, at specificity 0.95"] = [
        round(float((probability[deep & y] >= c).mean()), 3) for c in (cut, at95)
    ]
    lines["specificity"] = round(float((probability[judged & ~y] < cut).mean()), 4)
    bins = np.clip((probability[judged] * 10).astype(int), 0, 9)
    lines["ECE"] = round(
        float(
            sum(
                (bins == b).mean() * abs(y[judged][bins == b].mean() - probability[judged][bins == b].mean())
                for b in range(10)
                if (bins == b).any()
            )
        ),
        4,
    )
    print(f"\n{name}: {len({r.case for r in rows})} heads (AUC: probability, plain difference, observer)")
    for key, value in lines.items():
        print(f"  {key:50s} {value}")
    return lines


@dataclass(frozen=True)
class Fitted:
    """What ``fitted`` found; of a row, ``probability``."""

    scatter: Scatter
    normal: dict[str, Normal]
    weights: dict[str, Weights]
    alone: dict[str, Weights]
    company: dict[str, Company]
    slope: float
    offset: float

    def probability(self, rows: list[Row]) -> Any:
        value = odds(rows, self.normal, self.scatter, self.weights, self.alone)
        return special.expit(self.slope * with_company(rows, value, self.company) + self.offset)


def fitted(tune: list[Row], validate: list[Row]) -> Fitted:
    """Weights from ``tune``, calibration from ``validate``."""
    scatter = fit_scatter(tune)
    normal = fit_normal(tune, scatter)
    weights = fit_weights(tune, normal, scatter)
    alone = fit_weights(tune, normal, scatter, alone=True)
    company = fit_company(tune, odds(tune, normal, scatter, weights, alone))
    value = with_company(validate, odds(validate, normal, scatter, weights, alone), company)
    return Fitted(scatter, normal, weights, alone, company, *calibrate(value, validate))


def of_strangers(tune: list[Row], validate: list[Row]) -> tuple[list[Row], Any]:
    """All rows, and what a fit without their own person says of them."""
    rows: list[Row] = []
    found = []
    for person in (*FIT_PERSONS, *VALIDATE_PERSONS):
        theirs = [r for r in (*tune, *validate) if r.person == person]
        others = ([r for r in part if r.person != person] for part in (tune, validate))
        rows += theirs
        found.append(fitted(*others).probability(theirs) if theirs else np.empty(0))
    return rows, np.concatenate(found)


def fit(out: Path, heads: list[Path]) -> None:
    rows = [row for folder in heads for row in measure_case(folder)]
    tune = [r for r in rows if r.person in FIT_PERSONS]
    validate = [r for r in rows if r.person in VALIDATE_PERSONS]
    found = fitted(tune, validate)
    strangers, probability = of_strangers(tune, validate)
    cut = threshold_of(probability, strangers)
    record = {
        "threshold": _rounded(cut),
        "calibration": {"slope": _rounded(found.slope), "offset": _rounded(found.offset)},
        "normal": {name: asdict(n) for name, n in found.normal.items()},
        "scatter": asdict(found.scatter),
        "weights": {name: asdict(w) for name, w in found.weights.items()},
        "alone": {name: asdict(w) for name, w in found.alone.items()},
        "company": {name: asdict(c) for name, c in found.company.items()},
        "fitted_on": {
            "simulator": SIMULATOR_VERSION,
            "atlas_sha256": load_atlas().sha256,
            "persons": list(FIT_PERSONS),
            "heads": len({r.case for r in tune}),
            "calibrated_on_persons": list(VALIDATE_PERSONS),
            "calibrated_on_heads": len({r.case for r in validate}),
            "hemispheres_without_infarct_kept": KEPT_HEMISPHERES,
        },
    }
    for name, w in found.weights.items():
        print(name, w, found.company[name])
    report("tune", tune, found.probability(tune), cut)
    report("validate", validate, found.probability(validate), cut)
    report("each person by a fit without this person", strangers, probability, cut)
    write_atomically(out, (json.dumps(record, indent=1) + "\n").encode())


def _rounded(value: float) -> float:
    return round(float(value), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("step", choices=("heads", "measure", "fit"))
    parser.add_argument("folders", type=Path, nargs="+", help="heads: ANATOMIES OUT; measure, fit: OUT ..")
    parser.add_argument("--persons", default=",".join((*FIT_PERSONS, *VALIDATE_PERSONS)))
    parser.add_argument("--count", type=int, default=40, help="heads of each person")
    parser.add_argument("--second-atlas", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with ProcessPoolExecutor(options.workers) as pool:
        if options.step == "heads":
            anatomies, out = options.folders
            persons = options.persons.split(",")
            tasks = [
                (p, 5 * n + k + 1000 * int(p))
                for n in range(options.count // CYCLE)
                for k in range(CYCLE)
                for p in persons
            ]
            work = partial(make_head, anatomies=anatomies, out=out, second=options.second_atlas)
            for done, _ in enumerate(pool.map(work, tasks), 1):
                print(done, len(tasks), flush=True)
            return
        heads = [path for folder in options.folders for path in sorted(folder.iterdir()) if path.is_dir()]
        for _ in pool.map(measure_case, [] if options.step == "fit" else heads):
            pass
    if options.step == "fit":
        fit(OUT, heads)


if __name__ == "__main__":
    main()
