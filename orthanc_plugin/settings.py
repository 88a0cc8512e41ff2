"""The ``StrokeCore`` section of Orthanc's configuration, checked once at start-up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orthanc_plugin.log_line import FORMATS, TEXT
from strokecore.config import OUTPUT_KINDS, check_outputs, read_region_cut
from strokecore.errors import UsageError
from strokecore.learned.runtimes import ENGINE_CHOICES

METADATA_NAME: Final = "StrokeCore"
RESULT_ATTACHMENT: Final = "StrokeCoreResult"
REPORT_ATTACHMENT: Final = "StrokeCoreReport"
USER_ID_MINIMUM: Final = 1024  # Orthanc keeps lower numbers of metadata and attachments for itself

DEFAULT_STABLE_AGE_S: Final = 60.0  # Orthanc's own default
DEFAULT_HTTP_PORT: Final = 8042  # Orthanc's own default
CACHE_NAME: Final = "strokecore-cache"
SHIPPED_MODEL: Final = "shipped"  # strokecore.learned.shipped.NAME, which the scorer resolves


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration; ``code`` is stable and listed in docs/orthanc.md."""

    code: str
    message: str


class SettingsError(Exception):
    """The configuration cannot be used; carries every problem found, not only the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{p.code}: {p.message}" for p in problems))
        self.problems = problems


@dataclass(frozen=True)
class Settings:
    """What a site can set, and what the plugin must know of Orthanc's own configuration.

    Attributes
    ----------
    command: program and first arguments of the scorer; ``score FOLDER --out FOLDER`` is appended.
    python: interpreter that runs the scorer and its supervisor (the virtual environment's).
    workers: acquisitions scored at the same time.
    timeout_s: one attempt that takes longer is killed.
    max_attempts: attempts per acquisition before it ends ``failed``.
    retry_delay_s: pause before the next attempt.
    engine, model, region_cut, outputs: passed to the scorer.
    temporary_directory: where the private working folders are made; the system's when None.
    cache_directory: what the scorer compiled and checked, kept from one scan to the next; None where no
        folder is known for it, and every scan then does it again.
    recovery_hours: how far back a start reads Orthanc's change log at least.
    quiet_s: a head that looks whole is scored so long after its last slice; after stable_age_s if less.
    reconcile_s: how often everything without a terminal state is looked at again.
    alarm_s: a study that waits longer than this is said in the node's health.
    store_patience_s: how long outputs that Orthanc refuses with errors of its own are made again.
    log_format: "text", or "json" for one JSON object a line.
    storage_folders: Orthanc's StorageDirectory and IndexDirectory, as far as their place is known.
    stable_age_s, http_port, tls: Orthanc's StableAge, HttpPort and SslEnabled.
    """

    command: tuple[str, ...]
    python: str
    workers: int = 1
    timeout_s: float = 120.0
    max_attempts: int = 3
    retry_delay_s: float = 10.0
    engine: str = "auto"
    model: str | None = None
    region_cut: str | None = None
    outputs: tuple[str, ...] = OUTPUT_KINDS
    temporary_directory: str | None = None
    cache_directory: str | None = None
    recovery_hours: float = 24.0
    quiet_s: float = 3.0
    reconcile_s: float = 60.0
    alarm_s: float = 300.0
    store_patience_s: float = 600.0
    log_format: str = TEXT
    storage_folders: tuple[str, ...] = ()
    stable_age_s: float = DEFAULT_STABLE_AGE_S
    http_port: int = DEFAULT_HTTP_PORT
    tls: bool = False


def parse_settings(configuration: Mapping[str, Any]) -> Settings:
    """Settings from Orthanc's whole configuration. Raises SettingsError with all problems."""
    problems: list[Problem] = []
    section = configuration.get("StrokeCore", {})
    if not isinstance(section, Mapping):
        raise SettingsError((Problem("section_invalid", "StrokeCore must be an object of options."),))
    reader = _Section(section, problems)
    python = reader.path("Python")
    command = reader.command("Command")
    model = reader.path("Model")
    region_cut = reader.path("RegionCut")
    outputs = reader.outputs("Outputs")
    folder = reader.path("TemporaryDirectory")
    cache = reader.path("CacheDirectory")
    settings = Settings(
        python=python or "",
        command=command or ((python, "-I", "-m", "strokecore") if python else ()),
        workers=int(reader.number("Workers", 1, 1, 64, whole=True)),
        timeout_s=reader.number("TimeoutSeconds", 120, 1, 3600),
        max_attempts=int(reader.number("MaxAttempts", 3, 1, 20, whole=True)),
        retry_delay_s=reader.number("RetryDelaySeconds", 10, 0, 3600),
        engine=reader.choice("Engine", "auto", ENGINE_CHOICES),
        model=model,
        region_cut=region_cut,
        outputs=outputs,
        temporary_directory=folder,
        cache_directory=cache or _default_cache(configuration),
        recovery_hours=reader.number("RecoveryHours", 24, 0, 24 * 366),
        quiet_s=reader.number("QuietSeconds", 3, 1, 24 * 3600),
        reconcile_s=reader.number("ReconcileSeconds", 60, 1, 3600),
        alarm_s=reader.number("AlarmSeconds", 300, 10, 24 * 3600),
        store_patience_s=reader.number("StorePatienceSeconds", 600, 0, 24 * 3600),
        log_format=reader.choice("LogFormat", TEXT, FORMATS),
        storage_folders=tuple(_storage_folders(configuration)),
        stable_age_s=_plain_number(configuration.get("StableAge"), DEFAULT_STABLE_AGE_S),
        http_port=int(_plain_number(configuration.get("HttpPort"), DEFAULT_HTTP_PORT)),
        tls=configuration.get("SslEnabled") is True,
    )
    if not python:
        problems.append(
            Problem("python_missing", "StrokeCore.Python must name the virtual environment's python.")
        )
    elif not _is_program(python):
        problems.append(Problem("python_missing", "StrokeCore.Python is not a program that can be run."))
    if model not in (None, SHIPPED_MODEL) and not os.path.isdir(model):
        problems.append(Problem("model_missing", 'StrokeCore.Model is neither a folder nor "shipped".'))
    if region_cut is not None and not os.path.isabs(region_cut):
        # the scorer runs in a folder of its own
        problems.append(Problem("option_invalid", "StrokeCore.RegionCut must be an absolute path."))
    elif region_cut is not None:
        try:
            read_region_cut(Path(region_cut))
        except UsageError as error:
            problems.append(Problem("region_cut_invalid", f"StrokeCore.RegionCut: {error}"))
    if folder is not None and not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        problems.append(
            Problem("temporary_directory_missing", "StrokeCore.TemporaryDirectory is not a writable folder.")
        )
    if cache is not None and not os.path.isabs(cache):
        problems.append(Problem("option_invalid", "StrokeCore.CacheDirectory must be an absolute path."))
    for name in sorted(set(section) - reader.known):
        problems.append(Problem("option_unknown", f"StrokeCore.{_shown(name)} is not an option."))
    problems.extend(_orthanc_problems(configuration))
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def _default_cache(configuration: Mapping[str, Any]) -> str | None:
    """Beside Orthanc's own database, which is kept and private too."""
    return next((os.path.join(folder, CACHE_NAME) for folder in _storage_folders(configuration)), None)


def _storage_folders(configuration: Mapping[str, Any]) -> list[str]:
    """Where Orthanc keeps its database and its files, each folder once.

    A relative path is left alone: it is relative to the configuration file, whose place is not known here.
    """
    paths = [configuration.get(name) for name in ("IndexDirectory", "StorageDirectory")]
    found = [_for_the_file_system(p) for p in paths if isinstance(p, str) and os.path.isabs(p)]
    return list(dict.fromkeys(found))


def _orthanc_problems(configuration: Mapping[str, Any]) -> list[Problem]:
    """What the plugin needs of Orthanc itself."""
    problems = []
    if not _registered(configuration, "UserMetadata", METADATA_NAME):
        problems.append(
            Problem(
                "user_metadata_missing",
                f'UserMetadata must register "{METADATA_NAME}" with a number of {USER_ID_MINIMUM} or more.',
            )
        )
    for name in (RESULT_ATTACHMENT, REPORT_ATTACHMENT):
        if not _registered(configuration, "UserContentType", name):
            problems.append(
                Problem(
                    "user_content_type_missing",
                    f'UserContentType must register "{name}" with a number of {USER_ID_MINIMUM} or more.',
                )
            )
    if configuration.get("CheckRevisions") is not True:
        problems.append(Problem("check_revisions_off", "CheckRevisions must be true: claims rely on it."))
    if configuration.get("HttpServerEnabled", True) is not True:
        problems.append(Problem("http_server_off", "HttpServerEnabled must be true: the plugin uses REST."))
    return problems


def _registered(configuration: Mapping[str, Any], table: str, name: str) -> bool:
    names = configuration.get(table)
    number = names.get(name) if isinstance(names, Mapping) else None
    if isinstance(number, list):  # a content type can be registered as [number, mime type]
        number = number[0] if number else None
    return isinstance(number, int) and number >= USER_ID_MINIMUM


class _Section:
    """Typed reading of options; what does not fit is noted and replaced by the default."""

    def __init__(self, section: Mapping[str, Any], problems: list[Problem]) -> None:
        self._section = section
        self._problems = problems
        self.known: set[str] = set()

    def path(self, name: str) -> str | None:
        value = self._read(name, None, lambda v: isinstance(v, str) and bool(v), "a text")
        return None if value is None else _for_the_file_system(value)

    def command(self, name: str) -> tuple[str, ...] | None:
        def is_command(value: Any) -> bool:
            return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v for v in value)

        value = self._read(name, None, is_command, "a list of texts: program, then arguments")
        return tuple(map(_for_the_file_system, value)) if value else None

    def choice(self, name: str, default: str, values: tuple[str, ...]) -> str:
        return str(self._read(name, default, lambda v: v in values, "one of " + ", ".join(values)))

    def outputs(self, name: str) -> tuple[str, ...]:
        def is_list(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(v, str) for v in value)

        names = self._read(name, list(OUTPUT_KINDS), is_list, "a list of texts")
        try:
            return check_outputs(names)
        except UsageError as error:
            self._problems.append(Problem("option_invalid", f"StrokeCore.{name}: {error}"))
            return OUTPUT_KINDS

    def number(self, name: str, default: float, low: float, high: float, *, whole: bool = False) -> float:
        def fits(value: Any) -> bool:
            kind = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            return kind and low <= value <= high

        noun = "a whole number" if whole else "a number"
        return float(self._read(name, default, fits, f"{noun} from {low:g} to {high:g}"))

    def _read(self, name: str, default: Any, fits: Callable[[Any], bool], expected: str) -> Any:
        self.known.add(name)
        value = self._section.get(name)
        if value is None:
            return default
        if not fits(value):
            self._problems.append(Problem("option_invalid", f"StrokeCore.{name} must be {expected}."))
            return default
        return value


def _for_the_file_system(text: str) -> str:
    """A path of the configuration (UTF-8) as Python's file functions want it.

    In the C locale, usual for services, the Python inside Orthanc takes file names for ASCII; other bytes
    must come as surrogates.
    """
    return os.fsdecode(text.encode("utf-8"))


def _is_program(path: str) -> bool:
    return shutil.which(path) is not None


def _plain_number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float(default)


def _shown(name: object) -> str:
    """An unknown option's name for the log: short, one line."""
    return "".join(c for c in str(name)[:40] if c.isprintable())
