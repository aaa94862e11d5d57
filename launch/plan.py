"""Plan of a large run: does it fit, what is sent and read, how long does it take.

    python -m launch.plan --nodes 16 --gpus 8 --experiment base data.shards=DIR
    python -m launch.plan --nodes 2 --gpus 8 --config_file zero2 --json plan.json \\
        --samples 100000000 --bytes-per-sample 3000 model.size=large

Nothing is trained, and no GPU is needed: the numbers follow from the settings, the shapes of the
model, the index of the shards, and rates that are assumed unless they are given. Each number is
printed with the way it was found. The exit status is 1 if the run as it is set cannot start, or
does not fit into the memory of its GPUs.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from shards import cli
from shards.errors import DamagedShards, UserError
from shards.location import INDEX_NAME
from vaetrain.cli import output_file, print_error, whole
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import Experiment, load_experiment
from vaetrain.engines.engine_files import engine_file, is_shipped, read_engine_file
from vaetrain.engines.spec import Launch
from vaetrain.settings import ConfigError

if TYPE_CHECKING:
    from launch.planning.inputs import Cluster, Pages

MOST_NODES, MOST_GPUS, MOST_PAGES, MOST_BYTES = 100_000, 1024, 10**12, 10**9


class Parser(argparse.ArgumentParser):
    """Argument parser that prints errors as one line that begins with `error:`."""

    def error(self, message: str) -> NoReturn:
        print_error(message)
        self.exit(2)


def main() -> int:
    """Run the command; return the exit status."""
    arguments = _parser().parse_intermixed_args()
    try:
        return run(arguments)
    except UserError as error:
        print_error(str(error))
        return 2
    except DamagedShards as error:
        print_error(f"{error}; or give --samples and --bytes-per-sample")
        return 1


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; return 1 if the run cannot start or does not fit.

    Raises UserError or DamagedShards.
    """
    experiment = load_experiment(experiment_path(arguments.experiment), arguments.settings)
    file = arguments.config_file
    # In a file of one's own, the number of processes may select the engine.
    ranks = {"num_processes": str(arguments.nodes * arguments.gpus)}
    launch = read_engine_file(file, None if is_shipped(file) else ranks)
    _refuse_unplanned(experiment)
    _require_shards(arguments, experiment)
    # Local imports: torch takes seconds to import, and errors must not wait for it.
    from launch.planning import figures, inputs, run_plan

    experiment = inputs.on_gpu(experiment, launch)
    cluster = _cluster(arguments)
    rate = None
    if arguments.images_per_second is not None:
        rate = inputs.Rate(arguments.images_per_second, "--images-per-second")
    elif arguments.profile is not None:
        rate = inputs.read_rate(arguments.profile)
    model = inputs.ModelSizes(experiment, launch)
    pages, copy_size = _pages(arguments, experiment), inputs.copy_size_of(launch, cluster)
    plan = run_plan.make_plan(
        run_plan.PlanInputs(experiment, launch.spec, cluster, pages, model, copy_size, rate)
    )
    title = _title(experiment, launch, cluster)
    print(title, "", *_verdict(plan.problems), "", figures.table(plan.figures), sep="\n")
    if arguments.json is not None:
        facts = {"plan": title, "can_run": not plan.problems, "problems": plan.problems}
        figures.write_json(arguments.json, facts, plan.figures)
    return int(bool(plan.problems))


def _refuse_unplanned(experiment: Experiment) -> None:
    """Raise ConfigError for settings whose memory is not predicted."""
    if experiment.gan.enabled:
        raise ConfigError(
            "gan.enabled: the memory of a discriminator is not predicted; set gan.enabled=false"
        )
    if experiment.optimizer.name != "adamw":
        raise ConfigError(
            f"optimizer.name: the state of {experiment.optimizer.name} is not predicted; set "
            "optimizer.name=adamw"
        )


def _require_shards(arguments: argparse.Namespace, experiment: Experiment) -> None:
    """Raise ConfigError if neither shards nor numbers in their place are given."""
    if (arguments.samples is None) != (arguments.bytes_per_sample is None):
        raise ConfigError("--samples, --bytes-per-sample: give both, or data.shards")
    folder = experiment.data.folder
    is_local = arguments.samples is None and isinstance(folder, Path)
    if is_local and not (folder / INDEX_NAME).is_file():
        raise ConfigError(
            f"data.shards: {folder} holds no {INDEX_NAME}; set data.shards, or give --samples and "
            "--bytes-per-sample"
        )


def _cluster(arguments: argparse.Namespace) -> Cluster:
    from launch.planning.inputs import Cluster

    names = [field.name for field in dataclasses.fields(Cluster)]
    return Cluster(**{name: getattr(arguments, name) for name in names})


