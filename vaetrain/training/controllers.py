"""Controllers: weights that learn as the run goes on, from the last global step's values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaetrain.engines.base import Engine
from vaetrain.losses.config import BetaConfig

LEARNED_LR = 1e-2  # of the learned weights: a variance doubles in some seventy steps at most


class KLController:
    """A beta that holds the KL at a target: ControlVAE (Shao et al. 2020, section 4.1, eq. 7-9).

    beta = Kp / (1 + exp(e)) - Ki * sum(e), with e the target less the KL, in nats a page; within
    0 and `beta.max`, and while it is at a bound the sum does not run away beyond it. All on the
    device: nothing waits for it.

    Attributes:
        beta: the weight now, a float64 scalar on the device.
    """

    def __init__(self, config: BetaConfig, device: torch.device) -> None:
        self.config = config
        self.integral = torch.zeros((), dtype=torch.float64, device=device)
        self.beta = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, kl: Tensor, applied: Tensor, cap: float | None = None) -> None:
        """Take note of the last global step's mean KL, a scalar in nats a page, if it was applied.

        Args:
            applied: bool scalar, whether that step was.
            cap: a bound beside `beta.max`, for now; None: no other.
        """
        most = self.config.max if cap is None else min(cap, self.config.max)
        error = self.config.target_kl - kl.double()
        proportional = self.config.proportional * torch.sigmoid(-error)
        integral = self.integral - self.config.integral * error
        wanted = proportional + integral
        beta = wanted.clamp(0.0, most)
        # Where the paper stops summing at a bound, what lies beyond it is taken back.
        self.integral = torch.where(applied, integral + (beta - wanted), self.integral)
        self.beta = torch.where(applied, beta, self.beta)

    def state(self) -> dict[str, float]:
        """What a checkpoint needs; a device sync."""
        return {"integral": self.integral.item(), "beta": self.beta.item()}

    def load(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint."""
        self.integral.fill_(state["integral"])
        self.beta.fill_(state["beta"])


class LearnedWeights:
    """The optimizer of the objective's log variances: replicated on all ranks, on any engine."""

    def __init__(self, log_variances: nn.Parameter) -> None:
        self.log_variances = log_variances
        self.optimizer = torch.optim.Adam([log_variances], lr=LEARNED_LR, fused=True)

    def step(self, engine: Engine, applied: Tensor) -> Tensor:
        """Take a step after the model's, by gradients that are averaged already.

        Args:
            applied: bool scalar on the device, whether the model's step was.

        Returns: whether both were, likewise.
        """
        norm = engine.step_replicated(self.optimizer, LEARNED_LR, 0.0, applied)
        return applied & norm.isfinite()

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint needs; a device sync."""
        moments = self.optimizer.state.get(self.log_variances, {})
        tensors = {"log_variances": self.log_variances.detach(), **moments}
        return {name: tensor.tolist() for name, tensor in tensors.items()}

    def load(self, state: dict[str, list[float]]) -> None:
        """Go on from a checkpoint."""
        moments = {name: torch.tensor(value) for name, value in state.items()}
        with torch.no_grad():
            self.log_variances.copy_(moments.pop("log_variances"))
        if moments:
            whole = self.optimizer.state_dict()
            self.optimizer.load_state_dict(whole | {"state": {0: moments}})
