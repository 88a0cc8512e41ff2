"""The effective configuration of one scoring run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from strokecore.errors import UsageError

WEIGHT_FREE: Final = "asymmetry"
"""The engine that needs no model package, by its name in ``--engine`` and in every result."""
REGION_CUT_SCHEMA: Final = 1

OUTPUT_KINDS: Final = ("sc", "pdf", "sr", "seg", "regions")
"""What can be written into the PACS, by its name in ``--outputs``; report.html and result.json always are."""
# A finding may leave nothing to segment: one of these says that the scan was scored.
_ALWAYS_SOMETHING: Final = ("sc", "pdf", "sr")


@dataclass(frozen=True)
class RegionCut:
    """A site's own decision point.

    Attributes
    ----------
    threshold: the region probability, between 0 and 1, from which on a region counts as affected.
    sha256: of the file that says so, with whatever it tells of its origin.
    """

    threshold: float
    sha256: str


@dataclass(frozen=True)
class ScoringConfig:
    """What a site can set; its hash is part of every result's key.

    Attributes
    ----------
    engine: one of strokecore.learned.runtimes.ENGINE_CHOICES.
    model: folder of a model package, or None for the embedded engine.
    atlas: folder of a site's own atlas, or None for the one that ships.
    region_cut: file with the site's own decision point, or None for the engine's.
    withhold_on_blood: withhold the score when haemorrhage is suspected.
    minimum_age_years: refuse younger patients when the age is known; 0 scores every age.
    outputs: which of OUTPUT_KINDS are written of a scored or withheld scan.
    """

    engine: str = "auto"
    model: Path | None = None
    atlas: Path | None = None
    region_cut: Path | None = None
    withhold_on_blood: bool = True
    minimum_age_years: int = 18
    outputs: tuple[str, ...] = OUTPUT_KINDS

    @property
    def sha256(self) -> str:
        """Hash of everything that changes a result and has no hash of its own (paths do).

        Raises UsageError as load_region_cut does.
        """
        values = {k: v for k, v in asdict(self).items() if k not in ("model", "atlas", "engine", "outputs")}
        if set(self.outputs) != set(OUTPUT_KINDS):
            # a report refers to what else is written: another choice is another result
            values["outputs"] = sorted(self.outputs)
        cut = self.load_region_cut()
        values["region_cut"] = None if cut is None else cut.sha256
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def load_region_cut(self) -> RegionCut | None:
        """The site's decision point, read now; None where it has none.

        Raises UsageError for a file that is not one.
        """
        return None if self.region_cut is None else read_region_cut(self.region_cut)


def check_outputs(names: Sequence[str]) -> tuple[str, ...]:
    """The kinds of output that ``names`` ask for, in the order of OUTPUT_KINDS.

    Raises UsageError for an unknown name, and for a choice that would leave nothing of a normal head.
    """
    if unknown := sorted(set(names) - set(OUTPUT_KINDS)):
        raise UsageError(f"unknown outputs {', '.join(unknown)}; expected some of {', '.join(OUTPUT_KINDS)}.")
    if not set(names) & set(_ALWAYS_SOMETHING):
        raise UsageError(
            f"outputs without any of {', '.join(_ALWAYS_SOMETHING)} leave nothing of a head without "
            "findings, which looks like a scan that never arrived; add one of them."
        )
    return tuple(kind for kind in OUTPUT_KINDS if kind in names)


def read_region_cut(path: Path) -> RegionCut:
    """Read ``{"schema": 1, "threshold": 0.42, ...}``; what else the file says of its origin is only hashed.

    Raises UsageError for a file that cannot be read, is no such JSON, or whose threshold does not lie
    between 0 and 1: neither end is a decision.
    """
    try:
        content = path.read_bytes()
        record = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise _no_region_cut(f"cannot be read ({type(error).__name__})") from error
    if not isinstance(record, dict) or record.get("schema") != REGION_CUT_SCHEMA:
        raise _no_region_cut(f'is not a JSON object with "schema": {REGION_CUT_SCHEMA}')
    threshold = record.get("threshold")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
        raise _no_region_cut('has no "threshold" between 0 and 1')
    return RegionCut(float(threshold), hashlib.sha256(content).hexdigest())


def _no_region_cut(what: str) -> UsageError:
    return UsageError(
        f'the file of the region cut {what}; expected {{"schema": {REGION_CUT_SCHEMA}, "threshold": 0.42}}. '
        "Mend it, or leave the option out and the engine's own decision point holds."
    )
