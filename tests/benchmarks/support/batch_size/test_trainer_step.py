"""The benchmarks' optimizer step gives the trainer's weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.support.batch_size.trainer_step import PageLosses, TrainerStep, cut, made_up_batch
from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import UserError
from tests.support.commands import run_python
from tests.support.engines import CPU, FakeEngine
from tests.support.paths import SAMPLE
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import load_experiment
from vaetrain.data.loading import PageReader

SETTINGS = (
    "data.width=64",
    "data.max_height=128",
    "model.latent_dim=16",
    "model.start=random",
    "augment.policy=default",
    "augment.mixup_alpha=0.4",
    "beta.schedule=constant",
    "lr.schedule=constant",
    "lr.warmup_epochs=0",
    # So that a step depends on the size of the gradient: plain AdamW and clipping hide it.
    "optimizer.lr=0.1",
    "optimizer.eps=0.01",
    "optimizer.clip_norm=0",
    "train.global_batch_size=8",
    "train.micro_batch_size=4",
    "train.max_images=8",
    "tracker=none",
)


@pytest.mark.slow
def test_step_gives_the_weights_of_the_trainer(tmp_path):
    shards, run = tmp_path / "shards", tmp_path / "run"
    build([SAMPLE], shards, BuildOptions(count=40, workers=1))
    settings = [f"data.shards={shards}", *SETTINGS]
    done = run_python("vaetrain/train.py", "--run-dir", run, *settings)
    assert done.returncode == 0, done.stderr
    (saved,) = (run / "checkpoints").iterdir()

    experiment = load_experiment(experiment_path(None), settings)
    step = TrainerStep(experiment, CPU)
    before = {name: p.detach().clone() for name, p in step.losses.model.named_parameters()}
    data = PageReader(shards, experiment.data, FakeEngine(), step.losses.model.stride)
    step(cut(data, first_ids(data, experiment), 4, CPU))
    trained = load_file(saved / "weights.safetensors")
    assert any(not torch.equal(before[name], trained[name]) for name in before)
    for name, weight in step.losses.model.named_parameters():
        torch.testing.assert_close(weight.detach(), trained[name], atol=1e-5, rtol=1e-5)


def first_ids(data: PageReader, experiment) -> np.ndarray:
    from shards.reading.sample_order import SampleOrder

    order = SampleOrder(
        data.select("train"),
        seed=experiment.train.seed,
        global_batch_size=experiment.train.global_batch_size,
        window_shards=experiment.data.window_shards,
        ladder=data.ladder,
    )
    return order.step(0)[0]


def test_made_up_pages_fill_their_canvas():
    batch = made_up_batch(3, (96, 64), CPU)
    images = batch.images()
    assert images.shape == (3, 1, 96, 64)
    assert batch.boxes.shape[1] == 4
    assert (batch.boxes[:, 2:] >= batch.boxes[:, :2]).all()
    assert 0 < images.mean() <= 1


def test_gan_is_refused():
    with pytest.raises(UserError, match=r"gan\.enabled"):
        PageLosses(load_experiment(None, ["gan.enabled=true"]), CPU)
