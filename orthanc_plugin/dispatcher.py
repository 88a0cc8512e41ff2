"""Events to studies, studies to threads. Nothing here runs inside Orthanc's callback."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orthanc_plugin import worker
from orthanc_plugin.orthanc_api import NotFound, OrthancApi, OrthancError
from orthanc_plugin.recovery import last_change, pending_studies
from orthanc_plugin.scoring import Scoring
from orthanc_plugin.settings import Settings
from orthanc_plugin.study_queue import LATER, URGENT, StudyQueue
from orthanc_plugin.terminal_states import Tally
from orthanc_plugin.workspace import sweep, workspace

log = logging.getLogger(__name__)

START_PATIENCE_S: Final = 60.0  # Orthanc says "started" a moment before its HTTP server answers
JOIN_S: Final = 5.0
BACKOFF_S: Final = (1.0, 5.0, 15.0, 60.0, 60.0, 60.0)  # after a defect or when Orthanc's REST fails
CHECK_RETRY_S: Final = 60.0
QUIET_CHECK_S: Final = 5.0
QUIET_MARGIN_S: Final = 5.0  # on top of StableAge since the last instance


class Dispatcher:
    """Owns the threads: one reads events, ``settings.workers`` handle studies.

    Parameters
    ----------
    save_mark: keeps the number of the last change at a moment when nothing was pending.
    """

    def __init__(
        self,
        api: OrthancApi,
        settings: Settings,
        scoring: Scoring,
        tally: Tally,
        stop: threading.Event,
        quiet_mark: int,
        save_mark: Callable[[int], None],
    ) -> None:
        self._api = api
        self._settings = settings
        self._scoring = scoring
        self._tally = tally
        self._stop = stop
        self._mark = quiet_mark
        self._save_mark = save_mark
        self._events: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._studies = StudyQueue()
        self._errors: dict[str, int] = {}
        self._last_arrival = time.monotonic()
        self._ready = False
        self._threads: list[threading.Thread] = []

    # -- called from Orthanc's threads: must return at once -------------------------------------------

    def series_stable(self, series: str) -> None:
        self._events.put(series)

    def instance_arrived(self) -> None:
        self._last_arrival = time.monotonic()

    def study_wanted(self, study: str) -> None:
        self._studies.put(study, URGENT)

    @property
    def ready(self) -> bool:
        """Whether the scorer was found to work."""
        return self._ready

    def lengths(self) -> tuple[int, int]:
        """(studies waiting, studies being worked on)."""
        waiting, busy = self._studies.lengths()
        return waiting + self._events.qsize(), busy

    def start(self) -> None:
        self._spawn(self._read_events, "events")

    def stop(self) -> None:
        """End the scorers and the threads; what is unfinished is found again at the next start."""
        self._stop.set()
        self._events.put(None)
        self._studies.close()
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    # -- own threads ----------------------------------------------------------------------------------

    def _spawn(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=f"strokecore-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _read_events(self) -> None:
        removed = sweep(self._settings.temporary_directory)
        if removed:
            log.warning("%d working folders of an earlier run removed", removed)
        if not (self._wait_for_rest() and self._wait_for_scorer()):
            return
        for number in range(self._settings.workers):
            self._spawn(self._handle_studies, f"worker-{number}")
        self._recover()
        while not self._stop.is_set():
            try:
                series = self._events.get(timeout=QUIET_CHECK_S)
            except queue.Empty:
                self._note_quiet()
                continue
            if series is not None:
                self._enqueue(series)

    def _wait_for_rest(self) -> bool:
        deadline = time.monotonic() + START_PATIENCE_S
        while not self._stop.is_set():
            try:
                self._api.get("/system")
            except OrthancError as error:
                if time.monotonic() > deadline:
                    self._fault("rest_unreachable", f"HTTP status {error.status}")
                    deadline = time.monotonic() + START_PATIENCE_S
                self._stop.wait(0.2)
            else:
                return True
        return False

    def _wait_for_scorer(self) -> bool:
        """A broken installation must not burn the attempts of every series that arrives."""
        while not self._stop.is_set():
            try:
                with workspace(self._settings.temporary_directory) as folder:
                    worker.check_scorer(self._settings, folder, self._stop)
                    worker.prove_engine(self._settings, folder, self._stop)
            except worker.AttemptError as error:
                self._fault(error.code, error.detail)
            except OSError as error:
                self._fault("io_error", type(error).__name__)
            except worker.Stopped:
                return False
            else:
                self._ready = True
                log.warning("ready, %d worker(s)", self._settings.workers)
                return True
            self._stop.wait(CHECK_RETRY_S)
        return False

    def _recover(self) -> None:
        count = 0
        try:
            for study in pending_studies(self._api, self._mark, self._settings.recovery_hours):
                if self._stop.is_set():
                    return
                self._studies.put(study, LATER)
                count += 1
        except (OrthancError, ValueError, KeyError, TypeError) as error:
            self._defect("recovery_failed", error)
        log.warning("start-up scan: %d CT studies to look at", count)

    def _enqueue(self, series: str) -> None:
        try:
            description = self._api.get(f"/series/{series}")
            if description["MainDicomTags"].get("Modality") == "CT":
                self._studies.put(description["ParentStudy"], URGENT)
        except NotFound:
            return
        except (OrthancError, KeyError, ValueError) as error:
            self._defect("event_lost", error)  # the start-up scan finds the series

    def _handle_studies(self) -> None:
        while (study := self._studies.take()) is not None:
            try:
                delay = self._scoring.handle(study)
                self._errors.pop(study, None)
                if delay is not None:
                    self._studies.put(study, LATER if delay else URGENT, delay)
            except worker.Stopped:
                return
            except Exception as error:  # a defect must cost its study, never the thread
                if not self._stop.is_set():
                    code = "orthanc_error" if isinstance(error, OrthancError) else "plugin_error"
                    self._defect(code, error)
                    self._back_off(study)
            finally:
                self._studies.done(study)

    def _back_off(self, study: str) -> None:
        count = self._errors.get(study, 0)
        if count < len(BACKOFF_S):
            self._errors[study] = count + 1
            self._studies.put(study, LATER, BACKOFF_S[count])
        else:
            self._errors.pop(study, None)
            log.error("study %s given up until something arrives for it or Orthanc starts again", study)

    def _note_quiet(self) -> None:
        """Remember that everything up to now needs no further look.

        The number is read first: what arrives while it is read has a higher one.
        """
        try:
            newest = last_change(self._api)
        except (OrthancError, KeyError, ValueError):
            return
        arrived = time.monotonic() - self._last_arrival
        quiet = arrived > self._settings.stable_age_s + QUIET_MARGIN_S and not self._errors
        if quiet and self.lengths() == (0, 0) and newest != self._mark:
            self._mark = newest
            self._save_mark(newest)

    def _fault(self, code: str, detail: str) -> None:
        self._tally.error(code)
        log.error("%s: %s", code, detail)

    def _defect(self, code: str, error: Exception) -> None:
        """Log where an error came from, not its message: that could hold a header's value."""
        if isinstance(error, OrthancError):  # its message is a method, a kind of resource and a status
            self._fault(code, str(error))
            return
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        places = " ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames)
        self._fault(code, f"{type(error).__name__} at {places}")
