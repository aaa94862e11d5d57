"""Registry of source formats: each kind of input that `shards.build` reads is one registered piece.

Three kinds of format exist:

- a JSON schema parses one decoded object of a file of JSON or JSON lines and is recognised by the
  object's keys (`register_schema`, used in `shards.format.schemas`);
- a file format parses the bytes of one file and is recognised by the file's suffix, or by its first
  bytes where a single file is read (`register_file_format`, used in `shards.format.png`);
- a generator makes a page from a seed and a page number (`register_generator`, used in
  `shards.synthetic.archetypes`).

Any of these files may be a member of a tar (`ARCHIVE_SUFFIXES`).

The names of the formats are the choices of `--format`, beside "auto" and "layout". Importing
`shards.format` registers the schemas and file formats, importing `shards.building` the generators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

LINES_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
JSON_SUFFIXES = (*LINES_SUFFIXES, ".json", ".json.gz")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
AUTO, ANY_SCHEMA = "auto", "layout"  # every file format and schema; every schema

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class JsonSchema:
    """One way to write a layout as a JSON object.

    recognises: tells from the keys of an object whether it has this schema. At most one schema
        may recognise an object; of several, the first that was registered parses it. A list that
        is not empty is passed as the object `{"elements": list}`.
    parse: makes a `shards.format.layout.Layout` of the object, or a list of them (and of a
        `BadLayout` for each page that is refused) if it holds several pages; raises `BadLayout`.
    """

    name: str
    recognises: Callable[[dict], bool]
    parse: Callable[[dict], Any]


@dataclass(frozen=True)
class FileFormat:
    """One kind of file with a single page in it.

    suffixes: lower-case ends of file names, dots included. A file whose name ends with ".gz" is
        decompressed before it is parsed.
    signature: first bytes of such a file, or a tuple of alternatives; b"" if it has none.
    is_picture: `parse` gives grey values, which have no boxes.
    parse: makes of the file's bytes a `shards.format.layout.Layout`, or of a picture its grey
        values, uint8 (height, width); raises `BadLayout`.
    """

    name: str
    suffixes: tuple[str, ...]
    signature: bytes | tuple[bytes, ...]
    is_picture: bool
    parse: Callable[[bytes], Any]


@dataclass(frozen=True)
class Generator:
    """A source of pages that reads no files.

    default_count: pages made if `--count` is not given.
    generate: makes page `number` of a `seed`, as a JSON object of a registered schema.
    """

    name: str
    default_count: int
    generate: Callable[[int, int], dict]


SourceFormat = JsonSchema | FileFormat | Generator

SOURCE_FORMATS: dict[str, SourceFormat] = {}
"""All registered formats by name, in the order of registration."""


def register_schema(
    name: str, *, recognises: Callable[[dict], bool]
) -> Callable[[_Function], _Function]:
    """Register the decorated function as the parser of a JSON schema, see `JsonSchema`."""
    return _register(name, lambda parse: JsonSchema(name, recognises, parse))


def register_file_format(
    name: str,
    *,
    suffixes: tuple[str, ...],
    signature: bytes | tuple[bytes, ...] = b"",
    is_picture: bool = False,
) -> Callable[[_Function], _Function]:
    """Register the decorated function as the parser of a file format, see `FileFormat`."""
    return _register(name, lambda parse: FileFormat(name, suffixes, signature, is_picture, parse))


def register_generator(name: str, *, default_count: int) -> Callable[[_Function], _Function]:
    """Register the decorated function as a page generator, see `Generator`."""
    return _register(name, lambda generate: Generator(name, default_count, generate))


def _register(name: str, make: Callable[[Any], SourceFormat]) -> Callable[[_Function], _Function]:
    def decorate(function: _Function) -> _Function:
        if name in format_choices():
            raise ValueError(f"source format {name!r} is registered already; choose another name")
        SOURCE_FORMATS[name] = make(function)
        return function

    return decorate


def format_choices() -> tuple[str, ...]:
    """Return the values of `--format`, sorted after "auto" and "layout"."""
    return (AUTO, ANY_SCHEMA, *sorted(SOURCE_FORMATS))


def json_schemas() -> list[JsonSchema]:
    """Return the registered JSON schemas, in the order of registration."""
    return [entry for entry in SOURCE_FORMATS.values() if isinstance(entry, JsonSchema)]


def file_format_of(name: str, data: bytes = b"") -> FileFormat | None:
    """Return the format of a file by its name, else by its first bytes; None: JSON."""
    formats = [entry for entry in SOURCE_FORMATS.values() if isinstance(entry, FileFormat)]
    by_name = [entry for entry in formats if name.lower().endswith(entry.suffixes)]
    by_data = [entry for entry in formats if entry.signature and data.startswith(entry.signature)]
    return next(iter(by_name + by_data), None)


def suffixes_of(choice: str) -> tuple[str, ...]:
    """Return the suffixes of the files that a value of `--format` reads."""
    chosen = SOURCE_FORMATS.get(choice)
    if isinstance(chosen, FileFormat):
        return chosen.suffixes
    if choice != AUTO:
        return JSON_SUFFIXES
    formats = [entry for entry in SOURCE_FORMATS.values() if isinstance(entry, FileFormat)]
    return JSON_SUFFIXES + tuple(suffix for entry in formats for suffix in entry.suffixes)


def schema_of_choice(choice: str) -> JsonSchema | None:
    """Return the only schema that a value of `--format` reads; None if it reads any."""
    chosen = SOURCE_FORMATS.get(choice)
    return chosen if isinstance(chosen, JsonSchema) else None


def generator_of(choice: str) -> Generator | None:
    """Return the generator that a value of `--format` names; None if it reads files."""
    chosen = SOURCE_FORMATS.get(choice)
    return chosen if isinstance(chosen, Generator) else None
