"""Quality and cost of clusters of pages.

    python -m benchmarks.archetypes quality RUN --shards DIR [--known DIR] [--json FILE]
    python -m benchmarks.archetypes size PAGES [--method kmeans|gmm|hdbscan]

`quality` compares clusters of the shards' own validation pages, without the templates that the run
was trained on (--known), with k-means on PCA components (fitted to the training pages), on pixels
and on raw `mu`: agreement with labels, with 95% intervals over templates. All have as many clusters
as are found in the embedding; a second table is of as many as there are labels.

`size` clusters made-up embeddings of 296 dimensions, of twelve kinds of pages and templates of ten,
which lie in files as those of `vaetrain.cluster` do. It prints seconds, by part, and the growth of
the peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from shards import cli
from shards.reading.selection import select
from vaetrain.cli import output_file, whole
from vaetrain.clustering.agreement import NAMES, Value, agreement
from vaetrain.clustering.clusters import ClusterOptions, cluster_pages
from vaetrain.clustering.methods import METHODS
from vaetrain.clustering.subset import page_groups
from vaetrain.clustering.vectors import PART, Vectors
from vaetrain.data.loading import PageReader
from vaetrain.evaluation.baselines import MAX_FITTED_PAGES, PagePCA, pixel_vectors
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.inference.each_page import for_each_page
from vaetrain.inference.embedding import features_of
from vaetrain.inference.trained_model import TrainedModel

DIMENSIONS, KINDS, PER_TEMPLATE = 296, 12, 10
EMBEDDING = "embedding"


def main() -> int:
    """Run the command and return the exit status."""
    parser = cli.Parser(
        prog="benchmarks.archetypes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    quality_parser = commands.add_parser("quality", help="agreement with labels, on unseen pages")
    quality_parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    quality_parser.add_argument("--shards", type=cli.location, required=True, metavar="DIR")
    quality_parser.add_argument(
        "--known", type=cli.location, metavar="DIR", help="shards that the run was trained on"
    )
    quality_parser.add_argument("--json", type=output_file, metavar="FILE", help="write it here")
    size_parser = commands.add_parser("size", help="seconds and memory, by number of pages")
    size_parser.add_argument("pages", type=whole(1000, 10**8), metavar="PAGES")
    size_parser.add_argument("--method", choices=METHODS, default="kmeans")
    arguments = parser.parse_args()
    if arguments.command == "size":
        measure_size(arguments.pages, arguments.method)
        return 0
    tables = compare_vectors(TrainedModel(arguments.run), arguments.shards, arguments.known)
    for clusters, table in tables.items():
        print_table(clusters, table)
    if arguments.json is not None:
        content = {
            clusters: {
                name: {key: asdict(value) for key, value in row.items()}
                for name, row in table.items()
            }
            for clusters, table in tables.items()
        }
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def compare_vectors(
    trained: TrainedModel, shards: str | Path, known: str | Path | None
) -> dict[int, dict[str, dict[str, Value]]]:
    """Return, by number of clusters, the agreement of each kind of vectors, see `agreement`."""
    from sklearn.cluster import KMeans

    data = trained.open_shards(shards)
    # By the split of the build: few of these shards' pages may be of the run's own `val_templates`.
    limits = {"width": data.config.width, "max_height": data.config.max_height}
    training, pages = (select(data.index, split, **limits) for split in ("train", "val"))
    engine = trained.engine
    features = features_of(trained.model, data.pages(pages), engine)
    embeddings = features.vectors(trained.space_for(features)).float().numpy()
    size = (int(data.ladder[-1]), data.config.width)
    fitted = training.thinned(MAX_FITTED_PAGES)
    pca = PagePCA(data.pages(fitted), engine, size, trained.model.latent_dim)
    _, _, projected = for_each_page(pca.embed, len(pca.components), data.pages(pages), engine)
    del pca
    others = {
        "PCA": projected.numpy(),
        "pixels": pixel_vectors(data, pages, engine, size).numpy(),
        "raw mu": features.mu.numpy(),
    }
    names = PageLabels.from_index(data.index, features.ids)
    is_unseen = np.ones(len(embeddings), bool)
    if known is not None:
        is_unseen = ~np.isin(templates_of(data, features.ids.numpy()), trained_on(trained, known))
    groups = page_groups(names.templates.numpy()[is_unseen])
    labels, embeddings = names.labels.numpy()[is_unseen], embeddings[is_unseen]
    print(f"{len(groups)} pages of {groups.max() + 1} templates")
    found = cluster_pages(Vectors([embeddings]), groups, ClusterOptions())
    print(found.verdict)
    tables = {}
    for clusters in (found.count, len(np.unique(labels[labels >= 0]))):
        made = {EMBEDDING: found}
        if clusters != found.count:
            made[EMBEDDING] = cluster_pages(
                Vectors([embeddings]), groups, ClusterOptions(clusters=clusters)
            )
        made["embedding, mixture"] = cluster_pages(
            Vectors([embeddings]), groups, ClusterOptions("gmm", clusters)
        )
        compared = {name: each.labels.astype(np.int64) for name, each in made.items()}
        compared |= {
            name: KMeans(clusters, n_init=10, random_state=0).fit_predict(vectors[is_unseen])
            for name, vectors in others.items()
        }
        tables[clusters] = agreement(labels, compared, groups)
    return tables


def trained_on(trained: TrainedModel, shards: str | Path) -> np.ndarray:
    """Return the names of the templates of a run's training pages."""
    data = trained.open_shards(shards)
    pages = data.select("train")
    return np.unique(templates_of(data, pages.ids_at(np.arange(len(pages)))))


