"""The exception tree. Every message says what was found, what was expected and what to do.

No message carries a patient's name, identifier or date: they end in logs and on shared screens.
"""

from __future__ import annotations


class StrokeCoreError(Exception):
    """Base of every error this package raises on purpose."""


class UsageError(StrokeCoreError):
    """The caller asked for something that cannot be asked for (exit status 2)."""


class ModelPackageError(StrokeCoreError):
    """A model package or atlas is damaged or does not fit this version."""


class EngineError(StrokeCoreError):
    """An engine is not available here, is lost, or answers wrong; the next one takes over if there is one."""


class Refusal(StrokeCoreError):
    """The input must not be scored (exit status 3).

    Parameters
    ----------
    code: stable lower_snake_case identifier, listed in docs/codes.md.
    message: what was found and what was expected.
    remedy: what the reader can do now.
    ineligible: True when the series is not a non-contrast head CT at all, so that nothing is
        stored in the PACS; False for a head CT that cannot be scored, which gets a
        "NOT SCORED" Secondary Capture.
    """

    def __init__(self, code: str, message: str, remedy: str, *, ineligible: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.ineligible = ineligible

    def __str__(self) -> str:
        return f"{self.code}: {self.message} {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only argument: the default reduce would lose it between processes
        return (_rebuild_refusal, (self.code, self.message, self.remedy, self.ineligible))


def _rebuild_refusal(code: str, message: str, remedy: str, ineligible: bool) -> Refusal:
    return Refusal(code, message, remedy, ineligible=ineligible)
