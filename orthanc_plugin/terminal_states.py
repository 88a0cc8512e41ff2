"""Terminal states, written when everything they speak of is stored."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field, replace

from orthanc_plugin.claims import Claim, States
from orthanc_plugin.state import TERMINAL, SeriesState, StateStore, StoredResult
from orthanc_plugin.study import Acquisition, Member

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """How often each state was reached since the start, and the last error; for REST."""

    states: Counter[str] = field(default_factory=Counter)
    last_error: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reached(self, status: str) -> None:
        with self._lock:
            self.states[status] += 1

    def error(self, code: str) -> None:
        with self._lock:
            self.last_error = code

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
            refused_since=None,
        )
        self._states.write(member.id, state, found.etag)
        self._tally.reached(status)
        log.warning("%s%s: series %s", status, f" ({reason})" if reason else "", member.id)


def selected_series(acquisition: Acquisition, states: States) -> Member | None:
    """The series that the acquisition's present result was made from."""
    holders = [m for m in acquisition.candidates if (s := states[m.id].state) is not None and s.result]
    return holders[0] if holders else None
