"""The model package that comes with StrokeCore, and whether it scores where nobody names a model.

docs/shipped-model.md has the rule for that, written before any figure was seen, and the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

SHIPPED: Final = Path(__file__).parent / "models" / "strokecore_unet_vit"
"""A trained package; simulated CT only."""
NAME: Final = "shipped"
"""How ``--model`` asks for it."""
IS_DEFAULT: Final = False
"""Whether ``--engine auto`` without a model runs it rather than the weight-free engine."""


def package_folder(given: Path | None) -> Path | None:
    """The folder behind a ``--model``: "shipped" is the package that comes with StrokeCore."""
    return SHIPPED if given is not None and str(given) == NAME else given
