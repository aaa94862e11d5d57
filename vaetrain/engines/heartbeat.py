"""Which rank the others wait for: found out by all of them, told once, and then they end.

Ranks train in step, so one that dies or hangs makes all others wait, each somewhere else. From a
thread every rank tells the launcher's store, once a second, that it is alive and where its training
is. Who gets on itself asks for nothing more; who does not, reads what the others told: the rank is
lost that has fallen silent, or, where all are alive, that has come least far.

No clock that can be set is asked, and a process that was paused itself blames nobody for it.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import platform
import signal
import sys
import threading
import time
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from shards.errors import one_line

BEAT_SECONDS = 1.0
MISSED = 4  # beats, one after the other, of a rank that is gone
VERDICT = "verdict"
RESUME = "the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Sign:
    """What a rank last told of itself.

    Attributes:
        beat: counts up for as long as the process runs.
        passed: places that it has come through: the same places on all ranks, in the same order.
        place: the last of them.
        launcher: the process that started it, and its machine.
        process: its number there.
    """

    beat: int
    passed: int
    place: str
    launcher: str
    process: int


class Heartbeat:
    """This rank's signs of life, and its watch over those of the others."""

    def __init__(self, rank: int, world_size: int, timeout: float) -> None:
        """Begin to beat and to watch.

        Args:
            timeout: seconds without getting on after which a rank ends this process.
        """
        self.rank, self.timeout = rank, timeout
        self.interval = min(BEAT_SECONDS, timeout / 20)
        self._place = (0, "starting")
        group = os.environ.get("GROUP_RANK", "0")
        self._launcher = f"{platform.node()} {group} {os.getppid()}"
        self._signs: list[Sign | None] = [None] * world_size
        self._silent = [0.0] * world_size  # seconds since a rank's last new sign
        self._verdict = ""
        self._asking, self._stopped = threading.Event(), threading.Event()
        self._ending = threading.Lock()
        self._alarmed = False
        self._store = self._connect()
        self._keys = [f"sign/{number}" for number in range(world_size)]
        self._store.compare_set(VERDICT, "", "")
        self._send(0)
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        threading.Thread(target=self._watch, daemon=True).start()
        # A thread inside the store aborts a process whose interpreter ends meanwhile.
        atexit.register(self._stop)

    def _connect(self) -> dist.Store:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = timedelta(seconds=self.timeout)
        store = dist.TCPStore(host, port, is_master=False, timeout=patience)
        # A launcher that starts its ranks again keeps its store.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return dist.PrefixStore(f"heartbeat/{attempt}", store)

    def mark_progress(self, place: str) -> None:
        """Say where the training is now, in words that follow "last seen"; costs nothing."""
        self._place = (self._place[0] + 1, place)

    def find_lost(self) -> str | None:
        """Who is gone, after a collective failed; None where all others are alive.

        Takes as long as it takes to be sure, some beats.
        """
        self._alarmed = True
        for _ in range(3 * MISSED):
            time.sleep(self.interval)
            if self._verdict:
                return self._verdict
            gone = self._ranks_silent_for(MISSED * self.interval)
            if gone and self.rank not in gone:
                return f"{named(gone, 'is', 'are')} gone; {self._last_seen(gone)}; {RESUME}"
        return None

    def last_words(self, reason: str) -> bool:
        """Let the others know why this rank ends; whether it is the first to say so on its machine.

        It should then say so aloud, for the others will not.
        """
        return self._agree(f"rank {self.rank} ended: {reason}; {RESUME}")[1]

    def end(self, verdict: str) -> NoReturn:
        """End this process with status 1; the first to do so on its machine says why, in a line."""
        with self._ending:
            verdict, first = self._agree(verdict)
            if first:
                print(f"error: {one_line(verdict)}", file=sys.stderr, flush=True)
            self._end_silent_neighbours()
            os._exit(1)

    def _agree(self, verdict: str) -> tuple[str, bool]:
        """What the first rank found out, and whether nobody on this machine has told it yet."""
        if self.rank in self._ranks_silent_for(MISSED * self.interval):
            return verdict, True  # the store does not answer
        try:
            agreed = self._store.compare_set(VERDICT, "", verdict).decode()
            return agreed, self._store.add(f"told/{self._launcher}", 1) == 1
        except dist.DistError:
            return verdict, True

    def _end_silent_neighbours(self) -> None:
        # Their launcher asks first, and would wait half a minute for a process that cannot hear.
        for number in self._ranks_silent_for(self.timeout / 2):
            sign = self._signs[number]
            if sign is not None and sign.launcher == self._launcher and number != self.rank:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(sign.process, signal.SIGKILL)

    def _stop(self) -> None:
        self._stopped.set()
        self._beating.join(timeout=2 * BEAT_SECONDS)

    # What the threads do.

    def _send(self, beat: int) -> None:
        sign = Sign(beat, *self._place, self._launcher, os.getpid())
        self._store.set(self._keys[self.rank], json.dumps(astuple(sign)))

    def _beat(self) -> None:
        for number in itertools.count(1):
            if self._stopped.wait(self.interval):
                return
            try:
                self._send(number)
                if self._asking.is_set():
                    self._signs = [self._read(key) for key in self._keys]
                    self._verdict = self._store.get(VERDICT).decode()
            except dist.DistError:
                return  # the launcher is gone; it told the ranks of its own end

    def _read(self, key: str) -> Sign | None:
        return Sign(*json.loads(self._store.get(key))) if self._store.check([key]) else None

    def _watch(self) -> None:
        still, passed, before = 0.0, 0, time.monotonic()
        beats: list[int | None] = [None] * len(self._signs)
        while not self._stopped.wait(self.interval):
            now = time.monotonic()
            lasted, before = min(now - before, 2 * self.interval), now
            still = still + lasted if self._place[0] == passed else 0.0
            passed = self._place[0]
            if still < 3 * self.interval and not self._alarmed:
                self._asking.clear()
                self._silent = [0.0] * len(self._signs)
                continue
            self._asking.set()
            for number, sign in enumerate(self._signs):
                beat = None if sign is None else sign.beat
                same = beat == beats[number]
                self._silent[number] = self._silent[number] + lasted if same else 0.0
                beats[number] = beat
            verdict = "" if self._alarmed else self._verdict
            if still >= self.timeout:
                verdict = verdict or self._whom_all_wait_for()
            if verdict:
                self.end(verdict)

    def _ranks_silent_for(self, seconds: float) -> list[int]:
        return [number for number, silent in enumerate(self._silent) if silent >= seconds]

    def _whom_all_wait_for(self) -> str:
        """The verdict on who is lost; empty if nobody is."""
        waited = f"for {self.timeout:g} s (train.timeout_seconds)"
        lost = self._ranks_silent_for(self.timeout / 2)
        if self.rank in lost:
            return f"{os.environ['MASTER_ADDR']}, where ranks meet, gave no answer {waited}"
        if lost:
            lost_ones = named(lost, "has", "have")
            return f"{lost_ones} been silent {waited}; {self._last_seen(lost)}; {RESUME}"
        passed = [0 if sign is None else sign.passed for sign in self._signs]
        if min(passed) == max(passed):
            return ""  # all at work on something long; if not, their collective runs out of time
        lost = [number for number, count in enumerate(passed) if count == min(passed)]
        lost_ones = named(lost, "has", "have")
        return f"{lost_ones} been stuck {waited}; {self._last_seen(lost)}; {RESUME}"

    def _last_seen(self, ranks: list[int]) -> str:
        sign = self._signs[ranks[0]]
        return "never seen" if sign is None else f"last seen {sign.place}"


def named(ranks: list[int], one: str, many: str) -> str:
    """Ranks in words, with the verb that goes with one of them, or with many."""
    if len(ranks) == 1:
        return f"rank {ranks[0]} {one}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]} {many}"
