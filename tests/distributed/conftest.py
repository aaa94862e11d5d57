"""Small trainings in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from launch.processes import MARK
from tests.support.commands import launcher
from tests.support.paths import REPO
from vaetrain.artifacts import checkpoint

QUICK = (
    "data.width=64",
    "data.max_height=128",
    "data.val_templates=[]",
    "model.latent_dim=16",
    "model.start=random",
    "train.global_batch_size=8",
    "train.epochs=100000",
    "train.max_images=240",
    "train.log_every_images=8",
    "train.validate_every_images=100000",
    "train.validation_samples=0",
    "train.checkpoint_every_images=100000",
    "optimizer.lr=1e-3",
    "lr.warmup_epochs=0.5",
    "tracker=none",
)
# The discriminator starts and warms up within thirty steps. Its learning rate is low: at five times
# this rate, its rectifiers switch for whole areas of equal pixels, and rounding differences become
# a thousand times larger within ten steps.
GAN = (
    "gan.enabled=true",
    "gan.start_epoch=1",
    "gan.warmup_epochs=0.5",
    "gan.channels=8",
    "gan.lr=1e-4",
    "gan.clip_norm=0.5",
    "gan.schedule.schedule=constant",
    "gan.schedule.warmup_epochs=0",
)


class Trainer:
    """Trainings on the test shards, and their metrics and checkpoints."""

    def __init__(self, shards: Path, folder: Path) -> None:
        self.shards = shards
        self.folder = folder

    def command(
        self,
        name: str,
        *settings: str,
        engine: str | Path | None = "single",
        processes: int | None = None,
        script: str = "vaetrain/train.py",
    ) -> list[str]:
        """Return the command line of a run called `name`.

        Args:
            engine: a name in accelerate_configs/, an engine file, or None for plain python.
            processes: number of ranks; None for that of the engine file.
        """
        start = [sys.executable] if engine is None else launcher(engine, processes)
        return [*start, script, *self.arguments(name, *settings)]

    def arguments(self, name: str, *settings: str) -> list[str]:
        """Return the arguments that follow the script's name."""
        shards = f"data.shards={self.shards}"
        return ["--run-dir", str(self.folder / name), shards, *QUICK, *settings]

    def start(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        """Start a command; its descendants inherit its `mark`, see `launch.processes.family`."""
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            command,
            cwd=REPO,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | environment | {MARK: mark},
        )
        process.mark = mark
        return process

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; return its status and output."""
        process = self.start(command, **environment)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def train(self, name: str, *settings: str, **options: Any) -> str:
        """Run a training that must succeed, with the options of `command`; return its output."""
        done = self.run(self.command(name, *settings, **options))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait_for(self, name: str, process: subprocess.Popen[str]) -> None:
        """Wait until a run that was started has logged its first line."""
        metrics = self.folder / name / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def lines(self, name: str, split: str = "train") -> list[dict]:
        """Return the lines of a run's metrics."""
        path = self.folder / name / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if line["split"] == split]

    def weights(self, name: str, part: str = "weights") -> dict:
        """Return the tensors of a part of the newest checkpoint, such as `optimizer`."""
        newest = checkpoint.list_checkpoints(self.folder / name / "checkpoints")[-1]
        return dict(getattr(checkpoint.load(newest), part))


@pytest.fixture(scope="session")
def trainer(shards, tmp_path_factory) -> Trainer:
    """Return the trainer of the session, so that tests can share runs."""
    return Trainer(shards, tmp_path_factory.mktemp("runs"))
