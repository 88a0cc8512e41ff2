"""The coded statement that every output shows about a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "refusal"]


@dataclass(frozen=True)
class QualityFlag:
    """One finding about the scan's quality, shown on every output.

    Attributes
    ----------
    code: stable lower_snake_case identifier, listed in docs/codes.md.
    severity: "refusal" ends the score; "warning" and "info" do not.
    message: what was found and what was expected; no patient data.
    remedy: what the reader can do; may be empty for "info".
    """

    code: str
    severity: Severity
    message: str
    remedy: str = ""
