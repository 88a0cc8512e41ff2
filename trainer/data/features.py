"""Frozen features kept on disk, so that the backbone sees each augmented slice once for all runs.

A folder belongs to everything that decides the features: data, backbone, input, augmentation. The runs of an
ablation (control and TAGL, all seeds) share it, also while they run at the same time.

    FOLDER/<key>/about.json      what the key stands for
    FOLDER/<key>/<case id>.taps  one file per case: a table of checksums, then the entries; sparse

An entry counts when its checksum fits: one that a killed or a concurrent process has half written is
computed again, and so is everything behind a damaged table.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from strokecore.errors import UsageError
from strokecore.files import write_atomically
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.preprocessing import PREPROCESS_VERSION, slice_centres_mm, to_channels
from trainer.config import Recipe
from trainer.data.augment import AUGMENT_VERSION
from trainer.data.batch import PLAIN, Batch, SliceKey
from trainer.data.slices import CaseSlices
from trainer.network.vit_dpt import StrokeNet

log = logging.getLogger(__name__)

CACHE_FORMAT: Final = 1
# Left free on the disk beside the cache: checkpoints, logs and whatever else runs on the machine.
RESERVE_BYTES: Final = 1 << 30
# Entries start on a page, behind the table.
_PAGE: Final = 4096
# A checksum of 0 in the table means empty, as all of a sparse file is; one that comes out as 0 is kept as 1.
_EMPTY: Final = 0


class FeatureCache:
    """The four taps of slices by (case, row, version), float16 on disk.

    Exact: the features that a step sees are the same whether they were just computed or read, because both
    are rounded to float16; a training with ``augment.probability`` 0 differs from one without cache only by
    that rounding (relative 2^-11 = 0.05 %). With augmentation the cache holds ``training.cached_features``
    versions of each slice, and a training draws from these instead of always new ones.

    Safe: any number of processes may read and fill it; a killed one loses only its last entry.
    """

    def __init__(
        self,
        folder: Path,
        net: StrokeNet,
        recipe: Recipe,
        data_sha256: str,
        slices: Sequence[CaseSlices] = (),
    ) -> None:
        """Open or begin the cache of this data, backbone and recipe below ``folder``.

        Parameters
        ----------
        slices: what will be looked up; only to know how much disk that takes.

        Raises
        ------
        UsageError: the recipe keeps no features, or the disk has not enough room for those of ``slices``.
        """
        versions = recipe.training.cached_features
        if versions < 1:
            raise UsageError("training.cached_features is 0; a feature cache needs 1 or more.")
        self.net = net
        self.spec = recipe.input
        shape = recipe.network.shape
        rows, columns = (side // shape.patch_size for side in recipe.input.size)
        self.entry_shape = (len(shape.taps), shape.hidden_size, rows, columns)
        self.entry_bytes = 2 * int(np.prod(self.entry_shape))
        self.rows = len(slice_centres_mm(CANONICAL_GRID, recipe.input))
        self.versions = versions + 1  # and the slice as it is
        self._start = -(-4 * self.rows * self.versions // _PAGE) * _PAGE

        about = {
            "format": CACHE_FORMAT,
            "data_sha256": data_sha256,
            "backbone": {"shape": asdict(shape), "sha256": backbone_sha256(net)},
            "input": recipe.input.to_dict(),
            "augment": asdict(recipe.augment),
            "versions": versions,
            "code": {"preprocess": PREPROCESS_VERSION, "augment": AUGMENT_VERSION},
        }
        text = json.dumps(about, sort_keys=True, indent=1)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_room(slices)
        write_atomically(self.folder / "about.json", f"{text}\n".encode())

    def taps(self, batch: Batch) -> tuple[Tensor, ...]:
        """Features of a batch's slices: four float32 tensors [m, hidden, h, w] on the network's device."""
        return self.features(batch.keys, batch.hu, batch.territories)

    def features(self, keys: Sequence[SliceKey], hu: Tensor, territories: Tensor) -> tuple[Tensor, ...]:
        """Features of named slices; those not in the cache are computed in one batch and kept.

        Parameters
        ----------
        keys: names of the slices; version PLAIN for slices as they are, as validation sees them.
        hu: float32 [m, slabs, H, W], their densities; territories: uint8 [m, H, W].

        Raises
        ------
        ValueError: a key that the cache has no place for.
        UsageError: features too large for float16.
        """
        found = np.empty((len(keys), *self.entry_shape), np.float16)
        missing = [i for i, key in enumerate(keys) if not self._read(key, found[i])]
        if missing:
            device = next(self.net.parameters()).device
            x = torch.from_numpy(
                to_channels(hu[missing].numpy(), territories[missing].numpy(), self.spec)
            ).to(device)
            # full precision whatever the caller trains in: computed once, read by all
            with torch.autocast(device.type, enabled=False):
                computed = torch.stack(self.net.taps(x), dim=1).to(torch.float16).cpu()
            if not torch.isfinite(computed).all():
                raise UsageError(
                    "frozen features are not finite, or too large for float16 (65504); "
                    "set training.cached_features to 0 in the recipe."
                )
            found[missing] = computed.numpy()
            for i in missing:
                self._write(keys[i], found[i])
        taps = torch.from_numpy(found).to(next(self.net.parameters()).device).float()
        return taps.unbind(1)

    def _slot(self, key: SliceKey) -> int:
        if not (0 <= key.row < self.rows and PLAIN <= key.version < self.versions):
            raise ValueError(f"{key} is not in a cache of {self.rows} rows and {self.versions} versions")
        return key.row * self.versions + key.version

    def _path(self, key: SliceKey) -> Path:
        return self.folder / f"{key.case_id}.taps"

    def _read(self, key: SliceKey, out: npt.NDArray[np.float16]) -> bool:
        """Fill ``out`` with an entry; False when it is not there or damaged."""
        slot = self._slot(key)
        try:
            file = os.open(self._path(key), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            kept = int.from_bytes(os.pread(file, 4, 4 * slot), "little")
            if kept == _EMPTY:
                return False
            read = os.preadv(file, [out.data.cast("B")], self._start + slot * self.entry_bytes)
        finally:
            os.close(file)
        if read != self.entry_bytes or _checksum(out) != kept:
            log.warning("features of %s in the cache are damaged; computed again", tuple(key))
            return False
        return True

    def _write(self, key: SliceKey, entry: npt.NDArray[np.float16]) -> None:
        slot = self._slot(key)
        try:
            file = os.open(self._path(key), os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                _write_all(file, entry.tobytes(), self._start + slot * self.entry_bytes)
                _write_all(file, _checksum(entry).to_bytes(4, "little"), 4 * slot)
            finally:
                os.close(file)
        except OSError as error:
            raise UsageError(
                f"the feature cache {self.folder} cannot be written ({error.strerror}); make room, or set "
                "training.cached_features to 0 in the recipe."
            ) from error

    def _check_room(self, slices: Sequence[CaseSlices]) -> None:
        entries = sum(len(case.bg_rows) + len(case.sg_rows) for case in slices) * (self.versions - 1)
        wanted = entries * self.entry_bytes
        used = sum(file.stat().st_blocks * 512 for file in self.folder.glob("*.taps"))
        free = shutil.disk_usage(self.folder).free
        log.info(
            "feature cache %s: up to %.1f GB, %.1f GB of it used, %.1f GB free on the disk",
            self.folder,
            wanted / 1e9,
            used / 1e9,
            free / 1e9,
        )
        if wanted - used + RESERVE_BYTES > free:
            raise UsageError(
                f"the feature cache takes up to {wanted / 1e9:.1f} GB and {self.folder} has "
                f"{free / 1e9:.1f} GB free; make room, or lower training.cached_features (0: no cache)."
            )


def backbone_sha256(net: StrokeNet) -> str:
    """sha256 hex of the frozen backbone's names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum(entry: npt.NDArray[np.float16]) -> int:
    return zlib.crc32(entry.data.cast("B")) or _EMPTY + 1


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done
