"""Evaluate a run on any shards.

    python -m vaetrain.evaluate RUN --shards DIR [--split val|train|all] [--json FILE]
        [--baselines TRAIN_SHARDS]

The averaged weights of the run - finished, or stopped after a checkpoint - are used, and
reconstructions are decoded from `mu`. Which pages are `val` is decided as in training: those of the
run's `data.val_templates` where the shards hold any, else the shards' own split. FID and LPIPS need
weights in torch's cache and are left out without them; `fid_random`, comparable with itself only,
takes FID's place. With several
processes (`accelerate launch -m vaetrain.evaluate ...`) they share the pages.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from shards import cli
from shards.storage import write_atomic
from vaetrain.cli import output_file

RANKED = ("precision_at_10", "box_iou_at_10")  # measured by the distance of a search, too


def main() -> int:
    """Run the command; the exit status."""
    parser = cli.Parser(
        prog="vaetrain.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument("--split", choices=("val", "train", "all"), default="all")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the metrics to this file"
    )
    parser.add_argument(
        "--baselines",
        type=cli.location,
        metavar="TRAIN_SHARDS",
        help="also measure a blank page, and the mean and the principal components of the training "
        "pages of these shards",
    )
    arguments = parser.parse_args()
    evaluate(arguments.run, arguments.shards, arguments.split, arguments.json, arguments.baselines)
    return 0


def evaluate(
    run: Path, shards: str | Path, split: str, out: Path | None, training: str | Path | None
) -> None:
    """Print and write the metrics of a run's model on a split of some shards.

    Args:
        out: JSON by the names of metrics.jsonl, `latent_std` the list of every dimension's, and
            under `baselines` by theirs.
        training: shards that baselines are fitted to; None: there are none.
    """
    # Imported only now: torch takes seconds, and `--help` must not wait for it.
    from vaetrain.artifacts.final_model import load_encoder
    from vaetrain.evaluation.full_evaluation import (
        NetworkMetrics,
        Retrieval,
        compare_with_baselines,
    )
    from vaetrain.evaluation.path_smoothness import path_smoothness
    from vaetrain.evaluation.validation import encode_pages, summarise
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.losses.objective import Objective
    from vaetrain.schedules import weights_at

    trained = TrainedModel(run)
    experiment, engine = trained.experiment, trained.engine
    data = trained.open_shards(shards)
    fitted = None if training is None else trained.open_shards(training)
    selection = data.select(split)
    pages = encode_pages(
        trained.model,
        trained.batches(data, split, "evaluating"),
        engine,
        Objective(experiment, load_encoder).to(engine.device),
        weights_at(experiment, math.inf, math.inf),
    )
    networks = NetworkMetrics(trained, data, selection)
    retrieval = Retrieval(data, selection, engine)
    metrics: dict[str, Any] = {"pages": len(pages.ids), **summarise(pages)}
    metrics |= networks.metrics(trained.reconstruct)
    if len(pages.ids) > 1:
        metrics["latent_std"] = pages.mu.double().std(dim=0).tolist()
    metrics |= retrieval.metrics(pages.mu)
    searched = retrieval.metrics(pages.search_vectors())
    metrics |= {f"{name}_search": searched[name] for name in RANKED if name in searched}
    metrics |= path_smoothness(trained, data, selection)
    if fitted is not None:
        metrics["baselines"] = compare_with_baselines(
            trained, data, selection, fitted, retrieval, networks
        )
    if engine.is_main:
        if out is not None:
            write_atomic(out, json.dumps(metrics, indent=2) + "\n")
        show(metrics)
    if engine.world_size > 1:
        engine.shut_down(0)


def show(metrics: dict[str, Any]) -> None:
    """Print a table: a metric a line, the model before its baselines."""
    columns = {"model": metrics, **metrics.get("baselines", {})}
    if len(columns) > 1:
        print(f"{'':24}" + "".join(f"{name:>12}" for name in columns))
    for name in (name for name in metrics if name not in ("baselines", "latent_std")):
        values = [column.get(name) for column in columns.values()]
        shown = ["" if value is None else f"{value:.6g}" for value in values]
        print(f"{name:24}" + "".join(f"{value:>12}" for value in shown).rstrip())


if __name__ == "__main__":
    cli.run("vaetrain.evaluate", main)
