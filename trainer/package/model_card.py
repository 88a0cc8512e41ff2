"""The texts of a model package: its card and its licence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from strokecore.learned.engine import LEAST_OUTLINED

APACHE: Final = "Apache-2.0"
SITE_LICENCE: Final = "none given: trained on data whose owners decide"

_LIMITS: Final = (
    "Adults, non-contrast head CT that StrokeCore accepts; contrast, haemorrhage, tumour and children were "
    "not trained.",
    "Very early or small infarcts change CT by less than its noise; a normal result does not exclude a "
    "stroke.",
    "Infarct at the skull base and in the posterior fossa is hidden by beam hardening.",
    "Old infarct is set apart by StrokeCore's own rule, not by this model.",
)
_SIMULATED_LIMIT: Final = (
    "Trained on simulated CT only: textures, scanners and diseases that the simulator does not draw are "
    "unknown to it."
)
_FEW: Final = 5

_DINOV3: Final = """\
Built with DINOv3

This model contains or uses DINOv3 materials of Meta Platforms, Inc. They are licensed under the DINOv3
License (https://ai.meta.com/resources/models-and-libraries/dinov3-license/); whoever passes this package on
must pass the licence on with it, and its terms of use bind every user.
"""
_NO_TEXT: Final = """
The licence's text was not beside the backbone's weights when this package was exported. Add it from the
address above before you pass the package on.
"""
_APACHE_TEXT: Final = """\
Licensed under the Apache License, Version 2.0; you may obtain a copy of it at
https://www.apache.org/licenses/LICENSE-2.0. Provided as is, without warranties or conditions of any kind.
Trained on simulated data only. Research use only: not a medical device.
"""
_SITE_TEXT: Final = """\
This model was trained on data that are not StrokeCore's: {kind}. Whether it may be passed on is for the
owners of the data to decide; StrokeCore's own licence (Apache-2.0) covers the program, not this model.
Research use only: not a medical device.
"""


def model_card(manifest: Mapping[str, Any], note: str = "") -> str:
    """MODEL_CARD.md of a model.json's content; ``note`` (Markdown) stands at its end."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("trainer", "templates"),
        autoescape=False,  # Markdown; every value is the trainer's own
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = lambda value: "-" if value is None else f"{value:.3f}"
    data, validation = manifest["training"]["data"], manifest["metrics"]["validation"]
    return environment.get_template("MODEL_CARD.md.j2").render(
        {
            **manifest,
            "data": {"cases": None, "skipped": 0, "simulator": None, **data},
            "validation": validation,
            "refitted": validation.get("data"),
            "test": manifest["metrics"]["test"],
            "calibration": manifest["regions"]["calibration"],
            "plain": manifest["training"]["recipe"]["loss"]["coupling_weight"] == 0
            and manifest["training"]["recipe"]["loss"]["w0"] == 1,
            "note": note.strip(),
            "least_outlined": LEAST_OUTLINED,
            "limits": _limits(data["kind"], validation["affected_by_name"]),
        }
    )


def licence_name(data_kind: str, built_with_dinov3: bool) -> str:
    """Short name of the licence that a package carries."""
    if built_with_dinov3:
        return "DINOv3 License" if data_kind == "simulated" else f"DINOv3 License; data: {SITE_LICENCE}"
    return APACHE if data_kind == "simulated" else SITE_LICENCE


def licence_text(data_kind: str, built_with_dinov3: bool, weights_source: str) -> str:
    """Content of LICENSE; Meta's own text where it lies beside the backbone's weights."""
    parts = [_APACHE_TEXT if data_kind == "simulated" else _SITE_TEXT.format(kind=data_kind)]
    if built_with_dinov3:
        parts = [_DINOV3, _beside(Path(weights_source).expanduser()) or _NO_TEXT, parts[0]]
    return "\n".join(parts)


def _beside(source: Path) -> str | None:
    """The licence file in the folder of the weights, if there is one."""
    folder = source if source.is_dir() else source.parent
    for path in sorted(folder.glob("LICENSE*")):
        if path.is_file():
            return f"{path.name} of the backbone's weights:\n\n{path.read_text('utf-8', 'replace')}"
    return None


def _limits(data_kind: str, affected: Mapping[str, int]) -> list[str]:
    limits = [_SIMULATED_LIMIT] if data_kind == "simulated" else []
    limits += _LIMITS
    rare = ", ".join(name for name, count in affected.items() if count < _FEW)
    if rare:
        limits.append(
            f"Fewer than {_FEW} affected validation regions of {rare}: their calibration is mostly that of "
            "all regions together."
        )
    return limits
