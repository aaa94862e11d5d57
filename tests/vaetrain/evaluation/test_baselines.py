"""PCA of whole pages, compared with scikit-learn, and the mean page."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from vaetrain.config.experiment import load_experiment
from vaetrain.data.loading import PageReader
from vaetrain.engines.spec import Launch
from vaetrain.engines.start import start_engine
from vaetrain.evaluation.baselines import PagePCA, mean_page, page_table

ROWS, WIDTH, COMPONENTS = 128, 64, 6


@pytest.fixture(scope="module")
def data(shards) -> PageReader:
    settings = [f"data.width={WIDTH}", f"data.max_height={ROWS}", "data.workers=0"]
    engine = start_engine(Launch("single", 1, "no"), "no")
    return PageReader(shards, load_experiment(None, settings).data, engine, 16)


def reference_table(data: PageReader) -> torch.Tensor:
    """Read the pages one by one, in ascending order of ids."""
    table = torch.zeros(len(data.select("all")), ROWS, WIDTH)
    ids = np.sort(data.select("all").ids_at(np.arange(len(table))))
    for place, number in enumerate(ids):
        page = data.collator.batch(np.array([number]), np.array([0]), training=False).images()
        table[place, : page.shape[2]] = page[0, 0]
    return table.flatten(1)


def test_page_table_has_all_pages_in_ascending_order_of_ids(data):
    table = page_table(data.pages(data.select("all")), data.engine, (ROWS, WIDTH))
    assert table.dtype == torch.float32
    torch.testing.assert_close(table, reference_table(data), rtol=0, atol=1e-6)


def test_page_pca_equals_scikit_learn(data):
    pages = reference_table(data)
    reference = PCA(COMPONENTS, svd_solver="full").fit(pages.double().numpy())
    everything = data.select("all")
    pca = PagePCA(data.pages(everything), data.engine, (ROWS, WIDTH), COMPONENTS)
    np.testing.assert_allclose(pca.mean.numpy(), reference.mean_, atol=1e-6)
    for batch in data.pages(everything):
        projected = pca.embed(batch).numpy()
        padded = pca.pixels(batch).double().numpy()
        expected = reference.transform(padded)
        # The sign of a component is arbitrary.
        signs = np.sign((pca.components.numpy() * reference.components_).sum(1))
        np.testing.assert_allclose(projected, expected * signs, rtol=1e-4, atol=1e-4)
        made = reference.inverse_transform(expected).reshape(-1, 1, ROWS, WIDTH)
        reconstructed = pca.reconstruct(batch).numpy()
        rows = reconstructed.shape[2]
        np.testing.assert_allclose(reconstructed, made[:, :, :rows], atol=1e-5)


def test_mean_page_averages_each_row_over_the_pages_that_have_it(data):
    everything = data.select("all")
    mean = mean_page(data.pages(everything), data.engine, ROWS, WIDTH)
    total, count = torch.zeros(ROWS, WIDTH), torch.zeros(ROWS, 1)
    for batch in data.pages(everything):
        for page, height in zip(batch.images()[:, 0], batch.heights.tolist(), strict=True):
            total[:height] += page[:height]
            count[:height] += 1
    torch.testing.assert_close(mean[0, 0], total / count.clamp(min=1))
