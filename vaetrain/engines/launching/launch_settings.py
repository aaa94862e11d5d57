"""Values of an engine file or of the launcher's variables, checked against the table of keys."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vaetrain.engines.launching.accelerate_keys import (
    ACCEPTED,
    BY_KEY,
    BY_VARIABLE,
    MAPPED,
    REFUSED,
    SECTIONS,
    SWITCHES,
    TYPE_OF_SECTION,
    Row,
    full_key,
    plain,
)
from vaetrain.settings import ConfigError

PREFIX = "ACCELERATE_"
KEPT = ("ACCELERATE_MIXED_PRECISION",)  # tells that Accelerate is the launcher


@dataclass(frozen=True)
class Value:
    """A value and its source, as messages name it: `FILE: KEY`, or a variable."""

    value: Any
    source: str

    @property
    def text(self) -> str:
        """The value in lower case; `none` for nothing."""
        return plain(self.value)


@dataclass
class LaunchSettings:
    """Checked values of an engine file or of the launcher's variables.

    Attributes:
        where: the source, for messages.
        values: by key, with the prefix of its section.
        notes: lines for the user about values that have no effect.
    """

    where: str
    values: dict[str, Value] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, row: Row, key: str, value: Value) -> None:
        """Add a value; raise ConfigError if its row refuses it."""
        if row.handling == REFUSED and value.text not in row.neutral:
            raise ConfigError(f"{value.source} is {value.value!r}; it {row.text}")
        if row.noted and value.text not in row.neutral:
            self.notes.append(f"{value.source} is {value.value!r}; it has no effect: {row.text}")
        self.values[key] = value

    def get(self, key: str) -> Value:
        """Return a value; that of a key that is not given is None."""
        return self.values.get(key) or Value(None, f"{self.where}: {key}")

    def is_on(self, key: str) -> bool:
        """Return a boolean value; raise ConfigError for anything else."""
        given = self.get(key)
        if given.text in ("true", "yes", "1"):
            return True
        if given.text in ("none", "false", "no", "0"):
            return False
        raise ConfigError(f"{given.source} is {given.value!r}; write true or false")

    def whole(self, key: str, default: int) -> int:
        """Return a whole number; raise ConfigError for anything else."""
        given = self.get(key)
        if given.text in ("none", ""):
            return default
        if not given.text.isdecimal() or isinstance(given.value, bool):
            raise ConfigError(f"{given.source} is {given.value!r}; it must be a whole number")
        return int(given.text)


def settings_of_file(
    tree: Mapping[str, Any], path: Path, overridden: Mapping[str, str] | None = None
) -> LaunchSettings:
    """Return the checked settings of an engine file.

    Args:
        tree: content of the file.
        overridden: options of the launcher's command, which win over the file's keys.

    Raises ConfigError naming the file and the key.
    """
    settings = LaunchSettings(str(path))
    options = overridden or {}
    distributed_type = tree.get("distributed_type")
    for key, value in tree.items():
        if key not in SECTIONS:
            _add_key(settings, "", key, Value(value, f"{path}: {key}"), options)
            continue
        if not isinstance(value or {}, dict):
            raise ConfigError(f"{path}: {key} is {value!r}; it must be a section")
        needed = TYPE_OF_SECTION.get(key, distributed_type)
        for name, inner in (value or {}).items():
            full, source = full_key(key, name), f"{path}: {key}.{name}"
            row = BY_KEY.get((key, full))
            is_used = row is None or row.handling != MAPPED or plain(inner) in row.neutral
            if distributed_type != needed and not is_used:
                raise ConfigError(
                    f"{source} is read only with distributed_type: {needed}; "
                    f"write that, or remove {key}"
                )
            _add_key(settings, key, full, Value(inner, source), options)
    for key, text in options.items():
        row = next((row for (_, name), row in BY_KEY.items() if name == key), None)
        if row is not None:
            settings.add(row, key, Value(text, f"--{key}"))
    return settings


def _add_key(
    settings: LaunchSettings,
    section: str,
    key: str,
    value: Value,
    overridden: Mapping[str, str],
) -> None:
    row = BY_KEY.get((section, key))
    if row is None:
        raise ConfigError(f"{value.source}: is no known key of an engine file; remove it")
    if key not in overridden:
        settings.add(row, key, value)


def settings_of_environment(environment: Mapping[str, str]) -> LaunchSettings:
    """Return the checked settings of the launcher's variables.

    Raises ConfigError naming the variable.
    """
    settings = LaunchSettings("the launcher")
    for name, text in environment.items():
        row = BY_VARIABLE.get(name)
        if not text or (row is None and not name.startswith(PREFIX)):
            continue
        if row is None:
            settings.notes.append(f"{name} is {text!r}; it has no effect: it is not known here")
            continue
        switch = SWITCHES.get(row.section)
        if switch is not None and not is_true(environment, switch):
            if (
                name.startswith(PREFIX)
                and row.handling == MAPPED
                and plain(text) not in row.neutral
            ):
                raise ConfigError(f"{name} is {text!r}, but {switch} is not true; unset {name}")
            if not name.startswith(PREFIX):
                continue
        key = row.keys[row.variables.index(name)] if row.keys else name
        settings.add(row, key, Value(text, name))
    return settings


def refuse_user_variables(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if the user, and not the launcher, has set a variable that is refused.

    Args:
        environment: that of the launcher itself.
    """
    settings_of_environment(environment)


def is_true(environment: Mapping[str, str], name: str | None) -> bool:
    """Return whether a variable is `true`, as Accelerate compares it."""
    return name is not None and environment.get(name, "").lower() == "true"


def hide_variables(environment: MutableMapping[str, str]) -> None:
    """Remove the variables that Accelerate would obey by itself when a process group is made.

    All of them have been read before.
    """
    for name in list(environment):
        row = BY_VARIABLE.get(name)
        is_obeyed = name.startswith(PREFIX) if row is None else row.handling != ACCEPTED
        if is_obeyed and name not in KEPT:
            del environment[name]
