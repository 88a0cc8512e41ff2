"""Stored values to Hounsfield units in every encoding a CT uses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from strokecore.reading.pixels import UnreadablePixelsError, decode
from strokecore.reading.series import read_series
from tests.ct_factory import write_series


def one_slice(folder: Path, **arguments: Any) -> Dataset:
    (path,) = write_series(folder, slices=1, size=64, pixel_mm=3, **arguments)
    return dcmread(path)


@pytest.mark.parametrize(
    "storage",
    [
        {"signed": False, "bits_stored": 12, "intercept": -1024},
        {"signed": False, "bits_stored": 16, "intercept": -8192},
        {"signed": True, "bits_stored": 16, "intercept": 0},
        {"signed": True, "bits_stored": 12, "intercept": 0},
        {"signed": True, "bits_stored": 13, "intercept": -1000, "slope": 0.5},
        {"signed": False, "bits_stored": 12, "intercept": -1024.5, "slope": 2},
    ],
)
def test_rescale_and_sign(tmp_path: Path, storage: dict[str, Any]) -> None:
    reference = decode(one_slice(tmp_path / "a", signed=True, bits_stored=16, intercept=0)).hu
    hu = decode(one_slice(tmp_path / "b", **storage)).hu
    assert hu.dtype == np.float32
    np.testing.assert_allclose(hu, reference, atol=0.5 + storage.get("slope", 1) / 2)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_the_stored_ones_are_cut(tmp_path: Path, signed: bool) -> None:
    """Old files keep overlays in the upper four bits."""
    dataset = one_slice(tmp_path, signed=signed, intercept=0 if signed else -1024)
    clean = decode(dataset).hu
    stored = np.frombuffer(dataset.PixelData, "<u2").copy()
    stored &= 0x0FFF
    stored[::3] |= 0x8000
    dataset.PixelData = stored.tobytes()
    np.testing.assert_array_equal(decode(dataset).hu, clean)


def test_high_bit_above_the_stored_bits(tmp_path: Path) -> None:
    dataset = one_slice(tmp_path)
    clean = decode(dataset).hu
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") << 4).astype("<u2").tobytes()
    dataset.HighBit = 15
    np.testing.assert_array_equal(decode(dataset).hu, clean)


@pytest.mark.parametrize(
    ("signed", "stored", "declared", "vr"),
    [
        (True, -2000, -2000, "SS"),
        (True, -2000, 63536, "US"),  # written with the wrong sign
        (False, 63536, 63536, "US"),  # does not fit into the stored bits
        (False, 0, 0, "US"),
    ],
)
def test_padding_becomes_air(tmp_path: Path, signed: bool, stored: int, declared: int, vr: str) -> None:
    intercept = 0 if signed else -1000
    dataset = one_slice(tmp_path, signed=signed, intercept=intercept)
    pixels = np.frombuffer(dataset.PixelData, "<i2" if signed else "<u2").copy()
    pixels[:100] = stored
    dataset.PixelData = pixels.tobytes()
    dataset.add_new("PixelPaddingValue", vr, declared)
    hu = decode(dataset).hu.ravel()
    assert (hu[:100] == -1024).all()
    assert hu.max() > 800


def test_padding_range(tmp_path: Path) -> None:
    dataset = one_slice(tmp_path, intercept=-1000)
    pixels = np.frombuffer(dataset.PixelData, "<u2").copy()
    pixels[:3] = [3, 5, 9]
    dataset.PixelData = pixels.tobytes()
    dataset.PixelPaddingValue = 9
    dataset.PixelPaddingRangeLimit = 4
    assert decode(dataset).hu.ravel()[:3].tolist() == [-997, -1024, -1024]


def test_nothing_is_darker_than_air(tmp_path: Path) -> None:
    dataset = one_slice(tmp_path, signed=True, bits_stored=16, intercept=0)
    dataset.PixelData = np.full(64 * 64, -3024, "<i2").tobytes()
    assert (decode(dataset).hu == -1024).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless]
)
def test_transfer_syntaxes(tmp_path: Path, syntax: str, signed: bool) -> None:
    storage: dict[str, Any] = {"signed": signed, "intercept": 0 if signed else -1024}
    plain = decode(one_slice(tmp_path / "plain", **storage))
    if syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        dataset = one_slice(tmp_path / "plain", **storage)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(tmp_path / "other", implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
        other = decode(dcmread(tmp_path / "other"))
    else:
        other = decode(one_slice(tmp_path / "other", transfer_syntax=syntax, **storage))
    np.testing.assert_array_equal(other.hu, plain.hu)
    assert other.digest == plain.digest  # the same result key however it was sent


def dcmtk(tool: str, *arguments: object) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} (Debian package dcmtk) is not installed")
    subprocess.run([tool, *map(str, arguments)], check=True, capture_output=True)


def test_big_endian(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, slices=1, size=64, pixel_mm=3)
    dcmtk("dcmconv", "+tb", path, tmp_path / "big")
    big = dcmread(tmp_path / "big")
    assert big.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    assert decode(big).digest == decode(dcmread(path)).digest


@pytest.mark.parametrize(
    ("tool", "option"),
    [("dcmcjpeg", "+e1"), ("dcmcjpeg", "+el"), ("dcmcjpls", "+el")],
    ids=["14", "SV1", "JPEG-LS"],
)
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_lossless_of_another_encoder(tmp_path: Path, tool: str, option: str, signed: bool) -> None:
    (path,) = write_series(
        tmp_path,
        slices=1,
        size=64,
        pixel_mm=3,
        signed=signed,
        bits_stored=16,
        intercept=0 if signed else -1024,
    )
    dcmtk(tool, option, path, tmp_path / "packed")
    packed = dcmread(tmp_path / "packed")
    assert packed.file_meta.TransferSyntaxUID.is_compressed
    assert decode(packed).digest == decode(dcmread(path)).digest


def test_compressed_series_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "plain")
    write_series(tmp_path / "packed", transfer_syntax=RLELossless)
    plain, packed = (read_series(tmp_path / name) for name in ("plain", "packed"))
    assert packed.digest == plain.digest
    assert [flag.code for flag in packed.flags] == ["coverage"]


def test_series_may_change_its_rescale_between_slices(tmp_path: Path) -> None:
    """Some scanners scale each slice to its own range."""

    def shift(dataset: Dataset, k: int) -> None:
        if k % 2:
            dataset.RescaleIntercept = -1000
            stored = np.frombuffer(dataset.PixelData, "<u2").astype(int) - 24
            dataset.PixelData = stored.clip(0).astype("<u2").tobytes()

    write_series(tmp_path / "plain")
    write_series(tmp_path / "other", edit=shift)
    plain, other = (read_series(tmp_path / name) for name in ("plain", "other"))
    np.testing.assert_allclose(other.hu.clip(-1000), plain.hu.clip(-1000))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("PixelData"),
        lambda d: setattr(d, "PixelData", b""),
        lambda d: setattr(d, "PixelData", d.PixelData[:-100]),
        lambda d: setattr(d, "Rows", 65535),
        lambda d: setattr(d, "Rows", 0),
        lambda d: d.pop("Columns"),
        lambda d: d.pop("BitsAllocated"),
        lambda d: setattr(d, "BitsAllocated", 7),
        lambda d: setattr(d, "SamplesPerPixel", 3),
        lambda d: setattr(d, "NumberOfFrames", 2),
        lambda d: setattr(d.file_meta, "TransferSyntaxUID", RLELossless),
        lambda d: setattr(d.file_meta, "TransferSyntaxUID", "1.2.3"),
    ],
)
def test_damaged_pixels_raise_one_kind_of_error(tmp_path: Path, change: Any) -> None:
    dataset = one_slice(tmp_path)
    change(dataset)
    with pytest.raises(UnreadablePixelsError):
        decode(dataset)
