"""One training of a study in processes of its own, and its results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from omegaconf import OmegaConf

from shards.atomic_files import write_atomic
from vaetrain.artifacts.run_dir import METRICS_FILE, RunDir, read_metrics
from vaetrain.config.experiment import Experiment, as_dict

TRAINER = Path(__file__).resolve().parents[1] / "vaetrain" / "train.py"
POLL_SECONDS = 0.5
SAVE_SECONDS = 60.0  # after SIGTERM a run finishes its step and saves a checkpoint
CURVE_POINTS = 200


class TrialFailed(Exception):
    """A training that failed; the message is one line."""


@dataclass(frozen=True)
class Record:
    """Results of a finished run, small enough for the database of the study.

    Attributes:
        metrics: metrics of the last validation by name, and `loss_roughness`.
        loss: points (images, training loss).
        curve: points (images, validation value of the metric of the study).
        images: image count at the end.
        seconds: training time, summed over interruptions, without validation.
        baselines: L1 of the baselines on the same pages by name; empty in older studies.
    """

    metrics: dict[str, float]
    loss: list[list[float]] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    baselines: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain dicts and lists."""
        return asdict(self)


def train(
    experiment: Experiment,
    seed: int,
    folder: Path,
    engine: Path,
    on_validation: Callable[[dict[str, Any]], None],
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Train one seed of a setting, or resume it, in `folder/seed-N`; the log lies beside it.

    Args:
        on_validation: called with every validation line, including those from before an
            interruption. If it raises, the training saves a checkpoint and stops.
        environment: further variables of the training.

    Returns: the run directory.

    Raises TrialFailed with the error message of the training.
    """
    run_dir = folder / f"seed-{seed}"
    log_file = folder / f"seed-{seed}.log"
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "experiment.yaml"
    write_atomic(settings, OmegaConf.to_yaml(OmegaConf.create(as_dict(experiment))))
    # The launcher is killed when this process dies, and the ranks when their launcher dies.
    command = [sys.executable, "-m", "shards.lifetime", sys.executable]
    command += ["-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(engine), str(TRAINER), "--experiment", str(settings)]
    command += ["--run-dir", str(run_dir), f"train.seed={seed}"]
    command += [f"name={experiment.name}/{folder.name}/{run_dir.name}"]
    path = os.pathsep.join(filter(None, [str(TRAINER.parents[1]), os.environ.get("PYTHONPATH")]))
    with log_file.open("a") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": path} | dict(environment or {}),
        )
    try:
        _follow(process, run_dir / METRICS_FILE, on_validation)
    except BaseException:
        _stop(process)
        raise
    if process.returncode:
        raise TrialFailed(f"seed {seed}: {_reason(log_file, process.returncode)}")
    return run_dir


def _follow(
    process: subprocess.Popen, metrics: Path, on_validation: Callable[[dict[str, Any]], None]
) -> None:
    newest = -1
    while True:
        ended = process.poll() is not None
        for line in read_metrics(metrics):
            if line["split"] == "val" and line["images"] > newest:
                newest = line["images"]
                on_validation(line)
        if ended:
            return
        try:
            process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(SAVE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(log_file: Path, status: int) -> str:
    """Return the error message of a failed training from its log."""
    lines = [line for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
    message = errors[-1].removeprefix("error: ").strip()[:300] if errors else "no output"
    return f"{message} (exit status {status}; {log_file})"


def read_record(run_dir: Path, metric: str) -> Record:
    """Read the results of a run from its directory.

    Raises TrialFailed if the run has no validation or did not measure this metric.
    """
    lines = read_metrics(run_dir / METRICS_FILE)
    training = [line for line in lines if line["split"] == "train"]
    validated = [line for line in lines if line["split"] == "val"]
    if not validated:
        raise TrialFailed(f"{run_dir}: has no validation metrics; the shards need validation pages")
    metrics = {
        key: value
        for key, value in validated[-1].items()
        if isinstance(value, int | float) and key not in ("images", "epoch", "beta")
    }
    loss = [[line["images"], line["loss"]] for line in training]
    metrics["loss_roughness"] = roughness([value for _, value in loss])
    if metric not in metrics:
        raise TrialFailed(
            f"sweep.metric: validation does not measure {metric!r}; "
            f"it measures {', '.join(sorted(metrics))}"
        )
    return Record(
        metrics=metrics,
        loss=_thin(loss),
        curve=_thin([[line["images"], line[metric]] for line in validated if metric in line]),
        images=validated[-1]["images"],
        seconds=training_seconds(training),
        baselines=read_baselines(run_dir),
    )


def read_baselines(run_dir: Path) -> dict[str, float]:
    """Return the L1 of the baselines of a run by name; empty if its final model has none."""
    run = RunDir(run_dir)
    found = run.results().get("baselines", {}) if run.is_finished else {}
    return {name: scores["l1"] for name, scores in found.items() if "l1" in scores}


def roughness(losses: list[float]) -> float:
    """Compute the spread of the changes of the training loss, relative to the loss.

    The standard deviation of the differences between neighbouring logged losses, each a mean over
    the same number of images at any batch size, over the second half of training, divided by the
    mean loss there. 0 where there are fewer than two differences.
    """
    half = losses[len(losses) // 2 :]
    changes = [after - before for before, after in pairwise(half)]
    return pstdev(changes) / abs(fmean(half)) if len(changes) > 1 and fmean(half) else 0.0


def training_seconds(lines: list[dict[str, Any]]) -> float:
    """Return the training time in seconds that these training lines cover."""
    before = [0, *(line["images"] for line in lines)]
    return sum(
        (line["images"] - start) / line["images_per_second"]
        for line, start in zip(lines, before, strict=False)
    )


def _thin(points: list[list[float]]) -> list[list[float]]:
    """Return at most `CURVE_POINTS` of the points; the last is always included."""
    step = -(-len(points) // CURVE_POINTS) or 1
    return points[::-1][::step][::-1]
