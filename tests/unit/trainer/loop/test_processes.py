"""Two processes on the CPU (gloo) under torchrun, as several GPUs would be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.trainer.training_cases import BACKBONE, dataset, recipe
from trainer.loop.checkpoint import load_state
from trainer.loop.curve import read_curve
from trainer.loop.processes import agreed
from trainer.loop.run_folder import read_record
from trainer.network.vit_dpt import BACKBONES
from trainer.train import train

ROOT = Path(__file__).resolve().parents[4]
CHILD = """
import sys
from pathlib import Path
from tests.unit.trainer.training_cases import recipe, register_backbone
from trainer.train import train
register_backbone()
train(recipe(pairs=1), Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""


def two_processes(data: Path, run: Path, steps: int, script: Path) -> None:
    script.write_text(CHILD, "utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"),
            "--nproc-per-node=2",
            *(str(script), str(data), str(run), str(steps)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(1200)
@pytest.mark.study  # six processes that import torch: 80 s of CPU
def test_two_processes_train_one_network_and_continue_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "test", BACKBONE)
    data = dataset(tmp_path / "data").folder
    run = tmp_path / "run"
    two_processes(data, run, 3, tmp_path / "child.py")
    record = read_record(run)
    assert record["sessions"][0]["processes"] == 2
    found = load_state(run / "last")
    assert found is not None
    assert found[0]["loss.pair_gate.ring"].shape[0] == 2  # each process its own median
    with pytest.raises(Exception, match="started with 2 processes"):
        train(recipe(pairs=1), data, run)

    two_processes(data, run, 6, tmp_path / "child.py")
    two_processes(data, tmp_path / "whole", 6, tmp_path / "child.py")
    seconds = {"seconds"}
    curves = [
        [{name: value for name, value in row.items() if name not in seconds} for row in read_curve(one)]
        for one in (run, tmp_path / "whole")
    ]
    assert len(curves[0]) == 6
    assert curves[0] == curves[1]


class Pair:
    """Stands for fabric in one of two processes; the other one's value is 9."""

    world_size = 2
    device = "cpu"
    asked = 0

    def all_reduce(self, values: object, reduce_op: str) -> int:
        assert reduce_op == "max"
        self.asked += 1
        return 9


def test_processes_agree_at_the_same_steps() -> None:
    pair = Pair()
    answers = [agreed(pair, step, 0) for step in range(1, 21)]  # type: ignore[arg-type]
    assert answers == ([0] * 9 + [9]) * 2
    assert pair.asked == 2


def test_a_single_process_asks_nobody() -> None:
    alone = Pair()
    alone.world_size = 1
    assert agreed(alone, 3, 2) == 2  # type: ignore[arg-type]
    assert alone.asked == 0
