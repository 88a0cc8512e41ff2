"""One acquisition from its arrival to its terminal state: the story of the plugin."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from orthanc_plugin import worker
from orthanc_plugin.arrival import CUT_CODES, pause_left_s
from orthanc_plugin.claims import Claim, Claims, Spent, States, is_settled
from orthanc_plugin.health import describe
from orthanc_plugin.ledger import Ledger
from orthanc_plugin.log_line import note, scoring_run
from orthanc_plugin.orthanc_api import Conflict, NotFound, OrthancApi, OrthancError
from orthanc_plugin.outputs import REFUSED, all_present, attach, remove, remove_notices, store_outputs
from orthanc_plugin.settings import Settings
from orthanc_plugin.state import StateStore, StoredResult
from orthanc_plugin.strays import remove_other_patients, remove_strays
from orthanc_plugin.study import Acquisition, read_acquisitions
from orthanc_plugin.terminal_states import Tally, TerminalStates, selected_series
from orthanc_plugin.workspace import workspace

log = logging.getLogger(__name__)

RESTS: Final = 10.0  # a study is left alone for so many times as long as a look at it takes
CONFLICT_DELAY_S: Final = 1.0
LONGEST_WAY_S: Final = 24 * 3600.0  # what is scored later was ordered, or found again by a start
PICTURE_INSTANCES: Final = 3  # of each series; more than one, to see whether it is one person's
LONGEST_STORE_DELAY_S: Final = 60.0
DEATHS_ENOUGH: Final = 2  # a third could take the server or a neighbour's scan along
QUARANTINED: Final = "quarantined"
IO_ERROR: Final = "io_error"
GONE_DELAY_S: Final = 5.0  # something vanished meanwhile: the study is read anew


class Scoring:
    """Looks at studies and does what their acquisitions need; one thread at a time per study.

    Parameters
    ----------
    node_is_fit: whether the node itself is well, asked after an attempt that failed with this code; may
        call the function, which removes what the attempt left in its folder.
    """

    def __init__(
        self,
        api: OrthancApi,
        settings: Settings,
        owner: str,
        clean_runs: frozenset[str],
        stop: threading.Event,
        tally: Tally,
        ledger: Ledger,
        node_is_fit: Callable[[str, Callable[[], None]], bool],
    ) -> None:
        self._api = api
        self._settings = settings
        self._stop = stop
        self._tally = tally
        self._ledger = ledger
        self._node_is_fit = node_is_fit
        # fingerprints that looked whole and were not: nothing is said of them until they are stable
        self._unfinished: set[str] = set()
        states = StateStore(api, ledger.note)
        self._claims = Claims(states, settings, owner, clean_runs)
        self._terminal_states = TerminalStates(states, tally)

    def handle(self, study: str, *, again: bool = False, moved: bool = False) -> float | None:
        """Bring every acquisition of a study to its terminal state.

        ``again``: its images were sent again: outputs that somebody deleted are made again. Without that they
        stay deleted, or a site that deletes what it has sent on would get them for ever.
        ``moved``: images were moved into another study: their results, which name this one's patient, go.

        Returns seconds until the next look; None when every acquisition has its terminal state.
        """
        started = time.monotonic()
        try:
            acquisitions = read_acquisitions(self._api, study)
        except NotFound:
            if self._api.exists(f"/studies/{study}"):
                return GONE_DELAY_S
            self._ledger.forget(study)
            return None
        rest_s = RESTS * (time.monotonic() - started)  # Orthanc has slices to receive meanwhile
        self._ledger.place(study, (m.id for a in acquisitions for m in a.members))
        delays: list[float | None] = []
        errors: list[Exception] = []
        for acquisition in acquisitions:
            try:
                delays.append(self._handle(acquisition, rest_s, again))
            except worker.Stopped:
                raise
            except Exception as error:  # must not hold up the others of the study
                errors.append(error)
        if errors:
            raise errors[0]
        if all(d is None for d in delays):
            states = [v.state for a in acquisitions for v in self._claims.read(a).values() if v.state]
            remove_strays(self._api, study, states, moved=moved)
        return min((d for d in delays if d is not None), default=None)

    def announce(self, study: str, code: str) -> bool:
        """Say in a study that it waits for a node that is ill: the picture NOT SCORED, gone with the score.

        It needs no disk of the node's. Returns whether the study had anything unsettled. Raises OrthancError,
        Conflict, AttemptError, Stopped.
        """
        unsettled = False
        try:
            acquisitions = read_acquisitions(self._api, study)
        except NotFound:
            return False
        for acquisition in acquisitions:
            states = self._claims.read(acquisition)
            if not acquisition.candidates or is_settled(acquisition, states):
                continue
            unsettled = True
            known = [v.state for v in states.values() if v.state]
            said = any(s.notices or s.result for s in known)
            if said or not all(m.stable for m in acquisition.candidates):
                continue
            if self._claims.wait_s(acquisition, states) <= 0:
                self._announce(acquisition, states, code)
        return unsettled

    def _announce(self, acquisition: Acquisition, states: States, code: str) -> None:
        spent = self._claims.spent(acquisition, states)
        claim = self._claims.take(acquisition, states, spent.attempts, spent)
        notices: tuple[str, ...] = ()
        try:
            some, moment = self._some_of_each(acquisition), claim.content_datetime
            notices = self._store(
                acquisition, worker.notice(self._settings, some, self._stop, code, moment, waits=True)
            )
            if notices:
                log.warning("it is said that they wait (%s): series %s", code, _names(acquisition))
        finally:
            try:
                self._claims.give_back(claim, spent, code, notices)
            except OrthancError:
                remove(self._api, notices)  # nobody would know that it is there
                raise

    def _handle(self, acquisition: Acquisition, rest_s: float, again: bool) -> float | None:
        try:
            states = self._claims.read(acquisition)
            if not acquisition.candidates:
                self._terminal_states.excluded(acquisition, states, None)
                return None
            arriving = not all(m.stable for m in acquisition.candidates)
            if is_settled(acquisition, states) and not (again and self._outputs_deleted(states)):
                self._terminal_states.excluded(acquisition, states, selected_series(acquisition, states))
                if arriving:
                    return self._settings.reconcile_s  # the event of their stability comes first
                self._terminal_states.final(acquisition, states)
                self._unfinished.discard(acquisition.fingerprint)
                return None
            if arriving and (pause := self._pause_s(acquisition)) > 0:
                return max(pause, rest_s)
            if (wait := self._claims.wait_s(acquisition, states)) > 0:
                return wait
            spent = self._claims.spent(acquisition, states)
            exhausted = spent.attempts >= self._settings.max_attempts or spent.deaths >= DEATHS_ENOUGH
            attempt = spent.attempts if exhausted else spent.attempts + 1
            names = [m.id for m in acquisition.candidates]
            with scoring_run(study=acquisition.study, series=names, attempt=attempt):
                claim = self._claims.take(acquisition, states, attempt, spent)
                # Exhausted and yet without a terminal state: the server died each time, or took no picture.
                return self._give_up_anew(claim) if exhausted else self._attempt(claim)
        except Conflict:
            return CONFLICT_DELAY_S
        except NotFound:
            return GONE_DELAY_S  # deleted meanwhile

    def _outputs_deleted(self, states: States) -> bool:
        """Whether some of what was stored is gone. A failure is not tried again for its picture's sake."""
        known = [v.state for v in states.values() if v.state is not None and v.state.status != "failed"]
        made = [i for s in known for i in s.present]
        return bool(made) and not all_present(self._api, made)

    def _pause_s(self, acquisition: Acquisition) -> float:
        settings = self._settings
        if acquisition.fingerprint in self._unfinished:
            return settings.quiet_s
        return pause_left_s(self._api, acquisition, settings.quiet_s, settings.stable_age_s)

    def _attempt(self, claim: Claim) -> float | None:
        try:
            with workspace(self._settings.temporary_directory) as folder:
                return self._attempt_in(claim, folder)
        except OSError as error:  # no folder, or no room for a picture: no study is the cause of that
            return self._node_fault(claim, IO_ERROR, type(error).__name__)

    def _attempt_in(self, claim: Claim, folder: Path) -> float | None:
        try:
            self._export(claim.acquisition, folder / "in")
            self._remove_other_patients(claim)
            answer, result = self._score(claim, folder)
            if not self._unchanged(claim.acquisition):
                return self._drop(claim)
            if claim.provisional and (answer.result_key is None or answer.warnings & CUT_CODES):
                return self._wait_for_the_rest(claim)
            self._finish(claim, answer, result)
        except worker.AttemptError as error:
            return self._failed_attempt(claim, error.code, error.detail, folder)
        except OSError as error:
            return self._failed_attempt(claim, IO_ERROR, type(error).__name__, folder)
        except worker.Stopped:
            note(outcome="stopped")
            self._claims.give_back(claim, claim.spent, None)
            return 0.0
        except OrthancError:
            raise
        except Exception as error:  # a defect that this study brings out must end for it too
            return self._failed_attempt(claim, "plugin_error", describe(error), folder)
        return None

    def _export(self, acquisition: Acquisition, folder: Path) -> None:
        """Every instance of the candidates; one of each excluded series, to tell why it was not taken.

        Raises AttemptError when one cannot be read, NotFound, OSError.
        """
        for number, member in enumerate(acquisition.members):
            target = folder / f"{number:03d}"
            target.mkdir(parents=True)
            instances = member.instances if member.excluded is None else member.instances[:1]
            for index, (identifier, _) in enumerate(instances):
                (target / f"{index:05d}.dcm").write_bytes(self._file(identifier))

    def _remove_other_patients(self, claim: Claim) -> None:
        states = [v.state for v in claim.states.values() if v.state]
        if any(s.present or s.history for s in states):
            sources = [self._file(m.instances[0][0]) for m in claim.acquisition.candidates]
            remove_other_patients(self._api, states, sources)

    def _some_of_each(self, acquisition: Acquisition) -> list[bytes]:
        """Some readable instances of each candidate: all that a NOT SCORED picture needs. Raises NotFound."""
        found = []
        for member in acquisition.candidates:
            for identifier, _ in member.instances[:PICTURE_INSTANCES]:
                with contextlib.suppress(worker.AttemptError):
                    found.append(self._file(identifier))
        return found

    def _file(self, identifier: str) -> bytes:
        """Raises AttemptError when Orthanc's storage has lost the file, NotFound."""
        try:
            return self._api.get_bytes(f"/instances/{identifier}/file")
        except OrthancError as error:
            # Orthanc says 404 too when its index knows the instance and its storage does not
            deleted = error.status == 404 and not self._api.exists(f"/instances/{identifier}")
            if deleted or not error.status:
                raise
            detail = f"HTTP status {error.status} for the file of instance {identifier}"
            raise worker.AttemptError("source_unreadable", detail) from error

    def _score(self, claim: Claim, folder: Path) -> tuple[worker.Answer, StoredResult | None]:
        """Run the scorer; ``outputs`` of the result are those already in Orthanc.

        Raises AttemptError, Stopped.
        """
        previous, fingerprint = claim.previous, claim.acquisition.fingerprint
        moment, supersedes = claim.content_datetime, previous.result_key if previous else None
        start = time.monotonic()
        answer = worker.score(self._settings, folder, self._stop, moment, supersedes)
        self._tally.scored_in(time.monotonic() - start)
        if previous and answer.result_key == previous.result_key:
            if all_present(self._api, previous.outputs):
                return answer, replace(previous, fingerprint=fingerprint)
            # Its outputs were deleted. The same key means the same bytes, so they are made as they were.
            moment, supersedes = previous.content_datetime, previous.supersedes
            shutil.rmtree(folder / "out")
            answer = worker.score(self._settings, folder, self._stop, moment, supersedes)
        if answer.result_key is None:
            return answer, None
        return answer, StoredResult(answer.result_key, answer.status, moment, fingerprint, supersedes)

    def _unchanged(self, acquisition: Acquisition) -> bool:
        """Patient, study and instances, read again."""
        now = read_acquisitions(self._api, acquisition.study)
        return any(a.fingerprint == acquisition.fingerprint for a in now)

    def _wait_for_the_rest(self, claim: Claim) -> float:
        """What arrived gives no whole head: it is scored again when Orthanc calls it stable."""
        note(outcome="unfinished")
        self._unfinished.add(claim.acquisition.fingerprint)
        self._claims.give_back(claim, claim.spent, None)
        return self._settings.quiet_s

    def _drop(self, claim: Claim) -> float:
        note(outcome="dropped")
        log.warning("changed while it was scored, result dropped: series %s", _names(claim.acquisition))
        self._claims.give_back(claim, replace(claim.spent, refused_since=None), None)
        return 0.0

    def _finish(self, claim: Claim, answer: worker.Answer, result: StoredResult | None) -> None:
        """Store what there is to store, then write the states. Raises AttemptError, Conflict, NotFound."""
        acquisition = claim.acquisition
        note(outcome=answer.status, reason=answer.reason, engine=answer.engine, timings_s=answer.timings_s)
        if result is None:
            notices = (
                () if answer.status == "ineligible" else self._store(acquisition, _contents(answer.files))
            )
            attach(self._api, [m.id for m in acquisition.candidates], answer)
            self._terminal_states.without_score(claim, answer.status, answer.reason, notices)
            remove_notices(self._api, acquisition.study, claim.notices - set(notices))
            self._time_to_result(claim)
            return
        for fallback in answer.fallbacks:
            log.warning("engine passed over: %s (series %s)", fallback, _names(acquisition))
        chosen = acquisition.member_of_uid(answer.series_uid or "")
        if chosen is None or chosen.excluded:
            raise worker.AttemptError("result_incomplete", "the scored series is not of this acquisition")
        result = replace(result, outputs=result.outputs or self._store(acquisition, _contents(answer.files)))
        attach(self._api, [chosen.id], answer)
        self._terminal_states.scored(claim, chosen, result)
        # A picture that says NOT SCORED is no longer true, and it held no finding.
        remove_notices(self._api, acquisition.study, claim.notices)
        self._time_to_result(claim)

    def _time_to_result(self, claim: Claim) -> None:
        arrived = [m.last_update for m in claim.acquisition.candidates if m.last_update]
        if claim.previous is None and arrived:
            seconds = (datetime.now(UTC) - max(arrived)).total_seconds()
            if 0 <= seconds < LONGEST_WAY_S:
                self._tally.result_after(seconds)
                note(after_last_slice_s=round(seconds, 1))

    def _store(self, acquisition: Acquisition, contents: Iterable[bytes]) -> tuple[str, ...]:
        outputs = store_outputs(self._api, acquisition.study, contents)
        if not all(self._api.exists(f"/series/{m.id}") for m in acquisition.candidates):
            remove(self._api, outputs)  # deleted meanwhile: results alone would bring the study back
            raise NotFound(404, "source")
        return outputs

    # -- failures -------------------------------------------------------------------------------------

    def _failed_attempt(self, claim: Claim, code: str, detail: str, folder: Path) -> float | None:
        if not self._node_is_fit(code, lambda: _empty(folder)):
            return self._node_fault(claim, code, detail)
        self._tally.error(code)
        note(outcome="attempt_failed", reason=code)
        if code == REFUSED:
            return self._refused(claim, code, detail, folder)
        log.error(
            "attempt %d of %d failed: %s %s (series %s)",
            claim.attempt,
            self._settings.max_attempts,
            code,
            detail,
            _names(claim.acquisition),
        )
        spent = Spent(claim.attempt, claim.spent.deaths + (code == worker.DIED))
        if spent.deaths >= DEATHS_ENOUGH:
            return self._give_up(replace(claim, spent=spent), QUARANTINED, folder)
        if claim.attempt < self._settings.max_attempts:
            self._claims.give_back(claim, spent, code)
            return self._settings.retry_delay_s * claim.attempt
        return self._give_up(replace(claim, spent=spent), code, folder)

    def _refused(self, claim: Claim, code: str, detail: str, folder: Path) -> float | None:
        """Orthanc's own errors to the outputs spend no attempt; they have a bounded time to pass."""
        delay = self._try_to_store_again(claim, code, detail)
        return self._give_up(claim, code, folder) if delay is None else delay

    def _try_to_store_again(self, claim: Claim, code: str, detail: str) -> float | None:
        """Queue it again, unless its outputs have been refused for too long: then None."""
        now = time.time()
        since = claim.spent.refused_since
        if since is None or since > now:  # the first time, or the clock was set back
            since = now
        log.error(
            "outputs refused for %.0f s: %s (series %s)", now - since, detail, _names(claim.acquisition)
        )
        if now - since >= self._settings.store_patience_s:
            return None
        self._claims.give_back(claim, replace(claim.spent, refused_since=since), code)
        return min(max(now - since, self._settings.retry_delay_s), LONGEST_STORE_DELAY_S)

    def _node_fault(self, claim: Claim, code: str, detail: str) -> float:
        """The node failed, not the study: it waits, and the attempt is not counted."""
        note(outcome="not_counted", reason=code)
        log.error("attempt not counted: %s %s (series %s)", code, detail, _names(claim.acquisition))
        self._claims.give_back(claim, replace(claim.spent, refused_since=None), code)
        return self._settings.retry_delay_s

    def _give_up(self, claim: Claim, code: str, folder: Path | None) -> float | None:
        """The terminal state ``failed``, with a picture that says so in the study of a head CT.

        ``folder``: of the last attempt, where the scorer may have left its own picture.
        """
        acquisition = claim.acquisition
        pictures: Iterable[bytes] = _pictures_left(folder) if folder and code == "scorer_failed" else ()
        if not pictures:
            some = self._some_of_each(acquisition)
            pictures = worker.notice(self._settings, some, self._stop, code, claim.content_datetime)
        if not self._unchanged(acquisition):
            return self._drop(claim)
        try:
            notices = self._store(acquisition, pictures)
        except worker.AttemptError as error:
            self._tally.error(error.code)
            if error.code == REFUSED:
                if not self._node_is_fit(error.code, lambda: _empty(folder) if folder else None):
                    return self._node_fault(claim, code, error.detail)
                delay = self._try_to_store_again(claim, code, error.detail)
                if delay is not None:
                    return delay
            notices = ()
        self._terminal_states.without_score(claim, "failed", code, notices)
        note(outcome="failed", reason=code)
        remove_notices(self._api, acquisition.study, claim.notices - set(notices))
        return None

    def _give_up_anew(self, claim: Claim) -> float | None:
        code = QUARANTINED if claim.spent.deaths >= DEATHS_ENOUGH else claim.last_reason
        self._tally.error(code)
        try:
            return self._give_up(claim, code, None)
        except worker.Stopped:
            self._claims.give_back(claim, claim.spent, code)
            return 0.0


def _contents(files: Iterable[Path]) -> list[bytes]:
    return [file.read_bytes() for file in files]


def _pictures_left(folder: Path) -> list[bytes]:
    """The picture of its own failure that the scorer could still write."""
    try:
        return _contents(f for f in worker.dicom_outputs(folder / "out") if f.parent.name == "sc")
    except OSError:
        return []


def _empty(folder: Path) -> None:
    for content in ("in", "out"):
        shutil.rmtree(folder / content, ignore_errors=True)


def _names(acquisition: Acquisition) -> str:
    return " ".join(m.id for m in acquisition.candidates)
