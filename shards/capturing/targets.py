"""Pages to capture: files, folders of files, addresses, and lists of addresses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shards.capturing.addresses import (
    Credentials,
    clean_address,
    clean_path,
    host_of,
    parse_address,
    shorten,
    split_credentials,
)
from shards.errors import UserError

HTML_SUFFIXES = (".html", ".htm", ".xhtml")
LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class Target:
    """A page to capture.

    url: opened by the browser; without credentials, but with the whole query.
    address: written to the output and to messages; without secrets.
    host: of a page on a server, with its port; None for a file.
    credentials: sent to this host alone, and never written.
    source, template, url_path: written to the output, see `docs/data.md`.
    """

    url: str
    address: str
    host: str | None
    credentials: Credentials | None
    source: str
    template: str
    url_path: str


def find_targets(sources: Iterable[str]) -> list[Target]:
    """Return the pages of all sources, each once, in the order of the sources.

    Files of a folder are sorted; hidden ones are left out. Raises UserError for a source that does
    not exist, is of another kind, or has no pages.
    """
    found: dict[str, Target] = {}
    for source in sources:
        before = len(found)
        is_empty = True
        for target in _targets_of(source):
            is_empty = False
            found.setdefault(target.address, target)
        if is_empty and len(found) == before:
            raise UserError(f"{source}: holds no HTML; pages end in {', '.join(HTML_SUFFIXES)}")
    return list(found.values())


def _targets_of(source: str) -> Iterator[Target]:
    if source.lower().startswith(("http://", "https://")):
        yield page_on_server(source)
        return
    if source.lower().startswith("file://"):
        source = unquote(urlsplit(source).path)
    elif "://" in source:
        raise UserError(f"{source.partition('://')[0]}://: only http, https and file are opened")
    path = Path(source)
    if path.is_dir():
        root = path.resolve()
        for file in _files_below(root):
            yield _page_in_file(file, root)
    elif not path.exists():
        raise UserError(
            f"{source}: no such file or folder; an address begins with https:// or http://"
        )
    elif path.name.lower().endswith(LIST_SUFFIX):
        yield from _listed(path)
    elif path.name.lower().endswith(HTML_SUFFIXES):
        yield _page_in_file(path.resolve(), path.resolve().parent)
    else:
        raise UserError(
            f"{source}: is not opened; name HTML files ({', '.join(HTML_SUFFIXES)}), folders, "
            f"addresses, or a list of addresses ({LIST_SUFFIX})"
        )


def page_on_server(address: str) -> Target:
    """Return the page at a http or https address; raise UserError if it is malformed."""
    parts = parse_address(address.strip())
    url, credentials = split_credentials(parts)
    host = host_of(parts)
    return Target(
        url=url,
        address=clean_address(parts),
        host=host,
        credentials=credentials,
        source=host,
        template=host,
        url_path=shorten(clean_path(parts)),
    )


def _page_in_file(file: Path, root: Path) -> Target:
    relative = file.relative_to(root)
    return Target(
        url=file.as_uri(),
        address=shorten(f"file://{file}"),
        host=None,
        credentials=None,
        source=shorten(root.name or "files"),
        # The pages of one folder share a design.
        template=shorten(relative.parts[0] if len(relative.parts) > 1 else root.name or "files"),
        url_path=shorten(relative.as_posix()),
    )


def _files_below(root: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(HTML_SUFFIXES) and not name.startswith("."):
                yield Path(folder, name)


def _listed(path: Path) -> Iterator[Target]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                yield page_on_server(line)
            except UserError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
