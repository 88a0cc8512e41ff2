"""A patient's slices with the true and the predicted infarct outlined."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from strokecore.arrays import BoolArray
from strokecore.errors import UsageError
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.preprocessing import STROKE_WINDOW
from trainer.data.cases import Case

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SLICES: Final = 6
TRUTH_COLOUR: Final = "#39d353"
PREDICTION_COLOUR: Final = "#ff5c8a"
_DPI: Final = 110
_SIZE_INCHES: Final = (2.3, 2.75)  # of one slice
_CROP_MM: Final = 6.0  # kept around the intracranial space


def require_matplotlib() -> None:
    """Raises UsageError with the command that installs it, before minutes are spent on measuring."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("The pictures need matplotlib; install it with: pip install 'strokecore[train]'")


def save_overlay(path: Path, case: Case, predicted: BoolArray, title: str) -> None:
    """Write a PNG of SLICES slices, shown as radiologists look: the patient's right on the left.

    The slices divide the height that holds true or predicted infarct evenly; without any, the head's.

    Parameters
    ----------
    predicted: [z, y, x].
    title: must name no patient.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows, columns = _window(case.inside)
    figure = Figure(figsize=(SLICES * _SIZE_INCHES[0], _SIZE_INCHES[1] + 0.55), facecolor="black")
    for place, z in enumerate(choose_slices(case, predicted), start=1):
        axes = figure.add_subplot(1, SLICES, place)
        # 2 mm planes are noisier than what is read: the mean of three, as thick as a usual slice
        hu = case.hu[max(z - 1, 0) : z + 2].astype(np.float32).mean(axis=0)
        axes.imshow(hu[rows, columns], cmap="gray", vmin=STROKE_WINDOW[0], vmax=STROKE_WINDOW[1])
        _outline(axes, case.lesion[z, rows, columns], TRUTH_COLOUR)
        _outline(axes, predicted[z, rows, columns], PREDICTION_COLOUR)
        axes.set_title(f"z {CANONICAL_GRID.axes_mm[0][z]:+.0f} mm", color="0.75", fontsize=8, pad=3)
        axes.set_axis_off()
    for x, side in ((0.006, "R"), (0.985, "L")):
        figure.text(x, 0.5, side, color="0.75", fontsize=10, va="center")
    figure.text(0.012, 0.93, title, color="white", fontsize=11)
    figure.legend(
        handles=[
            Line2D([], [], color=TRUTH_COLOUR, label="truth"),
            Line2D([], [], color=PREDICTION_COLOUR, label="prediction"),
        ],
        loc="upper right",
        ncols=2,
        frameon=False,
        labelcolor="white",
        fontsize=10,
    )
    figure.text(0.012, 0.02, "Research use only.", color="0.6", fontsize=8)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.85, bottom=0.04, wspace=0.03)
    figure.savefig(path, dpi=_DPI, facecolor="black")


def choose_slices(case: Case, predicted: BoolArray) -> npt.NDArray[np.intp]:
    """Indices of SLICES planes from below to above."""
    held = np.asarray((case.lesion | predicted).any(axis=(1, 2)))
    planes = np.flatnonzero(held if held.any() else case.inside.any(axis=(1, 2)))
    if not len(planes):
        planes = np.arange(len(held))
    # the middles of SLICES equal parts: the very ends of a lesion show little of it
    middles = (np.arange(SLICES) + 0.5) / SLICES * (planes[-1] - planes[0])
    return np.asarray(planes[0] + np.round(middles), np.intp)


def _window(inside: BoolArray) -> tuple[slice, slice]:
    margin = round(_CROP_MM / CANONICAL_GRID.spacing_mm[1])
    spans = []
    for axis in (1, 2):
        held = np.flatnonzero(inside.any(axis=(0, 3 - axis)))
        low, high = (held[0], held[-1]) if len(held) else (0, inside.shape[axis] - 1)
        spans.append(slice(max(int(low) - margin, 0), int(high) + margin + 1))
    return spans[0], spans[1]


def _outline(axes: Axes, mask: BoolArray, colour: str) -> None:
    if mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.1)
