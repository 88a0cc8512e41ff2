"""What every output says of a result, in words: the line to copy, the reasons, the cells of the table."""

from __future__ import annotations

from typing import Final

from strokecore.anatomy.regions import REGION_NAMES, SIDES, Side
from strokecore.flags import QualityFlag
from strokecore.result import RegionFinding, Result

# The flag that withholds a score (scoring/quality.py).
WITHHOLDING: Final = "suspected_haemorrhage"

RESEARCH_USE: Final = "RESEARCH USE ONLY"
INTENDED_USE: Final = (
    "For adults with suspected stroke of the anterior circulation, non-contrast CT; time window and vessel "
    "occlusion are not considered; research use only."
)
NO_ALL_CLEAR: Final = "A normal score does not exclude stroke or haemorrhage."
SUPERSEDES: Final = "Replaces an earlier result of this scan."


def headline(result: Result) -> str:
    """What a reader must see first: "HAEMORRHAGE SUSPECTED, left, 14 ml - no ASPECTS"; "" where the scores
    are it."""
    if result.status == "withheld":
        return f"{_blood_headline(result)} - no ASPECTS"
    if result.status != "scored":
        return "ASPECTS NOT SCORED"
    # scored all the same where the site asked for it: the score must not come first
    return f"{_blood_headline(result)} - scored all the same" if _blood(result) else ""


def summary_line(result: Result) -> str:
    """One line to copy into a report: "ASPECTS right 7: I, M1, M2; left 10"."""
    if result.status == "withheld":
        return f"{headline(result)}. {reasons(result)[0].message}"
    if result.status != "scored":
        reason = reasons(result)[0]
        return f"ASPECTS NOT SCORED: {reason.message} {reason.remedy}".strip()
    first: Side = "left" if result.affected_side == "left" else "right"
    second: Side = "left" if first == "right" else "right"
    scores = f"ASPECTS {_hemisphere(result, first)}; {_hemisphere(result, second)}"
    return f"{headline(result)}: {scores}" if headline(result) else scores


def affected_regions(result: Result) -> str:
    """ "right I, M1, M2"; "none" where no region counts."""
    sides = {side: [f.name for f in result.regions if f.side == side and marked(result, f)] for side in SIDES}
    named = [f"{side} {', '.join(names)}" for side, names in reversed(sides.items()) if names]
    return "; ".join(named) or "none"


def whole_ml(volume: float) -> str:
    """ "14 ml": more digits than a density rule has would feign precision; "under 1 ml"."""
    return f"{volume:.0f} ml" if volume >= 0.5 else "under 1 ml"


def flags(result: Result) -> list[QualityFlag]:
    """The quality flags, refusals and warnings first."""
    order = {"refusal": 0, "warning": 1, "info": 2}
    return sorted(result.quality, key=lambda flag: order[flag.severity])


def reasons(result: Result) -> list[QualityFlag]:
    """Why there is no score, most important first; never empty."""
    withholding = [flag for flag in result.quality if flag.code == WITHHOLDING]
    if result.status == "withheld" and withholding:
        return withholding
    for severity in ("refusal", "warning"):
        flags = [flag for flag in result.quality if flag.severity == severity]
        if flags:
            return flags
    return [
        QualityFlag(
            "failed",
            "refusal",
            "The scoring run ended with an error.",
            "Read the scan without it and tell the administrator.",
        )
    ]


def region_rows(result: Result) -> list[tuple[str, RegionFinding, RegionFinding]]:
    """(name, right, left) in the order of REGION_NAMES; right first, as on the pictures."""
    findings = {(finding.name, finding.side): finding for finding in result.regions}
    return [
        (name, findings[name, "right"], findings[name, "left"])
        for name in REGION_NAMES
        if (name, "right") in findings and (name, "left") in findings
    ]


def marked(result: Result, finding: RegionFinding) -> bool:
    """Whether a region is shown as affected; never where the score is withheld, or it could be counted."""
    return finding.affected and finding.assessable and result.status == "scored"


def doubtful(result: Result, finding: RegionFinding) -> bool:
    """Whether a region is shown as borderline, affected or not; never where the score is withheld."""
    return finding.borderline and finding.assessable and result.status == "scored"


def statement(result: Result, finding: RegionFinding) -> str:
    """What a table says of one region; "normal" only where nothing speaks against it."""
    note = f" ({finding.reason.replace('_', ' ')})" if finding.reason else ""
    if not finding.assessable:
        return f"not assessed{note}"
    if result.status == "withheld":
        return "withheld"
    if finding.affected:
        return f"affected{', borderline' if finding.borderline else ''}{note}"
    if finding.borderline:
        return f"borderline{note}"
    return f"not counted{note}" if note else "normal"


def probability(result: Result, finding: RegionFinding) -> str:
    """The region's probability as a table shows it; hidden with the score, which it would give away."""
    return number(None if result.status == "withheld" else finding.probability, "{:.2f}")


def haemorrhage(result: Result) -> str:
    """ "12 ml, parenchymal, right, most of it in right L"; "" where none is suspected."""
    found = result.haemorrhage
    return "" if found is None else f"{whole_ml(found.ml)}, {found.place}"


def _blood(result: Result) -> bool:
    return result.haemorrhage is not None or any(flag.code == WITHHOLDING for flag in result.quality)


def _blood_headline(result: Result) -> str:
    if not _blood(result):
        return "SCORE WITHHELD"
    found = result.haemorrhage
    if found is None:
        return "HAEMORRHAGE SUSPECTED"
    side = "both sides" if found.side == "both" else found.side
    return f"HAEMORRHAGE SUSPECTED, {side}, {whole_ml(found.ml)}"


def decision(result: Result) -> str:
    """What a site's own decision point does; "" where the engine's own holds."""
    cut = result.software.region_cut
    if cut is None:
        return ""
    return f"This site counts a region from a probability of {cut.threshold:g} on (file {cut.sha256[:12]})."


def number(value: float | None, form: str) -> str:
    """``value`` written by ``form``, "-" for a value that is not there; never "-0.0"."""
    if value is None:
        return "-"
    words = form.format(value)
    return form.format(0.0) if float(words) == 0.0 else words


def _hemisphere(result: Result, side: Side) -> str:
    names = ", ".join(f.name for f in result.regions if f.side == side and marked(result, f))
    score = result.aspects[side]
    return f"{side} {score}: {names}" if names and score.score is not None else f"{side} {score}"
