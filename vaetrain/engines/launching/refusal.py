"""Exit of a command that is refused: one line, printed by the first rank of each machine."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from shards.errors import one_line
from vaetrain.cli import print_error
from vaetrain.engines.launching.launcher_command import is_under_launcher
from vaetrain.engines.launching.rank_variables import read_ranks
from vaetrain.settings import ConfigError


def refuse(message: str) -> NoReturn:
    """Exit with status 2; the first rank of each machine prints the error in one line.

    Variables that a launcher left in a shell can make a single process look like another rank, so
    it stays silent only if a launcher has really started it. If these variables contradict each
    other, the line says this too.
    """
    local_rank = 0
    try:
        local_rank = read_ranks(os.environ).local_rank
    except ConfigError as fault:
        if str(fault) != message:
            message = f"{message}; besides, {fault}"
    if local_rank == 0 or not is_under_launcher():
        print_error(one_line(message))
    sys.exit(2)
