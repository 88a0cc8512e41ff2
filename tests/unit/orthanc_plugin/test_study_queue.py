"""orthanc_plugin/study_queue.py: order, delays and exclusion."""

from __future__ import annotations

import threading
import time

from orthanc_plugin.study_queue import StudyQueue


def test_the_lowest_rank_comes_first_then_order() -> None:
    queue = StudyQueue()
    queue.put("old", 9.0)
    queue.put("a", 1.0)
    queue.put("b", 1.0)
    assert [queue.take() for _ in range(3)] == ["a", "b", "old"]


def test_a_study_is_queued_once_and_keeps_the_better_rank_and_the_earlier_time() -> None:
    queue = StudyQueue()
    queue.put("a", 9.0, delay_s=60)
    queue.put("b", 5.0)
    queue.put("a", 1.0)
    assert queue.lengths() == (2, 0)
    assert queue.take() == "a"


def test_what_waits_with_a_delay_is_not_made_earlier_by_the_next_round() -> None:
    queue = StudyQueue()
    queue.put("retry", 1.0, delay_s=60)
    queue.put("other", 9.0)
    queue.put_missing("retry", 1.0)
    assert queue.take() == "other"
    queue.put_missing("other", 9.0)  # it is worked on
    assert queue.lengths() == (1, 1)
    queue.put_missing("lost", 9.0)
    assert queue.take() == "lost"


def test_a_busy_study_waits_until_it_is_done() -> None:
    queue = StudyQueue()
    queue.put("a", 0.0)
    assert queue.take() == "a"
    queue.put("a", 0.0)
    taken: list[str | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    time.sleep(0.05)
    assert taken == []
    queue.done("a")
    thread.join(5)
    assert taken == ["a"]


def test_while_held_nothing_is_handed_out() -> None:
    queue = StudyQueue()
    queue.put("a", 0.0)
    queue.hold(True)
    taken: list[str | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    time.sleep(0.05)
    assert taken == []
    queue.hold(False)
    thread.join(5)
    assert taken == ["a"]


def test_a_delay_is_kept() -> None:
    queue = StudyQueue()
    queue.put("a", 0.0, delay_s=0.1)
    start = time.monotonic()
    assert queue.take() == "a"
    assert time.monotonic() - start >= 0.1


def test_close_wakes_those_who_wait() -> None:
    queue = StudyQueue()
    taken: list[str | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    queue.close()
    thread.join(5)
    assert taken == [None]
