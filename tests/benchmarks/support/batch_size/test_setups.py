"""Setups of a training step: their names, and options applied to an experiment."""

from __future__ import annotations

from benchmarks.support.batch_size.setups import OPTIONS, PLAIN, Setup, with_option
from vaetrain.config.experiment import load_experiment


def test_an_option_switches_all_others_off():
    experiment = load_experiment(None, ["train.precision=bf16", "train.channels_last=true"])
    train = with_option(experiment, "checkpointing").train
    assert (train.precision, train.channels_last, train.compile) == ("no", False, False)
    assert train.checkpoint_activations is True


def test_every_option_differs_from_the_plain_setup_in_one_setting():
    experiment = load_experiment(None, [])
    plain = with_option(experiment, PLAIN).train
    for option in OPTIONS.keys() - {PLAIN}:
        train = with_option(experiment, option).train
        changed = [name for name in OPTIONS[PLAIN] if getattr(train, name) != getattr(plain, name)]
        assert changed == list(OPTIONS[option])


def test_name_has_micro_batch_accumulation_and_option():
    assert Setup(8, 4, "bf16").name == "8 x 4, bf16"
