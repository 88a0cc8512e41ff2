"""Whole trainings of a tiny network: the curve, resuming, stopping, and what is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from strokecore.errors import UsageError
from tests.unit.trainer.training_cases import BACKBONE, dataset, recipe
from trainer.config import Recipe
from trainer.data.cases import Dataset
from trainer.loop.checkpoint import read_weights
from trainer.loop.curve import COLUMNS, read_curve
from trainer.loop.run_folder import load_network, locked_run, read_record, write_record
from trainer.loop.schedule import learning_rate
from trainer.loop.validate import Validation, Validator
from trainer.network.vit_dpt import BACKBONES
from trainer.train import Job, TrainingDivergedError, train

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("training") / "data").folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(BACKBONES, "test", BACKBONE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "test", BACKBONE)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        run = train(recipe(), data, tmp_path_factory.mktemp("whole") / "run")
        torch.set_num_threads(threads)
    return run


def curve(run: Path) -> list[dict[str, str]]:
    """The curve without the time that each step took."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_curve(run)]


def same_weights(one: Path, other: Path) -> bool:
    return read_weights(one / "best.safetensors")[0].keys() == read_weights(other / "best.safetensors")[
        0
    ].keys() and all(
        torch.equal(value, read_weights(other / "best.safetensors")[0][name])
        for name, value in read_weights(one / "best.safetensors")[0].items()
    )


def test_a_run_leaves_its_whole_story(whole: Path, data: Path) -> None:
    rows = read_curve(whole)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]) == set(COLUMNS)
    assert {row["kind"] for row in rows} == {"pairs", "singles"}
    for row in rows:
        assert float(row["loss"]) == pytest.approx(float(row["loss_bg"]) + float(row["loss_sg"]), abs=0.01)
        assert (row["kind"] == "pairs") == bool(row["coupling"])
        assert bool(row["val_dice"]) == (int(row["step"]) % 3 == 0)
        assert float(row["learning_rate"]) == pytest.approx(
            learning_rate(int(row["step"]) - 1, recipe().training)
        )

    record = read_record(whole)
    assert record["data"]["sha256"] == Dataset(data).sha256
    assert record["data"]["path"] == str(data)
    assert record["data"]["left_out"] == {}
    assert record["backbone"]["kind"] == "random"
    assert (record["steps"], record["stopped"]) == (6, "steps")
    session = record["sessions"][0]
    assert session["software"]["torch"] == torch.__version__
    assert (session["processes"], session["precision"]) == (1, "32-true")
    assert session["seconds_per_step"] > 0
    assert session["peak_memory_mb"]["resident"] > 100
    assert session["started"] <= session["ended"]

    validation = json.loads((whole / "validation.json").read_text("utf-8"))
    assert validation["step"] == record["best"]["step"]
    assert validation["dice"] == record["best"]["dice"] == pytest.approx(validation["patients"]["validate-1"])
    assert list(validation["patients"]) == ["validate-1"]  # the other has no infarct and no Dice
    assert validation["false_ml"] >= 0
    assert list((whole / "tensorboard").iterdir())


def test_it_learns_to_see_what_is_dark(data: Path, tmp_path: Path) -> None:
    run = train(recipe(steps=90, validate_every=90, cached_features=1), data, tmp_path / "run")
    assert float(read_curve(run)[-1]["val_dice"]) > 0.4


def test_best_is_the_average_and_the_backbone_stays_as_it_was(whole: Path) -> None:
    made, net = load_network(whole)
    assert made == recipe()
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    from trainer.loop.backbone import build_network

    fresh = build_network(recipe())[0]
    for name, value in fresh.backbone.state_dict().items():
        assert torch.equal(value, net.backbone.state_dict()[name])
    assert not torch.equal(fresh.decoder.bg[2].weight, net.decoder.bg[2].weight)


