"""The bars of the study, each with its figure: met or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, CORTICAL, DEEP, SIDES
from strokecore.evaluate import statistics as st
from strokecore.evaluate.detection import CLEAR_HU, FEWEST_REGIONS_FOR_SIDE
from strokecore.evaluate.figures import PLAIN, summarise
from strokecore.evaluate.outcomes import Outcome
from strokecore.evaluate.statistics import in_words

Figures = dict[str, Any]

AUC_BARS: Final = {"2": 0.85, "3": 0.93, "5": 0.97, "8": 0.99}
OBSERVER_SHARE: Final = 0.90
CLEAN_KEPT: Final = 0.90
# Of each deep region, at the default cut, from CLEAR_HU on.
DEEP_SENSITIVITY: Final = 0.50
INFARCT_DICE: Final = 0.65
COVERAGE: Final = (0.85, 0.95)
DICE_BARS: Final = {"L": 0.80, "C": 0.70}
WORST_DICE: Final = 0.5
REAL_TOLERANCE: Final = 0.07
BLOOD_BARS: Final = {
    "parenchymal, 2 to 10 ml": ("5 ml parenchymal", 0.95),
    "parenchymal, 0 to 2 ml": ("1 ml parenchymal", 0.6),
    "subdural, 10 ml or more": ("subdural of 10 ml and more", 0.9),
    "bilateral_subdural, 10 ml or more": ("subdural of both sides", 0.9),
    "subarachnoid": ("diffuse subarachnoid", 0.8),
    "ventricular": ("ventricular", None),
}


@dataclass(frozen=True)
class Row:
    """One bar; ``met`` is None for what is only reported, or was not measured."""

    name: str
    bar: str
    figure: str
    met: bool | None = None


@dataclass(frozen=True)
class Timing:
    """The command on one scan: from its start to its end, and what it took of the processors."""

    slices: int
    seconds: float
    cpu_seconds: float
    peak_gb: float
    most_seconds: float


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything the study found.

    Attributes
    ----------
    outcomes: by part ("infarct", "normal", "blood", "real").
    fits: of simulated cases without blood, by name (run.fit).
    """

    outcomes: Mapping[str, Sequence[Outcome]]
    fits: Mapping[str, dict[str, Any]]
    timings: Sequence[Timing] = ()
    draws: int = st.BOOTSTRAP_DRAWS
    figures: dict[str, Figures] = field(init=False)

    def __post_init__(self) -> None:
        parts = {name: found for name, found in self.outcomes.items() if found}
        sound = [o for name in ("infarct", "normal") for o in parts.get(name, ())]
        if sound:
            parts["sound"] = sound
        object.__setattr__(
            self, "figures", {name: summarise(found, self.draws) for name, found in parts.items()}
        )


def acceptance(measured: Measured) -> list[Row]:
    """Every bar, in the order in which they were set."""
    figures = measured.figures
    rows = []
    if "infarct" in figures:
        rows += [*_ranking(figures["infarct"]), *_decision(figures["infarct"]), *_scores(figures["infarct"])]
        rows += _observed_scores(measured.outcomes["infarct"])
        rows.append(_not_assessed(measured.outcomes["infarct"]))
    if "sound" in figures:
        rows += _clean(figures["sound"])
    if "blood" in figures:
        rows += _blood(figures["blood"])
    if "normal" in figures:
        rows.append(_withheld(figures["normal"]))
    if "sound" in figures:
        rows.append(_refused(measured))
    if measured.fits:
        rows += [*_infarct_dice(measured), *_fit(measured)]
    if "average" in figures:
        rows += [
            replace(row, name=f"average head: {row.name.strip()}")
            for row in (*_ranking(figures["average"]), *_decision(figures["average"])[:1])
        ]
        rows.append(replace(_clean(figures["average"])[0], name="average head: clean hemispheres exactly 10"))
    if "real" in figures:
        rows += _real(figures["real"], figures.get("infarct"))
    rows += [
        Row(
            f"time of {t.slices} slices",
            f"<= {t.most_seconds:g} s, <= 1.5 GB",
            f"{t.seconds:.1f} s ({t.cpu_seconds:.1f} s of processor), {t.peak_gb:.2f} GB",
            t.seconds <= t.most_seconds and t.peak_gb <= 1.5,
        )
        for t in measured.timings
    ]
    return rows


