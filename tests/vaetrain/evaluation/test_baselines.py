"""Components of whole pages, against scikit-learn's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from shards.build import build
from shards.building.options import BuildOptions
from vaetrain.config.experiment import load_experiment
from vaetrain.data.loading import PageReader
from vaetrain.engines.factory import start_engine
from vaetrain.engines.spec import Launch
from vaetrain.evaluation.baselines import PagePCA, page_table

REPO = Path(__file__).resolve().parents[3]
ROWS, WIDTH, COMPONENTS = 128, 64, 6


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PageReader:
    folder = tmp_path_factory.mktemp("baselines") / "shards"
    build([REPO / "shards" / "sample"], folder, BuildOptions(count=40, workers=1))
    settings = [f"data.width={WIDTH}", f"data.max_height={ROWS}", "data.workers=0"]
    engine = start_engine(Launch("single", 1, "no"), "no")
    return PageReader(folder, load_experiment(None, settings).data, engine, 16)


def by_hand(data: PageReader) -> torch.Tensor:
    """The pages one by one, in order of ids."""
    table = torch.zeros(len(data.select("all")), ROWS, WIDTH)
    for place, number in enumerate(np.sort(data.select("all").ids_at(np.arange(len(table))))):
        page = data.collator.batch(np.array([number]), np.array([0]), training=False).images()
        table[place, : page.shape[2]] = page[0, 0]
    return table.flatten(1)


def test_a_table_has_all_pages_in_order_and_in_float32(data):
    found = page_table(data.pages(data.select("all")), data.engine, (ROWS, WIDTH))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, by_hand(data), rtol=0, atol=1e-6)


def test_page_components_are_scikit_learns(data):
    pages = by_hand(data)
    reference = PCA(COMPONENTS, svd_solver="full").fit(pages.double().numpy())
    everything = data.select("all")
    pca = PagePCA(data.pages(everything), data.engine, (ROWS, WIDTH), COMPONENTS)
    np.testing.assert_allclose(pca.mean.numpy(), reference.mean_, atol=1e-6)
    for batch in data.pages(everything):
        ours = pca.embed(batch).numpy()
        padded = pca.pixels(batch).double().numpy()
        theirs = reference.transform(padded)
        # A component's sign is free.
        signs = np.sign((pca.components.numpy() * reference.components_).sum(1))
        np.testing.assert_allclose(ours, theirs * signs, rtol=1e-4, atol=1e-4)
        made = reference.inverse_transform(theirs).reshape(-1, 1, ROWS, WIDTH)
        found = pca.reconstruct(batch).numpy()
        np.testing.assert_allclose(found, made[:, :, : found.shape[2]], atol=1e-5)
