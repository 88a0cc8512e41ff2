"""What the parity gate measured, what each value may be, and the verdict that follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple


class Limit(NamedTuple):
    """What a criterion's value may be; ``None`` is no bound."""

    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"<= {self.high:g}" if self.low is None else f">= {self.low:g}"
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"


LIMITS: Final[Mapping[str, Limit]] = MappingProxyType(
    {
        # issue's five: infarct overlap, probability, regions, ASPECTS, numbers
        "runs": Limit(0, 0),
        "not_finite": Limit(0, 0),
        "dice": Limit(0.995, None),
        "golden_difference": Limit(None, 0.02),
        "random_difference": Limit(None, 0.02),
        "regions": Limit(0, 0),
        "aspects": Limit(0, 0),
        # not a constant
        "spread": Limit(0.9, 1.1),
        # faults that can hide below those
        "sum": Limit(None, 0.01),
        "region_probability": Limit(None, 0.05),
        "classes": Limit(0.99, None),
        "bias": Limit(-0.025, 0.025),
        "scale": Limit(0.98, 1.02),
        "shift": Limit(None, 0.1),
        "rearranged": Limit(None, 0.5),
        "batch": Limit(None, 0.02),
        "repeat": Limit(None, 0.02),
        # of engines in fp32 only, the reference among them: the largest difference of all
        "fp32_difference": Limit(None, 0.001),
    }
)
"""By criterion; the meanings stand in docs/engines.md."""


@dataclass(frozen=True)
class Criterion:
    """One measured value and what it may be; NaN, which cannot be measured, is never within."""

    name: str
    value: float
    limit: Limit

    @property
    def passed(self) -> bool:
        low, high = self.limit
        return (low is None or self.value >= low) and (high is None or self.value <= high) and self.finite

    @property
    def finite(self) -> bool:
        return math.isfinite(self.value)

    def __str__(self) -> str:
        low, high = self.limit
        too_low = low is not None and not self.value >= low
        limit = f"< {low:g}" if too_low else f"> {high:g}"
        return f"{self.name} {self.value:.4g}" + ("" if self.passed or not self.finite else f" {limit}")


@dataclass(frozen=True)
class ParityReport:
    """What the gate found.

    Attributes
    ----------
    engine, precision: what was checked.
    seed: of the random input.
    slices: how many were run.
    seconds: how long the check took.
    criteria: every value that could be measured.
    """

    engine: str
    precision: str
    seed: int
    slices: int
    seconds: float
    criteria: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        return bool(self.criteria) and all(criterion.passed for criterion in self.criteria)

    @property
    def reason(self) -> str:
        """The failed criteria with their numbers, at most three; empty when all passed."""
        return ", ".join([str(c) for c in self.criteria if not c.passed][:3])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; a value that is no finite number is None."""
        return {
            "engine": self.engine,
            "precision": self.precision,
            "passed": self.passed,
            "seed": self.seed,
            "slices": self.slices,
            "seconds": round(self.seconds, 3),
            "criteria": {
                c.name: {
                    "value": c.value if c.finite else None,
                    "low": c.limit.low,
                    "high": c.limit.high,
                    "passed": c.passed,
                }
                for c in self.criteria
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ParityReport:
        """The inverse of ``to_dict``.

        Raises KeyError, TypeError, ValueError or AttributeError on other content.
        """
        criteria = tuple(
            Criterion(
                str(name),
                math.nan if c["value"] is None else float(c["value"]),
                Limit(*(None if c[end] is None else float(c[end]) for end in ("low", "high"))),
            )
            for name, c in values["criteria"].items()
        )
        report = cls(
            str(values["engine"]),
            str(values["precision"]),
            int(values["seed"]),
            int(values["slices"]),
            float(values["seconds"]),
            criteria,
        )
        if report.passed != values["passed"]:
            raise ValueError("the verdict does not follow from its criteria")
        return report