def fit_figures(measured: Measured) -> Figures:
    """Dice by region name over heads, its lowest head and person, and the border's error, mm."""
    person = {o.name: o.truth.person for found in measured.outcomes.values() for o in found}
    found = {}
    for name in dict.fromkeys(r.name for r in ALL_REGIONS):
        keys = [f"{r.side}:{r.name}" for r in ALL_REGIONS if r.name == name]
        dices = {case: _mean([fit["dice"][key] for key in keys]) for case, fit in measured.fits.items()}
        borders = np.array([_mean([fit["border_mm"][key] for key in keys]) for fit in measured.fits.values()])
        values = np.array(list(dices.values()))
        by_person: dict[str, list[float]] = {}
        for case, value in dices.items():
            if np.isfinite(value):  # else the scan does not reach the region
                by_person.setdefault(str(person[case]), []).append(value)
        found[name] = {
            "dice": asdict(st.median(values)),
            "lowest_head": float(np.nanmin(values)),
            "by_person": {p: float(np.median(known)) for p, known in sorted(by_person.items())},
            "border_mm": asdict(st.median(borders)),
        }
    return found


def _infarct_dice(measured: Measured) -> list[Row]:
    """How well the infarct is outlined in heads whose infarct is CLEAR_HU deep or deeper."""
    heads = [o for o in measured.outcomes.get("infarct", ()) if (o.truth.delta_hu or 0.0) >= CLEAR_HU]
    values = [measured.fits.get(o.name, {}).get("infarct_dice") for o in heads]
    found = np.array([value for value in values if value is not None])
    if not found.size:
        return []
    estimate = asdict(st.mean(found, st.draw_patients(len(found))))
    row = _at_least(f"infarct Dice, mean of {len(found)} heads of >= 4 HU", INFARCT_DICE, estimate)
    return [replace(row, figure=f"{row.figure}, median {np.median(found):.3f}")]


def _ranking(figures: Figures) -> list[Row]:
    rows = []
    for depth, bar in AUC_BARS.items():
        if depth not in figures["detection"]:
            continue
        found = figures["detection"][depth]["regions"]["all"]
        auc, observer = (found[key]["value"] for key in ("auc", "observer"))
        needed = min(bar, 0.5 + OBSERVER_SHARE * (observer - 0.5))
        rows.append(
            Row(
                f"region AUC at {depth} HU",
                f">= {bar:.2f} or {OBSERVER_SHARE:g} of the observer's: {needed:.3f}",
                f"{in_words(found['auc'])}; observer {in_words(found['observer'])}; "
                f"mirror {in_words(found['mirror'])}; of the observer's {in_words(found['of_observer'])}",
                bool(auc >= needed),
            )
        )
    return rows


def _decision(figures: Figures) -> list[Row]:
    if "clear" not in figures["detection"]:
        return []
    regions = figures["detection"]["clear"]["regions"]
    everything = regions["all"]
    return [
        _at_least("sensitivity of the default decision, >= 4 HU", 0.70, everything["sensitivity"]),
        Row("  its specificity", "", in_words(everything["specificity"])),
        *(
            Row(
                f"  {name}",
                f">= {DEEP_SENSITIVITY:.2f}" if name in DEEP else "",
                f"{in_words(row['sensitivity'])} of {row['affected']}; AUC {in_words(row['auc'])}",
                _reaches(row["sensitivity"], DEEP_SENSITIVITY) if name in DEEP else None,
            )
            for name, row in regions.items()
            if name != "all"
        ),
        _at_least("sensitivity at specificity 0.95, >= 4 HU", 0.85, everything["sensitivity_at_95"]),
        *(
            Row(f"  {name}", "", in_words(row["sensitivity_at_95"]))
            for name, row in regions.items()
            if name != "all"
        ),
        *_calibration(figures["calibration"]),
    ]


def _calibration(figures: Figures) -> list[Row]:
    found = figures["all"]
    skill, slope, doubtful = (found[key] for key in ("brier_skill", "slope", "doubtful_error"))
    return [
        _at_most("expected calibration error", 0.05, found["expected_calibration_error"]),
        Row(
            "  of predictions between 0.1 and 0.9", "<= 0.05", _plain(doubtful), _within(doubtful, 0.0, 0.05)
        ),
        Row("Brier skill", ">= 0.30", _plain(skill), _within(skill, 0.3, 1.0)),
        Row("calibration slope", "0.8 to 1.25", _plain(slope), _within(slope, 0.8, 1.25)),
        *(
            Row(f"  {name}", "", f"slope {_plain(row['slope'])}, Brier skill {_plain(row['brier_skill'])}")
            for name, row in figures.items()
            if name != "all"
        ),
    ]


