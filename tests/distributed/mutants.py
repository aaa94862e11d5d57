"""The trainer, broken on purpose: what tests must notice.

accelerate launch --config_file ENGINE tests/distributed/mutants.py MUTANT [train.py's arguments]
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python looks for modules beside it.
    sys.path[0] = str(Path(__file__).resolve().parents[2])


def rank_local_weight() -> None:
    """Each rank balances the adversarial loss by its own pages alone."""
    from vaetrain.balance import GradientBalance

    update = GradientBalance.update
    GradientBalance.update = lambda self, squares: update(self, self.squares)


def rank_local_discriminator() -> None:
    """Each rank steps its discriminator with the gradients of its own pages."""
    from vaetrain.engine import Engine

    Engine.average_gradients = lambda self, parameters: None


MUTANTS = {"rank-local-weight": rank_local_weight, "rank-local-d": rank_local_discriminator}

if __name__ == "__main__":
    MUTANTS[sys.argv.pop(1)]()
    from vaetrain.train import main

    main()
