"""Headers that do not say how pixels are stored: read right where all fits, refused where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, dcmread

from strokecore.errors import Refusal
from strokecore.reading.series import Series, read_series
from tests.ct_factory import head_hu, write_series

Pixels = npt.NDArray[np.int64]
SMALL: dict[str, Any] = {"slices": 12, "spacing_mm": 8, "signed": True, "bits_stored": 16, "intercept": 0}
PADDED = 8  # rows above and below the field of view


def dense_head(points: np.ndarray) -> np.ndarray:
    """The synthetic head with fat under its skin, and within its skull bone that 11 bits cannot hold."""
    hu = head_hu(points)
    hu[hu == 40] = -90
    inner, outer = (((points / axes) ** 2).sum(axis=-1) for axes in ([70, 88, 65], [73.5, 91.5, 68.5]))
    hu[(inner > 1) & (outer <= 1)] = 1500
    return hu


def store(
    dataset: Dataset,
    values: Pixels,
    *,
    signed: bool = False,
    bits: tuple[int, int] = (12, 11),
    slope: float | None = 1,
    intercept: float | None = -1024,
) -> None:
    """``values`` as the pixels, and what the header says of them."""
    dataset.PixelData = (values & 0xFFFF).astype("<u2").tobytes()
    dataset.PixelRepresentation = int(signed)
    dataset.BitsStored, dataset.HighBit = bits
    for keyword, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        dataset.pop(keyword, None)
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.pop("PixelPaddingValue", None)


def padded(values: Pixels, with_value: int) -> Pixels:
    """``values`` with the rows above and below the field of view at ``with_value``."""
    out = values.copy()
    out[:PADDED], out[-PADDED:] = with_value, with_value
    return out


def rewritten(source: Path, folder: Path, write: Callable[[Dataset, Pixels], None]) -> Path:
    """The series of ``source``, its Hounsfield units (-1024 to 3071) stored by ``write``."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix not in ("", ".dcm"):
            continue
        dataset = dcmread(path)
        hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        write(dataset, np.clip(np.rint(hu), -1024, 3071).astype(np.int64))
        dataset.save_as(folder / path.name)
    return folder


def codes(series: Series) -> set[str]:
    return {flag.code for flag in series.flags}


