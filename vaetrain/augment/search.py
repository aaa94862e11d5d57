"""Search for an augmentation policy: train briefly under many, keep the one that validates best.

    python -m vaetrain.augment.search --experiment default
    python -m vaetrain.augment.search data.shards=data/mine --trials 64 --out mine.yaml

The candidates are `none`, `default` and random policies. All are trained on a few images, the best
quarter of them again on four times as many, and so on up to --images (successive halving, Jamieson
and Talwalkar 2016). The best one is written as an ordinary policy file, where `augment.policy=auto`
finds it. The loss of every training is kept in a table beside it, <FILE>.trials.jsonl; the same
command does not repeat those trainings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from shards import cli
from shards.open import open_index
from vaetrain.augmentation.policy import AUTO_FILE, write_policy
from vaetrain.cli import output_file, whole
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import load_experiment
from vaetrain.policy_search import (
    TRAINER,
    TRIAL_SETTINGS,
    TrialRunner,
    candidates,
    describe,
    rungs,
    settings_digest,
    successive_halving,
)


def main() -> int:
    """Run the command and return its exit status."""
    arguments = _parser().parse_intermixed_args()
    experiment = load_experiment(
        experiment_path(arguments.experiment),
        [*arguments.settings, *TRIAL_SETTINGS, "augment.policy=none"],
    )
    index = open_index(experiment.data.folder)
    out = arguments.out or index.folder / AUTO_FILE
    runner = TrialRunner(
        _trainer(arguments), out.with_suffix(".trials.jsonl"), settings_digest(experiment, index)
    )
    policies = candidates(arguments.trials, arguments.seed, experiment.augment.denoise)
    total = sum(count for count, _ in rungs(len(policies), arguments.images))
    with cli.progress(total=total, desc="searching", unit="training") as bar:

        def score(name: str, images: int) -> float:
            bar.set_postfix_str(f"{name}, {images} images")
            loss = runner.validation_loss(policies[name], images)
            bar.update()
            return loss

        ranking = successive_halving(list(policies), arguments.images, score)
    best, loss = ranking[0]
    summary = f"{best}, the best of {len(policies)}: validation loss {loss:.6g}"
    write_policy(out, policies[best], f"{summary} after {arguments.images} images")
    for name, final_loss in ranking:
        print(f"{final_loss:.6g}\t{name}\t{describe(policies[name])}")
    print(f"{out}: {summary}; train with augment.policy={'auto' if not arguments.out else out}")
    if runner.threads:
        print(runner.threads, file=sys.stderr)
    return 0


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="vaetrain.augment.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--experiment", help="YAML file, or a name in launch/experiments/")
    add("--config_file", type=Path, help="engine file of every training")
    add(
        "--out",
        type=output_file,
        metavar="FILE",
        help=f"policy file to write; default: {AUTO_FILE} in the folder of the shards",
    )
    add("--trials", type=whole(2, 10_000), default=16, help="policies to try; default 16")
    add(
        "--images",
        type=whole(1, 10**9),
        default=8192,
        help="images of a training in the last round; default 8192",
    )
    add("--seed", type=whole(0, 2**63 - 1), default=0, help="seed of the policies; default 0")
    add("settings", nargs="*", metavar="key=value", help="override any setting")
    return parser


def _trainer(arguments: argparse.Namespace) -> list[str]:
    """Return the command line of a trial, without its policy, length and run directory."""
    command = [sys.executable, str(TRAINER), *arguments.settings, *TRIAL_SETTINGS]
    for option in ("config_file", "experiment"):
        if (value := getattr(arguments, option)) is not None:
            command += [f"--{option}", str(value)]
    return command


if __name__ == "__main__":
    cli.run("vaetrain.augment.search", main)
