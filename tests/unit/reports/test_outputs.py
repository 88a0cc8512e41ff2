"""The output folder: what is replaced, what never is, and what is left when writing fails."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from strokecore.cli import main
from strokecore.errors import UsageError
from strokecore.reading.tags import quiet_pydicom
from strokecore.reports import dicom, outputs
from strokecore.reports.outputs import prepare, write_all
from strokecore.result import Scored
from tests.ct_factory import write_series
from tests.unit.reports import output_cases as cases


@pytest.fixture(scope="module")
def scored() -> Scored:
    series = cases.small_series(slices=8, size=64)
    masks = cases.made_up_masks(series)
    return Scored(cases.made_up_result(series, masks), series, masks)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "in").mkdir()
    return tmp_path / "in", tmp_path / "out"


def test_the_input_folder_is_no_output_folder(tmp_path: Path) -> None:
    images = write_series(tmp_path / "study" / "sc")
    study = tmp_path / "study"
    (tmp_path / "link").symlink_to(study)
    for out in (study, tmp_path / "link"):
        assert main(["score", str(study), "--out", str(out)]) == 2
    assert sorted((study / "sc").iterdir()) == sorted(images)  # an sc folder of the input survives


def test_images_that_are_not_ours_are_never_removed(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    folder, out = folders
    images = write_series(out / "sc", slices=2)
    with pytest.raises(UsageError, match="did not write"):
        prepare(folder, out)
    assert all(path.exists() for path in images)


@pytest.mark.parametrize("name", ["sc/IM1", "sc/notes.txt"])
def test_other_files_are_never_removed(name: str, folders: tuple[Path, Path]) -> None:
    folder, out = folders
    (out / "sc").mkdir(parents=True)
    (out / name).write_bytes(b"somebody's")
    with pytest.raises(UsageError, match="did not write"):
        prepare(folder, out)
    assert (out / name).read_bytes() == b"somebody's"


def test_an_output_that_is_a_file_is_a_usage_error(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    (tmp_path / "out").write_text("a file")
    assert main(["score", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    assert (tmp_path / "out").read_text() == "a file"


def test_a_folder_that_cannot_be_written_is_said_before_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "in")

    def read_only(folder: Path, out: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(outputs, "prepare", read_only)
    monkeypatch.setattr("strokecore.pipeline.score_folder", lambda *a, **k: pytest.fail("scored in vain"))
    assert main(["score", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    assert "cannot write to the output folder: Permission denied" in capsys.readouterr().err


def test_a_date_that_is_none_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["score", str(tmp_path), "--out", str(tmp_path / "out"), "--content-datetime", "yesterday"])
    assert caught.value.code == 2
    assert "yesterday" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_result(
    scored: Scored, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = folders
    write_all(scored, folder, out)

    def full(*arguments: object, **named: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise OSError("as pydicom says it") from error

    monkeypatch.setattr(outputs, "write_html", full)  # the DICOM outputs stand by then
    with pytest.raises(OSError, match="as pydicom"):
        write_all(scored, folder, out)
    assert [p.name for p in out.rglob("*")] == ["result.json"]
    record = json.loads((out / "result.json").read_text())
    assert record["status"] == "failed"
    empty = {"score": None, "assessed": 0, "range": None}
    assert record["aspects"] == {"left": empty, "right": empty}
    assert (record["regions"], record["affected_side"]) == ([], None)
    [flag] = record["quality"]
    assert flag["code"] == "not_written"
    assert "No space left on device" in flag["message"]


def test_a_run_that_dies_leaves_no_result_json(
    scored: Scored, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = folders
    write_all(scored, folder, out)
    removed: list[str] = []
    unlink = Path.unlink

    def note(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", note)
    write_all(scored, folder, out)
    assert next(name for name in removed if not name.endswith(".part")) == "result.json"


def test_two_runs_into_one_folder_take_turns(
    scored: Scored, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = folders
    running, together = [], []
    write_outputs = dicom.write_outputs

    def watched(*arguments: object) -> object:
        running.append(1)
        together.append(len(running))
        try:
            return write_outputs(*arguments)  # type: ignore[arg-type]
        finally:
            running.pop()

    monkeypatch.setattr(dicom, "write_outputs", watched)
    threads = [threading.Thread(target=write_all, args=(scored, folder, out)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1, 1, 1]
    assert json.loads((out / "result.json").read_text())["status"] == "scored"
    assert pydicom.dcmread(out / "sr.dcm").SOPInstanceUID
    assert not list(out.rglob("*.part"))


def test_a_repeated_refusal_is_the_same_bytes(tmp_path: Path) -> None:
    write_series(tmp_path / "in", slices=5)
    pictures = []
    for moment in ("2026-11-23T05:06:07+00:00", "2026-11-23T07:08:09+00:00"):
        arguments = ["score", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
        assert main([*arguments, "--content-datetime", moment]) == 3
        pictures.append((tmp_path / "out" / "sc" / "01.dcm").read_bytes())
    assert pictures[0] == pictures[1]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["result_key"]


def test_no_header_value_is_said_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(dataset: pydicom.Dataset, k: int) -> None:
        for tag, vr in ((0x00200013, "IS"), (0x00180015, "CS"), (0x00100030, "DA"), (0x00101010, "AS")):
            dataset[tag] = RawDataElement(Tag(tag), vr, 10, b"secret val", 0, False, True)

    def broken(*arguments: object, **named: object) -> None:
        raise RuntimeError("secret value in an error's text")

    with quiet_pydicom():
        write_series(tmp_path / "in", slices=5, edit=edit)
    assert main(["-v", "score", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 3
    monkeypatch.setattr("strokecore.pipeline.score_folder", broken)
    assert main(["-v", "score", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    said = "".join(capsys.readouterr())
    assert "RuntimeError" in said
    assert "secret" not in said.lower()
