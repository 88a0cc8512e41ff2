"""orthanc_plugin/study_queue.py: order, delays and exclusion."""

from __future__ import annotations

import threading
import time

from orthanc_plugin.study_queue import LATER, URGENT, StudyQueue


def test_urgent_comes_first_then_order() -> None:
    queue = StudyQueue()
    queue.put("old", LATER)
    queue.put("a")
    queue.put("b")
    assert [queue.take() for _ in range(3)] == ["a", "b", "old"]


def test_a_study_is_queued_once_and_an_event_makes_it_urgent_and_due() -> None:
    queue = StudyQueue()
    queue.put("a", LATER, delay_s=60)
    queue.put("b")
    queue.put("a", URGENT)
    assert queue.lengths() == (2, 0)
    assert queue.take() == "a"


def test_a_busy_study_waits_until_it_is_done() -> None:
    queue = StudyQueue()
    queue.put("a")
    assert queue.take() == "a"
    queue.put("a")
    taken: list[str | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    time.sleep(0.05)
    assert taken == []
    queue.done("a")
    thread.join(5)
    assert taken == ["a"]


def test_a_delay_is_kept() -> None:
    queue = StudyQueue()
    queue.put("a", delay_s=0.1)
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
