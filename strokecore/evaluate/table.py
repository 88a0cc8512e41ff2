"""A study's figures for a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strokecore.evaluate.statistics import in_words

Rows = list[tuple[str, str]]


def print_study(record: dict[str, Any], console: Console) -> None:
    """The headline figures, the regions, and every case that got no score."""
    figures = record["figures"]
    table = Table("figure", "value (95 % interval)", box=box.SIMPLE_HEAD)
    parts = (_cases(record), _region_rates(figures), _depths(figures), _scores(figures), _rest(figures))
    for name, value in (row for part in parts for row in part):
        table.add_row(escape(name), escape(value))
    console.print(table)
    console.print(_by_name(figures["regions"]["by_name"]))
    for case in record["cases"]:
        if case["status"] != "scored":
            detail = f" ({case['detail']})" if case["detail"] else ""
            console.print(escape(f"{case['name']}: {case['status']}, {case['code']}{detail}"), style="yellow")
    if cut := record["region_cut"]:
        console.print(
            f"Region cut: {cut['threshold']:g} keeps {cut['kept']:.0%} of "
            f"{cut['hemispheres_without_infarct']} hemispheres without infarct at 10 (region_cut.json)."
        )
    console.print("Intervals are drawn over patients. Research use only.", style="dim")


def _cases(record: dict[str, Any]) -> Rows:
    cases, done = record["figures"]["cases"], record["figures"]["processed"]
    origin, model = record["cases_from"], record["model"]
    seeds = f", seeds {origin['seeds'][0]}-{origin['seeds'][1]}" if origin["seeds"] else ""
    states = ", ".join(f"{count} {status}" for status, count in done["by_status"].items())
    return [
        (
            "cases",
            f"{cases['all']}: {cases['with_infarct']} with infarct, {cases['without']} without"
            + (f", {cases['with_blood']} with blood" if cases["with_blood"] else ""),
        ),
        ("split", ", ".join(origin["splits"]) + seeds),
        ("engine", f"{model['name']} {model['version']} ({model['engine']}, {model['precision']})"),
        ("processed", f"{in_words(done['fraction'])}; {states}"),
    ]


def _region_rates(figures: dict[str, Any]) -> Rows:
    found = figures["regions"]
    missing, doubtful = found["not_assessed"], found["borderline"]
    return [
        ("region AUC", in_words(found["auc"])),
        ("  of cases with infarct", in_words(found["auc_cases_with_infarct"])),
        ("region sensitivity", in_words(found["sensitivity"])),
        ("region specificity", in_words(found["specificity"])),
        ("regions not assessed", f"{missing['affected']} affected, {missing['normal']} normal"),
        ("regions borderline", f"{doubtful['affected']} affected, {doubtful['normal']} normal"),
        ("calibration error", in_words(figures["calibration"]["all"]["expected_calibration_error"])),
    ]


def _depths(figures: dict[str, Any]) -> Rows:
    rows = []
    for depth, row in figures["detection"].items():
        found = row["regions"]["all"]
        if depth == "clear":
            rows.append(("sensitivity, at least 4 HU", in_words(found["sensitivity"])))
            rows.append(("  at specificity 0.95", in_words(found["sensitivity_at_95"])))
            continue
        beside = [
            f"{words} {found[key]['value']:.3f}" for key, words in _BESIDE.items() if _known(found, key)
        ]
        rows.append((f"region AUC, {depth} HU", "; ".join([in_words(found["auc"]), *beside])))
    return rows


_BESIDE = {"mirror": "mirror difference", "observer": "observer", "of_observer": "of the observer's"}


def _known(figures: dict[str, Any], key: str) -> bool:
    return key in figures and figures[key]["value"] is not None


def _scores(figures: dict[str, Any]) -> Rows:
    rows = []
    for key, title in (("hemispheres", "all hemispheres"), ("affected_hemispheres", "affected hemispheres")):
        found = figures["aspects"][key]
        rows += [
            (f"ASPECTS, {title}", f"{found['scored']} scored, {found['not_scored']} not"),
            ("  ICC(2,1)", in_words(found["icc_2_1"])),
            ("  bias", _bias(found["bland_altman"], "{:+.2f}")),
            ("  mean absolute error", in_words(found["mean_absolute_error"], "{:.2f}")),
            ("  exact", in_words(found["exact"])),
            ("  within 1", in_words(found["within_1"])),
        ]
        for cut, figure in found["dichotomies"].items():
            rows += [(f"  {cut} {name}", in_words(figure[name])) for name in _DICHOTOMY]
    limits = figures["aspects"]["range"]
    if limits["hemispheres"]:
        words = f"{in_words(limits['coverage'])}; {limits['width']['value']:.2f} points wide"
        rows.append(("range holds the truth", words))
    return rows


_DICHOTOMY = ("sensitivity", "specificity", "kappa")


def _rest(figures: dict[str, Any]) -> Rows:
    side, healthy = figures["side"], figures["without_infarct"]
    volume, seconds = figures["infarct_ml"], figures["seconds"]
    answers = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in side["answers"].items())
    rows = [("affected side correct", f"{in_words(side['correct'])}; {answers}" if answers else "-")]
    if healthy["hemispheres"]:
        rows.append(
            (
                "heads without infarct",
                f"of {healthy['hemispheres']} hemispheres {healthy['exactly_10']} score 10, "
                f"{healthy['at_most_7']} score 7 or less, {healthy['not_scored']} not scored",
            )
        )
    rows += [
        (f"blood found: {kind}", f"{in_words(row['found'])} of {row['cases']}")
        for kind, row in figures["blood"].items()
    ]
    if volume["cases"]:
        rows.append(("infarct volume error, ml", _bias(volume["bland_altman"], "{:+.1f}")))
    overlap = figures["infarct_dice"]
    if overlap["cases"] or overlap["unusable_masks"]:
        unusable = f"; {overlap['unusable_masks']} masks unusable" if overlap["unusable_masks"] else ""
        rows.append(("infarct Dice, mean", in_words(overlap["mean"]) + unusable))
    if seconds["cases"]:
        rows.append(
            ("seconds per case", f"median {seconds['median']:.1f}, 95th percentile {seconds['p95']:.1f}")
        )
    return rows


def _by_name(by_name: dict[str, Any]) -> Table:
    table = Table("region", box=box.SIMPLE_HEAD)
    rates = ("auc", "sensitivity", "specificity")
    for title in ("affected", *rates):
        table.add_column(title, justify="right")
    for name, row in by_name.items():
        table.add_row(name, str(row["affected"]), *(in_words(row[rate], "{:.2f}", "-") for rate in rates))
    return table


def _bias(figures: dict[str, Any], form: str) -> str:
    text = in_words(figures["bias"], form)
    if figures["limits"] is None:
        return text
    low, high = (form.format(value) for value in figures["limits"])
    return f"{text}; limits of agreement {low} to {high}"
