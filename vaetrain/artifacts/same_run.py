"""Comparison of a run with its checkpoint before it is resumed: settings, policy and data."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vaetrain.artifacts.checkpoint import Checkpoint, check_complete
from vaetrain.augmentation.policy import Policy
from vaetrain.config.experiment import Experiment, as_dict
from vaetrain.settings import ConfigError, flatten

ORDER = "order"  # entry of `state.json`: version of the order of the samples
FIRST_ORDER = 1  # that of checkpoints without this entry

# Settings that may change when a run is resumed: they do not change what it computes.
FREE_TO_CHANGE = {
    "name",
    "tracker",  # in checkpoints of version 0.1
    "tracker.use",
    "tracker.experiment",
    "prior.kind",
    "prior.width",
    "prior.blocks",
    "prior.steps",
    "prior.epochs",
    "prior.batch",
    "prior.lr",
    "prior.detail",
    "prior.detail_width",
    "prior.detail_steps",
    "prior.detail_epochs",
    "data.shards",
    "data.cache_dir",
    "data.cache_gb",
    "data.retry_seconds",
    "data.workers",
    "data.prefetch",
    "engine.reduce_dtype",
    "engine.reduce_each_micro_batch",
    "collapse.action",
    "collapse.inactive_share",
    "train.epochs",
    "train.max_images",
    "train.micro_batch_size",
    "train.precision",
    "train.deterministic",
    "train.tf32",
    "train.log_every_images",
    "train.validate_every_images",
    "train.validation_samples",
    "train.checkpoint_every_images",
    "train.keep_checkpoints",
    "train.max_skipped_steps",
    "train.timeout_seconds",
    "train.on_failed_save",
}


def check_same_run(
    saved: Checkpoint,
    experiment: Experiment,
    policy: Policy,
    fingerprint: str,
    automatic: Collection[str] = (),
    *,
    order: int,
) -> None:
    """Raise ConfigError if the experiment would not continue the run of a checkpoint.

    Args:
        fingerprint: of the current data.
        order: version of the current order of the samples.
        automatic: settings that `auto` has chosen.
    """
    check_complete(saved.state)
    check_same_experiment(saved.state["experiment"], experiment, automatic)
    check_same_policy(saved.state["policy"], policy)
    if saved.state["data"] != fingerprint:
        raise ConfigError(
            f"{experiment.data.folder}: not the data that the run was started with; give that data "
            "or another --run-dir"
        )
    saved_order = saved.state.get(ORDER, FIRST_ORDER)
    if saved_order != order:
        raise ConfigError(
            f"the run uses order {saved_order} of the pages, and this version of the program order "
            f"{order}: resume it with the version that wrote its checkpoint, or give another "
            "--run-dir"
        )


def saved_partitions(saved: Checkpoint) -> int:
    """Return the number of partitions of a run's order; 1 for runs of earlier versions."""
    return saved.state["experiment"]["data"].get("partitions") or 1


def check_same_experiment(
    saved_experiment: dict[str, Any], experiment: Experiment, automatic: Collection[str] = ()
) -> None:
    """Raise ConfigError if a setting that changes the computation differs.

    The message names every such key with both values.

    Args:
        automatic: settings that `auto` has chosen. They may not change silently with the device;
            those in `FREE_TO_CHANGE` may still be changed by an explicit value.
    """
    free = FREE_TO_CHANGE - set(automatic)
    if saved_experiment.get("collapse", {}).get("action") == "hold_beta":
        free -= {"collapse.inactive_share", "train.validate_every_images"}  # they decide beta
    changed = [
        change
        for key, change in _changes(_completed(saved_experiment), as_dict(experiment)).items()
        if key not in free
    ]
    if changed:
        of_auto = f" (auto chose {', '.join(automatic)} for this device)" if automatic else ""
        raise ConfigError(
            "the run was started with other settings and cannot be resumed with these: "
            + ", ".join(changed)
            + f"{of_auto}; give the old settings, or another --run-dir"
        )


def check_same_policy(saved_policy: dict[str, Any], policy: Policy) -> None:
    """Raise ConfigError if the augmentation policy differs, even under the same name.

    The message names every probability and magnitude that differs with both values.
    """
    changed = _changes(saved_policy, policy.as_dict()).values()
    if changed:
        raise ConfigError(
            "augment.policy: the run was started with another policy and cannot be resumed with "
            f"this one: {', '.join(changed)}; give the old policy, or another --run-dir"
        )


def _completed(experiment: dict[str, Any]) -> dict[str, Any]:
    """Add the settings of later versions to a saved experiment, with the values it computed with.

    0.1 had neither the contrastive loss nor `model.output=levels`, and one partition; a run without
    a ladder does not depend on the ladder's settings.
    """
    default = Experiment()
    channels = default.model.ladder_channels
    model = {"levels": 20, "decode": "median", "ladder_channels": channels}
    ladder = ("levels", "levels_warmup_epochs")
    beta = {name: getattr(default.beta, name) for name in ladder} | experiment.get("beta", {})
    loss = {"contrastive": 0.0} | experiment.get("loss", {})
    curriculum = experiment.get("curriculum", {})
    phases = [{"contrastive": None} | phase for phase in curriculum.get("phases", [])]
    return experiment | {
        "data": {"partitions": 1} | experiment.get("data", {}),
        "model": model | experiment.get("model", {}),
        "loss": loss,
        "beta": beta,
        "curriculum": curriculum | {"phases": phases},
    }


def _changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Return the entries that differ between two trees, by dotted name, with both values."""
    before, now = flatten(before), flatten(now)
    return {
        key: f"{key} (was {_value(before, key)}, now {_value(now, key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }


def _value(tree: dict[str, Any], key: str) -> str:
    return repr(tree[key]) if key in tree else "absent"
