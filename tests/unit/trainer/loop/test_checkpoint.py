"""Files that are either old or new, and state that survives a kill at any moment."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from strokecore.errors import UsageError
from trainer.loop.checkpoint import (
    CheckpointNotWrittenError,
    load_state,
    read_weights,
    save_state,
    tensors_sha256,
    write_weights,
)
from trainer.loop.ema import WeightAverage

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64)}


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond ``free_bytes``: the kernel refuses the write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    sha256 = write_weights(tmp_path / "w.safetensors", TENSORS, {"step": "3"})
    tensors, about = read_weights(tmp_path / "w.safetensors")
    assert about == {"step": "3", "sha256": sha256}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_hash_sees_names_types_shapes_and_values() -> None:
    a = torch.zeros(4)
    hashes = {
        tensors_sha256(tensors)
        for tensors in (
            {"a": a},
            {"b": a},
            {"a": a.int()},
            {"a": a.reshape(2, 2)},
            {"a": torch.tensor([0.0, 0, 0, 1])},
        )
    }
    assert len(hashes) == 5
    assert tensors_sha256({"a": a, "b": a + 1}) == tensors_sha256({"b": a + 1, "a": a})
    strided = torch.arange(6.0).reshape(2, 3).T
    assert tensors_sha256({"a": strided}) == tensors_sha256({"a": strided.contiguous()})


@pytest.mark.parametrize("where", [-1, 0, "cut", "gone"])
def test_damaged_weights_are_refused(tmp_path: Path, where: int | str) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, TENSORS, {})
    content = bytearray(path.read_bytes())
    if where == "gone":
        path.unlink()
    elif where == "cut":
        path.write_bytes(content[:-4])
    else:
        content[int(where)] ^= 1
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"w\.safetensors"):
        read_weights(path)


def test_a_state_replaces_the_one_before(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    for step in (1, 2):
        save_state(tmp_path, {"a": torch.full((2,), float(step))}, {"step": step})
    found = load_state(tmp_path)
    assert found is not None
    assert found[0]["a"].tolist() == [2.0, 2.0]
    assert found[1]["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-0000002.safetensors", "state.json"]


def test_a_kill_between_tensors_and_index_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, {"a": torch.zeros(2)}, {"step": 1})

    def killed(path: Path, content: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("trainer.loop.checkpoint.write_json", killed)
        with pytest.raises(SystemExit):
            save_state(tmp_path, {"a": torch.ones(2)}, {"step": 2})
    found = load_state(tmp_path)
    assert found is not None
    assert (found[1]["step"], found[0]["a"].tolist()) == (1, [0.0, 0.0])
    save_state(tmp_path, {"a": torch.ones(2)}, {"step": 3})
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_state_before(tmp_path: Path) -> None:
    save_state(tmp_path, {"a": torch.zeros(2)}, {"step": 1})
    with (
        full_disk(4096),
        pytest.raises(CheckpointNotWrittenError, match=r"what was saved before is still whole"),
    ):
        save_state(tmp_path, {"a": torch.ones(5000)}, {"step": 2})
    found = load_state(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-0000001.safetensors", "state.json"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("schema", 99, "schema 99"), ("sha256", "0", "is not the file"), ("tensors", None, "cannot be read")],
)
def test_a_damaged_index_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    save_state(tmp_path, TENSORS, {"step": 1})
    index = tmp_path / "state.json"
    index.write_text(json.dumps({**json.loads(index.read_text("utf-8")), key: value}), "utf-8")
    with pytest.raises(UsageError, match=message):
        load_state(tmp_path)


def test_the_average_follows_the_weights() -> None:
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(0.0)
    average = WeightAverage(net, decay=0.5)
    mean = next(average.decoder.parameters())
    with torch.no_grad():
        net.weight.fill_(1.0)
    average.update(net, step=0)
    assert mean.item() == pytest.approx(0.9)  # decay 1 / 10 in the first step
    average.update(net, step=1000)
    assert mean.item() == pytest.approx(0.95)
    assert not mean.requires_grad
    assert not average.decoder.training
    with pytest.raises(ValueError, match="buffers"):
        WeightAverage(nn.BatchNorm2d(1), 0.5)
