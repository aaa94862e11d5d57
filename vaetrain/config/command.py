"""Command line of the trainer."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from vaetrain.config.experiment import Experiment, describe_settings
from vaetrain.engines.engine_files import engine_file
from vaetrain.engines.spec import Launch

EXPERIMENTS = Path(__file__).resolve().parents[2] / "launch" / "experiments"


@dataclass(frozen=True)
class Command:
    """A checked command line of the trainer."""

    experiment: Experiment
    run_dir: Path
    launch: Launch


def parse_command(argv: list[str]) -> argparse.Namespace:
    """Return the parsed command line; `--help` and unknown options end the process."""
    parser = argparse.ArgumentParser(
        prog="accelerate launch vaetrain/train.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a VAE of wireframes. The same command again resumes the run.",
        epilog="settings (key=default, meaning, allowed values):\n" + describe_settings(),
    )
    parser.add_argument(
        "--config_file",
        type=engine_file,
        metavar="ENGINE",
        help="engine file, or a name in accelerate_configs/, e.g. ddp",
    )
    parser.add_argument("--experiment", help="YAML file, or a name in launch/experiments/")
    parser.add_argument("--run-dir", type=Path, help="default: runs/<name of the experiment>")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="override any setting")
    return parser.parse_intermixed_args(argv)


def experiment_path(name: str | None) -> Path:
    """Return the path of an experiment, given as a path or as a name in `launch/experiments/`.

    None is the experiment `default`.
    """
    path = Path(name or "default")
    shipped = EXPERIMENTS / f"{path}.yaml"
    return shipped if not path.suffix and shipped.is_file() else path
