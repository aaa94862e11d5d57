"""Write the report of a study again: runs/NAME/report.html and report.md.

    python -m launch.report launch/experiments/beta_sweep.yaml

The HTML file is self-contained and opens offline. Give the same settings as for the sweep. Means
are over seeds, with 95% confidence intervals (Student's t).
"""

from __future__ import annotations

import argparse
import base64
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from launch.compare import ROUNDING, Comparison, Interval, compare, mean_interval
from launch.study import Study, load_study
from shards import cli, optional_dependencies
from shards.atomic_files import write_atomic
from vaetrain.settings import ConfigError

if TYPE_CHECKING:
    from launch.trials import Outcome

SHOWN = 8  # maximum of settings in a chart with a legend; more colours are hard to distinguish
IN_ORDER = 12  # longer tables are sorted by the metric instead of the order of the study
TEMPLATES = Path(__file__).parent / "templates"
PICTURE = Path("final") / "reconstructions.png"


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="launch.report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="YAML file of the study")
    parser.add_argument(
        "--run-dir", type=Path, help="folder of the study; needed if the sweep had --run-dir"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="the settings given to the sweep"
    )
    arguments = parser.parse_intermixed_args()
    optional_dependencies.require("optuna", "sweep", "a report")
    study = load_study(arguments.study, arguments.settings)
    folder = arguments.run_dir or Path("runs") / study.name
    if study.sweep.storage is None and not (folder / "study.db").exists():
        raise ConfigError(f"{folder}: contains no study.db; run launch.sweep first")
    from launch.trials import Trials

    for path in write_report(study, Trials(study, folder).outcomes(), folder):
        print(path)
    return 0


@dataclass(frozen=True)
class Row:
    """Row of the table: the results of one setting.

    Attributes:
        scores: interval of each metric by name: the judges and those in `sweep.show`.
        comparisons: comparison with the baseline by each judge that was measured.
        images, minutes: mean cost of one seed; None before a seed has finished.
        picture: PNG of reconstructions of the first seed that has one.
    """

    label: str
    state: str
    is_baseline: bool
    seeds: int
    scores: dict[str, Interval]
    comparisons: dict[str, Comparison]
    images: float | None
    minutes: float | None
    picture: Path | None
    failure: str | None