def _scores(figures: Figures) -> list[Row]:
    aspects = figures["aspects"]
    rows = []
    for key, words in (("hemispheres", "all hemispheres"), ("affected_hemispheres", "affected hemispheres")):
        found = aspects[key]
        rows.append(_at_least(f"ICC of ASPECTS, {words}", 0.85, found["icc_2_1"]))
        rows.append(_at_most(f"mean absolute error, {words}", 0.9, found["mean_absolute_error"]))
    if "clear" in figures["detection"]:
        side = figures["detection"]["clear"]["side_correct"]
        rows.append(_at_least("side right (>= 2 regions, >= 4 HU)", 0.95, side))
    limits = aspects["range"]
    if limits["hemispheres"]:
        low, high = COVERAGE
        rows += [
            Row(
                "range of the score holds the truth",
                f"{low:g} to {high:g}",
                in_words(limits["coverage"]),
                _within(limits["coverage"]["value"], low, high),
            ),
            Row(
                "  its width, points",
                "median <= 2",
                f"median {limits['median_width']:g}, mean {in_words(limits['width'], '{:.2f}')}",
                _within(limits["median_width"], 0.0, 2.0),
            ),
        ]
    return rows


def _not_assessed(outcomes: Sequence[Outcome]) -> Row:
    """Of the regions that the truth judges, in heads that were scored."""
    scored = [o for o in outcomes if o.status == "scored"]
    judged = np.array([o.truth.judged for o in scored])
    missing = judged & ~np.array([o.assessed for o in scored])
    share = float(missing.sum() / max(1, judged.sum()))
    return Row("regions not assessed", "<= 0.05", _plain(share), _within(share, 0.0, 0.05))


def _observed_scores(outcomes: Sequence[Outcome]) -> list[Row]:
    """The scores if the observer's differences were cut once: how far these heads let anyone go.

    The cut is the one that keeps CLEAN_KEPT of these very hemispheres, which flatters him.
    """
    seen = [o for o in outcomes if o.truth.observer_hu]
    if not seen:
        return []
    columns = {side: [r.side == side for r in ALL_REGIONS] for side in SIDES}
    darkness = np.array([[-(value or 0.0) for value in o.truth.observer_hu] for o in seen])
    clean = [
        row[columns[side]].max()
        for row, o in zip(darkness, seen, strict=True)
        for side in o.truth.clean_sides
    ]
    called = darkness > np.quantile(clean, CLEAN_KEPT)
    found = np.stack([10.0 - called[:, columns[side]].sum(axis=1) for side in SIDES], axis=1)
    true = np.array([[o.truth.scores[side] for side in SIDES] for o in seen], float)
    clear = [
        (o.truth.delta_hu or 0.0) >= CLEAR_HU and len(o.truth.affected) >= FEWEST_REGIONS_FOR_SIDE
        for o in seen
    ]
    right = np.sign(found[:, 0] - found[:, 1]) == np.sign(true[:, 0] - true[:, 1])
    icc = st.icc_2_1(np.column_stack([found.ravel(), true.ravel()]))
    error = np.abs(found - true).mean()
    words = f"ICC {icc:.3f}; absolute error {error:.3f}; side right {right[clear].mean():.3f}"
    return [Row(f"  the observer, cut so that {CLEAN_KEPT:.0%} of the clean hemispheres stay 10", "", words)]


def _clean(figures: Figures) -> list[Row]:
    found = figures["without_infarct"]
    every = found["all"]
    share = every["share_exactly_10"]
    scored = every["hemispheres"] - every["not_scored"]
    rows = [
        _at_least(f"hemispheres without infarct exactly 10, of {scored} scored", CLEAN_KEPT, share),
        Row("  of heads without infarct", "", in_words(found["share_exactly_10"])),
        Row("  opposite an infarct", "", in_words(found["opposite_an_infarct"]["share_exactly_10"])),
        Row("  7 or less", "none", str(every["at_most_7"]), every["at_most_7"] == 0),
        Row(
            "  infarct painted under 10 without a warning",
            "none",
            str(every["painted_unwarned"]),
            every["painted_unwarned"] == 0,
        ),
    ]
    costs = {n: r["cost"] for n, r in found["by_confounder"].items() if n != PLAIN and r["cost"] is not None}
    if costs:
        worst = max(costs, key=lambda name: costs[name])
        words = f"most: {worst} {costs[worst]:+.2f}"
        rows.append(Row("each confounder alone costs", "< 0.3 points", words, costs[worst] < 0.3))
    return rows


