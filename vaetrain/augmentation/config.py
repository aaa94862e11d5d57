"""Settings of augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.settings import setting


@dataclass
class AugmentConfig:
    policy: str = setting(
        "none",
        "none, default, strong, randaugment, trivialaugment, the path of a policy file, or auto: "
        "the policy that vaetrain.augment.search left in the folder of the shards",
    )
    ops: int = setting(2, "operations per page of randaugment", minimum=1)
    level: float = setting(0.5, "strength of randaugment", minimum=0, maximum=1)
    denoise: bool = setting(
        True, "let the policy's noise, salt and pepper and erasing spoil the model's input"
    )
    mixup_alpha: float = setting(
        0.0, "alpha of latent mixup's Beta(alpha, alpha); 0: no mixup", minimum=0
    )