def write_report(study: Study, outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Write both reports; return their paths."""
    optional_dependencies.require("matplotlib", "sweep", "a report")
    optional_dependencies.require("jinja2", "sweep", "a report")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    rows = table(study, outcomes)
    charts = draw_charts(study, outcomes, rows)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "interval": interval_text,
        "plain": plain_markdown,
        "data_url": data_url,
        "address": lambda path: quote(str(path.relative_to(folder))),
    }
    (folder / "report").mkdir(exist_ok=True)
    for name, chart in charts.items():
        write_atomic(folder / "report" / f"{name}.svg", chart.svg)
    pictured = [row for row in best_first(study, rows) if row.picture][:SHOWN]
    facts = {
        "study": study,
        "rows": rows,
        "pictured": sorted(pictured, key=rows.index),
        "charts": charts,
        "metrics": [name for name in metric_names(study) if any(name in r.scores for r in rows)],
        "judges": [name for name in study.judges if any(name in r.scores for r in rows)],
        "counts": {row.state: sum(r.state == row.state for r in rows) for row in rows},
        "minutes": sum(r.seconds for o in outcomes for r in o.records.values()) / 60,
        "images": sum(r.images for o in outcomes for r in o.records.values()),
        "in_order": len(rows) <= IN_ORDER,
    }
    paths = [folder / "report.html", folder / "report.md"]
    for path in paths:
        write_atomic(path, environment.get_template(path.name).render(facts))
    return paths


def metric_names(study: Study) -> list[str]:
    """Return the metrics of the table; the metric that ranks the settings comes first."""
    return list(dict.fromkeys([*study.judges, *study.sweep.show]))


def table(study: Study, outcomes: Sequence[Outcome]) -> list[Row]:
    """Return a row for each setting: in the order of the study, or best first if there are many."""
    baseline = find_baseline(study, outcomes)
    compared = [o for o in outcomes if o.records and o is not baseline]
    rows = []
    for outcome in outcomes:
        records = list(outcome.records.values())
        scores = {}
        for name in metric_names(study):
            values = [r.metrics[name] for r in records if name in r.metrics]
            if values:
                scores[name] = mean_interval(values)
        comparisons = {}
        if baseline is not None and outcome in compared:
            comparisons = compare_by_judges(study, outcome, baseline, len(compared))
        pictures = (outcome.folder / f"seed-{seed}" / PICTURE for seed in outcome.records)
        rows.append(
            Row(
                label=outcome.label,
                state=outcome.state,
                is_baseline=outcome is baseline,
                seeds=len(records),
                scores=scores,
                comparisons=comparisons,
                images=sum(r.images for r in records) / len(records) if records else None,
                minutes=sum(r.seconds for r in records) / 60 / len(records) if records else None,
                picture=next((path for path in pictures if path.is_file()), None),
                failure=outcome.failure if outcome.state == "failed" else None,
            )
        )
    return rows if len(rows) <= IN_ORDER else best_first(study, rows)


def find_baseline(study: Study, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the outcome of the baseline; None if it has no results."""
    wanted = study.sweep.baseline
    for outcome in outcomes:
        if wanted in (None, outcome.label):
            return outcome if outcome.records else None
    return None


def compare_by_judges(
    study: Study, outcome: Outcome, baseline: Outcome, settings: int
) -> dict[str, Comparison]:
    """Compare a setting with the baseline by every judge that both measured.

    The intervals of all judges and of so many settings hold together at 95%.
    """
    measured = [name for name in study.judges if scores_by_seed(name, baseline)]
    comparisons = {
        name: compare(
            scores_by_seed(name, outcome),
            scores_by_seed(name, baseline),
            higher_is_better=study.judges[name] == "maximize",
            comparisons=settings * len(measured),
        )
        for name in measured
    }
    return {name: value for name, value in comparisons.items() if value is not None}


def scores_by_seed(metric: str, outcome: Outcome) -> dict[int, float]:
    """Return the values of a metric for a setting, by seed."""
    return {seed: r.metrics[metric] for seed, r in outcome.records.items() if metric in r.metrics}


def best_first(study: Study, rows: Sequence[Row]) -> list[Row]:
    """Sort rows by the metric of the study, best first; rows without it come last."""
    metric, sign = study.sweep.metric, -1 if study.sweep.direction == "maximize" else 1
    return sorted(
        rows,
        key=lambda row: sign * row.scores[metric].mean if metric in row.scores else float("inf"),
    )


@dataclass(frozen=True)
class Chart:
    """A chart with its title and caption."""

    svg: str
    title: str
    text: str


def draw_charts(study: Study, outcomes: Sequence[Outcome], rows: Sequence[Row]) -> dict[str, Chart]:
    """Draw the charts of the report; charts without data are omitted."""
    from launch import charts

    metric = study.sweep.metric
    scored = [row for row in rows if metric in row.scores]
    if not scored:
        return {}
    few = best_first(study, scored)[: SHOWN - 1]
    kept = {row.label for row in few} | {row.label for row in scored if row.is_baseline}
    shown = [outcome for outcome in outcomes if outcome.label in kept]
    note = "" if len(scored) == len(shown) else f" The best {len(few)} settings and the baseline."
    drawn = settings_charts(study, rows) | {
        "curves": Chart(
            charts.curves(_series(shown, "curve"), f"validation {metric}"),
            f"Learning curves: {metric} in validation",
            f"Mean over seeds. Shaded area: from the lowest to the highest seed.{note}",
        ),
        "loss": Chart(
            charts.curves(_series(shown, "loss"), "training loss"),
            "Learning curves: training loss",
            "The loss that each setting optimises. Do not compare settings with different loss "
            "weights by this loss." + note,
        ),
    }
    varies_beta = any(name.startswith("beta.") for name in study.space)
    beside = [r for r in few if {"kl", "l1"} <= r.scores.keys()]
    if varies_beta and beside:
        points = [charts.Dot(r.label, r.scores["l1"], r.scores["kl"]) for r in rows if r in beside]
        drawn["rate_distortion"] = Chart(
            charts.rate_distortion(points, pca_distortion(outcomes)),
            "Rate and distortion",
            "KL per page against the L1 of its reconstruction, both with 95% confidence intervals. "
            "Nearer to the lower left corner is better. Dashed: PCA of the "
            "training pages, with as many components as the latent has dimensions." + note,
        )
    return drawn


def pca_distortion(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the mean L1 of PCA over all trainings, by its name; empty if it was not measured."""
    records = [record for outcome in outcomes for record in outcome.records.values()]
    found = [record.baselines["pca"] for record in records if "pca" in record.baselines]
    return {"PCA": sum(found) / len(found)} if found else {}


def settings_charts(study: Study, rows: Sequence[Row]) -> dict[str, Chart]:
    """Draw one chart of all settings for each judge."""
    from launch import charts

    drawn = {}
    for judge, direction in study.judges.items():
        scored = [row for row in rows if judge in row.scores]
        if not scored:
            continue
        base = next((row.scores[judge].mean for row in scored if row.is_baseline), None)
        better = "Higher" if direction == "maximize" else "Lower"
        name = "settings" if judge == study.sweep.metric else f"settings_{judge}"
        drawn[name] = Chart(
            charts.dots([charts.Dot(r.label, r.scores[judge]) for r in scored], judge, base),
            f"{judge} of every setting",
            f"Mean over seeds with its 95% confidence interval. {better} is better. Dashed line: "
            "the baseline.",
        )
    return drawn


def _series(outcomes: Sequence[Outcome], attribute: str):
    from launch.charts import Series

    return [
        Series(o.label, [getattr(record, attribute) for record in o.records.values()])
        for o in outcomes
    ]


def interval_text(interval: Interval, *, signed: bool = False) -> str:
    """Format a mean ± half width, rounded to two digits of the half width; no ± for one seed."""
    sign, half_width = "+" if signed else "", interval.half_width
    if interval.count == 1:
        return f"{interval.mean:{sign}.4g}"
    if half_width < ROUNDING * abs(interval.mean):  # equal values, up to rounding
        half_width = 0.0
    if not 0 < half_width < math.inf:
        return f"{interval.mean:{sign}.4g} ± {half_width:g}"
    decimals = max(0, 1 - math.floor(math.log10(half_width)))
    return f"{interval.mean:{sign}.{decimals}f} ± {half_width:.{decimals}f}"


def plain_markdown(text: object) -> str:
    """Escape text for Markdown and HTML; the result is one line."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~$-])", r"\\\1", line)


def data_url(content: str | Path) -> str:
    """Encode a chart (SVG text) or a picture (path of a PNG) as a data URL."""
    if isinstance(content, Path):
        kind, data = "png", content.read_bytes()
    else:
        kind, data = "svg+xml", content.encode()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


if __name__ == "__main__":
    cli.run("launch.report", main)
