"""Who works on an acquisition, and how often it was tried."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from orthanc_plugin.log_line import run_id
from orthanc_plugin.settings import Settings
from orthanc_plugin.state import TERMINAL, WAITING, SeriesState, StateStore, StoredResult, Versioned
from orthanc_plugin.study import Acquisition

LEASE_MARGIN_S: Final = 60.0  # export and storing around the scoring itself
UNKNOWN_REASON: Final = "interrupted"  # the server died during each attempt


States = Mapping[str, Versioned]  # Orthanc id of the series -> its state as read


@dataclass(frozen=True)
class Spent:
    """What lies behind an acquisition, for exactly its present instances.

    Attributes
    ----------
    attempts: attempts made.
    deaths: how many of them ended with the death of the scorer's process or of the server.
    refused_since: since when Orthanc has refused its outputs; None when it did not the last time.
    """

    attempts: int = 0
    deaths: int = 0
    refused_since: float | None = None


@dataclass(frozen=True)
class Claim:
    """An acquisition that this process works on.

    Attributes
    ----------
    states: state and ETag of each member as written by the claim.
    attempt: number of this attempt, from 1.
    spent: what lay behind it when it was claimed.
    content_datetime: what the outputs say; kept from the first attempt on.
    previous: the acquisition's present result, if there is one; a new one supersedes it.
    provisional: more slices may still come.
    """

    acquisition: Acquisition
    states: States
    attempt: int
    content_datetime: str
    previous: StoredResult | None
    spent: Spent = Spent()
    provisional: bool = False

    @property
    def last_reason(self) -> str:
        reasons = [v.state.reason for v in self.states.values() if v.state and v.state.reason]
        return reasons[0] if reasons else UNKNOWN_REASON

    @property
    def notices(self) -> frozenset[str]:
        """Orthanc ids of the NOT SCORED pictures that are stored for it."""
        return frozenset(n for v in self.states.values() if v.state for n in v.state.notices)


class Claims:
    """Claims in Orthanc's metadata.

    Parameters
    ----------
    owner: this run of this Orthanc, "node/run".
    clean_runs: owners that stopped in order: the attempt they were at does not count.
    """

    def __init__(
        self, states: StateStore, settings: Settings, owner: str, clean_runs: frozenset[str]
    ) -> None:
        self._states = states
        self._settings = settings
        self._owner = owner
        self._clean_runs = clean_runs

    def read(self, acquisition: Acquisition) -> States:
        return {m.id: self._states.read(m.id) for m in acquisition.members}

    def wait_s(self, acquisition: Acquisition, states: States) -> float:
        """Seconds before a claim makes sense; 0 for now."""
        stable = all(m.stable for m in acquisition.candidates)
        unquiet = self._unquiet_s(acquisition) if stable else 0.0  # Scoring has waited for the sender's pause
        return max(unquiet, self._foreign_lease_s(states.values()))

    def spent(self, acquisition: Acquisition, states: States) -> Spent:
        """What was already spent on these very instances."""
        found = [v.state for v in states.values() if v.state]
        same = [s for s in found if s.fingerprint == acquisition.fingerprint]
        # A series queued by hand starts again at zero, whatever its neighbours have behind them.
        queued = [s for s in found if s.status == "queued" and (s in same or not s.fingerprint)]
        if queued:
            behind = (Spent(s.attempts, s.deaths, s.refused_since) for s in queued)
            return min(behind, key=lambda s: s.attempts)
        # A claim of this very run is no longer worked on: an error of Orthanc's ended it, nobody's attempt.
        uncounted = self._clean_runs | {self._owner}
        claimed = []
        for s in same:
            if s.status == "claimed":
                died = s.owner not in uncounted
                claimed.append(Spent(s.attempts - (not died), s.deaths + died, s.refused_since))
        return max(claimed, key=lambda s: s.attempts, default=Spent())

    def take(self, acquisition: Acquisition, states: States, attempt: int, spent: Spent) -> Claim:
        """Write the claim on every candidate, in order. Raises Conflict when another was quicker."""
        known = [v.state for v in states.values() if v.state is not None]
        retried = [
            s.content_datetime
            for s in known
            if s.status in WAITING and s.fingerprint == acquisition.fingerprint and s.content_datetime
        ]
        content_datetime = retried[0] if retried else datetime.now(UTC).isoformat(timespec="seconds")
        # Two series name a result only after a crash between two writes; the one of these instances is newer.
        results = sorted(
            (s.result for s in known if s.result is not None),
            key=lambda r: r.fingerprint == acquisition.fingerprint,
        )
        claimed = dict(states)
        for member in acquisition.candidates:
            old = states[member.id]
            state = replace(
                old.state or SeriesState("claimed"),
                status="claimed",
                fingerprint=acquisition.fingerprint,
                attempts=attempt,
                deaths=spent.deaths,
                instances=len(member.instances),
                content_datetime=content_datetime,
                owner=self._owner,
                claimed_at=time.time(),
                run=run_id(),
                refused_since=spent.refused_since,
            )
            claimed[member.id] = self._states.write(member.id, state, old.etag)
        previous = results[-1] if results else None
        provisional = not all(m.stable for m in acquisition.candidates)
        return Claim(acquisition, claimed, attempt, content_datetime, previous, spent, provisional)

    def give_back(
        self, claim: Claim, spent: Spent, reason: str | None, notices: tuple[str, ...] | None = None
    ) -> None:
        """Queue the acquisition again with this much behind it. Raises Conflict, NotFound.

        ``notices``: Orthanc ids of pictures that were stored meanwhile; None leaves those that it names.
        """
        for member in claim.acquisition.candidates:
            found = claim.states[member.id]
            if found.state is not None:
                state = replace(
                    found.state,
                    status="queued",
                    attempts=spent.attempts,
                    deaths=spent.deaths,
                    refused_since=spent.refused_since,
                    reason=reason,
                    notices=found.state.notices if notices is None else notices,
                    owner=None,
                    claimed_at=None,
                )
                self._states.write(member.id, state, found.etag)

    def _unquiet_s(self, acquisition: Acquisition) -> float:
        """Seconds until StableAge has passed since the last instance.

        Orthanc keeps in memory what is unstable: after a restart it calls a half-sent series stable.
        """
        now = datetime.now(UTC)
        ages = [(now - m.last_update).total_seconds() for m in acquisition.candidates if m.last_update]
        # an age below zero is a clock that was set back: waiting for it could take for ever
        return max((self._settings.stable_age_s - age for age in ages if age >= 0), default=0.0)

    def _foreign_lease_s(self, states: Iterable[Versioned]) -> float:
        """Seconds for which another, presumably living Orthanc on the same database holds the claim."""
        lease = self._settings.timeout_s + LEASE_MARGIN_S
        waits = [
            (s.state.claimed_at or 0.0) + lease - time.time()
            for s in states
            if s.state and s.state.status == "claimed" and _node(s.state.owner) != _node(self._owner)
        ]
        return max(0.0, *waits) if waits else 0.0


def is_settled(acquisition: Acquisition, states: States) -> bool:
    """Whether every candidate has a terminal state for exactly these instances and none is asked for anew."""
    if any(v.state is not None and v.state.status == "queued" for v in states.values()):
        return False
    found = [states[m.id].state for m in acquisition.candidates]
    return all(
        s is not None and s.status in TERMINAL and s.fingerprint == acquisition.fingerprint for s in found
    )


def _node(owner: str | None) -> str:
    return (owner or "").split("/")[0]
