"""Registry of discriminators, GAN losses and regularizers."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import Discriminator, build_discriminator
from vaetrain.gan.losses import GanLoss
from vaetrain.gan.registry import DISCRIMINATORS, LOSSES, NO_REGULARIZER, REGULARIZERS, Entry
from vaetrain.gan.regularizers import Regularizer

CHOICES = {
    field.name: field.metadata["choices"]
    for field in dataclasses.fields(GanConfig)
    if field.metadata.get("choices")
}


class MeanDiscriminator(Discriminator):
    """A discriminator that a test adds to the registry."""


@pytest.mark.parametrize(
    ("entries", "kind"), [(LOSSES, GanLoss), (REGULARIZERS, Regularizer)], ids=["loss", "regul"]
)
def test_every_entry_is_of_its_kind(entries, kind):
    assert all(isinstance(entry.load(), kind) for entry in entries.values())


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_every_discriminator_gives_logits_of_pages(name):
    discriminator = build_discriminator(GanConfig(discriminator=name, channels=4))
    assert isinstance(discriminator, Discriminator)
    discriminator.renew_spectral_norms()
    output = discriminator(torch.rand(2, 1, 32, 16), torch.tensor([32, 20]))
    assert output.logits.shape == output.weights.shape
    assert output.page_mean(output.logits).shape == (2,)


def test_settings_offer_the_registered_names():
    assert CHOICES["discriminator"] == tuple(DISCRIMINATORS)
    assert CHOICES["loss"] == tuple(LOSSES)
    assert CHOICES["regularizer"] == (NO_REGULARIZER, *REGULARIZERS)


def test_a_registered_discriminator_is_built(monkeypatch):
    entry = Entry(f"{__name__}:MeanDiscriminator", "for a test")
    monkeypatch.setitem(DISCRIMINATORS, "mean", entry)
    discriminator = build_discriminator(GanConfig(discriminator="mean", input_scale=2.0))
    assert type(discriminator) is MeanDiscriminator
    assert discriminator.input_scale == 2.0


def test_settings_do_not_import_torch():
    code = "import sys, vaetrain.gan.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
