"""The command line of the trainer."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from vaetrain.config.experiment import Experiment, describe_settings
from vaetrain.engines.spec import Launch

EXPERIMENTS = Path(__file__).resolve().parents[2] / "launch" / "experiments"


@dataclass(frozen=True)
class Command:
    """A checked command line of the trainer."""

    experiment: Experiment
    run_dir: Path
    launch: Launch


def parse_command(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="accelerate launch vaetrain/train.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a VAE of wireframes. The same command again resumes the run.",
        epilog="settings (key=default, meaning, what is allowed):\n" + describe_settings(),
    )
    parser.add_argument("--config_file", type=Path, help="engine file, e.g. of accelerate_configs/")
    parser.add_argument("--experiment", help="YAML file, or a name in launch/experiments/")
    parser.add_argument("--run-dir", type=Path, help="default: runs/<name of the experiment>")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="override any setting")
    return parser.parse_intermixed_args(argv)


def experiment_path(name: str | None) -> Path:
    """The file of an experiment given as a path, or by a name in `launch/experiments/`."""
    path = Path(name or "default")
    named = EXPERIMENTS / f"{path}.yaml"
    return named if not path.suffix and named.is_file() else path
