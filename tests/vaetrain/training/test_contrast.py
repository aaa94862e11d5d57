"""The contrastive loss of a step, for every division into micro batches."""

import numpy as np
import pytest
import torch

from tests.support.engines import FakeEngine
from tests.support.models import perturbed_model
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import load_experiment
from vaetrain.data.loading import TrainingData
from vaetrain.data.widths import read_other_widths
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.losses.contrastive import info_nce
from vaetrain.losses.objective import Objective
from vaetrain.schedules import weights_at
from vaetrain.training.contrast import contrast_of_step
from vaetrain.training.step import ForwardStep

SETTINGS = ("data.width=64", "data.max_height=128", "model.size=tiny", "model.start=random")
COUNT = 8


class OneRank(FakeEngine):
    """A single rank that gathers its own rows."""

    def gather_equal(self, rows):
        return rows


@pytest.fixture(params=["vector", "spatial"])
def step(request, shards):
    """A forward step with a contrastive term, and its data."""
    settings = (*SETTINGS, f"data.shards={shards}", f"model.latent={request.param}")
    experiment = load_experiment(None, [*settings, "model.latent_dim=8", "loss.contrastive=0.5"])
    model = perturbed_model(experiment.model, 64, 128, 0.05)
    data = TrainingData(
        experiment.data, FakeEngine(), model.stride, seed=0, global_batch_size=COUNT
    )
    forward = ForwardStep(
        experiment,
        model=model,
        vae=model,
        augment=Augment(load_policy(experiment.augment)),
        objective=Objective(experiment),
        device=torch.device("cpu"),
    )
    return experiment, forward, data


def gradients(experiment, forward, data, ids, size):
    """Return the losses of pages and the model's gradient, with micro batches of `size` pages."""
    model, weights = forward.model, weights_at(experiment, 1.0, 2.0)
    model.zero_grad()
    batches = [
        data.collator.training_batch(part, 0 * part) for part in np.split(ids, COUNT // size)
    ]
    templates = [PageLabels.from_index(data.index, batch.ids).templates for batch in batches]
    contrasts = contrast_of_step(batches, templates, forward, OneRank())
    losses = []
    for batch, contrast in zip(batches, contrasts, strict=True):
        values, parts = forward(batch, weights, 1.0, None, contrast)
        values.sum().backward()
        losses.append(parts["contrastive"])
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(losses), torch.cat(found)


def test_micro_batches_and_padding_change_nothing(step):
    _, forward, data = step
    ids = data.train.ids_at(np.arange(COUNT))
    losses, whole = gradients(*step, ids, COUNT)
    split_losses, split = gradients(*step, ids, 2)
    torch.testing.assert_close(split_losses, losses, rtol=1e-4, atol=1e-5)
    assert (split - whole).norm() < 1e-4 * whole.norm()
    views = forward.views_of(data.collator.training_batch(ids, 0 * ids)).detach()
    templates = PageLabels.from_index(data.index, torch.from_numpy(ids)).templates
    torch.testing.assert_close(losses, info_nce(views, templates).float(), rtol=1e-4, atol=1e-5)


def test_the_second_view_is_the_other_width_where_there_is_one(step):
    _, forward, data = step
    ids = data.train.ids_at(np.arange(len(data.train)))
    batch = data.collator.training_batch(ids, 0 * ids)
    assert batch.other is None
    assert torch.equal(forward.second_view(batch)[1], batch.heights)
    assert not torch.equal(forward.second_view(batch)[0], batch.images())
    found = read_other_widths(data, data.train)
    batch = data.collator.training_batch(ids, 0 * ids)
    assert int((batch.other.ids != batch.ids).sum()) == found > 0
    metadata = data.collator.files.metadata
    for number, other in zip(batch.ids.tolist(), batch.other.ids.tolist(), strict=True):
        if number != other:
            first, second = metadata(number), metadata(other)
            assert first["url_path"] == second["url_path"]
            assert first["viewport"] != second["viewport"]
    assert torch.equal(forward.second_view(batch)[1], batch.other.heights)


def test_an_evaluation_leaves_the_contrastive_loss_out(step):
    experiment, forward, data = step
    ids = data.train.ids_at(np.arange(2))
    batch = data.collator.training_batch(ids, 0 * ids)
    losses, parts = forward(batch, weights_at(experiment, 1.0, 2.0), 1.0)
    assert losses.isfinite().all()
    assert parts["contrastive"].isnan().all()