def test_the_same_seed_gives_the_same_run(whole: Path, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # what happened before in the process has no part
    again = train(recipe(), data, tmp_path / "again")
    assert curve(again) == curve(whole)
    assert same_weights(again, whole)


def test_torch_is_left_as_it_was(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(recipe(), data, tmp_path / "run", max_steps=1)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


# The child dies inside the optimiser, after the fifth step's row and two steps after the last checkpoint.
KILLED = """
import os, signal, sys, torch
from pathlib import Path
from tests.unit.trainer.training_cases import recipe, register_backbone
from trainer.train import train
register_backbone()
steps = 0
step = torch.optim.AdamW.step
def dying(self, *arguments, **options):
    global steps
    steps += 1
    if steps == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments, **options)
torch.optim.AdamW.step = dying
train(recipe(cached_features=2), Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_run_continues_the_same_curve(data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "features", ignore_errors=True)
    killed = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(data), str(killed)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(read_curve(killed)) == 5
    assert json.loads((killed / "last" / "state.json").read_text("utf-8"))["step"] == 3
    train(recipe(cached_features=2), data, killed)

    shutil.rmtree(data / "features")
    whole = train(recipe(cached_features=2), data, tmp_path / "whole")
    assert curve(killed) == curve(whole)
    assert len(curve(whole)) == 6
    assert same_weights(killed, whole)
    assert [session["stopped"] for session in read_record(killed)["sessions"]] == [None, "steps"]


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Job.step

    def interrupted(job: Job, batch: object) -> dict[str, float]:
        if job.state.progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(job, batch)  # type: ignore[arg-type]

    run = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)  # a test run in the background was started with it ignored
    with monkeypatch.context() as patch:
        patch.setattr(Job, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), data, run)
    assert signal.getsignal(signal.SIGINT) is before
    assert read_record(run)["stopped"] == "interrupted"
    assert json.loads((run / "last" / "state.json").read_text("utf-8"))["step"] == 5
    train(recipe(), data, run)
    assert curve(run) == curve(whole)


# A cluster, a service manager and a terminal signal all processes of a job, so those that make batches too.
STOPPED = """
import os, subprocess, sys
from dataclasses import replace
from pathlib import Path
from tests.unit.trainer.training_cases import recipe, register_backbone
from trainer.train import Job, train
register_backbone()
step = Job.step
def stopped(job, batch):
    if job.state.progress.step == 2:
        # a process of its own sends it: what a parent sends to its batch makers they take for their end
        subprocess.run(["kill", "-s", sys.argv[3], "--", f"-{os.getpid()}"])
    return step(job, batch)
Job.step = stopped
settings = recipe()
train(replace(settings, training=replace(settings.training, workers=1)), Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("INT", -signal.SIGINT)])
def test_a_signal_to_all_processes_ends_with_a_checkpoint(
    name: str, status: int, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(data), str(run), name],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert done.returncode == status, done.stderr
    assert read_record(run)["stopped"] == "interrupted"
    assert json.loads((run / "last" / "state.json").read_text("utf-8"))["step"] == 3


def test_a_run_of_an_earlier_version_is_read_and_continued(data: Path, tmp_path: Path) -> None:
    """It does not name the settings that came later."""
    run = train(recipe(), data, tmp_path / "run", max_steps=3)
    record = read_record(run)
    del record["recipe"]["loss"]["region_weight"]
    write_record(run, record | {"recipe_sha256": "0" * 64})
    config = (run / "config.yaml").read_text("utf-8")
    (run / "config.yaml").write_text(config.replace("  region_weight: 0.0\n", ""), "utf-8")
    assert load_network(run, "last")[0] == recipe()
    train(recipe(), data, run)
    (run / "config.yaml").write_text(config.replace("region_weight: 0.0", "region_weight: 2.0"), "utf-8")
    with pytest.raises(UsageError, match="was changed after the training"):
        load_network(run, "last")


def test_max_steps_stops_and_continues(whole: Path, data: Path, tmp_path: Path) -> None:
    run = train(recipe(), data, tmp_path / "run", max_steps=3)
    assert read_record(run)["stopped"] == "max_steps"
    load_network(run)
    text = Console(record=True, file=io.StringIO(), width=200)
    train(recipe(), data, run, console=text)
    assert curve(run) == curve(whole)
    said = text.export_text()
    assert "3 steps done" in said
    assert "step 6: loss" in said
    assert "stopped at step 6: steps" in said
    with pytest.raises(UsageError, match="max_steps"):
        train(recipe(), data, run, max_steps=0)


def test_a_finished_run_is_left_alone(whole: Path, data: Path) -> None:
    before = (whole / "metrics.csv").read_bytes(), (whole / "best.safetensors").read_bytes()
    train(recipe(), data, whole)
    assert ((whole / "metrics.csv").read_bytes(), (whole / "best.safetensors").read_bytes()) == before


def test_patience(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def validated(self: Validator, decoder: object, step: int) -> Validation:
        return Validation(step, {1: 0.2, 2: 0.5}.get(step, 0.4), 1.0, None, {})

    monkeypatch.setattr(Validator, "__call__", validated)
    run = train(recipe(validate_every=1, patience=2), data, tmp_path / "run")
    record = read_record(run)
    assert (record["stopped"], record["steps"]) == ("patience", 4)
    assert record["best"] == {"step": 2, "dice": 0.5}
    assert read_weights(run / "best.safetensors")[1]["step"] == "2"


def test_a_loss_that_is_no_number_stops_and_leaves_the_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(recipe(), data, tmp_path / "run", max_steps=3)
    before = {path.name: path.read_bytes() for path in (run / "last").iterdir()}
    forward = Job.step

    def broken(job: Job, batch: object) -> dict[str, float]:
        with torch.no_grad():
            next(job.net.decoder.parameters()).fill_(torch.nan)
        return forward(job, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Job, "step", broken)
    with pytest.raises(TrainingDivergedError, match=r"nan at step 4 \(cases train-\d"):
        train(recipe(), data, run)
    assert {path.name: path.read_bytes() for path in (run / "last").iterdir()} == before
    assert read_record(run)["stopped"] == "TrainingDivergedError"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: replace(r, seed=6), r"seed was 5, is 6"),
        (lambda r: replace(r, training=replace(r.training, steps=9)), r"training\.steps was 6, is 9"),
    ],
)
def test_another_recipe_is_refused(whole: Path, data: Path, change: object, named: str) -> None:
    other: Recipe = change(recipe())  # type: ignore[operator]
    with pytest.raises(UsageError, match=named):
        train(other, data, whole)


