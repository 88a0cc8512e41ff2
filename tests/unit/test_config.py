"""What a site can set, and the file with its own decision point."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from strokecore.cli import main
from strokecore.config import OUTPUT_KINDS, RegionCut, ScoringConfig, check_outputs, read_region_cut
from strokecore.errors import UsageError

CUT = {"schema": 1, "threshold": 0.42, "cases": "40 of this site, read by two"}


def cut_file(path: Path, content: object = CUT) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_cut_is_read_with_the_hash_of_its_file(tmp_path: Path) -> None:
    path = cut_file(tmp_path / "cut.json")
    assert read_region_cut(path) == RegionCut(0.42, hashlib.sha256(path.read_bytes()).hexdigest())
    assert ScoringConfig(region_cut=path).load_region_cut() == read_region_cut(path)
    assert ScoringConfig().load_region_cut() is None


@pytest.mark.parametrize(
    "content",
    [
        *({"schema": 1, "threshold": value} for value in (0, 1, -0.1, 42, float("nan"), "0.4", None, True)),
        {"schema": 2, "threshold": 0.4},
        {"threshold": 0.4},
        {"schema": 1},
        [0.4],
        0.4,
    ],
    ids=repr,
)
def test_a_file_that_is_no_cut_is_refused_with_a_remedy(content: object, tmp_path: Path) -> None:
    path = cut_file(tmp_path / "cut.json", content)
    with pytest.raises(UsageError, match=r"expected \{.*threshold.*\}\. Mend it"):
        read_region_cut(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_cannot_be_read_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    with pytest.raises(UsageError, match="FileNotFoundError"):
        read_region_cut(path)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        read_region_cut(path)


def test_the_content_of_the_cut_and_not_its_place_is_hashed(tmp_path: Path) -> None:
    one, same = (cut_file(tmp_path / name) for name in ("a.json", "b.json"))
    other = cut_file(tmp_path / "c.json", {**CUT, "cases": "others"})
    hashes = {path: ScoringConfig(region_cut=path).sha256 for path in (one, same, other, None)}
    assert hashes[one] == hashes[same]
    assert len({hashes[one], hashes[other], hashes[None]}) == 3


def test_what_has_a_hash_of_its_own_is_not_hashed_twice(tmp_path: Path) -> None:
    assert ScoringConfig(engine="onnx", model=tmp_path, atlas=tmp_path).sha256 == ScoringConfig().sha256
    assert ScoringConfig(withhold_on_blood=False).sha256 != ScoringConfig().sha256


def test_a_choice_of_outputs_is_another_result_and_all_of_them_is_none() -> None:
    """A report refers to what else is written, so the same key would have other bytes."""
    every = ScoringConfig().sha256
    assert ScoringConfig(outputs=check_outputs(OUTPUT_KINDS[::-1])).sha256 == every
    some = [
        ScoringConfig(outputs=check_outputs(names)).sha256 for names in (["sr", "sc"], ["sc", "sr"], ["sc"])
    ]
    assert some[0] == some[1]
    assert len({every, *some}) == 3


@pytest.mark.parametrize("names", [["png"], ["sc", ""], ["seg"], ["seg", "regions"], []])
def test_outputs_that_say_nothing_of_a_normal_head_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError):
        check_outputs(names)


def test_unknown_outputs_end_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    words = ["score", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--outputs", "sc,png"]
    assert main(words) == 2
    assert "unknown outputs png; expected some of sc, pdf, sr, seg, regions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_a_wrong_cut_ends_a_command_before_anything_is_scored(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = cut_file(tmp_path / "cut.json", {"schema": 1, "threshold": 40})
    cases = str(tmp_path) if command == "score" else "simulated:1..3"
    assert main([command, cases, "--out", str(tmp_path / "out"), "--region-cut", str(cut)]) == 2
    assert "between 0 and 1" in capsys.readouterr().err
