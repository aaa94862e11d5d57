"""Loss weights that are learned during a run: beta by a PI controller, and learned variances."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaetrain.engines.base import Engine
from vaetrain.losses.config import BetaConfig

LEARNED_LR = 1e-2  # of the log variances: a variance doubles in some seventy steps at the fastest


class KLController:
    """PI controller of beta that holds the KL at a target.

    ControlVAE (Shao et al. 2020, section 4.1, eq. 7-9):
    beta = Kp / (1 + exp(e)) - Ki * sum(e), where e is the target minus the KL, in nats a page. beta
    is clamped to 0..`beta.max`; while it is at a bound, the sum stops growing (anti-windup). All of
    it is on the device and never synchronises with the host.

    Attributes:
        beta: the current weight, a float64 scalar on the device.
        integral: the integral term, -Ki * sum(e), likewise.
    """

    def __init__(self, config: BetaConfig, device: torch.device) -> None:
        self.config = config
        self.integral = torch.zeros((), dtype=torch.float64, device=device)
        self.beta = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, kl: Tensor, applied: Tensor, cap: float | None = None) -> None:
        """Update beta from a step.

        Args:
            kl: scalar, mean over the global batch, nats a page.
            applied: bool scalar on the device; where false, nothing changes.
            cap: upper bound of beta beside `beta.max`; None: no other bound.
        """
        maximum = self.config.max if cap is None else min(cap, self.config.max)
        error = self.config.target_kl - kl.double()
        proportional = self.config.proportional * torch.sigmoid(-error)
        integral = self.integral - self.config.integral * error
        unbounded = proportional + integral
        beta = unbounded.clamp(0.0, maximum)
        # Anti-windup: where the paper stops summing at a bound, the excess is subtracted here.
        self.integral = torch.where(applied, integral + (beta - unbounded), self.integral)
        self.beta = torch.where(applied, beta, self.beta)

    def state(self) -> dict[str, float]:
        """Return the state for a checkpoint. Waits for the device."""
        return {"integral": self.integral.item(), "beta": self.beta.item()}

    def load(self, state: dict[str, float]) -> None:
        """Load the state from a checkpoint."""
        self.integral.fill_(state["integral"])
        self.beta.fill_(state["beta"])


class LearnedWeights:
    """Optimizer of the objective's log variances, which every engine replicates on all ranks."""

    def __init__(self, log_variances: nn.Parameter) -> None:
        self.log_variances = log_variances
        self.optimizer = torch.optim.Adam([log_variances], lr=LEARNED_LR, fused=True)

    def step(self, engine: Engine, applied: Tensor) -> Tensor:
        """Step the log variances, whose gradients are already averaged over ranks.

        Args:
            applied: bool scalar on the device, whether the model's step was applied; where false,
                nothing changes.

        Returns: whether both steps were applied, likewise.
        """
        norm = engine.step_replicated(self.optimizer, LEARNED_LR, 0.0, applied)
        return applied & norm.isfinite()

    def state(self) -> dict[str, list[float]]:
        """Return the state for a checkpoint. Waits for the device."""
        moments = self.optimizer.state.get(self.log_variances, {})
        tensors = {"log_variances": self.log_variances.detach(), **moments}
        return {name: tensor.tolist() for name, tensor in tensors.items()}

    def load(self, state: dict[str, list[float]]) -> None:
        """Load the state from a checkpoint."""
        moments = {name: torch.tensor(value) for name, value in state.items()}
        with torch.no_grad():
            self.log_variances.copy_(moments.pop("log_variances"))
        if moments:
            whole = self.optimizer.state_dict()
            self.optimizer.load_state_dict(whole | {"state": {0: moments}})
