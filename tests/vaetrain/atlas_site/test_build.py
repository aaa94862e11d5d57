"""The atlas as files: what it holds, what is refused, and that it is complete or absent."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from shards.errors import UserError
from tests.support.paths import REPO
from vaetrain.atlas_site.block_files import largest_groups
from vaetrain.atlas_site.build import PAGE, build_atlas, remove_latent
from vaetrain.atlas_site.clusters import read_clusters
from vaetrain.atlas_site.latent_files import RUNTIME, SCRIPT, WASM, reason_against
from vaetrain.atlas_site.pages import shown, thumbnail
from vaetrain.atlas_site.projection import (
    _without_itself,
    find_neighbours,
    project,
)
from vaetrain.atlas_site.target import check_target
from vaetrain.clustering.methods import NOISE
from vaetrain.config.experiment import load_experiment
from vaetrain.inference.search import search_pages
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.model.vae import VAE

RUNTIME_SHA256 = {  # of onnxruntime-web 1.30.0 on npm, dist/
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
HOSTS = re.compile(rb"https?://([\w.-]+)")


def test_runtime_is_the_pinned_release():
    script = (RUNTIME / SCRIPT).read_bytes()
    wasm = lzma.decompress((RUNTIME / f"{WASM}.xz").read_bytes())
    found = {SCRIPT: hashlib.sha256(script).hexdigest(), WASM: hashlib.sha256(wasm).hexdigest()}
    assert found == RUNTIME_SHA256
    assert b"v1.30.0" in script
    assert "MIT License" in (RUNTIME / "LICENSE").read_text()


def test_own_pages_name_no_other_host():
    page = REPO / "vaetrain" / "atlas_site" / "page"
    files = [path for path in page.rglob("*") if path.is_file()]
    assert len(files) >= 10
    found = {(path.name, host) for path in files for host in HOSTS.findall(path.read_bytes())}
    assert found == {("regions.js", b"www.w3.org")}  # the namespace of SVG


def test_own_scripts_never_set_markup():
    for path in (REPO / "vaetrain" / "atlas_site" / "page").rglob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(",
                             path.read_text()), path  # fmt: skip


def test_texts_are_shown_short_and_without_control_characters():
    assert shown("plain äöü 页") == "plain äöü 页"
    assert shown("a\u202eb\u2066c\nd\x1b[1m") == "a\ufffdb\ufffdc\ufffdd\ufffd[1m"
    assert len(shown("x" * 10**6)) == 120


def test_thumbnail_has_the_mean_greys():
    picture = np.zeros((40, 64), np.uint8)
    picture[:20] = 255
    image = Image.open(io.BytesIO(thumbnail(picture, 32)))
    grey = np.asarray(image.convert("L"))
    assert grey.shape == (20, 32)
    assert (grey[:10] == 255).all()
    assert (grey[10:] == 0).all()


def random_vectors(count: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_neighbours_are_the_nearest_other_vectors():
    vectors = random_vectors(300)  # more than are compared at once
    found = find_neighbours(vectors)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = np.sort(distances, axis=1)[:, :15]
    np.testing.assert_allclose(found.distances, expected, atol=1e-3)
    of_found = np.take_along_axis(distances, found.rows.astype(int), axis=1)
    np.testing.assert_allclose(of_found, expected, atol=1e-3)
    assert find_neighbours(vectors[:1]).rows.shape == (1, 0)


def test_a_page_is_removed_from_its_own_neighbours():
    rows = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 3]])  # the last one lacks itself
    found = _without_itself(rows, np.array([[0.0, 1, 2], [0, 1, 2], [1, 2, 3]]))
    assert found.rows.tolist() == [[1, 2], [2, 0], [1, 0]]
    assert found.distances.tolist() == [[1, 2], [0, 2], [1, 2]]


def test_the_largest_groups_are_told_apart():
    names = ["a", "unused", "b", "\u202e" + "x" * 10**6]
    groups, group_of = largest_groups(np.array([2, 0, 2, 3, 0, 2]), names, 2)
    assert groups == [{"name": "b", "size": 3}, {"name": "a", "size": 2}]
    assert group_of.tolist() == [0, 1, 0, -1, 1, 0]
    everything, _ = largest_groups(np.array([3]), names)
    assert everything == [{"name": shown(names[3]), "size": 1}]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_pages_are_placed_by_components(count):
    vectors = random_vectors(count)
    places = project(vectors, find_neighbours(vectors))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_clusters_are_read_by_key(tmp_path):
    table = {"key": ["b", "a"], "cluster": [3, -1], "distance": [0.5, 0.25], "label": ["x", "y"]}
    parquet.write_table(pa.table(table), tmp_path / "clusters.parquet")
    clusters = read_clusters(tmp_path)  # the file's folder
    numbers, distances = clusters.of(["a", "b", "unknown"])
    assert numbers.tolist() == [-1, 3, NOISE]
    assert distances.tolist()[:2] == [0.25, 0.5]
    assert np.isnan(distances[2])
    assert read_clusters(None).of(["a"])[0].tolist() == [NOISE]


def test_files_that_are_no_clusters_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"clusters\.parquet: no such file"):
        read_clusters(tmp_path)
    parquet.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet: is no file of clusters"):
        read_clusters(tmp_path / "other.parquet")
    (tmp_path / "text").write_text("text")
    with pytest.raises(UserError, match="text: is no file of clusters"):
        read_clusters(tmp_path / "text")


def test_other_folders_are_not_replaced(tmp_path):
    check_target(tmp_path / "new")
    check_target(tmp_path)  # empty
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is no atlas"):
        check_target(tmp_path)
    with pytest.raises(UserError, match="exists and is no atlas"):
        check_target(tmp_path / "thesis.txt")


def test_faults_are_one_line(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    command = ["-m", "vaetrain.atlas", "run", "--shards", "s", "--out", str(tmp_path / "mine")]
    run = subprocess.run([sys.executable, *command], cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        f"vaetrain.atlas: {tmp_path / 'mine'}: exists and is no atlas; name another folder with "
        "--out"
    ]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("model.latent=vector", None),
        ("model.latent=spatial", "its latent is spatial"),
        ("model.skips=hierarchical", "its decoder has latents"),
    ],
)
def test_models_that_the_page_latent_cannot_run(setting, reason):
    config = load_experiment(None, ["model.latent_dim=8", setting]).model
    found = reason_against(SimpleNamespace(model=VAE(config, 64, 128)))
    assert found is None if reason is None else found.startswith(reason)


def test_without_the_page_latent_nothing_links_to_it(tmp_path):
    shutil.copytree(PAGE, tmp_path / "site")
    pages = [tmp_path / "site" / name for name in ("index.html", "charts.html")]
    assert all('href="latent.html"' in page.read_text() for page in pages)
    remove_latent(tmp_path / "site")
    assert not list((tmp_path / "site").rglob("*latent*"))
    assert not any('href="latent.html"' in page.read_text() for page in pages)


@pytest.mark.slow
def test_table_of_the_map_has_the_pages(atlas):
    rows = parquet.read_table(atlas.folder / "map" / "data" / "dataset.parquet").to_pylist()
    trained = TrainedModel(atlas.run)
    data = trained.open_shards(atlas.shards)
    assert [row["page"] for row in rows] == list(range(len(data.index)))
    assert all(row["id"].isprintable() for row in rows)
    assert max(len(row["id"]) for row in rows) == 120
    assert {row["cluster"] for row in rows} == {"cluster 0", "cluster 1", "no cluster"}
    assert rows[5]["picture"].startswith(b"\x89PNG")
    for row in rows[:3]:
        query = data.collator.batch(np.array([row["page"]]), np.zeros(1, int), training=False)
        others = [r for r in search_pages(trained, data, query, 16) if r.id != row["page"]]
        expected = [result.distance for result in others[:15]]
        np.testing.assert_allclose(row["__neighbours"]["distances"], expected, atol=1e-3)
        difference = trained.reconstruct(query) - query.images()
        height = int(query.heights)
        assert row["error"] == pytest.approx(
            float(difference[:, :, :height].abs().mean()), rel=1e-4
        )


@pytest.mark.slow
def test_an_atlas_is_built_once_and_again_for_other_input(atlas, capsys):
    stamp = (atlas.folder / "built.json").stat().st_mtime_ns
    build_atlas(atlas.run, atlas.shards, atlas.folder, atlas.clusters, 32)
    assert "is up to date" in capsys.readouterr().out
    assert (atlas.folder / "built.json").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_server_sends_the_policy_and_no_listings(atlas):
    with urllib.request.urlopen(f"{atlas.address}/latent/main.js") as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Content-Type"] == "text/javascript"
    for path in ("/latent/blocks/", "/../run/final/config.json", "/missing"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(atlas.address + path)


@pytest.mark.slow
def test_typical_page_of_a_cluster_is_nearest_to_its_centre(atlas):
    description = json.loads((atlas.folder / "pages" / "pages.json").read_text())
    # The distances fall with the number of the page.
    assert description["clusters"] == [
        {"name": "cluster 0", "number": 0, "size": 12, "typical": 22},
        {"name": "cluster 1", "number": 1, "size": 11, "typical": 21},
    ]
