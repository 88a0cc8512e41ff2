"""What every output says of a result, in words: the line to copy, the reasons, the cells of the table."""

from __future__ import annotations

from typing import Final

from strokecore.anatomy.regions import REGION_NAMES, Side
from strokecore.flags import QualityFlag
from strokecore.result import RegionFinding, Result

# The flag that withholds a score (scoring/quality.py).
WITHHOLDING: Final = "suspected_haemorrhage"


def summary_line(result: Result) -> str:
    """One line to copy into a report: "ASPECTS right 7: I, M1, M2; left 10"."""
    if result.status == "withheld":
        reason = reasons(result)[0]
        why = ", haemorrhage suspected" if reason.code == WITHHOLDING else ""
        return f"ASPECTS withheld{why}: {reason.message}"
    if result.status != "scored":
        reason = reasons(result)[0]
        return f"ASPECTS NOT SCORED: {reason.message} {reason.remedy}".strip()
    first: Side = "left" if result.affected_side == "left" else "right"
    second: Side = "left" if first == "right" else "right"
    # scored all the same where the site asked for it; what is copied must still say so
    blood = "; haemorrhage suspected" if any(flag.code == WITHHOLDING for flag in result.quality) else ""
    return f"ASPECTS {_hemisphere(result, first)}; {_hemisphere(result, second)}{blood}"


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
    """ "12.3 ml, parenchymal, right, most of it in right L"; "" where none is suspected."""
    found = result.haemorrhage
    return "" if found is None else f"{found.ml:.1f} ml, {found.place}"


def other_volumes(result: Result) -> list[str]:
    """What is marked or measured beside the infarct of the score, where there is any."""
    volumes = (
        ("old infarct {:.1f} ml, not counted", result.old_infarct_volume_ml),
        ("other hypodensity {:.1f} ml, not counted", result.other_hypodensity_volume_ml),
        ("infarct outside the ten regions {:.1f} ml", result.outside_regions_volume_ml),
    )
    return [words.format(volume) for words, volume in volumes if volume > 0]


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
