"""Whether this machine can score at all: folders, scorer, engine.

What is wrong here is no patient's fault: no attempt is spent on it, and patients wait until it passes.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orthanc_plugin import worker
from orthanc_plugin.health import Health
from orthanc_plugin.settings import Settings
from orthanc_plugin.terminal_states import Tally
from orthanc_plugin.workspace import workspace
from strokecore.config import read_region_cut
from strokecore.errors import UsageError

log = logging.getLogger(__name__)

FULL_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# A head of 30 slices is 16 MB; of a small file system kept for this purpose a share is asked for.
FREE_BYTES: Final = 16 * 2**20
FREE_SHARE: Final = 50
PROBE_BYTES: Final = 2**16
# After these a look at the scorer itself tells whether the series or the installation is the cause.
SCORER_CODES: Final = frozenset({"worker_died", "worker_not_started", "scorer_failed", "scorer_usage"})


class NodeCheck:
    """Looks at the node and says in ``health`` what is wrong with it; several threads may ask."""

    def __init__(self, settings: Settings, stop: threading.Event, health: Health, tally: Tally) -> None:
        self._settings = settings
        self._stop = stop
        self._health = health
        self._tally = tally
        self._folders_fit = False
        self._faults: dict[str, str] = {}  # what was looked at -> code of what is wrong with it
        self._serves = False
        self._next_proof = 0.0
        self._proving = threading.Lock()

    @property
    def fit(self) -> bool:
        """Whether the last look found folders that can be written and a scorer whose engine serves."""
        return self._serves and self._folders_fit

    @property
    def fault(self) -> str | None:
        """Code of what is wrong with the node; None when it is fit, or was not looked at yet."""
        return next(iter(self._faults.values()), None)

    @property
    def proving(self) -> bool:
        """Whether the scorer is being looked at, which can take minutes."""
        return self._proving.locked()

    def look(self) -> None:
        """Look at the folders, and at a scorer that does not serve as often as is due. Raises Stopped."""
        if self._look_at_folders() and not self._serves and time.monotonic() >= self._next_proof:
            self._prove()

    def fit_after(self, code: str, empty: Callable[[], None]) -> bool:
        """Look again after an attempt that failed with ``code``: was it the node? Raises Stopped.

        ``empty`` removes what the attempt left: a study that fills the disk by itself would wait for ever.
        """
        if not self._look_at_folders():
            empty()
            if not self._look_at_folders():
                return False
        return self._prove() if code in SCORER_CODES else self._serves

    def _look_at_folders(self) -> bool:
        codes = []
        if code := _work_folder_fault(self._settings.temporary_directory):
            codes.append(code)
        if not _region_cut_fits(self._settings.region_cut):
            codes.append("region_cut_invalid")
        for folder in self._settings.storage_folders:
            if (code := _storage_fault(folder)) and code not in codes:
                codes.append(code)
        self._folders_fit = not codes
        self._found("folders", codes[0] if codes else "")
        for code in self._health.say("folders", *codes):
            self._fault(code, "")
        return not codes

    def _prove(self) -> bool:
        with self._proving:
            served, code, detail = self._serves, "", ""
            try:
                with workspace(self._settings.temporary_directory) as folder:
                    worker.check_scorer(self._settings, folder, self._stop)
                    worker.prove_engine(self._settings, folder, self._stop)
            except worker.AttemptError as error:
                code, detail = error.code, error.detail
            except OSError as error:
                code, detail = "work_folder_unusable", type(error).__name__
            self._serves = not code
            self._found("scorer", code)
            self._next_proof = time.monotonic() + self._settings.reconcile_s
            for new in self._health.say("scorer", *([code] if code else [])):
                self._fault(new, detail)
            if self._serves and not served:
                log.warning("ready, %d worker(s)", self._settings.workers)
            return not code

    def _found(self, place: str, code: str) -> None:
        others = {k: v for k, v in self._faults.items() if k != place}
        self._faults = {place: code, **others} if code else others

    def _fault(self, code: str, detail: str) -> None:
        self._tally.error(code)
        log.error("%s%s: patients wait, no attempt is spent", code, f" ({detail})" if detail else "")


def _region_cut_fits(path: str | None) -> bool:
    try:
        return path is None or read_region_cut(Path(path)) is not None
    except UsageError:
        return False


def _work_folder_fault(root: str | None) -> str | None:
    """Code of what keeps a working folder from being made, found by writing a file that has no name."""
    try:
        place = root or tempfile.gettempdir()
        if _is_full(place):
            return "work_folder_full"
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"\0" * PROBE_BYTES)
    except OSError as error:
        return "work_folder_full" if error.errno in FULL_ERRORS else "work_folder_unusable"
    return None


def _storage_fault(folder: str) -> str | None:
    """The same of a folder of Orthanc's own, where nothing is written by us."""
    try:
        if _is_full(folder):
            return "storage_full"
    except OSError:
        return "storage_unusable"
    return None if os.access(folder, os.W_OK | os.X_OK) else "storage_unusable"


def _is_full(folder: str) -> bool:
    found = os.statvfs(folder)
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    # file systems that do not count say 0 of 0
    no_files = found.f_files > 0 and found.f_favail == 0
    return size > 0 and (free < min(FREE_BYTES, size / FREE_SHARE) or no_files)
