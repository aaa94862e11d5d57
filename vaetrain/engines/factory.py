"""Start the engine that this process was launched for."""

from __future__ import annotations

from vaetrain.engines.base import Engine
from vaetrain.engines.spec import Launch

TIMEOUT_SECONDS = 600.0


def start_engine(
    launch: Launch, precision: str | None = None, timeout: float = TIMEOUT_SECONDS
) -> Engine:
    """The engine this process was launched for, with its process group.

    Args:
        precision: `no`, `bf16` or `fp16`; None: what the launcher says.
        timeout: seconds for which ranks wait for one that does not get on.

    Raises ConfigError or EngineError in one line.
    """
    if launch.engine.startswith("zero"):
        from vaetrain.engines.zero import ZeroEngine as Kind
    elif launch.engine == "fsdp2":
        from vaetrain.engines.fsdp import FsdpEngine as Kind
    else:
        from vaetrain.engines.replicated import ReplicatedEngine as Kind
    return Kind(launch, precision, timeout)
