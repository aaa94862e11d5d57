"""Run one check in this process and write its result as JSON.

    python -m launch.diagnosis.one_check NAME FOLDER

FOLDER has the facts about the machine. Nothing here imports torch: of the checks that only start
trainings, the import would take most of the time.

The doctor starts one such process a check, so that it can end it with all its children, and so
that a check that crashes or fills a GPU's memory does not affect the next one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from launch.diagnosis.machine import MACHINE_FILE, Machine
from launch.diagnosis.outcome import FAILED, HELD, SKIPPED, Failed, Skipped
from launch.diagnosis.registry import find
from launch.diagnosis.trainings import Workbench


def main(name: str, folder: Path) -> None:
    """Run the check; an unexpected exception ends the process without a result."""
    figures = {}
    try:
        held = find(name).run(Workbench(Machine.read(folder / MACHINE_FILE), folder))
        status, reason, figures = HELD, held.summary, held.figures
    except Skipped as skipped:
        status, reason = SKIPPED, str(skipped)
    except Failed as failed:
        status, reason, figures = FAILED, str(failed), failed.figures
    result = {"status": status, "reason": reason, "figures": figures}
    (folder / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