def _blood(figures: Figures) -> list[Row]:
    rows = []
    for kind, (name, bar) in BLOOD_BARS.items():
        theirs = [row for key, row in figures["blood"].items() if key == kind or key.startswith(f"{kind},")]
        if not theirs:
            continue
        cases = sum(row["cases"] for row in theirs)
        hits = round(sum(row["cases"] * row["found"]["value"] for row in theirs))
        found = asdict(st.rate(np.arange(cases) < hits, np.ones(cases), st.draw_patients(cases)))
        words = f"{in_words(found)} of {cases}"
        rows.append(
            Row(
                f"blood: {name}",
                f">= {bar}" if bar else "",
                words,
                None if bar is None else found["value"] >= bar,
            )
        )
    return rows


def _withheld(figures: Figures) -> Row:
    found, cases = figures["without_infarct"]["withheld"], figures["cases"]["without"]
    return Row(
        "normal heads withheld", "<= 0.03 of >= 100", f"{in_words(found)} of {cases}", found["value"] <= 0.03
    )


def _refused(measured: Measured) -> Row:
    heads = [o for name in ("infarct", "normal", "blood") for o in measured.outcomes.get(name, ())]
    codes = [str(o.code) for o in heads if o.status not in ("scored", "withheld")]
    words = ", ".join(f"{codes.count(code)} {code}" for code in dict.fromkeys(codes))
    return Row(
        "sound heads refused",
        "0",
        f"{len(codes)} of {len(heads)}" + (f": {words}" if words else ""),
        not codes,
    )


def _fit(measured: Measured) -> list[Row]:
    figures = fit_figures(measured)
    rows = []
    for name, bar in DICE_BARS.items():
        found = figures[name]
        worst = min(found["by_person"].values())
        rows.append(
            Row(
                f"Dice of {name}",
                f"median >= {bar}, worst person >= {WORST_DICE}",
                f"{in_words(found['dice'])}, worst person {worst:.3f}, "
                f"lowest head {found['lowest_head']:.3f}",
                bool(found["dice"]["value"] >= bar and worst >= WORST_DICE),
            )
        )
    borders = "; ".join(f"{name} {in_words(figures[name]['border_mm'], '{:.1f}')}" for name in CORTICAL)
    return [*rows, Row("border error of M regions, mm", "reported", borders)]


def _real(figures: Figures, simulated: Figures | None) -> list[Row]:
    states = figures["processed"]["by_status"]
    rows = [
        Row("real head, what became of it", "", ", ".join(f"{n} {status}" for status, n in states.items()))
    ]
    for depth in AUC_BARS:
        if depth not in figures["detection"]:
            continue
        found = figures["detection"][depth]["regions"]["all"]
        beside = (f"{key} {in_words(found[key])}" for key in ("observer", "mirror"))
        words = "; ".join([in_words(found["auc"]), *beside])
        met = None
        if simulated is not None and depth in simulated["detection"]:
            other = simulated["detection"][depth]["regions"]["all"]["auc"]["value"]
            difference = found["auc"]["value"] - other
            words += f"; simulated {other:.3f}, difference {difference:+.3f}"
            met = abs(difference) <= REAL_TOLERANCE
        rows.append(Row(f"real head, region AUC at {depth} HU", "within 0.07 of the simulated", words, met))
    return rows


def _reaches(estimate: dict[str, Any], bar: float) -> bool | None:
    return None if estimate["value"] is None else bool(estimate["value"] >= bar)


def _within(value: float | None, low: float, high: float) -> bool | None:
    return None if value is None else low <= value <= high


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _at_least(name: str, bar: float, estimate: dict[str, Any]) -> Row:
    value = estimate["value"]
    return Row(name, f">= {bar:.2f}", in_words(estimate), None if value is None else bool(value >= bar))


def _at_most(name: str, bar: float, estimate: dict[str, Any]) -> Row:
    value = estimate["value"]
    return Row(name, f"<= {bar:g}", in_words(estimate), None if value is None else bool(value <= bar))


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")
