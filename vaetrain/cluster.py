"""Find the kinds of pages that shards hold: clusters of their embeddings.

    python -m vaetrain.cluster RUN --shards DIR --out DIR [--clusters auto|N]
        [--method kmeans|gmm|hdbscan] [--by-page] [--seed S]

Writes into the folder --out:

- clusters.parquet: one row a page: id (sample id), key, label, template, page_id, cluster (0 is the
  largest; -1 is noise, of hdbscan), distance (to the cluster's centre) and probability;
- clusters.png: of each cluster its medoid, its most typical and most atypical pages, its spread;
- clusters.json: number of clusters, stability, silhouette, agreement with labels, what was tried;
- embedding/: the pages' embeddings. A second call uses them, so an interrupted one continues there.

Clusters are fitted to at most 8,192 pages: 32 of a template, and near-duplicates once. No cluster
consists of one template, unless --by-page is given. The number of clusters, if it is auto, is the
one at which stability and silhouette are most above those of one Gaussian; if none is, the pages
have no structure, and are one cluster. Labels have no influence.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shards import cli, optional_dependencies
from shards.errors import one_line
from vaetrain.cli import output_folder, whole
from vaetrain.clustering.methods import METHODS

MAX_CLUSTERS = 1000


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument("--out", type=output_folder, required=True, help="folder to write to")
    parser.add_argument(
        "--clusters", type=count_or_auto, metavar="auto|N", help="number of clusters; default auto"
    )
    parser.add_argument("--method", choices=tuple(METHODS), default="kmeans", help="default kmeans")
    parser.add_argument(
        "--by-page", action="store_true", help="every page counts, not every template"
    )
    parser.add_argument(
        "--seed", type=whole(0, 2**31 - 1), default=0, metavar="S", help="default 0"
    )
    arguments = parser.parse_args()
    if arguments.method == "hdbscan" and arguments.clusters is not None:
        parser.error("--clusters: hdbscan finds the number; use --method kmeans or gmm")
    cluster(arguments)
    return 0


def count_or_auto(text: str) -> int | None:
    """Parse a number of clusters; None for `auto`."""
    return None if text == "auto" else whole(2, MAX_CLUSTERS)(text)


def cluster(arguments: argparse.Namespace) -> None:
    """Embed and cluster all pages, write the files and print a table."""
    optional_dependencies.require("pyarrow", "cluster", "clusters.parquet")
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    import numpy as np
    import torch

    from vaetrain.clustering import files
    from vaetrain.clustering.agreement import agreement
    from vaetrain.clustering.clusters import ClusterOptions, cluster_pages
    from vaetrain.clustering.subset import page_groups
    from vaetrain.clustering.vectors import embed_pages
    from vaetrain.evaluation.retrieval import PageLabels
    from vaetrain.inference.trained_model import TrainedModel

    trained = TrainedModel(arguments.run)
    trained.require_one_process("vaetrain.cluster")
    data, out = trained.open_shards(arguments.shards), Path(arguments.out)
    vectors = embed_pages(trained, data, out / "embedding")
    names = PageLabels.from_index(data.index, torch.arange(len(vectors)))
    groups = page_groups(names.templates.numpy())
    options = ClusterOptions(
        arguments.method, arguments.clusters, arguments.by_page, arguments.seed
    )
    bars = []

    def progress(name: str, total: int):
        bars.append(cli.progress(total=total, desc=name))
        return bars[-1].update

    clustering = cluster_pages(vectors, groups, options, progress)
    for bar in bars:
        bar.close()
    agreed = agreement(
        names.labels.numpy(), {"pages": clustering.labels.astype(np.int64)}, groups
    ).get("pages")
    summary = files.describe_clusters(data, clustering, groups, agreed)
    files.write_table(out / files.TABLE, data, clustering)
    files.write_sheet(out / files.SHEET, data, clustering, groups, summary)
    files.write_summary(out / files.SUMMARY, summary)
    print_table(summary, agreed)
    print(out / files.SHEET)
    trained.report_threads()


def print_table(summary: dict[str, Any], agreed: dict[str, Any] | None) -> None:
    """Print one line a cluster, then what the clusters are worth."""
    print(f"{'cluster':>7} {'pages':>8} {'templates':>9} {'stability':>9} {'distance':>8}  labels")
    for each in summary["each"]:
        stability = "" if each["stability"] is None else f"{each['stability']:.2f}"
        labels = ", ".join(f"{one_line(k)} {v:.0%}" for k, v in each["labels"].items())
        median = each["distance"]["median"]
        print(
            f"{each['cluster']:>7} {each['pages']:>8} {each['templates']:>9} {stability:>9} "
            f"{median:>8.2f}  {labels}".rstrip()
        )
    if summary["noise"]:
        print(f"{'noise':>7} {summary['noise']:>8}")
    if summary["by_page"]:
        print("every page counts for itself (--by-page, or fewer than 8 templates)")
    print(summary["verdict"])
    if agreed is not None:
        print("agreement with labels: " + ", ".join(f"{k} {v}" for k, v in agreed.items()))


if __name__ == "__main__":
    cli.run("vaetrain.cluster", main)