def templates_of(data: PageReader, ids: np.ndarray) -> np.ndarray:
    """Return the names of the templates of pages."""
    return np.array(data.index.templates)[data.index.rows(ids)["template"]]


def print_table(clusters: int, table: dict[str, dict[str, Value]]) -> None:
    """Print the agreement of each kind of vectors."""
    print(f"\n{clusters} clusters")
    print(f"{'':36}" + "".join(f"{name:>24}" for name in NAMES))
    for name, row in table.items():
        print(f"{name:36}" + "".join(f"{row[key]!s:>24}" for key in NAMES))


def measure_size(pages: int, method: str) -> None:
    """Cluster made-up embeddings and print the cost."""
    with tempfile.TemporaryDirectory() as folder:
        parts = write_embeddings(Path(folder), pages)
        groups = page_groups(np.arange(pages) // PER_TEMPLATE)
        before, start = peak_memory(), time.perf_counter()
        marks = []

        def progress(name: str, total: int):
            marks.append((name, time.perf_counter()))
            return lambda: None

        found = cluster_pages(Vectors(parts), groups, ClusterOptions(method), progress)
        end = time.perf_counter()
    print(f"{pages} pages, {DIMENSIONS} dimensions, {torch.get_num_threads()} threads")
    print(found.verdict)
    print(f"choosing pages: {marks[0][1] - start:.1f} s")
    for (name, first), last in zip(marks, [*(at for _, at in marks[1:]), end], strict=True):
        print(f"{name}: {last - first:.1f} s")
    print(f"peak memory: {(peak_memory() - before) / 1e6:.0f} MB above {before / 1e6:.0f} MB")


def write_embeddings(folder: Path, pages: int) -> list[Path]:
    """Write embeddings of length 1 into files, and return their paths."""
    random = np.random.default_rng(0)
    kinds = random.standard_normal((KINDS, DIMENSIONS)).astype(np.float32)
    paths = []
    for first in range(0, pages, PART):
        count = min(PART, pages - first)
        template = (first + np.arange(count)) // PER_TEMPLATE
        rows = kinds[template % KINDS] + random.standard_normal((count, DIMENSIONS), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        paths.append(folder / f"part-{first // PART:06}.npy")
        np.save(paths[-1], rows)
    return paths


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    cli.run("benchmarks.archetypes", main)
