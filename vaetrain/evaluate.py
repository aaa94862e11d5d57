"""Evaluate a run on any shards.

    python -m vaetrain.evaluate RUN --shards DIR [--split val|train|all] [--json FILE]
        [--baselines TRAIN_SHARDS] [--sheets FOLDER] [--refine STEPS]

Uses the averaged weights of the run, which may be finished, or stopped after a checkpoint.
Reconstructions are decoded from `mu`. Validation pages are chosen as in training: the pages of the
run's `data.val_templates` if the shards have any, else the shards' own split. FID and LPIPS are
measured if their weights are in torch's cache. Without Inception's weights `fid_random` replaces
`fid`; its values are comparable with one another only. Samples of the prior are compared with the
training pages of TRAIN_SHARDS; without it with those of the run's own shards, or, if these are not
on this machine, of DIR. With several processes
(`accelerate launch -m vaetrain.evaluate ...`) the pages are shared among the ranks. `--sheets`
writes samples, interpolations and reconstructions as pictures; it needs one process. `--refine`
also measures pages decoded from the vector alone, after so many gradient steps on it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards import cli
from shards.atomic_files import write_atomic, writing
from shards.format.png import encode_png
from vaetrain.cli import output_file, output_folder, whole

if TYPE_CHECKING:
    from vaetrain.data.loading import PageReader
    from vaetrain.inference.trained_model import TrainedModel


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument(
        "--split",
        choices=("val", "train", "all"),
        default="all",
        help="pages to evaluate; default all",
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the metrics to this file"
    )
    parser.add_argument(
        "--baselines",
        type=cli.location,
        metavar="TRAIN_SHARDS",
        help="also measure baselines: a blank page, and the mean page and PCA fitted to the "
        "training pages of these shards",
    )
    parser.add_argument(
        "--sheets",
        type=output_folder,
        metavar="FOLDER",
        help="write contact sheets: samples.png, interpolations.png and reconstructions.png",
    )
    parser.add_argument(
        "--refine",
        type=whole(1, 10_000),
        default=0,
        metavar="STEPS",
        help="also measure pages decoded from refined vectors, as by vaetrain.reconstruct",
    )
    evaluate(parser.parse_args())
    return 0


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate the run, write the JSON file and print the table on the main process."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.evaluation.full_evaluation import evaluate_model
    from vaetrain.inference.trained_model import TrainedModel

    trained = TrainedModel(arguments.run)
    if arguments.sheets is not None:
        trained.require_one_process("vaetrain.evaluate --sheets")
    data = trained.open_shards(arguments.shards)
    training = None if arguments.baselines is None else trained.open_shards(arguments.baselines)
    metrics = evaluate_model(trained, data, arguments.split, training, arguments.refine)
    engine = trained.engine
    if engine.is_main:
        if arguments.json is not None:
            write_atomic(arguments.json, json.dumps(metrics, indent=2) + "\n")
        print_table(metrics)
    if arguments.sheets is not None:
        write_sheets(Path(arguments.sheets), trained, data, arguments.split)
    trained.report_threads()
    if engine.world_size > 1:
        engine.shut_down(0)


def write_sheets(folder: Path, trained: TrainedModel, data: PageReader, split: str) -> None:
    """Write the contact sheets of a split's pages into a folder, which is made if needed."""
    from vaetrain.reporting.contact_sheets import contact_sheets

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, picture in contact_sheets(trained, data, data.select(split)).items():
        write_atomic(folder / f"{name}.png", encode_png(picture))


def print_table(metrics: dict[str, Any]) -> None:
    """Print one line a metric with one column for the model and for each baseline."""
    columns = {"model": metrics, **metrics.get("baselines", {})}
    if len(columns) > 1:
        print(f"{'':24}" + "".join(f"{name:>12}" for name in columns))
    in_columns = {f"{base}_{name}" for base in columns for name in columns[base]}
    for name in (n for n in metrics if n not in {"baselines", "latent_std"} | in_columns):
        values = [column.get(name) for column in columns.values()]
        cells = ["" if value is None else f"{value:.6g}" for value in values]
        print(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells).rstrip())


if __name__ == "__main__":
    cli.run("vaetrain.evaluate", main)
