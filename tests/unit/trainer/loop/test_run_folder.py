"""The run folder: what it refuses, how it is read again, and the curve's file."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from strokecore.errors import UsageError
from tests.unit.trainer.training_cases import BACKBONE, recipe
from trainer.config import load_recipe
from trainer.loop.backbone import build_network
from trainer.loop.checkpoint import save_state, write_weights
from trainer.loop.curve import COLUMNS, Curve, read_curve
from trainer.loop.environment import git_state
from trainer.loop.run_folder import (
    claim,
    load_network,
    locked_run,
    note_left_out,
    read_record,
    recipe_sha256,
    write_record,
)
from trainer.loop.schedule import FINAL_SHARE, learning_rate
from trainer.network.vit_dpt import BACKBONES

ALONE = SimpleNamespace(is_global_zero=True, barrier=lambda: None)
DATA = SimpleNamespace(sha256="d" * 64, about={"kind": "simulated"})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "test", BACKBONE)


def started(run: Path) -> dict[str, object]:
    run.mkdir()
    origin = build_network(recipe())[1].to_dict()
    return claim(run, recipe(), Path("data"), DATA, origin, ALONE)  # type: ignore[arg-type]


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.rand_like(v) for name, v in build_network(recipe())[0].decoder.state_dict().items()}


def test_the_recipe_in_the_folder_is_the_recipe(tmp_path: Path) -> None:
    started(tmp_path / "run")
    assert load_recipe(tmp_path / "run" / "config.yaml") == recipe()


def test_best_and_last_are_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    started(run)
    best = weights()
    last = {name: value + 1 for name, value in best.items()}
    write_weights(run / "best.safetensors", best, {"recipe_sha256": recipe_sha256(recipe())})
    save_state(run / "last", {f"average.{name}": value for name, value in last.items()}, {"step": 1})
    for which, expected in (("best", best), ("last", last)):
        made, net = load_network(run, which)  # type: ignore[arg-type]
        assert made == recipe()
        assert not net.training
        assert all(torch.equal(net.decoder.state_dict()[name], value) for name, value in expected.items())


def test_no_weights_yet(tmp_path: Path) -> None:
    run = tmp_path / "run"
    started(run)
    with pytest.raises(UsageError, match="first validation"):
        load_network(run)
    with pytest.raises(UsageError, match="no checkpoint yet"):
        load_network(run, "last")
    with pytest.raises(UsageError, match="no training run"):
        load_network(tmp_path)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record = started(run)
    write_weights(run / "best.safetensors", weights(), {"recipe_sha256": "0"})
    with pytest.raises(UsageError, match="another recipe"):
        load_network(run)
    write_weights(run / "best.safetensors", weights(), {"recipe_sha256": recipe_sha256(recipe())})
    load_network(run)

    write_record(run, {**record, "backbone": {"sha256": "b" * 64}})
    with pytest.raises(UsageError, match="bbbbbbbbbbbb"):
        load_network(run)
    write_record(run, record)

    config = run / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("seed: 5", "seed: 6"), "utf-8")
    with pytest.raises(UsageError, match="changed after the training"):
        load_network(run)


def test_every_difference_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    started(run)
    other = SimpleNamespace(sha256="e" * 64, about={})
    with pytest.raises(UsageError) as refused:
        claim(run, recipe(steps=9), Path("data"), other, {"sha256": "f"}, ALONE)  # type: ignore[arg-type]
    for told in ("training.steps was 6, is 9", "data was dddd", "is eeee", "backbone was "):
        assert told in str(refused.value)


def test_left_out_cases_must_stay_the_same() -> None:
    record: dict[str, dict[str, object]] = {"data": {"left_out": None}}
    note_left_out(record, {"a": "damaged"})
    note_left_out(record, {"a": "damaged otherwise"})
    with pytest.raises(UsageError, match=r"\(a, b\)"):
        note_left_out(record, {"b": "damaged"})


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    with locked_run(tmp_path / "run"):
        with pytest.raises(UsageError, match="another process"), locked_run(tmp_path / "run"):
            pass
        with pytest.raises(UsageError, match="another process"), locked_run(tmp_path / "run"):
            pass
    with locked_run(tmp_path / "run"):
        pass


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record = started(run)
    write_record(run, {**record, "schema": 99})
    with pytest.raises(UsageError, match="schema 99"):
        read_record(run)
    (run / "run.json").write_text("{", "utf-8")
    with pytest.raises(UsageError, match="cannot be read"):
        read_record(run)


def row(step: int) -> dict[str, float]:
    return {"step": step, "loss": 1 / 3 + step, "coupling": math.nan}


def test_the_curve_is_cut_to_the_checkpoint(tmp_path: Path) -> None:
    with Curve(tmp_path, 0) as curve:
        for step in (1, 2, 3):
            curve.add("pairs", row(step))
    with Curve(tmp_path, 2) as curve:
        curve.add("singles", row(3))
    rows = read_curve(tmp_path)
    assert [(r["step"], r["kind"]) for r in rows] == [("1", "pairs"), ("2", "pairs"), ("3", "singles")]
    assert tuple(rows[0]) == COLUMNS
    assert float(rows[0]["loss"]) == pytest.approx(4 / 3, abs=1e-8)
    assert rows[0]["coupling"] == ""  # the mean over nothing
    with pytest.raises(UsageError, match="does not hold the 4 steps"):
        Curve(tmp_path, 4)
    with pytest.raises(UsageError, match=r"nowhere"):
        read_curve(tmp_path / "nowhere")


def test_learning_rate_rises_and_falls() -> None:
    settings = recipe(steps=110, warmup_steps=10, learning_rate=1.0).training
    rates = [learning_rate(step, settings) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx((1 + FINAL_SHARE) / 2)
    assert rates[110] == pytest.approx(FINAL_SHARE)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(0, recipe(warmup_steps=0).training) == recipe().training.learning_rate


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    clean = git_state(tmp_path)
    assert clean is not None
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path) == {**clean, "dirty": True}
    assert json.dumps(clean)
