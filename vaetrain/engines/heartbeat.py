"""Detection of dead or hung ranks: the ranks agree on the culprit, log it once, and exit.

Ranks train in step, so one that dies or hangs makes all others wait, each at another place. A
thread of every rank writes its status once a second to the launcher's key-value store: that it is
alive, and where its training is. A rank that makes progress reads nothing. Of those that make none,
a few, the watchers, read all statuses: the culprit is the rank whose status has stopped changing,
or, if all ranks are alive, the one that has made the least progress. The other ranks read only
their own status, that of their watcher, and the message that a watcher writes. They read all
statuses if their watcher is silent. After a failed collective, the first ranks that have noticed
it, the searchers, read all statuses as well. Their numbers do not grow with the world size, so the
load on the store grows with the ranks, and not with their square.

Times are of the monotonic clock, so setting the wall clock has no effect. A process that was paused
does not take its own pause for the silence of others.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import platform
import signal
import threading
import time
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from shards.errors import one_line
from shards.lifetime import run_exit_actions
from vaetrain import cli
from vaetrain.engines.launching.rank_variables import Ranks

BEAT_SECONDS = 1.0
MISSED_BEATS = 4  # after so many missed beats in a row a rank is dead
SILENT_SHARE = 0.4  # of the timeout without a beat: a rank that waits calls such a rank silent
SEARCH_BEATS = 3 * MISSED_BEATS  # that dead ranks are searched for after a failed collective
NAMING_BEATS = 3  # that a silent rank is named before the timeout, by which all then know it
WATCHERS = 16  # at most
WATCHED = 8  # consecutive ranks, or more, have the first of them as their watcher
SEARCHERS = 8  # ranks that read all statuses after a failed collective, beside the watchers
FAILURE = "failure"  # key of the message that the ranks agree on
SEARCHES = "searches"  # key of the number of ranks whose collective has failed
RESUME = "run the same command again to resume from the last checkpoint"


@dataclass(frozen=True)
class Status:
    """The last status that a rank has written.

    Attributes:
        beat: counts the beats of the process.
        progress: how often `mark_progress` was called: the same calls on all ranks, in one order.
        place: the argument of the last call.
        launcher: machine and number of the launcher's process.
        process: number of the rank's process on its machine.
    """

    beat: int
    progress: int
    place: str
    launcher: str
    process: int


class Heartbeat:
    """Writer of this rank's status, and monitor of the other ranks'.

    `start` calls `beat` and `watch` from two threads, each once every `interval`.

    Attributes:
        interval: seconds.
    """

    def __init__(self, ranks: Ranks, timeout: float) -> None:
        """Connect to the store and write the first status.

        Args:
            ranks: numbers of this process, with the address of the store.
            timeout: seconds without progress after which this process ends itself.
        """
        self.rank, self.timeout = ranks.rank, timeout
        self.interval = min(BEAT_SECONDS, timeout / 20)
        self._progress = (0, "starting")
        self._address = ranks.address
        self._launcher = f"{platform.node()} {ranks.machine} {os.getppid()}"
        self._watcher = watcher_of(ranks.rank, ranks.world_size)
        self._few = sorted({self.rank, self._watcher})
        self._read_ranks = self._few  # the ranks whose statuses are read
        self._read_all = 0.0  # seconds since all statuses are read
        self._written: set[int] = set()  # ranks that have written a status
        self._statuses: list[Status | None] = [None] * ranks.world_size
        self._silent = [0.0] * ranks.world_size  # seconds since a rank's status last changed
        self._failure = ""  # the message in the store, as last read
        self._beats = itertools.count(1)
        self._is_reading, self._stopped = False, threading.Event()
        self._watched_progress, self._without_progress = 0, 0.0  # seconds
        self._watched_beats: list[int | None] = [None] * ranks.world_size
        self._ending = threading.Lock()
        self._collective_failed = False
        self._search_number: int | None = None  # of this rank, after its collective failed
        self._store = self._connect()
        self._keys = [f"status/{number}" for number in range(ranks.world_size)]
        self._store.compare_set(FAILURE, "", "")
        self._write_status(0)

    def start(self) -> None:
        """Start both threads; they end with the process."""
        self._beating = threading.Thread(target=self._keep_beating, daemon=True)
        self._beating.start()
        threading.Thread(target=self._keep_watching, daemon=True).start()
        # A thread inside the store aborts the process if the interpreter ends meanwhile.
        atexit.register(self._stop)

    def _connect(self) -> dist.Store:
        host, _, port = self._address.rpartition(":")
        timeout = timedelta(seconds=self.timeout)
        store = dist.TCPStore(host, int(port), is_master=False, timeout=timeout)
        # A launcher that restarts its ranks keeps its store.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return dist.PrefixStore(f"heartbeat/{attempt}", store)

    def mark_progress(self, place: str) -> None:
        """Record where the training is, in words that fit "last seen ..."; takes no time.

        Call it at the same places in the same order on all ranks.
        """
        self._progress = (self._progress[0] + 1, place)

    def find_dead_ranks(self) -> str | None:
        """Return a message that names the dead ranks, after a collective failed; None if none is.

        Waits for a few beats, which it takes to be sure.
        """
        self.start_search()
        for _ in range(SEARCH_BEATS):
            time.sleep(self.interval)
            if failure := self.dead_ranks():
                return failure
        return None

    def start_search(self) -> None:
        """Begin to search dead ranks, as a collective has failed."""
        self._collective_failed = True

    def dead_ranks(self) -> str:
        """Return the message that names the dead ranks, if any are known by now; else empty."""
        dead = self._ranks_silent_for(MISSED_BEATS * self.interval)
        knows_all = self._read_all >= MISSED_BEATS * self.interval
        if self._failure or not (dead and knows_all) or self.rank in dead:
            return self._failure
        return f"{rank_list(dead, 'is', 'are')} dead; {self._last_seen(dead)}; {RESUME}"

    def find_lost_store(self) -> str | None:
        """Return a message that names the store if it does not answer; None otherwise.

        Call it after `find_dead_ranks`, which cannot find any then.
        """
        if self.rank in self._ranks_silent_for(MISSED_BEATS * self.interval):
            return self._lost_store("does not answer")
        return None

    def report_failure(self, reason: str) -> bool:
        """Write to the store why this rank ends.

        Returns: whether this rank is the first on its machine to report a failure. It then prints
            the reason, as the other ranks will not.
        """
        return self._agree(f"rank {self.rank} ended: {reason}; {RESUME}")[1]

    def end(self, failure: str) -> NoReturn:
        """End this process with status 1; the first on its machine to do so prints the failure."""
        with self._ending:
            failure, is_first = self._agree(failure)
            if is_first:
                cli.print_error(one_line(failure))
            self._kill_silent_neighbours()
            run_exit_actions()
            os._exit(1)

    def _agree(self, failure: str) -> tuple[str, bool]:
        """Return the first failure that any rank reported, and whether to print it here."""
        if self.rank in self._ranks_silent_for(MISSED_BEATS * self.interval):
            return failure, True  # the store does not answer
        try:
            agreed = self._store.compare_set(FAILURE, "", failure).decode()
            return agreed, self._store.add(f"printed/{self._launcher}", 1) == 1
        except dist.DistError:
            return failure, True

    def _kill_silent_neighbours(self) -> None:
        """Kill the hung ranks of the same launcher.

        The launcher sends SIGTERM first and waits for half a minute, in vain: a stopped process
        does not receive it.
        """
        for number in self._ranks_silent_for(SILENT_SHARE * self.timeout):
            status = self._statuses[number]
            if status is not None and status.launcher == self._launcher and number != self.rank:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(status.process, signal.SIGKILL)

    def _stop(self) -> None:
        self._stopped.set()
        self._beating.join(timeout=2 * BEAT_SECONDS)

    # The threads. One talks to the store and may block in it; the other only watches the clock.

    def _keep_beating(self) -> None:
        while not self._stopped.wait(self.interval):
            try:
                self.beat()
            except dist.DistError:
                return  # the launcher has ended, and has sent SIGTERM to its ranks

    def _keep_watching(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(self.interval):
            now = time.monotonic()
            failure, before = self.watch(now - before), now
            if failure:
                self.end(failure)

    def beat(self) -> None:
        """Write this rank's status, and read others if this rank does; raises DistError."""
        self._write_status(next(self._beats))
        if self._collective_failed and self._search_number is None:
            self._search_number = self._store.add(SEARCHES, 1)
        if self._is_reading:
            self._read(self._read_ranks)

    def _write_status(self, beat: int) -> None:
        status = Status(beat, *self._progress, self._launcher, os.getpid())
        self._store.set(self._keys[self.rank], json.dumps(astuple(status)))

    def _read(self, ranks: list[int]) -> None:
        """Read the statuses of these ranks and the failure, in one request."""
        # `multi_get` waits for keys that are missing. Statuses are never removed.
        self._find_written([number for number in ranks if number not in self._written])
        numbers = [number for number in ranks if number in self._written]
        keys = [FAILURE, *(self._keys[number] for number in numbers)]
        failure, *texts = self._store.multi_get(keys)
        statuses = list(self._statuses)
        for number, text in zip(numbers, texts, strict=True):
            statuses[number] = Status(*json.loads(text))
        self._statuses, self._failure = statuses, failure.decode()

    def _find_written(self, ranks: list[int]) -> None:
        """Add those of the ranks to `_written` that have written a status."""
        if ranks and self._store.check([self._keys[number] for number in ranks]):
            self._written.update(ranks)
        elif len(ranks) > 1:  # the store says only whether all have
            middle = len(ranks) // 2
            self._find_written(ranks[:middle])
            self._find_written(ranks[middle:])

    def watch(self, elapsed: float) -> str:
        """Note who is silent; return the message with which this process has to end, or nothing.

        Args:
            elapsed: seconds since the last call.
        """
        elapsed = min(elapsed, 2 * self.interval)  # this process may have been paused
        is_same_place = self._progress[0] == self._watched_progress
        self._without_progress = self._without_progress + elapsed if is_same_place else 0.0
        self._watched_progress = self._progress[0]
        if self._without_progress < 3 * self.interval and not self._collective_failed:
            self._is_reading = False
            self._silent = [0.0] * len(self._statuses)
            self._read_all = 0.0
            return ""
        self._is_reading = True
        for number in self._read_ranks:
            status = self._statuses[number]
            beat = None if status is None else status.beat
            is_same_beat = beat == self._watched_beats[number]
            self._silent[number] = self._silent[number] + elapsed if is_same_beat else 0.0
            self._watched_beats[number] = beat
        self._choose_ranks(elapsed)
        failure = "" if self._collective_failed else self._failure
        if self._without_progress >= self.timeout - NAMING_BEATS * self.interval:
            failure = failure or self._find_culprit()
        return failure

    def _choose_ranks(self, elapsed: float) -> None:
        """Set the ranks whose statuses are read from now on."""
        watcher_is_silent = self._silent[self._watcher] >= MISSED_BEATS * self.interval
        number = self._search_number
        is_searcher = number is not None and number <= SEARCHERS
        if self.rank == self._watcher or watcher_is_silent or is_searcher:
            self._read_ranks = list(range(len(self._statuses)))
            self._read_all += elapsed
        elif self._read_all:
            self._read_ranks, self._read_all = self._few, 0.0
            of_few = [(number, self._silent[number]) for number in self._few]
            self._silent = [0.0] * len(self._statuses)
            for number, silent in of_few:
                self._silent[number] = silent

    def _ranks_silent_for(self, seconds: float) -> list[int]:
        return [number for number, silent in enumerate(self._silent) if silent >= seconds]

    def _find_culprit(self) -> str:
        """Return a message that names the silent or hung ranks; empty if there is none."""
        duration = f"for {self._without_progress:.0f} s (train.timeout_seconds={self.timeout:g})"
        silent = self._ranks_silent_for(SILENT_SHARE * self.timeout)
        if self.rank in silent:
            return self._lost_store(f"has not answered {duration}")
        if self._read_all < self.timeout / 2:
            return ""  # a watcher finds the culprit
        if silent:
            subject = rank_list(silent, "has", "have")
            return f"{subject} been silent {duration}; {self._last_seen(silent)}; {RESUME}"
        if self._without_progress < self.timeout:
            return ""  # a rank that is alive may still make progress
        progress = [0 if status is None else status.progress for status in self._statuses]
        if min(progress) == max(progress):
            return ""  # all ranks are in the same long operation, or their collective times out
        hung = [number for number, count in enumerate(progress) if count == min(progress)]
        subject = rank_list(hung, "has", "have")
        return f"{subject} made no progress {duration}; {self._last_seen(hung)}; {RESUME}"

    def _lost_store(self, what: str) -> str:
        place = f"the launcher's store at {self._address}"
        return f"{place} {what}; check that machine and the network; {RESUME}"

    def _last_seen(self, ranks: list[int]) -> str:
        status = self._statuses[ranks[0]]
        return "never seen" if status is None else f"last seen {status.place}"


def watcher_of(rank: int, world_size: int) -> int:
    """Return the rank that reads all statuses for a rank while that one waits."""
    return rank - rank % max(WATCHED, -(-world_size // WATCHERS))


def rank_list(ranks: list[int], singular: str, plural: str) -> str:
    """Return ascending ranks in words with the verb: `rank 1 is`, `ranks 0, 2 and 4 to 7 are`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]} {singular}"
    # The numbers of consecutive ranks grow as their places do.
    runs = [list(run) for _, run in itertools.groupby(ranks, key=lambda n: n - ranks.index(n))]
    words = [w for run in runs for w in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else run)]
    if len(words) == 1:
        return f"ranks {words[0]} {plural}"
    return f"ranks {', '.join(map(str, words[:-1]))} and {words[-1]} {plural}"
