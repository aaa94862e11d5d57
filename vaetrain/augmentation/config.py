"""Settings of augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.settings import setting


@dataclass
class AugmentConfig:
    policy: str = setting(
        "none",
        "none, default, strong, randaugment, trivialaugment, the path of a policy file, or auto: "
        "the policy file that vaetrain.augment.search wrote into the folder of the shards",
    )
    ops: int = setting(2, "operations that randaugment applies to each page", minimum=1)
    level: float = setting(
        0.5,
        "strength of randaugment, as a share of an operation's full strength",
        minimum=0,
        maximum=1,
    )
    denoise: bool = setting(
        True, "apply the policy's corruptions (noise, salt_pepper, erase) to the model's input"
    )
    mixup_alpha: float = setting(
        0.0, "alpha of latent mixup's Beta(alpha, alpha); 0: no mixup", minimum=0
    )
