"""Settings as dataclass fields: declaration, reading from YAML, checks and descriptions.

A schema is a dataclass. Its fields are made by `setting`, or are sections: dataclasses of settings.
torch is not imported here, so that a wrong setting is refused within a second.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from shards.errors import UserError

AUTO = "auto"  # value of settings that follow the device or the data when a run starts

_MARKS = {"${": "${...}", "???": "???"}  # OmegaConf's syntax of references and missing values
MAX_DEPTH = 20  # of nested settings; experiments have five
MAX_DIGITS = 308  # of the integer part of a float
_KEY = re.compile(r"\w+(\.\w+|\[\d+\])*")


class _Loader(yaml.SafeLoader):
    """Loader of YAML without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not supported", problem_mark=mark)
        return super().compose_node(parent, index)


class ConfigError(UserError):
    """A wrong setting; the message is one line that names the key."""


def setting(
    default: Any,
    meaning: str,
    *,
    choices: tuple[str | bool, ...] | None = None,
    several: bool = False,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    is_main: bool = False,
) -> Any:
    """Return a dataclass field with a meaning and limits.

    Args:
        meaning: description for `--help`.
        choices: allowed values.
        several: whether the value may list several choices, separated by commas; `none` excludes
            others.
        minimum, maximum: inclusive limits.
        above: exclusive lower limit.
        is_main: whether the section's own name stands for this setting: `tracker=mlflow` is
            `tracker.use=mlflow`.
    """
    metadata = {
        "meaning": meaning,
        "choices": choices,
        "several": several,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "is_main": is_main,
    }
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Return the mapping in a YAML file: text, numbers, booleans, null, lists and mappings.

    Python objects are not constructed. Aliases are refused: a few lines of nested ones expand to
    more values than memory holds.

    Args:
        what: the kind of file, for messages.

    Raises ConfigError with the file's name and the fault.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such {what}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: is not YAML ({_one_line(error)})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: is no {what}: it must be a mapping")
    check_plain(tree, str(path))
    return tree


def check_plain(tree: Any, where: str, depth: int = MAX_DEPTH) -> None:
    """Raise ConfigError unless a tree has strings as keys, plain values, and limited depth."""
    if depth == 0:
        raise ConfigError(f"{where}: is nested too deeply; allowed are {MAX_DEPTH} levels")
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(tree, dict) and not isinstance(key, str):
            raise ConfigError(f"{where}: {key}: is not text; names must be text")
        if isinstance(value, dict | list):
            check_plain(value, f"{where}: {key}", depth - 1)
        elif not isinstance(value, str | int | float | None):
            raise ConfigError(
                f"{where}: {key}: {value!r} must be text, a number, true, false or null"
            )


def parse_override(override: str) -> Any:
    """Return one `key=value` as a tree; raise ConfigError if it has another form."""
    key, equals, _ = override.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(f"{override!r}: a setting must have the form key=value")
    try:
        return OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{key}: is not a YAML value ({_one_line(error)})") from error


def merge(schema: type, config: Any, tree: Any, where: str) -> Any:
    """Return OmegaConf's `config` of a schema, updated by a tree.

    Args:
        where: start of messages, such as the file's name.

    Raises ConfigError for unknown keys and wrong types.
    """
    tree = _with_main_settings(schema, tree)
    plain = flatten(OmegaConf.to_container(tree, resolve=False))
    rules = {name: field.metadata for name, field in _fields(schema, "")}
    for key, value in plain.items():
        # OmegaConf would resolve these, and a file could read environment variables.
        for mark, shown in _MARKS.items():
            if mark in str(value):
                raise ConfigError(f"{where}{key}: {shown} is not supported; write the value")
        # YAML reads a bare `no` as false.
        if value is False and key in rules and "no" in (rules[key]["choices"] or ()):
            OmegaConf.update(tree, key, "no")
    try:
        return OmegaConf.merge(config, tree)
    except ConfigKeyError as error:
        raise ConfigError(f"{where}{_unknown_key(schema, error.full_key)}") from error
    except OmegaConfBaseException as error:
        key = error.full_key or next(iter(tree))
        raise ConfigError(f"{where}{key}: {_wrong_type(schema, key, plain.get(key))}") from error
    except OverflowError as error:  # an integer that no float holds
        long = [key for key, value in plain.items() if len(str(value)) > MAX_DIGITS]
        raise ConfigError(f"{where}{', '.join(long or plain)}: a number is too large") from error
    except TypeError as error:
        # OmegaConf raises it for a section in place of a list, without the key.
        lists = [name for name, field in _fields(schema, "") if field.type.startswith("list")]
        given = (name for name in lists if any(key.startswith(f"{name}.") for key in plain))
        wrong = next(given, " or ".join(lists))  # an empty section has no key
        raise ConfigError(f"{where}{wrong}: is a section; it must be a list") from error


