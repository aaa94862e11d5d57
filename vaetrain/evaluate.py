"""Evaluate a run on any shards.

    python -m vaetrain.evaluate RUN --shards DIR [--split val|train|all] [--json FILE]

The averaged weights of the run - finished, or stopped after a checkpoint - are used, and
reconstructions are decoded from `mu`. Which pages are `val` is decided as in training: those of the
run's `data.val_templates` where the shards hold any, else the shards' own split.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from shards import command
from vaetrain.arguments import output_file


def main() -> int:
    """Run the command; the exit status."""
    parser = command.Parser(prog="vaetrain.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=Path, required=True, help="folder of built shards")
    parser.add_argument("--split", choices=("val", "train", "all"), default="all")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the metrics to this file"
    )
    arguments = parser.parse_args()
    metrics = evaluate(arguments.run, arguments.shards, arguments.split)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(metrics, indent=2) + "\n")
    for name, value in metrics.items():
        print(f"{name:20} {value:.6g}")
    return 0


def evaluate(run: Path, shards: Path, split: str) -> dict[str, float]:
    """The metrics of a run's model on a split of some shards, by the names of metrics.jsonl."""
    # Imported only now: torch takes seconds, and `--help` must not wait for it.
    from vaetrain.objective import Objective
    from vaetrain.schedules import weights_at
    from vaetrain.trained import TrainedModel
    from vaetrain.validation import encode_pages, summarise

    trained = TrainedModel(run)
    experiment = trained.experiment
    pages = encode_pages(
        trained.model,
        trained.batches(trained.open_shards(shards), split, "evaluating"),
        trained.engine,
        Objective(experiment).to(trained.engine.device),
        weights_at(experiment, math.inf, math.inf),
    )
    return {"pages": len(pages.ids), **summarise(pages)}


if __name__ == "__main__":
    command.run("vaetrain.evaluate", main)