def _pages(arguments: argparse.Namespace, experiment: Experiment) -> Pages:
    from launch.planning.inputs import assumed_pages, read_pages

    if arguments.samples is None:
        return read_pages(experiment)
    return assumed_pages(
        experiment, arguments.samples, arguments.val_samples, arguments.bytes_per_sample
    )


def _title(experiment: Experiment, launch: Launch, cluster: Cluster) -> str:
    """Return the first line of the plan."""
    data = experiment.data
    return (
        f"{experiment.name}: {experiment.model.size}, {data.width} x {data.max_height} px, "
        f"{launch.engine}, precision {experiment.train.precision}, {cluster.nodes} "
        f"node{'s' * (cluster.nodes > 1)} with {cluster.gpus} GPU{'s' * (cluster.gpus > 1)}"
    )


def _verdict(problems: list[str]) -> list[str]:
    if problems:
        return ["This run cannot be started as it is set:", *(f"- {line}" for line in problems)]
    return ["This run fits, and its batch can be divided over the ranks."]


def _parser() -> Parser:
    parser = Parser(
        prog="python -m launch.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--nodes", type=whole(1, MOST_NODES), required=True, metavar="N", help="machines")
    add("--gpus", type=whole(1, MOST_GPUS), required=True, metavar="N", help="GPUs of a machine")
    add("--experiment", metavar="NAME", help="YAML file, or a name in launch/experiments/")
    add(
        "--config_file",
        type=engine_file,
        default=engine_file("ddp"),
        metavar="ENGINE",
        help="engine file, or a name in accelerate_configs/ (default ddp)",
    )
    add("--json", type=output_file, metavar="FILE", help="write the plan as JSON, too")
    _add_rates(parser)
    _add_pages(parser)
    add("settings", nargs="*", metavar="key=value", help="override any setting of the trainer")
    return parser


def _add_rates(parser: Parser) -> None:
    """Add the options of what is assumed, each with its default, and of measured rates."""
    assumed = parser.add_argument_group("assumed unless given")
    for option, default, text in (
        ("--gpu-memory", 80.0, "memory of a GPU, GiB"),
        ("--free-memory-share", 0.1, "share of it that stays free for workspaces"),
        ("--gpu-tflops", None, "peak rate of a GPU, 10^12 FLOP/s; default: an H100's"),
        ("--utilisation", 0.2, "share of the peak rate that the training reaches"),
        ("--launch-us", 5.0, "time in which the host starts an operation, 10^-6 s"),
        ("--gpu-link-gb", 360.0, "between GPUs of a node, 10^9 bytes/s per GPU and direction"),
        ("--network-gbit", 3200.0, "network of a node, 10^9 bit/s per direction"),
        ("--disk-mb", 1000.0, "rate at which a node writes checkpoints, 10^6 bytes/s"),
        ("--host-gb", 10.0, "copies from a GPU to host memory, 10^9 bytes/s"),
        ("--validation-seconds", 6.4, "work of the main process in a validation, s"),
    ):
        is_share = option in ("--free-memory-share", "--utilisation")
        assumed.add_argument(
            option,
            type=_number(1.0 if is_share else math.inf),
            default=default,
            metavar="X",
            dest="free_share" if option == "--free-memory-share" else None,
            help=text if default is None else f"{text} (default {default:g})",
        )
    measured = parser.add_argument_group("measured, in place of --gpu-tflops and --utilisation")
    either = measured.add_mutually_exclusive_group()
    either.add_argument(
        "--images-per-second",
        type=_number(math.inf),
        metavar="X",
        help="training rate of one GPU",
    )
    either.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="throughput.json that python -m benchmarks.throughput has written on such a GPU",
    )


def _add_pages(parser: Parser) -> None:
    pages = parser.add_argument_group("in place of shards")
    pages.add_argument(
        "--samples",
        type=whole(1, MOST_PAGES),
        metavar="N",
        help="training pages, all of the largest height",
    )
    pages.add_argument(
        "--bytes-per-sample",
        type=whole(1, MOST_BYTES),
        metavar="B",
        help="bytes of a page in its shard",
    )
    pages.add_argument(
        "--val-samples",
        type=whole(0, MOST_PAGES),
        default=0,
        metavar="N",
        help="validation pages (default 0)",
    )


def _number(limit: float) -> Callable[[str], float]:
    """Return a parser of numbers above 0 and below `limit`."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 < number < limit:
            below = "" if limit == math.inf else f" and below {limit:g}"
            raise argparse.ArgumentTypeError(f"is {text}, must be a number above 0{below}")
        return number

    return parse


if __name__ == "__main__":
    cli.run("launch.plan", main)
