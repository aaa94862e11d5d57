"""Build of an atlas: measure the pages, place them on the map, write the folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from shards.atomic_files import atomic_folder, sha256_of
from shards.progress import stage
from vaetrain.atlas_site.block_files import write_blocks
from vaetrain.atlas_site.clusters import Clusters, read_clusters
from vaetrain.atlas_site.latent_files import reason_against, write_latent
from vaetrain.atlas_site.map_files import application_version, write_map
from vaetrain.atlas_site.pages import measure_pages
from vaetrain.atlas_site.projection import find_neighbours, project
from vaetrain.atlas_site.target import STAMP, check_target
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.settings import ConfigError

SOURCES = (".py", ".html", ".css", ".js")  # an atlas of another version is built again
PAGE = Path(__file__).parent / "page"


def build_atlas(
    run: Path, shards: str | Path, out: Path, clusters: Path | None, thumbnail: int
) -> None:
    """Build the atlas of a run and some shards, unless the folder already holds the same one.

    Args:
        out: folder to write; an atlas that is there is replaced, any other folder is refused.
        clusters: file of clusters, or its folder; None: none.
        thumbnail: width of the pages' thumbnails in pixels.

    Raises UserError in one line; then `out` is as before.
    """
    check_target(out)
    application_version()
    groups = read_clusters(clusters)
    trained = TrainedModel(run)
    trained.require_one_process("vaetrain.atlas")
    data = trained.open_shards(shards)
    if len(data.index) == 0:
        raise ConfigError(f"{shards}: has no pages")
    stamp = _stamp(trained, data.index.header["table_sha256"], groups, thumbnail)
    if (out / STAMP).is_file() and json.loads((out / STAMP).read_text()) == stamp:
        print(f"{out}: is up to date")
        return
    with tempfile.TemporaryDirectory(prefix="atlas-") as folder:
        space = trained.space_of(data)
        print(f"encoding {len(data.index)} pages", flush=True)
        pages = measure_pages(trained, data, space, thumbnail, Path(folder))
        with stage("finding the neighbours of each page"):
            neighbours = find_neighbours(pages.vectors)
        with stage("placing the pages on the map"):
            places = project(pages.vectors, neighbours)
        with stage("writing the files"), atomic_folder(out) as draft:
            shutil.copytree(PAGE, draft, dirs_exist_ok=True)
            reason = reason_against(trained)
            shown = (pages, places, neighbours, groups)
            write_map(draft / "map", *shown, opens=reason is None)
            write_blocks(draft / "pages", *shown, opens=reason is None)
            if reason is None:
                write_latent(draft / "latent", trained, space, pages)
            else:
                print(f'without the page "Latent": {reason}')
                remove_latent(draft)
            (draft / STAMP).write_text(json.dumps(stamp))
    _print_size(out, len(pages))
    trained.report_threads()


def remove_latent(folder: Path) -> None:
    """Remove the page "Latent" from a folder, and the links to it."""
    shutil.rmtree(folder / "latent")
    (folder / "latent.html").unlink()
    for page in (folder / "index.html", folder / "charts.html"):
        page.write_text(page.read_text().replace('<a href="latent.html"', "<a hidden"))


def _stamp(
    trained: TrainedModel, shards: str, clusters: Clusters, thumbnail: int
) -> dict[str, Any]:
    """Return what an atlas depends on."""
    own = hashlib.sha256()
    for file in sorted(path for path in PAGE.parent.rglob("*") if path.suffix in SOURCES):
        own.update(file.read_bytes())
    return {
        "source": own.hexdigest(),
        "application": application_version(),
        "run": trained.digests(),
        "shards": shards,
        "clusters": clusters.path and sha256_of(clusters.path),
        "thumbnail": thumbnail,
    }


def _print_size(out: Path, pages: int) -> None:
    """Print the size of the folder, and of its parts that grow with the pages."""

    def size(*patterns: str) -> int:
        return sum(file.stat().st_size for p in patterns for file in out.rglob(p) if file.is_file())

    growing = size("data/*.parquet", "blocks/*", "points.bin")
    print(
        f"{out}: {pages} pages, {size('*') / 1e6:.1f} MB, of which {growing / 1e6:.1f} MB "
        f"({growing / pages / 1e3:.2f} KB a page) grow with the pages"
    )
