"""Terminal states, written when everything they speak of is stored."""

from __future__ import annotations

import bisect
import copy
import itertools
import logging
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from orthanc_plugin.claims import Claim, States
from orthanc_plugin.state import TERMINAL, SeriesState, StateStore, StoredResult
from orthanc_plugin.study import Acquisition, Member

log = logging.getLogger(__name__)


# Seconds. A score takes some, a patient who waits for minutes is alarming.
BOUNDS_S: Final = (2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1800.0)


@dataclass
class Buckets:
    """How many durations were at most as long as each of BOUNDS_S."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        self.total += seconds

    def cumulated(self) -> list[tuple[str, float]]:
        names = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
        return list(zip(names, map(float, itertools.accumulate(self.counts)), strict=True))


@dataclass(frozen=True)
class Figures:
    """Everything that was counted, at one moment. ``scorer``, ``results``: durations in seconds."""

    states: dict[str, float]
    errors: dict[str, float]
    scorer: Buckets
    results: Buckets


@dataclass
class Tally:
    """What was counted since the start, and the last error; for REST and metrics."""

    states: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    last_error: str | None = None
    _scorer: Buckets = field(default_factory=Buckets)
    _results: Buckets = field(default_factory=Buckets)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reached(self, status: str) -> None:
        with self._lock:
            self.states[status] += 1

    def error(self, code: str) -> None:
        with self._lock:
            self.last_error = code
            self.errors[code] += 1

    def scored_in(self, seconds: float) -> None:
        """A scorer's process took so long."""
        with self._lock:
            self._scorer.add(seconds)

    def result_after(self, seconds: float) -> None:
        """A first result was stored so long after the last slice."""
        with self._lock:
            self._results.add(seconds)

    def figures(self) -> Figures:
        with self._lock:
            return copy.deepcopy(
                Figures(
                    dict(sorted(self.states.items())),
                    dict(sorted(self.errors.items())),
                    self._scorer,
                    self._results,
                )
            )

    def snapshot(self) -> tuple[dict[str, int], str | None]:
        with self._lock:
            return dict(sorted(self.states.items())), self.last_error


class TerminalStates:
    """Writes the terminal states of one acquisition's series. Every method raises Conflict, NotFound."""

    def __init__(self, states: StateStore, tally: Tally) -> None:
        self._states = states
        self._tally = tally

    def scored(self, claim: Claim, chosen: Member, result: StoredResult) -> None:
        """Scored or withheld on ``chosen``; the other series point at it."""
        self._write(claim, chosen, result.status, result=result, selected=chosen.id)
        for member in claim.acquisition.candidates:
            if member.id != chosen.id:
                old = claim.states[member.id].state
                had_result = old is not None and (old.result is not None or bool(old.history))
                status = "superseded" if had_result else "not_selected"
                self._write(claim, member, status, selected=chosen.id)
        self.excluded(claim.acquisition, claim.states, chosen)

    def without_score(
        self, claim: Claim, status: str, reason: str | None, notices: tuple[str, ...] = ()
    ) -> None:
        """Refused, ineligible or failed: the same for every candidate."""
        for member in claim.acquisition.candidates:
            self._write(claim, member, status, reason=reason, notices=notices)
        self.excluded(claim.acquisition, claim.states, None)

    def excluded(self, acquisition: Acquisition, states: States, chosen: Member | None) -> None:
        """State of the series whose tags alone rule them out; written once."""
        status = "not_selected" if chosen else "ineligible"
        selected = chosen.id if chosen else None
        for member in acquisition.excluded:
            old = states[member.id].state
            if old and old.status in TERMINAL and old.selected_series == selected:
                continue
            reason = member.excluded[0] if member.excluded else None
            claim = Claim(acquisition, states, 0, "", None)
            self._write(claim, member, status, reason=reason, selected=selected)

    def final(self, acquisition: Acquisition, states: States) -> None:
        """What was provisional stays as it is: nothing came after it."""
        for member in acquisition.members:
            found = states[member.id]
            if found.state is not None and found.state.provisional:
                self._states.write(member.id, replace(found.state, provisional=False), found.etag)

    def _write(
        self,
        claim: Claim,
        member: Member,
        status: str,
        *,
        reason: str | None = None,
        result: StoredResult | None = None,
        selected: str | None = None,
        notices: tuple[str, ...] = (),
    ) -> None:
        """A result that the series named before moves to its history."""
        found = claim.states[member.id]
        state = replace(
            (found.state or SeriesState(status)).with_result(result),
            status=status,
            fingerprint=claim.acquisition.fingerprint,
            attempts=claim.attempt,
            deaths=claim.spent.deaths,
            reason=reason,
            selected_series=selected,
            notices=notices,
            instances=len(member.instances),
            owner=None,
            claimed_at=None,
            provisional=claim.provisional,
            refused_since=None,
        )
        self._states.write(member.id, state, found.etag)
        self._tally.reached(status)
        log.warning("%s%s: series %s", status, f" ({reason})" if reason else "", member.id)


def selected_series(acquisition: Acquisition, states: States) -> Member | None:
    """The series that the acquisition's present result was made from."""
    holders = [m for m in acquisition.candidates if (s := states[m.id].state) is not None and s.result]
    return holders[0] if holders else None
