"""Identifiers that depend on nothing but the inputs: same inputs, same UIDs, nothing stored twice.

A result key is a uuid5 over everything that can change a result; each output's UIDs are uuid5 of the
key and the output's kind, written under the root 2.25 (PS3.5 annex B.2: 2.25.<UUID as an integer>).
"""

from __future__ import annotations

import json
from typing import Final
from uuid import UUID, uuid5

from strokecore.reading.series import Series
from strokecore.result import ModelInfo, SoftwareInfo

# Drawn once at random; a new value would give every result of every site a new identity.
NAMESPACE: Final = UUID("8e4e64f7-c785-4a4a-b636-627811ec7a12")


def result_key(series: Series, software: SoftwareInfo, model: ModelInfo) -> str:
    """Name of the result these inputs give, as a uuid string.

    Patient, study, every instance, and a hash of geometry, rescale and pixels are in it, so that a
    corrected patient or one more slice gives a new result; software, atlas, effective configuration,
    engine, precision, model hash and the engines that were passed over, which every output names, are in it,
    so that an update does too. The instances count as a
    set: the order in which files were found does not matter.
    """
    first = series.datasets[0]
    return _key(
        [
            "result",
            str(first.get("PatientID", "") or ""),
            str(first.get("StudyInstanceUID", "") or ""),
            sorted(str(header.get("SOPInstanceUID", "")) for header in series.datasets),
            series.digest,
            software.version,
            software.atlas_sha256,
            software.config_sha256,
            model.engine,
            model.precision,
            model.sha256,
            *model.fallbacks,
        ],
    )


def refusal_key(identity: tuple[str, ...], software: SoftwareInfo, codes: tuple[str, ...]) -> str:
    """Name of a refusal that ended before a result key was known.

    ``identity``: PatientID, StudyInstanceUID, SeriesInstanceUID of the refused series; ``codes``: the
    refusal's codes, so that the same series refused for another reason is stored again.
    """
    return _key(
        [
            "refusal",
            list(identity),
            software.version,
            software.atlas_sha256,
            software.config_sha256,
            list(codes),
        ],
    )


def is_key(text: str) -> bool:
    """Whether ``text`` can be the name of a result; a command line may name anything as superseded."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def output_uid(key: str, kind: str, index: int = 0) -> str:
    """UID of one part of one output of the result ``key``; ``index`` numbers parts of a kind."""
    return f"2.25.{uuid5(UUID(key), f'{kind}:{index}').int}"


def constant_uid(name: str) -> str:
    """UID of a thing that is the same for every result, such as this software as a device."""
    return f"2.25.{uuid5(NAMESPACE, name).int}"


def _key(parts: list[object]) -> str:
    # JSON keeps the boundaries between the parts, plain concatenation would not
    return str(uuid5(NAMESPACE, json.dumps(parts, ensure_ascii=True, separators=(",", ":"))))