def _with_main_settings(schema: type, tree: Any) -> Any:
    """Return a tree in which a value in place of a section is that of its main setting."""
    plain = OmegaConf.to_container(tree, resolve=False)
    for name, field in _fields(schema, ""):
        section, _, key = name.rpartition(".")
        value = plain.get(section)
        if field.metadata["is_main"] and section in plain and not isinstance(value, dict):
            tree = OmegaConf.create(plain | {section: {key: value}})
    return tree


def checked(config: Any) -> Any:
    """Return OmegaConf's `config` as its dataclass; raise ConfigError for values out of limits."""
    settings = OmegaConf.to_object(config)
    _check(settings, "")
    return settings


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under their dotted names: `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def describe(schema: type) -> str:
    """Return name, default, meaning and allowed values of all settings, for `--help`."""
    lines = []
    for name, field in _fields(schema, ""):
        default = field.default if field.default is not MISSING else field.default_factory()
        allowed = _allowed(field.metadata)
        suffix = f" [{allowed}]" if allowed else ""
        shown = "null" if default is None else default
        lines.append(f"  {name}={shown}\n      {field.metadata['meaning']}{suffix}")
    return "\n".join(lines)


def _wrong_type(schema: type, key: str, value: Any) -> str:
    kinds = {name: field.type for name, field in _fields(schema, "")}
    if key not in kinds:
        return "is a section of settings, or an item of a list; it cannot have this value"
    words = {"int": "a whole number", "float": "a number", "str": "text", "None": "null"}
    words |= {"bool": "true or false", "list[Phase]": "a list of phases"}
    allowed = " or ".join(words.get(part, f"a {part}") for part in kinds[key].split(" | "))
    return f"{value!r} is not {allowed}"


def _unknown_key(schema: type, key: str) -> str:
    names = [name for name, _ in _fields(schema, "")]
    section = key.rpartition(".")[0] + "."
    siblings = [name for name in names if name.startswith(section)]
    near = difflib.get_close_matches(key, siblings or names, n=3)
    hint = near or siblings or sorted({name.partition(".")[0] for name in names})
    return f"{key}: there is no such setting; allowed are {', '.join(hint)}"


def _fields(kind: type, prefix: str) -> list[tuple[str, dataclasses.Field]]:
    found: list[tuple[str, dataclasses.Field]] = []
    for field in dataclasses.fields(kind):
        if field.metadata:
            found.append((prefix + field.name, field))
        else:
            found += _fields(field.default_factory, f"{prefix}{field.name}.")
    return found


def _check(section: Any, prefix: str) -> None:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if not field.metadata:
            _check(value, f"{prefix}{field.name}.")
        elif value is not None:
            _check_value(f"{prefix}{field.name}", value, field.metadata)


def _check_value(name: str, value: Any, rule: Any) -> None:
    if isinstance(value, list):
        for number, item in enumerate(value):
            if dataclasses.is_dataclass(item):
                _check(item, f"{name}[{number}].")
            elif isinstance(item, dict | list):  # OmegaConf accepts them in a list of strings
                raise ConfigError(f"{name}[{number}]: {item!r} must be a single value")
            else:
                _check_value(f"{name}[{number}]", item, rule)
        return
    if isinstance(value, str) and any(ord(letter) < 32 for letter in value):
        raise ConfigError(f"{name}: {value!r} contains control characters; remove them")
    wrong = (rule["choices"] is not None and not _is_choice(value, rule)) or (
        isinstance(value, int | float)
        and not (
            (rule["minimum"] is None or value >= rule["minimum"])
            and (rule["above"] is None or value > rule["above"])
            and (rule["maximum"] is None or value <= rule["maximum"])
            and abs(value) != float("inf")
        )
    )
    if wrong:
        if rule["is_main"]:
            name = name.rpartition(".")[0]
        raise ConfigError(f"{name}: {value!r} is not allowed; allowed: {_allowed(rule)}")


def _is_choice(value: Any, rule: Any) -> bool:
    if not rule["several"]:
        # `True == 1`, so the types are compared as well.
        return any(type(value) is type(each) and value == each for each in rule["choices"])
    words = value.split(",")
    alone = len(words) == 1 or "none" not in words
    return alone and len(set(words)) == len(words) and set(words) <= set(rule["choices"])


def _allowed(rule: Any) -> str:
    if rule["choices"]:
        suffix = ", or several separated by commas" if rule["several"] else ""
        shown = (str(each).lower() if isinstance(each, bool) else each for each in rule["choices"])
        return " | ".join(shown) + suffix
    bounds = (("minimum", "at least"), ("above", "more than"), ("maximum", "at most"))
    return ", ".join(f"{words} {rule[key]:g}" for key, words in bounds if rule[key] is not None)


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
