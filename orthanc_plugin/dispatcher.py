"""The main loop: what is open is looked at until it is settled. Nothing here runs inside Orthanc's callback.

Events only wake the loop. What it has to do it reads from Orthanc's change log, so an event that is lost, or
whose REST call fails, costs at most the time to the next round.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from orthanc_plugin import worker
from orthanc_plugin.health import Condition, Health, describe
from orthanc_plugin.ledger import Ledger
from orthanc_plugin.node_check import NodeCheck
from orthanc_plugin.open_studies import OpenStudies, OpenStudy
from orthanc_plugin.orthanc_api import OrthancError
from orthanc_plugin.outputs import REFUSED
from orthanc_plugin.scoring import Scoring
from orthanc_plugin.settings import Settings
from orthanc_plugin.study_queue import StudyQueue
from orthanc_plugin.terminal_states import Tally
from orthanc_plugin.workspace import sweep

log = logging.getLogger(__name__)

START_PATIENCE_S: Final = 60.0  # Orthanc says "started" a moment before its HTTP server answers
START_ROUND_S: Final = 0.2
ROUND_S: Final = 5.0  # how often the node is looked at and the change log read, without an event
STALL_S: Final = 180.0  # one REST call may take a third of it
JOIN_S: Final = 5.0
ANNOUNCEMENTS: Final = 20  # studies looked at in one round while the node is ill
STORAGE_CODES: Final = frozenset({"storage_full", "storage_unusable"})
BACKOFF_S: Final = (1.0, 5.0, 15.0, 60.0)  # after a defect or when Orthanc's REST fails; the last for ever


class Dispatcher:
    """Owns the threads: one finds what is open, ``settings.workers`` look at studies.

    Parameters
    ----------
    save_mark: keeps the number of the last change below which everything is settled.
    """

    def __init__(
        self,
        settings: Settings,
        scoring: Scoring,
        node_check: NodeCheck,
        open_studies: OpenStudies,
        health: Health,
        tally: Tally,
        ledger: Ledger,
        stop: threading.Event,
        save_mark: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._scoring = scoring
        self._node_check = node_check
        self._open = open_studies
        self._health = health
        self._tally = tally
        self._ledger = ledger
        self._stop = stop
        self._save_mark = save_mark
        self._saved_mark = open_studies.mark()
        self._studies = StudyQueue()
        self._studies.hold(True)  # until the node was looked at
        self._wake = threading.Event()
        self._failing: dict[str, tuple[int, str]] = {}  # study -> failed looks in a row, code of the last
        # studies in which it was said that the node is ill -> when to try again, if it could not be said
        self._announced: dict[str, float] = {}
        self._started = time.monotonic()
        self._pulse = self._started
        self._next_round = 0.0
        self._next_look = 0.0
        self._read_once = False
        self._loop: threading.Thread | None = None
        self._workers: list[threading.Thread | None] = [None] * settings.workers
        self._lock = threading.Lock()

    # -- called from Orthanc's threads: must return at once -------------------------------------------

    def series_changed(self) -> None:
        self._wake.set()
        self.keep_threads()

    def instance_received(self, instance: str) -> None:
        self._open.received(instance)

    def series_deleted(self, study: str) -> None:
        """A CT series of a study was deleted."""
        self._open.images_gone(study)

    def job_done(self, job: str) -> None:
        """One of Orthanc's jobs has succeeded."""
        self._open.job_done(job)
        self._wake.set()

    def study_wanted(self, study: str) -> None:
        found = self._open.wanted(study)
        self._studies.put(study, found.rank)

    @property
    def fit(self) -> bool:
        """Whether the node can score: the engine serves and the folders can be written."""
        return self._node_check.fit

    def lengths(self) -> tuple[int, int]:
        """(studies waiting, studies being worked on)."""
        waiting, busy = self._studies.lengths()
        return waiting + self._wake.is_set(), busy

    def open_studies(self) -> tuple[OpenStudy, ...]:
        """Every study that is not known to be settled, also those that nobody has looked at yet."""
        return self._open.all()

    def oldest_waiting_s(self) -> float | None:
        """How long the study has waited that waits longest; None when nobody waits."""
        since = self._open.waiting_since()
        return None if since is None else max(0.0, time.time() - since)

    def conditions(self) -> tuple[Condition, ...]:
        """Everything that is wrong now."""
        self.keep_threads()
        codes = {code for _, code in list(self._failing.values())}
        if not all(thread is not None and thread.is_alive() for thread in (self._loop, *self._workers)):
            codes.add("reconcile_stopped")
        if time.monotonic() - self._pulse > STALL_S and not self._node_check.proving:
            codes.add("reconcile_stalled")
        if self._studies.longest_busy_s() > 3 * self._settings.timeout_s + STALL_S:
            codes.add("worker_stalled")
        if (self.oldest_waiting_s() or 0.0) > self._settings.alarm_s:
            codes.add("patient_waits")
        if self._ledger.outputs_refused():
            codes.add(REFUSED)
        self._health.say("dispatcher", *sorted(codes))
        return self._health.conditions()

    def start(self) -> None:
        self.keep_threads()

    def stop(self) -> None:
        """End the scorers and the threads; what is unfinished is found again at the next start."""
        self._stop.set()
        self._wake.set()
        self._studies.close()
        deadline = time.monotonic() + JOIN_S
        for thread in (self._loop, *self._workers):
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def keep_threads(self) -> None:
        """Start every thread that does not run. Whoever comes by does this, so that none watches itself."""
        with self._lock:
            if self._stop.is_set():
                return
            for index, thread in enumerate(self._workers):
                self._workers[index] = self._kept(thread, self._handle_studies, f"worker-{index}")
            self._loop = self._kept(self._loop, self._reconcile, "reconcile")

    def _kept(
        self, thread: threading.Thread | None, target: Callable[[], None], name: str
    ) -> threading.Thread | None:
        if thread is not None and thread.is_alive():
            return thread
        if thread is not None:
            self._fault("thread_ended", name)
        new = threading.Thread(target=target, name=f"strokecore-{name}", daemon=True)
        try:
            new.start()
        except RuntimeError:  # the system has no thread left; the next who comes by tries again
            return thread
        return new

    # -- the main loop --------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        self._step("sweep_failed", self._sweep)
        while not self._stop.is_set():
            self._wake.clear()
            self._round()
            self._wake.wait(START_ROUND_S if self._starting() else ROUND_S)

    def _starting(self) -> bool:
        return not self._read_once and time.monotonic() - self._started < START_PATIENCE_S

    def _round(self) -> None:
        """One round. Whatever goes wrong in a step is said, and the next steps and rounds follow."""
        self._step("change_log_unread", self._follow)
        if time.monotonic() < self._next_round:
            return  # an event came before its time: the rest need not follow every one of a burst
        self._next_round = time.monotonic() + ROUND_S
        self._step("plugin_error", self.keep_threads)
        self._step("plugin_error", self._check_node)
        self._step("plugin_error", self._look_again)
        self._step("announcement_failed", self._announce)
        self._step("mark_not_saved", self._keep_mark)

    def _step(self, code: str, step: Callable[[], None]) -> None:
        self._pulse = time.monotonic()
        source = f"step {step.__name__}"
        try:
            step()
        except worker.Stopped:
            return
        except Exception as error:
            if isinstance(error, OrthancError) and self._starting():
                return
            if self._health.say(source, code):
                self._fault(code, describe(error))
        else:
            self._health.say(source)

    def _sweep(self) -> None:
        if removed := sweep(self._settings.temporary_directory):
            log.warning("%d working folders of an earlier run removed", removed)

    def _follow(self) -> None:
        """Queue what the change log names."""
        count = 0
        for found in self._open.follow():
            if self._stop.is_set():
                return
            self._pulse = time.monotonic()
            # a clock that was set back must not make anybody wait
            delay = min(max(0.0, found.due - time.time()), self._settings.stable_age_s)
            self._studies.put(found.study, found.rank, delay)
            count += 1
        if not self._read_once:
            self._read_once = True
            log.warning("start-up scan: %d CT studies to look at", count)

    def _check_node(self) -> None:
        try:
            self._node_check.look()
        finally:
            self._studies.hold(not self._node_check.fit)

    def _look_again(self) -> None:
        """Everything that is open and in nobody's hands, whatever it was that lost it."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self._settings.reconcile_s
        for found in self._open.all():
            self._studies.put_missing(found.study, found.rank)

    def _announce(self) -> None:
        """Who has waited for an ill node for as long as is alarming gets a picture that says so.

        At most one picture is made in a round: the loop must come round.
        """
        code = self._node_check.fault
        if self._node_check.fit or code is None:
            self._announced.clear()
            return
        if code in STORAGE_CODES:
            return  # nothing can be stored
        limit = time.time() - self._settings.alarm_s
        now = time.monotonic()
        waiting = [s for s in self._open.all() if self._announced.get(s.study, now) <= now]
        due = sorted((s for s in waiting if (s.waits_since or s.arrived) <= limit), key=lambda s: s.rank)
        for found in due[:ANNOUNCEMENTS]:
            self._pulse = time.monotonic()
            if self._studies.is_busy(found.study):
                continue
            self._announced[found.study] = now + self._settings.reconcile_s
            unsettled = self._scoring.announce(found.study, code)
            self._announced[found.study] = math.inf
            if unsettled:
                self._open.unsettled(found.study)
                return

    def _keep_mark(self) -> None:
        mark = self._open.mark()
        if mark != self._saved_mark:
            self._save_mark(mark)
            self._saved_mark = mark

    # -- workers --------------------------------------------------------------------------------------

    def _handle_studies(self) -> None:
        while (study := self._studies.take()) is not None:
            try:
                self._look(study)
            except worker.Stopped:
                return
            except Exception as error:  # a defect must cost its study, never the thread
                if not self._stop.is_set():
                    self._failed_look(study, error)
            finally:
                self._studies.done(study)

    def _look(self, study: str) -> None:
        seen = self._open.get(study)
        again, moved = (seen.again, seen.moved) if seen else (False, False)
        delay = self._scoring.handle(study, again=again, moved=moved)
        self._studies.hold(not self._node_check.fit)
        if self._stop.is_set():
            return
        self._failing.pop(study, None)
        if delay is None:
            self._open.settled(study, seen)
        else:
            self._open.unsettled(study)
            self._studies.put(study, seen.rank if seen else time.time(), delay)

    def _failed_look(self, study: str, error: Exception) -> None:
        code = "orthanc_error" if isinstance(error, OrthancError) else "plugin_error"
        count, _ = self._failing.get(study, (0, ""))
        self._failing[study] = (count + 1, code)
        self._open.unsettled(study)
        found = self._open.get(study)
        delay = BACKOFF_S[min(count, len(BACKOFF_S) - 1)]
        self._studies.put(study, found.rank if found else time.time(), delay)
        self._fault(code, describe(error))

    def _fault(self, code: str, detail: str) -> None:
        self._tally.error(code)
        log.error("%s: %s", code, detail)