def test_other_data_is_refused(whole: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "data"
    other.mkdir()
    os.symlink(data / "cases", other / "cases")
    listed = json.loads((data / "cases.json").read_text("utf-8"))
    listed[0]["group"] = "mixed"
    (other / "cases.json").write_text(json.dumps(listed), "utf-8")
    shutil.copy(data / "dataset.json", other)
    with pytest.raises(UsageError, match=r"data was \w{12}, is \w{12}"):
        train(recipe(), other, whole)


def test_a_case_that_broke_since_the_start_is_refused(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy, ignore=shutil.ignore_patterns("features"))
    run = train(recipe(), copy, tmp_path / "run", max_steps=1)
    (copy / "cases" / "train-2.npz").write_bytes(b"")
    with pytest.raises(UsageError, match="train-2"):
        train(recipe(), copy, run)


def test_a_damaged_case_is_named_in_the_record(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy, ignore=shutil.ignore_patterns("features"))
    (copy / "cases" / "train-2.npz").write_bytes(b"")
    run = train(recipe(), copy, tmp_path / "run", max_steps=1)
    assert list(read_record(run)["data"]["left_out"]) == ["train-2"]


def test_validation_needs_an_infarct(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy, ignore=shutil.ignore_patterns("features"))
    (copy / "cases" / "validate-1.npz").unlink()
    with pytest.raises(UsageError, match="none of the 1 validation cases has an infarct"):
        train(recipe(), copy, tmp_path / "run")


def test_two_trainings_in_one_folder_are_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked_run(run), pytest.raises(UsageError, match=rf"another process \(process {os.getpid()}\)"):
        train(recipe(), data, run)


def test_a_folder_of_something_else_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("not ours")
    with pytest.raises(UsageError, match="not empty"):
        train(recipe(), data, tmp_path)
    assert (tmp_path / "letter.txt").exists()


def test_bf16(data: Path, tmp_path: Path) -> None:
    run = train(recipe(precision="bf16-mixed"), data, tmp_path / "run", max_steps=2)
    assert all(float(row["loss"]) > 0 for row in read_curve(run))
    assert {t.dtype for t in read_weights(run / "best.safetensors")[0].values()} == {torch.float32}
