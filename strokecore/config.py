"""The effective configuration of one scoring run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

WEIGHT_FREE: Final = "asymmetry"
"""The engine that needs no model package, by its name in ``--engine`` and in every result."""


@dataclass(frozen=True)
class ScoringConfig:
    """What a site can set; its hash is part of every result's key.

    Attributes
    ----------
    engine: one of strokecore.learned.runtimes.ENGINE_CHOICES.
    model: folder of a model package, or None for the embedded engine.
    atlas: folder of a site's own atlas, or None for the one that ships.
    withhold_on_blood: withhold the score when haemorrhage is suspected.
    minimum_age_years: refuse younger patients when the age is known; 0 scores every age.
    """

    engine: str = "auto"
    model: Path | None = None
    atlas: Path | None = None
    withhold_on_blood: bool = True
    minimum_age_years: int = 18

    @property
    def sha256(self) -> str:
        """Hash of everything that changes a result and has no hash of its own (paths do)."""
        values = {k: v for k, v in asdict(self).items() if k not in ("model", "atlas", "engine")}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
