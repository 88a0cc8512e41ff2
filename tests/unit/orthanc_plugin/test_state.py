"""orthanc_plugin/state.py: states as JSON, and writes that do not overwrite others'."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from orthanc_plugin.orthanc_api import Conflict
from orthanc_plugin.state import HISTORY_LENGTH, SeriesState, StateStore, StoredResult, from_json
from tests.unit.orthanc_plugin.fakes import FakeOrthanc


def result(key: str) -> StoredResult:
    return StoredResult(key, "scored", "2026-01-01T00:00:00+00:00", "print", None, ("a", "b"))


def test_json_there_and_back() -> None:
    state = SeriesState("scored", "print", 2, None, "s1", 30, "2026-01-01", result=result("k2"))
    state = replace(state, history=(result("k1"),), notices=("n",))
    assert from_json(state.to_json()) == state


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema": 2}', json.dumps({"schema": 1, "status": "scored"}), '"scored"'],
)
def test_what_is_no_state_reads_as_none(text: str) -> None:
    assert from_json(text) is None


def test_an_unknown_status_reads_as_none() -> None:
    assert from_json(SeriesState("dreaming").to_json()) is None


def test_a_new_result_moves_the_old_one_to_the_history() -> None:
    state = SeriesState("scored", result=result("k1")).with_result(result("k2"))
    assert state.result == result("k2")
    assert state.history == (replace(result("k1"), status="superseded"),)
    assert state.with_result(result("k2")).history == state.history


def test_the_history_does_not_grow_for_ever() -> None:
    state = SeriesState("scored")
    for number in range(HISTORY_LENGTH + 5):
        state = state.with_result(result(f"k{number}"))
    assert len(state.history) == HISTORY_LENGTH
    assert state.history[-1].result_key == f"k{HISTORY_LENGTH + 3}"


def test_public_hides_the_bookkeeping() -> None:
    public = SeriesState("claimed", "print", owner="node/run", claimed_at=1.0).public()
    assert not {"fingerprint", "owner", "claimed_at"} & set(public)


def test_a_chain_of_writes_follows_the_etag_that_is_read_back() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("s")
    store = StateStore(orthanc.api)
    version = store.read("s")
    for attempts in range(3):
        version = store.write("s", SeriesState("queued", attempts=attempts), version.etag)
    assert orthanc.state("s")["attempts"] == 2


def test_a_stale_write_conflicts() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("s")
    store = StateStore(orthanc.api)
    stale = store.read("s")
    store.write("s", SeriesState("queued"), stale.etag)
    with pytest.raises(Conflict):
        store.write("s", SeriesState("claimed"), stale.etag)


def test_of_racing_claims_one_wins() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("s")
    store = StateStore(orthanc.api)
    version = store.write("s", SeriesState("queued"), None)
    won: list[int] = []

    def claim(number: int) -> None:
        try:
            store.write("s", SeriesState("claimed", owner=f"node{number}/run"), version.etag)
        except Conflict:
            return
        won.append(number)

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert orthanc.state("s")["owner"] == f"node{won[0]}/run"
