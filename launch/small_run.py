"""A small training in processes of its own, for the soak test and the diagnosis of a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.processes import MARK
from launch.training_process import TRAINER
from shards.build import build
from shards.building.options import BuildOptions
from vaetrain.data.config import SAMPLE_LAYOUTS
from vaetrain.engines.engine_files import engine_file

ROOT = TRAINER.parents[1]
TIMEOUT = 20  # train.timeout_seconds
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
    "train.validation_samples=0",
    f"train.timeout_seconds={TIMEOUT}",
    "lr.warmup_epochs=0.5",
    "tracker=none",
)


def build_shards(folder: Path) -> None:
    """Build shards of sixty real pages, several of them so that their order matters."""
    build([SAMPLE_LAYOUTS], folder, BuildOptions(count=60, shard_mb=0.05, workers=1))


def start(
    engine: str,
    run: Path,
    settings: Sequence[str],
    *,
    shards: Path,
    log: Path,
    mark: str,
    processes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen:
    """Start or resume a run; it is killed when this process dies.

    Args:
        engine: engine file, or its name. `single` is started without a launcher, whose imports take
            as long as the trainer's.
        settings: in addition to `SETTINGS`.
        log: file for its output; overwritten.
        mark: of its family, see `launch.processes`.
        processes: world size, not of `single`; None: that of the engine file.
        environment: in addition to that of this process.
    """
    command = [sys.executable, "-m", "shards.lifetime", sys.executable]
    if engine != "single":
        command += ["-m", "accelerate.commands.accelerate_cli", "launch"]
        command += ["--config_file", str(engine_file(engine)), "--main_process_port", "0"]
        if processes is not None:
            command += ["--num_processes", str(processes)]
    command += [str(TRAINER), "--run-dir", str(run), f"data.shards={shards}"]
    with log.open("w") as output:
        return subprocess.Popen(
            [*command, *SETTINGS, *settings],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {}), MARK: mark},
        )
