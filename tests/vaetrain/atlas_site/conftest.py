"""An atlas of 24 pages with hostile names, of an untrained model with a prior."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from shards.build import build
from shards.building.options import BuildOptions
from shards.open import open_index
from tests.support.models import perturbed_model
from tests.vaetrain.conftest import EXPERIMENT
from tests.vaetrain.pages_one_by_one import MAX_HEIGHT, WIDTH
from vaetrain.artifacts.final_model import write_final
from vaetrain.atlas_site.build import build_atlas
from vaetrain.atlas_site.server import make_server
from vaetrain.prior.flow import Flow
from vaetrain.prior.prior import Prior

LATENTS = 8
SCRIPT = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
BIDI = "\u202egnp.exe\u2066\u200f"
HOSTILE = [SCRIPT, BIDI + "x" * 10**6, "javascript:window.hacked=1", "http://127.0.0.2/a.png"]


class Site(NamedTuple):
    """An atlas, what it was made of, and its address."""

    folder: Path
    run: Path
    shards: Path
    clusters: Path
    address: str


@pytest.fixture(scope="session")
def atlas(tmp_path_factory, layouts):
    """Give an atlas on a server; its first pages have hostile ids, labels and templates."""
    folder = tmp_path_factory.mktemp("atlas")
    pages = [dict(page) for page in layouts]
    for page, text in zip(pages, HOSTILE, strict=False):
        page |= {"id": text, "label": text, "template": text}
    (folder / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    options = BuildOptions(workers=1, keep_duplicates=True)
    build([folder / "pages.jsonl"], folder / "shards", options)
    model = perturbed_model(EXPERIMENT.model, WIDTH, MAX_HEIGHT, 0.05)
    prior = random_prior(["article", SCRIPT])
    write_final(folder / "run" / "final", model, EXPERIMENT, {}, {}, prior)
    site = folder / "site"
    clusters = write_clusters(folder / "clusters.parquet", folder / "shards")
    build_atlas(folder / "run", folder / "shards", site, clusters, 32)
    server = make_server(site, 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    yield Site(site, folder / "run", folder / "shards", clusters, address)
    server.shutdown()
    server.server_close()


def random_prior(labels: list[str]) -> Prior:
    """Return a prior whose weights are random, so that every input has an effect."""
    torch.manual_seed(0)
    flow = Flow((LATENTS,), len(labels), MAX_HEIGHT, width=16, blocks=1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        flow.mean.normal_()
        flow.std.uniform_(0.5, 2)
    heights = torch.tensor([40, 64, 100, 128, 77])
    return Prior(flow.eval(), heights, torch.tensor([0, 1, 2, 0, 1]), labels)


def write_clusters(path: Path, shards: Path) -> Path:
    """Write two clusters of the pages, as `vaetrain.cluster` does; one page is in none."""
    from shards.reading.shard_files import ShardFiles

    index = open_index(shards)
    keys = [ShardFiles(index).key(number) for number in range(len(index))]
    numbers = [number % 2 for number in range(len(keys))]
    table = pa.table(
        {
            "key": keys[:-1],
            "cluster": pa.array(numbers[:-1], pa.int32()),
            "distance": pa.array([1 / (1 + n) for n in range(len(keys) - 1)], pa.float32()),
        }
    )
    parquet.write_table(table, path)
    return path


@pytest.fixture(scope="session")
def browser():
    """Start Chromium; it draws WebGL in software."""
    from playwright.sync_api import sync_playwright

    from shards.capturing.browser import find_browser

    with sync_playwright() as playwright:
        path = find_browser(None, playwright.chromium.executable_path)
        arguments = ["--disable-dev-shm-usage", "--enable-unsafe-swiftshader"]
        started = playwright.chromium.launch(
            executable_path=path, args=arguments, chromium_sandbox=False
        )
        yield started
        started.close()
