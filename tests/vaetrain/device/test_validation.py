"""Validation on fake CUDA tensors: encoding, reconstruction, metrics, and the way to the host."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.fake_devices import CUDA, LATENT, PAGES, NoMixedDevices, Step, a_batch
from tests.support.fake_engines import prepared
from vaetrain.evaluation.validation import EncodedPages, encode_pages
from vaetrain.losses.weights import Weights
from vaetrain.training.ema import WeightEma


def validate(engine_name: str, precision: str, *settings: str, spoil=None) -> EncodedPages:
    """Validate the averaged model on two batches."""
    with FakeTensorMode():
        with torch.device(CUDA):
            step = Step("none", *settings)
            batches = [a_batch(pictures=False), a_batch(pictures=True), None]
        engine = prepared(engine_name, precision, step.model)
        model = WeightEma(engine, step.model, 100.0).model()
        if spoil is not None:
            batches = [spoil(batches[0])]
        objective = step.forward.objective
        weights = Weights(step.terms, beta=1.0, capacity=None)
        with NoMixedDevices():
            return encode_pages(model, batches, engine, objective, weights)


@pytest.mark.parametrize("latent", ["vector", "spatial"])
@pytest.mark.parametrize("skips", ["none", "gated", "hierarchical"])
def test_results_arrive_on_the_host(skips, latent):
    pages = validate("single", "bf16", f"model.skips={skips}", f"model.latent={latent}")
    assert pages.mu.shape == pages.logvar.shape == (2 * PAGES, LATENT)
    tensors = (pages.ids, pages.mu, pages.logvar, pages.kl, pages.structure)
    assert {t.device.type for t in (*tensors, *pages.values.values())} == {"cpu"}


@pytest.mark.parametrize("engine", ["zero2_offload", "zero3_offload"])
def test_an_offloaded_average_is_evaluated_on_the_device(engine):
    assert validate(engine, "no").ids.shape == (2 * PAGES,)


def test_heights_on_the_host_are_refused(monkeypatch):
    # `Batch.to` would move them.
    monkeypatch.setattr("shards.reading.batch.Batch.to", lambda batch, device: batch)
    with pytest.raises((AssertionError, RuntimeError)):
        validate("single", "no", spoil=lambda batch: replace(batch, heights=batch.heights.cpu()))
