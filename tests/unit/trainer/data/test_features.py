"""The feature cache: same features, shared between processes, sound after damage, room on the disk."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import Tensor

from strokecore.errors import UsageError
from tests.unit.trainer.data.slice_cases import SPEC, recipe, slices
from trainer.config import AugmentConfig, Recipe
from trainer.data.batch import PLAIN, Batch, SliceKey
from trainer.data.features import FeatureCache, backbone_sha256
from trainer.data.sampling import TrainingData
from trainer.network.vit_dpt import NetworkConfig, StrokeNet

CASES = [slices(f"case-{i}", (3, 5)) for i in range(4)]
RECIPE = recipe(pairs=2, singles=0.0, cached=2, augment=AugmentConfig(probability=1.0))
DATA = "0" * 64


@pytest.fixture(scope="module")
def net() -> StrokeNet:
    torch.manual_seed(0)
    return StrokeNet(NetworkConfig("tiny", features=4)).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return TrainingData(CASES, RECIPE).batch(0)


class Counting(StrokeNet):
    """Counts the slices that reach the backbone."""

    def __init__(self, net: StrokeNet) -> None:
        super().__init__(net.config)
        self.load_state_dict(net.state_dict())
        self.seen = 0

    def taps(self, x: Tensor) -> tuple[Tensor, ...]:
        self.seen += len(x)
        return super().taps(x)


def cache(folder: Path, net: StrokeNet, wanted: Recipe = RECIPE) -> FeatureCache:
    return FeatureCache(folder, net, wanted, DATA, CASES)


def equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_features_are_those_of_the_backbone_to_half_precision(
    tmp_path: Path, net: StrokeNet, batch: Batch
) -> None:
    direct = net.taps(batch.channels(SPEC))
    kept = cache(tmp_path, net).taps(batch)
    assert len(kept) == 4
    for ours, exact in zip(kept, direct, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, exact.half().float())
        torch.testing.assert_close(ours, exact, rtol=2**-11, atol=1e-7)
    size = SPEC.size
    with torch.no_grad():
        pairs = zip(net.decode(kept, size), net.decode(direct, size), strict=True)
        assert max(float((a.softmax(1) - b.softmax(1)).abs().max()) for a, b in pairs) < 1e-3


def test_the_backbone_sees_a_slice_once(tmp_path: Path, net: StrokeNet, batch: Batch) -> None:
    counting = Counting(net)
    ours = cache(tmp_path, counting)
    once = ours.taps(batch)
    assert counting.seen == len(batch.keys) == 4
    assert equal(once, ours.taps(batch))
    other = replace(batch, keys=tuple(key._replace(version=PLAIN) for key in batch.keys))
    assert counting.seen == 4
    ours.taps(other)
    assert counting.seen == 8
    # a later run, of another seed and loss
    later = Counting(net)
    again = cache(tmp_path, later, replace(RECIPE, seed=9, loss=RECIPE.loss.as_control()))
    assert equal(once, again.taps(batch))
    assert later.seen == 0


def test_only_what_is_missing_is_computed(tmp_path: Path, net: StrokeNet, batch: Batch) -> None:
    counting = Counting(net)
    ours = cache(tmp_path, counting)
    part = ours.features(batch.keys[1:2], batch.hu[1:2], batch.territories[1:2])
    whole = ours.taps(batch)
    assert counting.seen == 4
    assert equal(part, [tap[1:2] for tap in whole])
    for tap, exact in zip(whole, net.taps(batch.channels(SPEC)), strict=True):
        torch.testing.assert_close(tap, exact, rtol=2e-3, atol=1e-4)


def read_in_child(folder: Path, answers: multiprocessing.SimpleQueue) -> None:  # type: ignore[type-arg]
    """What another process finds: how many slices its backbone had to see, and its features' sums."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    counting = Counting(StrokeNet(NetworkConfig("tiny", features=4)).eval())
    taps = cache(folder, counting).taps(TrainingData(CASES, RECIPE).batch(0))
    answers.put((counting.seen, [float(tap.double().sum()) for tap in taps]))


def test_another_process_reads_what_the_first_wrote(tmp_path: Path, net: StrokeNet, batch: Batch) -> None:
    # a forked copy of this process, whose torch has threads, could hang
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    expected = [float(tap.double().sum()) for tap in cache(tmp_path, net).taps(batch)]
    child = context.Process(target=read_in_child, args=(tmp_path, answers))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    assert answers.get() == (0, expected)


