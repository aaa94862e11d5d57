"""Soak test: kill, pause and damage a training at random, resume it, and compare all results.

    python -m launch.soak [--minutes 60] [--seed 0] [--engine ddp] [--out DIR]

A small run on two processes is trained once without disturbance, with a checkpoint at every step.
Then the same run is trained again and again, and disturbed after a random time: all processes, one
rank or the launcher are killed; ranks are paused briefly or for ever; the run receives SIGTERM; one
bit of its newest checkpoint is flipped; the end of its metrics file is cut off. Whenever the run
ends, every checkpoint must be bit-identical to that of the undisturbed run at the same image count,
and every metrics line must be the same, with none missing. At the end the final model must be
bit-identical too.

OUT/soak.jsonl gets a line for every event; running the same command again appends to it. The exit
status is 1 after a mismatch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from launch import small_run
from launch.processes import family, kill_family, new_mark, ranks
from launch.small_run import TIMEOUT
from shards import cli, errors
from shards.atomic_files import sha256_of
from vaetrain.artifacts.run_dir import METRICS_FILE, read_metrics
from vaetrain.settings import ConfigError

PATIENCE = TIMEOUT + 60.0  # seconds within which a run must end, on a busy machine
UNDISTURBED = ("train.checkpoint_every_images=8", "train.keep_checkpoints=1000")
DISTURBED = ("train.checkpoint_every_images=24", "train.keep_checkpoints=2")
COMPARED = ("split", "images", "loss", "kl", "l1", "grad_norm", "beta", "lr", "ids_hash")
# Disturbances and their frequency in percent.
DISTURBANCES = {
    "kill everything": 25,
    "kill a rank": 15,
    "kill the launcher": 10,
    "pause": 25,
    "hang": 10,
    "ask to stop": 15,
}
EARLY = 0.1  # share of disturbances that may come before the first step
DAMAGED = 0.3  # probability that the newest checkpoint, or the metrics, are damaged after a run


class Mismatch(Exception):
    """A result that is missing or differs from the undisturbed run; the message is one line."""


def main() -> int:
    """Run the command; return the exit status, 1 after a mismatch."""
    parser = cli.Parser(
        prog="python -m launch.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="minimum duration")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the disturbances and their times"
    )
    parser.add_argument("--engine", default="ddp", help="engine file, or its name")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), metavar="DIR")
    asked = parser.parse_args()
    soak = Soak(asked.out, asked.engine, asked.seed)
    until = time.monotonic() + 60 * asked.minutes
    try:
        while time.monotonic() < until:
            soak.one_run(until)
    finally:
        kill_family(soak.mark)
        print(soak.summary())
    return 1 if soak.counts["mismatch"] else 0


class Soak:
    """The disturbed run, the undisturbed reference, and the events so far.

    Attributes:
        counts: number of events by kind; `mismatch` counts failed comparisons.
    """

    def __init__(self, out: Path, engine: str, seed: int) -> None:
        """Train the undisturbed run in `out`, unless it exists."""
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.engine = out.resolve(), engine
        self.record = (out / "soak.jsonl").open("a+")
        self.record.seek(0)
        done = [json.loads(line) for line in self.record]
        self.counts: Counter[str] = Counter({"mismatch": 0})
        self.counts.update(line["what"] for line in done)
        self.before = sum(line["minutes"] for line in done if line["what"] == "soaked")
        self.chance = random.Random(f"{seed} {len(done)}")
        self.started = time.monotonic()
        self.flipped: tuple[Path, int] | None = None  # a file with a flipped byte, and its inode
        self.expects_report = False  # the log must mention a damaged checkpoint
        self.mark = ""
        if not (out / "shards").exists():
            small_run.build_shards(out / "shards")
        self.steady = self.out / "undisturbed"
        if not (self.steady / "final").exists() and self.launch(self.steady, UNDISTURBED).wait():
            raise errors.UserError(f"the undisturbed run failed; see {self.log(self.steady)}")
        self.lines = comparable(self.steady)

    def log(self, run: Path) -> Path:
        """Return the path of the output of the last launch of a run."""
        return run.with_suffix(".log")

    def launch(self, run: Path, settings: tuple[str, ...] = DISTURBED) -> subprocess.Popen:
        """Start or resume a run."""
        self.mark = new_mark()
        return small_run.start(
            self.engine,
            run,
            settings,
            shards=self.out / "shards",
            log=self.log(run),
            mark=self.mark,
        )

    def note(self, what: str, **more: object) -> None:
        """Count an event and append it to the record."""
        self.counts[what] += 1
        at = round(time.monotonic() - self.started, 1)
        line = json.dumps({"seconds": at, "what": what, **more})
        print(line, flush=True)
        self.record.write(line + "\n")
        self.record.flush()

    def summary(self) -> str:
        """Return the events so far in one line."""
        minutes = round((time.monotonic() - self.started) / 60, 1)
        self.note("soaked", minutes=minutes)
        events = ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items()))
        return f"{self.before + minutes:.1f} minutes: {events}"

    def one_run(self, until: float) -> None:
        """Train a run to its end and disturb it until the time is over."""
        run = self.out / "disturbed"
        shutil.rmtree(run, ignore_errors=True)
        self.flipped, self.expects_report = None, False
        while not (run / "final" / "config.json").exists():
            process = self.launch(run)
            try:
                self.disturb(process, run, until)
                self.check(run)
            except Mismatch as mismatch:
                kept = self.out / f"mismatch-{self.counts['mismatch']}"
                self.note("mismatch", why=str(mismatch), kept=str(kept))
                kill_family(self.mark)
                process.wait()
                shutil.copy(self.log(run), kept.with_suffix(".log"))
                shutil.move(run, kept)
                return
            self.damage(run)
        self.note("finished")

    def disturb(self, process: subprocess.Popen, run: Path, until: float) -> None:
        """Disturb a run until it ends; raise Mismatch if it hangs or fails by itself."""
        what = "pause"
        while what == "pause" and self.wait_for_a_moment(process, run):
            if time.monotonic() > until:
                break
            what = self.chance.choices(list(DISTURBANCES), list(DISTURBANCES.values()))[0]
            there = ranks(self.mark, process.pid)
            if len(there) < 2:
                what = "kill everything"  # the ranks have not all started yet
            self.note(what, newest=newest(run))
            with contextlib.suppress(ProcessLookupError):  # the process may have ended already
                self.do(what, process, there)
        try:
            process.wait(PATIENCE if time.monotonic() < until else 10 * PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Mismatch(f"the run did not end; newest checkpoint {newest(run)}") from error
        if what == "pause" and process.returncode:
            raise Mismatch(f"the run failed by itself with status {process.returncode}")
        gone_by = time.monotonic() + PATIENCE
        while left := family(self.mark):
            if time.monotonic() > gone_by:
                raise Mismatch(f"processes outlived their launcher: {sorted(left)}")
            time.sleep(0.1)
        if what in ("kill a rank", "hang"):
            named = self.log(run).read_text().count("error: rank ")
            if named > 1:
                raise Mismatch(f"{named} lines name the lost rank, expected one")
            self.note("named" if named else "not named")

    def do(self, what: str, process: subprocess.Popen, there: dict[int, int]) -> None:
        """Apply one of `DISTURBANCES` to a run with these ranks."""
        victims = self.chance.sample(sorted(there.values()), len(there))
        if what == "kill everything":
            kill_family(self.mark)
        elif what == "kill a rank":
            os.kill(victims[0], signal.SIGKILL)
        elif what == "kill the launcher":
            process.kill()
        elif what == "hang":
            os.kill(victims[0], signal.SIGSTOP)
        elif what == "ask to stop":
            process.terminate()
        else:  # a pause of some ranks, shorter than the timeout
            paused = victims[: self.chance.randint(1, len(victims))]
            for victim in paused:
                os.kill(victim, signal.SIGSTOP)
            time.sleep(self.chance.uniform(0.1, TIMEOUT / 4))
            for victim in paused:
                os.kill(victim, signal.SIGCONT)

    def wait_for_a_moment(self, process: subprocess.Popen, run: Path) -> bool:
        """Wait a random time, usually past the next checkpoint; return False if the run ends."""
        before, over = newest(run), float("inf")
        if self.chance.random() < EARLY:
            over = time.monotonic() + self.chance.uniform(0, 10)
        while newest(run) == before and time.monotonic() < over:
            if process.poll() is not None:
                return False
            time.sleep(0.02)
        time.sleep(self.chance.uniform(0, 1.5))
        return process.poll() is None

    def check(self, run: Path) -> None:
        """Compare an ended run with the undisturbed one; raise Mismatch."""
        log = self.log(run).read_text()
        whole = [folder for folder in checkpoints(run) if not self.is_damaged(folder)]
        for folder in whole:
            for name in sorted(path.name for path in folder.glob("*.safetensors")):
                ours, theirs = folder / name, self.steady / "checkpoints" / folder.name / name
                if not ours.exists() or sha256_of(ours) != sha256_of(theirs):
                    raise Mismatch(f"{ours.parent.name}/{name} differs from the undisturbed run")
        saved = int(whole[-1].name) if whole else 0
        try:
            ours = comparable(run)
        except ConfigError as error:
            raise Mismatch(str(error)) from error
        if ours != self.lines[: len(ours)]:
            raise Mismatch(f"the metrics differ from the undisturbed run's; saved at {saved}")
        missing = [line["images"] for line in self.lines[len(ours) :] if line["images"] <= saved]
        if missing:
            raise Mismatch(f"lines of the metrics before {saved} images are missing: {missing}")
        final = run / "final" / "model.safetensors"
        if final.exists() and sha256_of(final) != sha256_of(self.steady / "final" / final.name):
            raise Mismatch("the final model differs from the undisturbed run")
        if "resuming at" in log:
            self.note("resumed", newest=saved)
        if self.expects_report and "damaged checkpoint skipped" in log:
            self.note("damage reported")
            self.expects_report = False
        elif self.expects_report and "resuming at" in log:
            raise Mismatch("the log does not mention the damaged newest checkpoint")

    def is_damaged(self, folder: Path) -> bool:
        """Return whether a checkpoint contains the flipped bit and was not written again since."""
        if self.flipped is None or self.flipped[0].parent != folder:
            return False
        file, inode = self.flipped
        return file.exists() and file.stat().st_ino == inode

    def damage(self, run: Path) -> None:
        """Damage the newest checkpoint or the metrics of an ended run, at random."""
        found, metrics = checkpoints(run), run / METRICS_FILE
        if (run / "final").exists():
            return
        if found and not any(map(self.is_damaged, found)) and self.chance.random() < DAMAGED:
            file = self.chance.choice(sorted(found.pop().iterdir()))
            data = bytearray(file.read_bytes())
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            file.write_bytes(data)
            self.flipped, self.expects_report = (file, file.stat().st_ino), True
            self.note("flip a byte", file=file.name)
        if metrics.exists() and self.chance.random() < DAMAGED:
            # Lines up to the newest checkpoint were synced before it; a crash cuts only later ones.
            saved = max([int(folder.name) for folder in found], default=0)
            lines = metrics.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            kept = sum(len(line) for line in whole if json.loads(line)["images"] <= saved)
            os.truncate(metrics, self.chance.randint(kept, metrics.stat().st_size))
            self.note("tear the metrics")


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("[0-9]*"))


def newest(run: Path) -> int:
    """Return the image count of the newest checkpoint of a run; 0 without one."""
    found = checkpoints(run)
    return int(found[-1].name) if found else 0


def comparable(run: Path) -> list[dict]:
    """Return the metrics lines of a run, without values that depend on the machine."""
    lines = read_metrics(run / METRICS_FILE)
    return [{key: line[key] for key in COMPARED if key in line} for line in lines]


if __name__ == "__main__":
    cli.run("launch.soak", main)
