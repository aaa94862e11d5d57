"""Embeddings in TensorBoard's embedding projector, with sprites and texts of their pages."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tests.vaetrain.reporting.conftest import validation
from vaetrain.config.experiment import load_experiment
from vaetrain.page_pictures import BRIGHTNESS
from vaetrain.reporting.projector import SPRITE, project_latents
from vaetrain.reporting.run_log import RunLog


def test_every_page_has_its_embedding_its_sprite_and_its_texts(shards):
    model, data, pages = validation(shards, "model.latent_dim=8", count=20)
    model.space = pages.features.fit(model, data)
    projection = project_latents(model, data)
    expected = pages.embeddings(model.space).float()
    torch.testing.assert_close(projection.vectors, expected, rtol=1e-4, atol=1e-4)
    assert projection.columns == ["label", "template", "key", "id"]
    keys = [data.collator.files.key(number) for number in pages.ids.tolist()]
    assert [names[2] for names in projection.names] == keys
    for number, sprite in zip(pages.ids.tolist(), projection.sprites, strict=True):
        page = data.collator.batch(np.array([number]), np.zeros(1, np.int64), training=False)
        top = F.pad(page.images(), (0, 0, 0, 64))[:, :, :64]
        cells = top.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))
        torch.testing.assert_close(sprite, (BRIGHTNESS * cells[0]).clamp(0, 1))


def test_tensorboard_writes_vectors_texts_and_sprites(shards, tmp_path):
    model, data, pages = validation(shards, "model.latent_dim=8", count=20)
    model.space = pages.features.fit(model, data)
    experiment = load_experiment(None, ["tracker=tensorboard"])
    log = RunLog(tmp_path, experiment, horizon=64, images=0, enabled=True)
    log.start_trackers()
    assert log.has_projector
    projection = project_latents(model, data)
    log.write_projection(64, projection)
    log.close()
    (folder,) = (tmp_path / "events").glob("*/latents")
    header, *lines = (folder / "metadata.tsv").read_text().splitlines()
    assert header.split("\t") == projection.columns
    assert [line.split("\t") for line in lines] == projection.names
    vectors = np.loadtxt(folder / "tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(vectors, projection.vectors, rtol=1e-5)
    sheet = np.asarray(Image.open(folder / "sprite.png").convert("L")) / 255
    first = sheet[:SPRITE, :SPRITE]
    np.testing.assert_allclose(first, projection.sprites[0, 0], atol=1 / 255)
    assert "sprite" in (tmp_path / "events" / "projector_config.pbtxt").read_text()
