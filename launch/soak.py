"""Kill, pause and damage a training at random, resume it, and check that nothing is ever lost.

    python -m launch.soak [--minutes 60] [--seed 0] [--engine ddp] [--out DIR]

A small run on two processes is trained once undisturbed, with a checkpoint of every step. Then the
same run is trained anew, again and again, while something is done to it after a random time: all
of it, one rank or the launcher is killed; ranks are paused, for a moment or for good; it is asked
to stop; a byte of its newest checkpoint is flipped, or the end of its metrics torn off. Whenever it
has ended, every checkpoint must have the bits that the undisturbed run had at that image count, and
every line of its metrics be the same, none missing; in the end so must the finished model be.

OUT/soak.jsonl has a line for everything that was done; the same command again adds to it. The exit
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
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

from shards import cli, errors
from shards.build import build
from shards.building.options import BuildOptions
from shards.storage import sha256_of
from vaetrain.artifacts.run_dir import METRICS_FILE, read_metrics
from vaetrain.settings import ConfigError

ROOT = Path(__file__).resolve().parents[1]
MARK = "VAETRAIN_FAMILY"  # variable of the environment that a run's processes inherit
TIMEOUT = 20  # train.timeout_seconds
PATIENCE = TIMEOUT + 60.0  # seconds in which a run has to end that should, on a busy machine
SETTINGS = (
    "data.width=64",
    "data.max_height=128",
    "data.val_templates=[]",
    "model.latent_dim=16",
    "model.start=random",
    "augment.policy=strong",
    "augment.mixup_alpha=0.4",
    "train.global_batch_size=8",
    "train.max_images=320",
    "train.epochs=100000",
    "train.log_every_images=8",
    "train.validate_every_images=120",
    f"train.timeout_seconds={TIMEOUT}",
    "lr.warmup_epochs=0.5",
    "tracker=none",
)
UNDISTURBED = ("train.checkpoint_every_images=8", "train.keep_checkpoints=1000")
DISTURBED = ("train.checkpoint_every_images=24", "train.keep_checkpoints=2")
TENSORS = tuple(f"{part}.safetensors" for part in ("weights", "average", "optimizer", "adversary"))
COMPARED = ("split", "images", "loss", "kl", "l1", "grad_norm", "beta", "lr", "ids_hash")
# What is done to a run, and how often of a hundred times.
DISTURBANCES = {
    "kill everything": 25,
    "kill a rank": 15,
    "kill the launcher": 10,
    "pause": 25,
    "hang": 10,
    "ask to stop": 15,
}
EARLY = 0.1  # share of disturbances that need not wait for the first step
DAMAGED = 0.3  # share of ended runs whose newest checkpoint, or metrics, are damaged


class Mismatch(Exception):
    """Something was lost, or not as it has to be; the message is one plain line."""


def main() -> int:
    """Soak for a while."""
    parser = cli.Parser(
        prog="python -m launch.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long, at least")
    parser.add_argument("--seed", type=int, default=0, help="of what is done, and when")
    parser.add_argument("--engine", default="ddp", help="a name in accelerate_configs/")
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


def family(mark: str) -> dict[int, int]:
    """The processes alive, each with its parent, that have a mark in their environment.

    Sessions do not tell: torch's launcher gives every rank one of its own.
    """
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path("/proc", entry, "environ").read_bytes().split(b"\0")
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # it has just ended, or is another's
        if f"{MARK}={mark}".encode() in environment and fields[0] != "Z":
            found[int(entry)] = int(fields[1])
    return found


def ranks(mark: str, launcher: int) -> dict[int, int]:
    """The processes that a launcher started as ranks, by rank."""
    found = {}
    for process in (child for child, parent in family(mark).items() if parent == launcher):
        try:
            environment = Path("/proc", str(process), "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        told = [pair.partition(b"=")[2] for pair in environment if pair.startswith(b"RANK=")]
        if told:
            found[int(told[0])] = process
    return found


def kill_family(mark: str) -> None:
    """Kill -9 all of them."""
    while members := family(mark):
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.01)


class Soak:
    """What is disturbed, what it must come to, and what was done so far.

    Attributes:
        counts: how often everything was done; `mismatch` counts what was not as it has to be.
    """

    def __init__(self, out: Path, engine: str, seed: int) -> None:
        """Train the undisturbed run in `out`, unless it is there."""
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
        self.must_tell = False
        self.mark = ""
        if not (out / "shards").exists():
            options = BuildOptions(count=60, shard_mb=0.05, workers=1)
            build([ROOT / "shards" / "sample"], out / "shards", options)
        self.steady = self.out / "undisturbed"
        if not (self.steady / "final").exists() and self.launch(self.steady, UNDISTURBED).wait():
            raise errors.UserError(f"the undisturbed run failed; see {self.log(self.steady)}")
        self.lines = comparable(self.steady)

    def log(self, run: Path) -> Path:
        """Where the output of a run's last launch is."""
        return run.with_suffix(".log")

    def launch(self, run: Path, settings: tuple[str, ...] = DISTURBED) -> subprocess.Popen:
        """Start a run, or go on with it."""
        self.mark = uuid.uuid4().hex
        start = [sys.executable, "-m", "shards.lifetime"]  # it ends with this process
        start += [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
        start += ["--config_file", f"accelerate_configs/{self.engine}.yaml"]
        start += ["--main_process_port", "0", "vaetrain/train.py", "--run-dir", str(run)]
        with self.log(run).open("w") as log:
            return subprocess.Popen(
                [*start, f"data.shards={self.out / 'shards'}", *SETTINGS, *settings],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {MARK: self.mark},
            )

    def note(self, what: str, **more: object) -> None:
        """Count something that was done, and write it down."""
        self.counts[what] += 1
        at = round(time.monotonic() - self.started, 1)
        line = json.dumps({"seconds": at, "what": what, **more})
        print(line, flush=True)
        self.record.write(line + "\n")
        self.record.flush()

    def summary(self) -> str:
        """What was done, in a line."""
        minutes = round((time.monotonic() - self.started) / 60, 1)
        self.note("soaked", minutes=minutes)
        told = ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items()))
        return f"{self.before + minutes:.1f} minutes: {told}"

    def one_run(self, until: float) -> None:
        """Train a run to its end, disturbing it until the time is over."""
        run = self.out / "disturbed"
        shutil.rmtree(run, ignore_errors=True)
        self.flipped, self.must_tell = None, False
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
        """Do things to a run until it has ended; raises Mismatch if it does not, or by itself."""
        what = "pause"
        while what == "pause" and self.wait_for_a_moment(process, run):
            if time.monotonic() > until:
                break
            what = self.chance.choices(list(DISTURBANCES), list(DISTURBANCES.values()))[0]
            there = ranks(self.mark, process.pid)
            if len(there) < 2:
                what = "kill everything"  # it has not come so far
            self.note(what, newest=newest(run))
            with contextlib.suppress(ProcessLookupError):  # it may just have ended
                self.do(what, process, there)
        try:
            process.wait(PATIENCE if time.monotonic() < until else 10 * PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Mismatch(f"it did not end; newest checkpoint {newest(run)}") from error
        if what == "pause" and process.returncode:
            raise Mismatch(f"it ended by itself, with status {process.returncode}")
        gone_by = time.monotonic() + PATIENCE
        while left := family(self.mark):
            if time.monotonic() > gone_by:
                raise Mismatch(f"processes outlived their launcher: {sorted(left)}")
            time.sleep(0.1)
        if what in ("kill a rank", "hang"):
            told = self.log(run).read_text().count("error: rank ")
            if told > 1:
                raise Mismatch(f"{told} lines name the lost rank, not one")
            self.note("named" if told else "not named")

    def do(self, what: str, process: subprocess.Popen, there: dict[int, int]) -> None:
        """One of `DISTURBANCES`, to a run with these ranks."""
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
        else:  # a pause of some, for less than the others wait
            paused = victims[: self.chance.randint(1, len(victims))]
            for victim in paused:
                os.kill(victim, signal.SIGSTOP)
            time.sleep(self.chance.uniform(0.1, TIMEOUT / 4))
            for victim in paused:
                os.kill(victim, signal.SIGCONT)

    def wait_for_a_moment(self, process: subprocess.Popen, run: Path) -> bool:
        """Wait for a random time, mostly some steps beyond a checkpoint; False if it ends."""
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
        """Compare a run that has ended with the undisturbed one; raises Mismatch."""
        log = self.log(run).read_text()
        whole = [folder for folder in checkpoints(run) if not self.is_damaged(folder)]
        for folder in whole:
            for name in TENSORS:
                ours, theirs = folder / name, self.steady / "checkpoints" / folder.name / name
                if not ours.exists() or sha256_of(ours) != sha256_of(theirs):
                    raise Mismatch(f"{ours.parent.name}/{name} is not the undisturbed run's")
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
            raise Mismatch("the finished model is not the undisturbed run's")
        if "resuming at" in log:
            self.note("resumed", newest=saved)
        if self.must_tell and "passed over" in log:
            self.note("damage told")
            self.must_tell = False
        elif self.must_tell and "resuming at" in log:
            raise Mismatch("nothing was said of the damage to the newest checkpoint")

    def is_damaged(self, folder: Path) -> bool:
        """Whether a checkpoint is the one in which a byte was flipped, and not written anew."""
        if self.flipped is None or self.flipped[0].parent != folder:
            return False
        file, inode = self.flipped
        return file.exists() and file.stat().st_ino == inode

    def damage(self, run: Path) -> None:
        """Now and then damage what an ended run has left."""
        found, metrics = checkpoints(run), run / METRICS_FILE
        if (run / "final").exists():
            return
        if found and not any(map(self.is_damaged, found)) and self.chance.random() < DAMAGED:
            file = self.chance.choice(sorted(found.pop().iterdir()))
            data = bytearray(file.read_bytes())
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            file.write_bytes(data)
            self.flipped, self.must_tell = (file, file.stat().st_ino), True
            self.note("flip a byte", file=file.name)
        if metrics.exists() and self.chance.random() < DAMAGED:
            # What a checkpoint goes beyond was on the disk before it; the rest a crash may tear.
            saved = max([int(folder.name) for folder in found], default=0)
            lines = metrics.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            kept = sum(len(line) for line in whole if json.loads(line)["images"] <= saved)
            os.truncate(metrics, self.chance.randint(kept, metrics.stat().st_size))
            self.note("tear the metrics")


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob("[0-9]*"))


def newest(run: Path) -> int:
    """The image count of a run's newest checkpoint; 0 without one."""
    found = checkpoints(run)
    return int(found[-1].name) if found else 0


def comparable(run: Path) -> list[dict]:
    """The lines of a run's metrics, without what depends on the machine."""
    lines = read_metrics(run / METRICS_FILE)
    return [{key: line[key] for key in COMPARED if key in line} for line in lines]


if __name__ == "__main__":
    cli.run("launch.soak", main)