WRONG = {
    "no sign, 12 bits": ("sign_corrected", lambda d, hu: store(d, np.minimum(hu, 2047), intercept=0)),
    "no sign, 16 bits of which 12 are declared": (
        "stored_bits_corrected",
        lambda d, hu: store(d, np.where(hu > 1000, hu + 700, hu), intercept=0),
    ),
    "no sign, 16 bits": ("sign_corrected", lambda d, hu: store(d, hu, bits=(16, 15), intercept=0)),
    "a sign over 12 unsigned bits": ("sign_corrected", lambda d, hu: store(d, hu + 1024, signed=True)),
    "a sign, another offset": (
        "sign_corrected",
        lambda d, hu: store(d, np.maximum(hu + 1000, 0), signed=True, intercept=-1000),
    ),
    "8 bits declared": ("stored_bits_corrected", lambda d, hu: store(d, hu + 1024, bits=(8, 7))),
    "10 bits declared": ("stored_bits_corrected", lambda d, hu: store(d, hu + 1024, bits=(10, 9))),
    "11 bits declared": ("stored_bits_corrected", lambda d, hu: store(d, hu + 1024, bits=(11, 10))),
    "11 signed bits declared": (
        "stored_bits_corrected",
        lambda d, hu: store(d, hu, bits=(11, 10), signed=True, intercept=0),
    ),
    "bits at the top, not said": ("stored_bits_corrected", lambda d, hu: store(d, hu + 1024 << 4)),
    "bits at the bottom, not said": (
        "stored_bits_corrected",
        lambda d, hu: store(d, hu + 1024, bits=(12, 15)),
    ),
    "offset 0": ("rescale_corrected", lambda d, hu: store(d, hu + 1024, intercept=0)),
    "offset absent": ("rescale_corrected", lambda d, hu: store(d, hu + 1024, intercept=None)),
    "offset without its sign": ("rescale_corrected", lambda d, hu: store(d, hu + 1024, intercept=1024)),
    "no rescale at all": (
        "rescale_corrected",
        lambda d, hu: store(d, hu + 1024, slope=None, intercept=None),
    ),
    "slope 0": ("rescale_corrected", lambda d, hu: store(d, hu + 1024, slope=0)),
    "slope absent": ("rescale_corrected", lambda d, hu: store(d, hu + 1024, slope=None)),
    "offset 0, stored from -1000": (
        "rescale_corrected",
        lambda d, hu: store(d, np.maximum(hu + 1000, 0), intercept=0),
    ),
    "offset applied and subtracted": (
        "rescale_corrected",
        lambda d, hu: store(d, hu + 1024, intercept=-2048),
    ),
    "offset applied twice": (
        "rescale_corrected",
        lambda d, hu: store(d, hu, signed=True, bits=(16, 15)),
    ),
    "offset of -1000 applied twice": (
        "rescale_corrected",
        lambda d, hu: store(d, hu, signed=True, bits=(16, 15), intercept=-1000),
    ),
    "padding 63536, 12 bits": ("padding_corrected", lambda d, hu: store(d, padded(hu + 1024, 63536))),
    "padding 63536, 16 bits": (
        "padding_corrected",
        lambda d, hu: store(d, padded(hu + 1024, 63536), bits=(16, 15)),
    ),
    "padding 64512, 12 bits": ("padding_corrected", lambda d, hu: store(d, padded(hu + 1024, 64512))),
    "padding 4095": ("padding_corrected", lambda d, hu: store(d, padded(hu + 1024, 4095))),
    "padding 32767, signed": (
        "padding_corrected",
        lambda d, hu: store(d, padded(hu, 32767), signed=True, bits=(16, 15), intercept=0),
    ),
}
RIGHT: dict[str, Callable[[Dataset, Pixels], None]] = {
    "12 unsigned bits": lambda d, hu: store(d, hu + 1024),
    "12 signed bits": lambda d, hu: store(d, np.clip(hu, -1024, 2047), signed=True, intercept=0),
    "13 signed bits": lambda d, hu: store(d, hu, signed=True, bits=(13, 12), intercept=0),
    "12 signed bits, upper ones zero": (
        lambda d, hu: store(d, np.clip(hu, -1024, 2047) & 0x0FFF, signed=True, intercept=0)
    ),
    "11 bits, no dense bone": lambda d, hu: store(d, np.clip(hu, -1024, 1023) + 1024, bits=(11, 10)),
    "a sign over 16 unsigned bits": lambda d, hu: store(d, hu + 1024, signed=True, bits=(16, 15)),
    "air that undershoots": lambda d, hu: store(d, hu - 70 * (hu < -980), signed=True, intercept=0),
    "padding -2000": lambda d, hu: store(d, padded(hu, -2000), signed=True, bits=(16, 15), intercept=0),
    "padding -3024": lambda d, hu: store(d, padded(hu, -3024), signed=True, bits=(16, 15), intercept=0),
    "padding 0": lambda d, hu: store(d, padded(hu + 1024, 0)),
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    write_series(folder, hu_at=dense_head, **SMALL)
    return folder


def expected_hu(source: Path, kind: str) -> np.ndarray:
    hu = read_series(source).hu.clip(-1024, 3071)
    if kind == "no sign, 12 bits":
        hu = hu.clip(None, 2047)
    if "of which 12" in kind:
        hu[hu > 1000] += 700
    if "padding" in kind:
        hu[:, :PADDED], hu[:, -PADDED:] = -1024, -1024
    return hu.clip(-1000) if "-1000" in kind or "another offset" in kind else hu


@pytest.mark.parametrize("kind", WRONG)
def test_a_header_that_one_reading_alone_contradicts(kind: str, dense: Path, tmp_path: Path) -> None:
    code, write = WRONG[kind]
    series = read_series(rewritten(dense, tmp_path / "wrong", write))
    assert codes(series) - codes(read_series(dense)) == {code}
    np.testing.assert_array_equal(series.hu.clip(-1000), expected_hu(dense, kind).clip(-1000))
    (flag,) = (f for f in series.flags if f.code == code)
    assert flag.severity == "warning"


@pytest.mark.parametrize("kind", WRONG)
def test_the_same_of_the_real_scan(kind: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "real_head_ct"
    code, write = WRONG[kind]
    series = read_series(rewritten(source, tmp_path / "wrong", write))
    assert codes(series) - codes(read_series(source)) == {code}
    np.testing.assert_array_equal(series.hu.clip(-1000), expected_hu(source, kind).clip(-1000))


@pytest.mark.parametrize("kind", RIGHT)
def test_a_header_that_is_right_stays(kind: str, dense: Path, tmp_path: Path) -> None:
    plain = read_series(dense)
    series = read_series(rewritten(dense, tmp_path / "right", RIGHT[kind]))
    assert codes(series) == codes(plain)
    same = series.hu.clip(-980, 1023) == expected_hu(dense, kind).clip(-980, 1023)
    assert same.all()


@pytest.mark.parametrize(
    ("write", "code"),
    [
        # between two offsets: neither gives air and brain where they must be
        (lambda d, hu: store(d, hu + 1012, intercept=0), "implausible_hounsfield"),
        # air, fat and bone fit; brain is muscle's density and more
        (
            lambda d, hu: store(d, hu + 1024 + 30 * (np.abs(hu - 36) < 20), intercept=0),
            "implausible_hounsfield",
        ),
        # no fat: not certain enough
        (
            lambda d, hu: store(d, hu + 1024 + 90 * (np.abs(hu + 90) < 60), intercept=0),
            "implausible_hounsfield",
        ),
        (lambda d, hu: store(d, hu + 1012, intercept=None), "no_rescale"),
        (lambda d, hu: store(d, hu + 1012, slope=0), "no_rescale"),
        # every air pixel is padding: nothing says which offset is right
        (lambda d, hu: store(d, np.where(hu < -900, 0, hu + 1024), intercept=0), "implausible_hounsfield"),
        # two faults
        (lambda d, hu: store(d, padded(hu + 1024, 4095), intercept=0), "implausible_hounsfield"),
    ],
)
def test_what_fits_in_part_is_refused(
    write: Callable[[Dataset, Pixels], None], code: str, dense: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refusal, match=code) as caught:
        read_series(rewritten(dense, tmp_path / "wrong", write))
    assert not caught.value.ineligible


def test_a_rescale_for_each_slice_does_not_hide_a_lost_sign(dense: Path, tmp_path: Path) -> None:
    def write(dataset: Dataset, hu: Pixels) -> None:
        own = int(dataset.InstanceNumber)
        store(dataset, hu + own, bits=(16, 15), intercept=-own)

    series = read_series(rewritten(dense, tmp_path / "wrong", write))
    assert codes(series) - codes(read_series(dense)) == {"sign_corrected"}
    np.testing.assert_array_equal(series.hu, expected_hu(dense, ""))


def test_one_slice_stored_otherwise_than_the_rest(dense: Path, tmp_path: Path) -> None:
    """Two faults, or one that is not of the whole series, are nothing to be read by guessing."""
    folder = rewritten(dense, tmp_path / "wrong", WRONG["offset 0"][1])
    path = sorted(folder.iterdir())[0]
    dataset = dcmread(path)
    dataset.RescaleIntercept = -1000
    dataset.save_as(path)
    with pytest.raises(Refusal, match="implausible_hounsfield"):
        read_series(folder)
