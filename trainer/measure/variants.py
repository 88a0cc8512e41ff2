"""The kinds of loss that an ablation compares: control, TAGL, and variants named on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from strokecore.errors import UsageError
from trainer.loss.config import TaglConfig

CONTROL: Final = "control"
TAGL: Final = "TAGL"


def kinds_of(loss: TaglConfig, variants: Sequence[str]) -> dict[str, TaglConfig]:
    """Control, TAGL and the variants, by name. Raises UsageError."""
    if loss == loss.as_control():
        raise UsageError("the recipe's loss is the control's (w0 1, coupling_weight 0): nothing to compare.")
    kinds = {CONTROL: loss.as_control(), TAGL: loss}
    for text in variants:
        name, colon, settings = text.partition(":")
        if not colon or not name or not all(c.isalnum() or c in "-_." for c in name):
            raise UsageError(
                f"--variant is {text!r}, expected NAME:key=value,key=value, for example coupling:w0=1."
            )
        if name.lower() in {kind.lower() for kind in kinds}:
            raise UsageError(f"--variant {name!r} is a name that is taken; give it another.")
        kinds[name] = _variant(loss, name, settings)
    return kinds


def _variant(loss: TaglConfig, name: str, settings: str) -> TaglConfig:
    kinds = {field.name: field.type for field in dataclasses.fields(loss)}
    changes: dict[str, Any] = {}
    for setting in settings.split(",") if settings else []:
        key, equals, value = setting.partition("=")
        if not equals or key not in kinds:
            raise UsageError(
                f"--variant {name}: {setting!r} is no setting of the loss; expected key=value with one of "
                f"{', '.join(kinds)}."
            )
        if key == "gate":
            changes[key] = value
            continue
        try:
            changes[key] = int(value) if kinds[key] == "int" else float(value)
        except ValueError:
            raise UsageError(f"--variant {name}: {key} is {value!r}, expected a number.") from None
    return replace(loss, **changes)
