"""A result as result.json: the record for machines, checked against the schema that ships."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from strokecore.anatomy.regions import SIDES
from strokecore.files import write_atomically
from strokecore.reports.marks import Volumes
from strokecore.reports.wording import INTENDED_USE
from strokecore.result import AspectsScore, Result

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SCHEMA_VERSION: Final = 1


def to_json(result: Result, volumes: Volumes | None = None) -> dict[str, Any]:
    """``result`` as result.json says it, in plain JSON values; ``volumes``: of the marks that the outputs
    show."""
    none = AspectsScore(None, 0)
    record = {
        "schema": SCHEMA_VERSION,
        "status": result.status,
        "aspects": {side: asdict(result.aspects.get(side, none)) for side in SIDES},
        "affected_side": result.affected_side,
        "regions": [asdict(finding) for finding in result.regions],
        "infarct_volume_ml": {side: result.infarct_volume_ml.get(side, 0.0) for side in SIDES},
        "old_infarct_volume_ml": result.old_infarct_volume_ml,
        "outside_regions_volume_ml": result.outside_regions_volume_ml,
        "other_hypodensity_ml": result.other_hypodensity_volume_ml,
        "shown_ml": _shown(volumes),
        "intended_use": INTENDED_USE,
        "haemorrhage": asdict(result.haemorrhage) if result.haemorrhage else None,
        "quality": [asdict(flag) for flag in result.quality],
        "series": asdict(result.series) if result.series else None,
        "not_selected": [
            {"series_instance_uid": uid, "reason": reason} for uid, reason in result.not_selected
        ],
        "model": asdict(result.model) if result.model else None,
        "software": asdict(result.software),
        "supersedes": result.supersedes,
        "result_key": result.result_key,
        "content_datetime": result.content_datetime,
        "timings_s": result.timings_s,
    }
    # numpy scalars become numbers and tuples lists; a NaN is a defect and raises
    plain: dict[str, Any] = json.loads(
        json.dumps(record, allow_nan=False, default=lambda value: value.item())
    )
    return plain


def write_json(result: Result, path: Path, volumes: Volumes | None = None) -> None:
    """Write result.json, complete or not at all.

    Raises ValueError for a value that is not finite and jsonschema.ValidationError for a result that
    breaks its own contract: both are defects.
    """
    record = to_json(result, volumes)
    _validator().validate(record)
    write_atomically(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def _shown(volumes: Volumes | None) -> dict[str, float] | None:
    """By the names of the segments that hold them."""
    if volumes is None:
        return None
    return {
        **{f"early_{side}": volumes.early[side] for side in SIDES},
        "other_hypodensity": volumes.other,
        "old_infarct": volumes.old,
    }


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of result.json, as shipped."""
    text = resources.files("strokecore").joinpath("result.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def _validator() -> Validator:
    """The validator of results; the tests check that the schema itself is sound."""
    import jsonschema

    return jsonschema.Draft202012Validator(schema())
