"""Command of the launcher (`accelerate launch`, torchrun) that started this process, from /proc.

A launcher does not pass its own options to the program. They are needed to tell a number of
processes or threads that the user chose from a default.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class LauncherCommand:
    """Command line and environment of a launcher.

    Attributes:
        before: the words before the program: interpreter, launcher and its options.
        after: the program and its arguments.
        environment: variables that the launcher itself was started with.
    """

    before: list[str]
    after: list[str]
    environment: Mapping[str, str]

    @property
    def options(self) -> dict[str, str]:
        """Names, with underscores, and values of all options; of a flag `true`."""
        found = {}
        for index, word in enumerate(self.before):
            if not word.startswith("--"):
                continue
            flag, equals, text = word[2:].partition("=")
            following = "".join(self.before[index + 1 : index + 2])
            is_flag = following in ("", "-m") or following.startswith("--")
            value = text if equals else "true" if is_flag else following
            found[flag.replace("-", "_")] = value
        return found

    def option(self, name: str) -> str | None:
        """Return the value of `--name`, the last one; None if it is not given."""
        return self.options.get(name)

    def with_options(self, *options: str) -> list[str]:
        """Return the command with further options, which win over the same ones given before."""
        return [sys.executable, *self.before[1:], *options, *self.after]


def is_launched(environment: Mapping[str, str]) -> bool:
    """Return whether the environment is one of a process that a launcher started."""
    return "ACCELERATE_MIXED_PRECISION" in environment or is_torchrun(environment)


def is_torchrun(environment: Mapping[str, str]) -> bool:
    """Return whether torchrun started the process, by itself or within accelerate launch."""
    return "TORCHELASTIC_RUN_ID" in environment


def launcher_engine_file(launcher: LauncherCommand | None) -> Path | None:
    """Return the engine file that accelerate launch has read; None if there is none."""
    if launcher is None or not any("accelerate" in word for word in launcher.before):
        return None
    options, variables = launcher.options, launcher.environment
    if "config_file" in options:
        return Path(options["config_file"])
    cache = variables.get("XDG_CACHE_HOME", os.path.join(variables.get("HOME", "~"), ".cache"))
    home = variables.get("HF_HOME", os.path.join(cache, "huggingface"))
    path = Path(os.path.expanduser(home), "accelerate", "default_config.yaml")
    return path if path.is_file() and "cpu" not in options else None


def is_under_launcher() -> bool:
    """Return whether a launcher, and not a shell, is the parent of this process."""
    if PROC.is_dir():
        return launcher_command() is not None
    return is_launched(os.environ)


def launcher_command() -> LauncherCommand | None:
    """Return the command of this process's launcher; None without one, or if it cannot be read."""
    if not is_launched(os.environ):
        return None
    folder = PROC / str(os.getppid())
    try:
        words = _strings(folder / "cmdline")
        variables = _strings(folder / "environ")
    except OSError:
        return None
    program = len(words) - len(sys.argv)  # position of the program in the launcher's command
    if program < 1 or words[program + 1 :] != sys.argv[1:]:
        return None  # another process, such as a shell
    environment = dict(text.split("=", 1) for text in variables if "=" in text)
    return LauncherCommand(words[:program], words[program:], environment)


def _strings(path: Path) -> list[str]:
    return os.fsdecode(path.read_bytes()).split("\0")[:-1]
