"""Search for an augmentation policy: train briefly under many, keep the one that validates best.

    python -m vaetrain.augment.search --experiment default
    python -m vaetrain.augment.search data.shards=data/mine --trials 64 --out mine.yaml

Policies are drawn at random; `none` and `default` compete with them. All are trained on a few
images, the best quarter of them anew on four times as many, and so on up to --images (successive
halving, Jamieson and Talwalkar 2016). The best is written as an ordinary policy file, where
`augment.policy=auto` finds it. What every training came to stands in a table beside it,
<FILE>.trials.jsonl, and is not trained again by the same command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards import cli
from shards.errors import UserError
from shards.format.index import Index
from shards.open import open_index
from shards.storage import write_atomic
from vaetrain.artifacts.run_dir import METRICS_FILE, read_metrics
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.policy import (
    CHOICES,
    FOUND_NAME,
    OPS,
    Chance,
    Policy,
    load_policy,
    write_policy,
)
from vaetrain.cli import output_file, whole
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import Experiment, as_dict, load_experiment

KEPT = 4  # one in so many goes on to so many times the images
TRAINER = Path(__file__).resolve().parents[1] / "train.py"
_MORTAL = (sys.executable, "-m", "shards.lifetime")  # what follows ends when this process does
_NEVER = 10**12  # images
BRIEF = (
    "tracker=none",
    f"train.log_every_images={_NEVER}",
    f"train.validate_every_images={_NEVER}",
    f"train.checkpoint_every_images={_NEVER}",
)
"""Settings of every training: its end is validated in any case, and nothing else is looked at."""


def main() -> int:
    """Run the command; the exit status."""
    arguments = _parser().parse_intermixed_args()
    experiment = load_experiment(
        experiment_path(arguments.experiment), [*arguments.settings, *BRIEF, "augment.policy=none"]
    )
    index = open_index(experiment.data.folder)
    out = arguments.out or index.folder / FOUND_NAME
    trainer = [sys.executable, str(TRAINER), *arguments.settings, *BRIEF]
    for option in ("config_file", "experiment"):
        if (value := getattr(arguments, option)) is not None:
            trainer += [f"--{option}", str(value)]
    trainings = Trainings(trainer, out.with_suffix(".trials.jsonl"), _digest(experiment, index))
    policies = candidates(arguments.trials, arguments.seed, experiment.augment.denoise)
    total = sum(count for count, _ in rungs(len(policies), arguments.images))
    with cli.progress(total=total, desc="searching", unit="training") as bar:

        def score(name: str, images: int) -> float:
            bar.set_postfix_str(f"{name}, {images} images")
            loss = trainings.loss(policies[name], images)
            bar.update()
            return loss

        ranking = halve(list(policies), arguments.images, score)
    best, loss = ranking[0]
    told = f"{best}, the best of {len(policies)}: validation loss {loss:.6g}"
    write_policy(out, policies[best], f"{told} after {arguments.images} images")
    for name, reached in ranking:
        print(f"{reached:.6g}\t{name}\t{_told(policies[name])}")
    print(f"{out}: {told}; train with augment.policy={'auto' if not arguments.out else out}")
    return 0


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="vaetrain.augment.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--experiment", help="YAML file, or a name in launch/experiments/")
    add("--config_file", type=Path, help="engine file that each training runs under")
    add(
        "--out",
        type=output_file,
        metavar="FILE",
        help=f"policy file to write; default: {FOUND_NAME} in the folder of the shards",
    )
    add("--trials", type=whole(2, 10_000), default=16, help="policies to try; default 16")
    add("--images", type=whole(1, 10**9), default=8192, help="of a last training; default 8192")
    add("--seed", type=whole(0, 2**63 - 1), default=0, help="of the policies; default 0")
    add("settings", nargs="*", metavar="key=value", help="override any setting")
    return parser


def candidates(trials: int, seed: int, denoise: bool) -> dict[str, Policy]:
    """The policies to try by name: `none`, `default`, then random ones."""
    policies = {
        name: load_policy(AugmentConfig(policy=name, denoise=denoise))
        for name in ("none", "default")
    }
    names = tuple(OPS) if denoise else CHOICES
    for number in range(trials - len(policies)):
        policies[f"random {number}"] = random_policy(random.Random(f"{seed}/{number}"), names)
    return policies


def random_policy(chance: random.Random, names: Sequence[str]) -> Policy:
    """A policy of about half of these operations, from gentle ones to strong ones.

    Magnitudes are uniform up to a share of each operation's full strength that is drawn once for
    the policy, or else nearly all policies would be of middling strength.
    """
    level = chance.random()
    chances = {}
    for name in names:
        is_used, probability, share = (chance.random() for _ in range(3))
        if is_used < 0.5:
            magnitude = float(f"{share * level * OPS[name].full:.2g}")
            chances[name] = Chance(round(probability, 2), magnitude)
    return Policy(chances)


def rungs(trials: int, images: int) -> list[tuple[int, int]]:
    """How many policies are trained, and on how many images each, from the first round on."""
    counts = [trials]
    while counts[-1] > KEPT:
        counts.append(-(-counts[-1] // KEPT))
    return [
        (count, max(1, images // KEPT ** (len(counts) - 1 - number)))
        for number, count in enumerate(counts)
    ]


def halve(
    names: list[str], images: int, score: Callable[[str, int], float]
) -> list[tuple[str, float]]:
    """The last round's policies and what they scored, the lowest first.

    Args:
        images: of the last round.
        score: of a policy after so many images.
    """
    ranking: list[tuple[str, float]] = [(name, 0.0) for name in names]
    for count, seen in rungs(len(names), images):
        scored = [(name, score(name, seen)) for name, _ in ranking[:count]]
        ranking = sorted(scored, key=lambda pair: pair[1])
    return ranking


@dataclass
class Trainings:
    """Trainings in processes of their own, and the table of what they came to.

    trainer: the command line, which the policy, the length and the run directory are added to.
    table: the file; it is written anew, as a whole, after every training.
    settings: a digest of all else that a loss depends on.
    """

    trainer: list[str]
    table: Path
    settings: str

    def __post_init__(self) -> None:
        try:
            lines = self.table.read_text().splitlines() if self.table.exists() else []
            self._rows = [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.table}: is no table of trials; delete it") from error

    def loss(self, policy: Policy, images: int) -> float:
        """The validation loss after training under a policy, infinite where it is not finite.

        Raises UserError where the training fails.
        """
        row: dict[str, Any] = {
            "settings": self.settings,
            "images": images,
            "policy": asdict(policy)["chances"],
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
                [*_MORTAL, *self.trainer, *settings, "--run-dir", str(folder / "run")],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            if done.returncode:
                raise UserError(f"a training failed: {_reason(done)}")
            points = read_metrics(folder / "run" / METRICS_FILE)
        validated = [point for point in points if point["split"] == "val"]
        if not validated:
            raise UserError("there are no validation pages to score policies on")
        return validated[-1].get("loss")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line in which a training that failed says why."""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    told = [line for line in lines if line.startswith("error: ")] or lines
    return told[-1].removeprefix("error: ")


def _digest(experiment: Experiment, index: Index) -> str:
    """What tells these settings and pages from any others."""
    facts = {"experiment": as_dict(experiment), "data": index.header.get("table_sha256")}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _told(policy: Policy) -> str:
    chances: Mapping[str, Chance] = policy.chances
    return ", ".join(f"{name} {c.probability:g} x {c.magnitude:g}" for name, c in chances.items())


if __name__ == "__main__":
    cli.run("vaetrain.augment.search", main)
