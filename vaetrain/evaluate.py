"""Evaluate a run on any shards.

    python -m vaetrain.evaluate RUN --shards DIR [--split val|train|all] [--json FILE]

The averaged weights of the run - finished, or stopped after a checkpoint - are used, and
reconstructions are decoded from `mu`. Which pages are `val` is decided as in training: those of the
run's `data.val_templates` where the shards hold any, else the shards' own split.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from shards import command


def main() -> int:
    """Run the command; the exit status."""
    parser = command.Parser(prog="vaetrain.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=Path, required=True, help="folder of built shards")
    parser.add_argument("--split", choices=("val", "train", "all"), default="all")
    parser.add_argument("--json", type=Path, help="write the metrics to this file")
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
    from vaetrain.data import PageReader
    from vaetrain.engine import start_engine
    from vaetrain.handover import load_run
    from vaetrain.objective import Objective
    from vaetrain.schedules import weights_at
    from vaetrain.startup import running_launch
    from vaetrain.validation import encode_pages, summarise

    model, experiment = load_run(run)
    engine = start_engine(running_launch(os.environ), "no")
    model.to(engine.device)
    data = PageReader(shards, experiment, engine, model.stride)
    pages = encode_pages(
        model,
        data.pages(data.select(split)),
        engine,
        Objective(experiment).to(engine.device),
        weights_at(experiment, math.inf, math.inf),
    )
    return {"pages": len(pages.ids), **summarise(pages)}


if __name__ == "__main__":
    command.run("vaetrain.evaluate", main)
