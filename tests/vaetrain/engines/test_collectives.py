"""Ranks that wait for work of the main process; test_dead_ranks.py has real processes."""

import queue
import threading

from tests.support.engines import FakeEngine


class Rank(FakeEngine):
    """A rank of two, which get the main process's values through a queue."""

    def __init__(self, rank: int, values: queue.Queue) -> None:
        super().__init__(rank, 2)
        self.values, self.marks = values, []

    def mark_progress(self, place: str) -> None:
        """Record the place."""
        self.marks.append(place)

    def broadcast_object(self, value: object) -> object:
        """Send or receive a value."""
        self.mark_progress("waiting for the main process")
        if self.is_main:
            self.values.put(value)
            return value
        return self.values.get(timeout=10)


def test_a_rank_follows_the_main_process_until_it_is_done():
    """It made no progress of its own, and was taken for a hung one after the timeout."""
    values: queue.Queue = queue.Queue()
    main, other = (Rank(number, values) for number in (0, 1))
    follower = threading.Thread(target=other.follow_main)
    follower.start()
    for place in ("fitting, step 0", "fitting, step 20", None):
        main.tell_progress(place)
    follower.join(timeout=10)
    assert not follower.is_alive()
    assert main.marks == other.marks
    assert [place for place in main.marks if "fitting" in place] == [
        "fitting, step 0",
        "fitting, step 20",
    ]