def test_two_at_once_fill_it_soundly(tmp_path: Path, net: StrokeNet) -> None:
    data = TrainingData(CASES, RECIPE)
    steps = [data.batch(step) for step in range(3)]

    def fill() -> None:
        own = cache(tmp_path, net)
        for step in steps:
            own.taps(step)

    threads = [Thread(target=fill) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counting = Counting(net)
    ours = cache(tmp_path, counting)
    for step in steps:
        for tap, exact in zip(ours.taps(step), net.taps(step.channels(SPEC)), strict=True):
            torch.testing.assert_close(tap, exact, rtol=2e-3, atol=1e-4)
    assert counting.seen == 0


@pytest.mark.parametrize("damage", ["table", "entry", "short", "empty"])
def test_damage_is_found_and_computed_again(
    tmp_path: Path, net: StrokeNet, batch: Batch, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    counting = Counting(net)
    whole = cache(tmp_path, counting).taps(batch)
    files = sorted(tmp_path.rglob("*.taps"))
    assert len(files) == 2
    for path in files:
        content = bytearray(path.read_bytes())
        if damage == "table":
            content[:4096] = b"\xab" * 4096
        elif damage == "entry":  # the last one, of which a killed process wrote the first half
            content[-1000:] = bytes(1000)
        elif damage == "short":
            del content[-1000:]
        else:
            content.clear()
        path.write_bytes(content)
    counting.seen = 0
    again = cache(tmp_path, counting).taps(batch)
    assert equal(whole, again) or damage in ("entry", "short")
    for tap, before in zip(again, whole, strict=True):
        torch.testing.assert_close(tap, before, rtol=2e-3, atol=1e-4)
    assert counting.seen == {"table": 4, "entry": 2, "short": 2, "empty": 4}[damage]
    assert ("damaged" in caplog.text) == (damage != "empty")
    assert cache(tmp_path, counting).taps(batch)
    assert counting.seen <= 4


def test_files_are_sparse(tmp_path: Path, net: StrokeNet, batch: Batch) -> None:
    ours = cache(tmp_path, net)
    ours.features([SliceKey("case-0", 7, 2)], batch.hu[:1], batch.territories[:1])
    (path,) = tmp_path.rglob("*.taps")
    assert path.stat().st_size > 20 * ours.entry_bytes
    assert path.stat().st_blocks * 512 < 3 * ours.entry_bytes


def test_what_decides_features_decides_the_folder(tmp_path: Path, net: StrokeNet) -> None:
    first = cache(tmp_path, net).folder
    other = StrokeNet(net.config)
    assert backbone_sha256(other) != backbone_sha256(net)
    different = [
        cache(tmp_path, other).folder,
        FeatureCache(tmp_path, net, RECIPE, "1" * 64).folder,
        cache(tmp_path, net, replace(RECIPE, input=replace(SPEC, pixel_mm=5.0))).folder,
        cache(tmp_path, net, replace(RECIPE, augment=AugmentConfig(flip=False))).folder,
        cache(tmp_path, net, replace(RECIPE, training=replace(RECIPE.training, cached_features=3))).folder,
    ]
    assert len({first, *different}) == 6
    decoder = StrokeNet(net.config)
    decoder.backbone.load_state_dict(net.backbone.state_dict())
    assert cache(tmp_path, decoder).folder == first
    assert (first / "about.json").is_file()


def test_no_room_is_said_before_the_training(
    tmp_path: Path, net: StrokeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=(1 << 30) + 1000))
    with pytest.raises(UsageError, match="GB free; make room"):
        cache(tmp_path, net)


def test_wrong_use_is_refused(tmp_path: Path, net: StrokeNet, batch: Batch) -> None:
    with pytest.raises(UsageError, match="cached_features"):
        cache(tmp_path, net, recipe())
    with pytest.raises(ValueError, match="not in a cache"):
        cache(tmp_path, net).features([SliceKey("case-0", 3, 3)], batch.hu[:1], batch.territories[:1])
    broken = Counting(net)
    with torch.no_grad():
        broken.backbone.model.norm.weight.fill_(1e6)
    with pytest.raises(UsageError, match="too large"):
        cache(tmp_path, broken).taps(batch)
