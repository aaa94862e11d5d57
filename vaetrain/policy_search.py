"""Search for an augmentation policy by successive halving (Jamieson and Talwalkar 2016).

Candidate policies are trained on few images. The best quarter of them is trained again on four
times as many, and so on; the last rung has the full number of images.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.atomic_files import write_atomic
from shards.errors import UserError
from shards.format.index import Index
from vaetrain.artifacts.run_dir import METRICS_FILE, read_metrics
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.operations import CHOICES, OPS
from vaetrain.augmentation.policy import OpSettings, Policy, load_policy, write_policy
from vaetrain.config.experiment import Experiment, as_dict

REDUCTION = 4  # each rung keeps one policy in so many, for so many times the images
TRAINER = Path(__file__).with_name("train.py")
_NEVER = 10**12  # images
TRIAL_SETTINGS = (
    "tracker=none",
    f"train.log_every_images={_NEVER}",
    f"train.validate_every_images={_NEVER}",
    f"train.checkpoint_every_images={_NEVER}",
    "prior.kind=none",
)
"""Settings of every trial: a run always validates at its end, and no other output is needed.

Above all no prior: fitting it took longer than most trials.
"""

# Runs a command so that it ends together with this process.
_END_WITH_PARENT = (sys.executable, "-m", "shards.lifetime")


def candidates(trials: int, seed: int, denoise: bool) -> dict[str, Policy]:
    """Return the policies to try by name: `none`, `default`, then random ones."""
    policies = {
        name: load_policy(AugmentConfig(policy=name, denoise=denoise))
        for name in ("none", "default")
    }
    names = tuple(OPS) if denoise else CHOICES
    for number in range(trials - len(policies)):
        policies[f"random {number}"] = random_policy(random.Random(f"{seed}/{number}"), names)
    return policies


def random_policy(rng: random.Random, names: Sequence[str]) -> Policy:
    """Draw a policy with about half of these operations.

    Magnitudes are uniform up to a share of each operation's full strength. The share is drawn once
    for the policy; otherwise nearly all policies would be of medium strength.
    """
    level = rng.random()
    operations = {}
    for name in names:
        is_used, probability, share = (rng.random() for _ in range(3))
        if is_used < 0.5:
            magnitude = float(f"{share * level * OPS[name].full:.2g}")
            operations[name] = OpSettings(round(probability, 2), magnitude)
    return Policy(operations)


def rungs(trials: int, images: int) -> list[tuple[int, int]]:
    """Return the number of policies and the images of a trial for each rung, in order.

    Args:
        trials: policies in the first rung.
        images: of a trial in the last rung.
    """
    counts = [trials]
    while counts[-1] > REDUCTION:
        counts.append(-(-counts[-1] // REDUCTION))
    return [
        (count, max(1, images // REDUCTION ** (len(counts) - 1 - number)))
        for number, count in enumerate(counts)
    ]


def successive_halving(
    names: list[str], images: int, score: Callable[[str, int], float]
) -> list[tuple[str, float]]:
    """Return the policies of the last rung with their scores, the lowest first.

    Args:
        images: of a trial in the last rung.
        score: loss of a policy after a number of images.
    """
    ranking: list[tuple[str, float]] = [(name, 0.0) for name in names]
    for count, rung_images in rungs(len(names), images):
        scored = [(name, score(name, rung_images)) for name, _ in ranking[:count]]
        ranking = sorted(scored, key=lambda pair: pair[1])
    return ranking


@dataclass
class TrialRunner:
    """Trials, each a training in a process of its own, and the table of their losses.

    Attributes:
        trainer: command line; policy, length and run directory are appended.
        table: JSONL file, rewritten atomically after every trial.
        settings: digest of everything else that a loss depends on; see `settings_digest`.
        threads: the last training's line about its CPU threads; empty before the first training.
    """

    trainer: list[str]
    table: Path
    settings: str
    threads: str = field(default="", init=False)

    def __post_init__(self) -> None:
        try:
            lines = self.table.read_text().splitlines() if self.table.exists() else []
            self._rows = [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.table}: is not a table of trials; delete it") from error

    def validation_loss(self, policy: Policy, images: int) -> float:
        """Return the validation loss after training under a policy; infinite if not finite.

        A trial that the table already holds is not trained again. Raises UserError if the training
        fails.
        """
        row: dict[str, Any] = {
            "settings": self.settings,
            "images": images,
            "policy": policy.as_dict()["chances"],
        }
        for known in self._rows:
            if {key: known.get(key) for key in row} == row:
                loss = known.get("loss")
                break
        else:
            loss = self._train(policy, images)
            self._rows.append({**row, "loss": loss})
            write_atomic(self.table, "".join(json.dumps(line) + "\n" for line in self._rows))
        return math.inf if loss is None else loss

    def _train(self, policy: Policy, images: int) -> float | None:
        with tempfile.TemporaryDirectory(prefix="vaetrain-search-") as name:
            folder = Path(name)
            write_policy(folder / "policy.yaml", policy, "on trial")
            settings = [f"augment.policy={folder / 'policy.yaml'}", f"train.max_images={images}"]
            done = subprocess.run(
                [*_END_WITH_PARENT, *self.trainer, *settings, "--run-dir", str(folder / "run")],
                capture_output=True,
                text=True,
                errors="replace",
            )
            if done.returncode:
                raise UserError(f"a training failed: {_error_message(done)}")
            logged = done.stdout.splitlines()
            self.threads = next((line for line in logged if line.startswith("threads: ")), "")
            lines = read_metrics(folder / "run" / METRICS_FILE)
        validations = [line for line in lines if line["split"] == "val"]
        if not validations:
            raise UserError("the shards have no validation pages to compare policies on")
        return validations[-1].get("loss")


def settings_digest(experiment: Experiment, index: Index) -> str:
    """Return a digest of the settings and the pages of a search, to recognise its trials."""
    facts = {"experiment": as_dict(experiment), "data": index.header.get("table_sha256")}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def describe(policy: Policy) -> str:
    """Return the operations of a policy in one line."""
    return ", ".join(
        f"{name} {settings.probability:g} x {settings.magnitude:g}"
        for name, settings in policy.operations.items()
    )


def _error_message(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line of stderr that names the error of a failed training."""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return errors[-1].removeprefix("error: ")
