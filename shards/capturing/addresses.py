"""Addresses of pages: credentials are separated, and secrets are removed before one is written."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, unquote_plus, urlsplit

from shards.errors import UserError
from shards.format.layout import MAX_TEXT
from shards.format.metadata import short_text

_SECRET_NAME = re.compile(
    r"token|secret|passw|pwd|auth(?!or)|session|sid$|(^|[-_]|api)key$|sig$|signature|credential|jwt"
    r"|^code$|^state$|nonce|otp$|^pin$|x-amz|x-goog|ticket|saml|login|mail|user(name)?$",
    re.IGNORECASE,
)
_ROOM = 8  # characters of an id after the address
_MAX_VALUE = 40  # characters of a query value that is kept
_RANDOM = re.compile(r"(?=[A-Za-z_-]*\d)(?=[\d_-]*[A-Za-z])[A-Za-z0-9_-]{16,}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Credentials(NamedTuple):
    """User name and password of an address."""

    user: str
    password: str


def parse_address(text: str) -> SplitResult:
    """Return the parts of a http or https address; raise UserError if it is malformed."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{_without_user(text)}: not an address ({error})") from None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise UserError(f"{_without_user(text)}: not an address of the form https://host/path")
    return parts


def _without_user(text: str) -> str:
    """Return malformed text without anything that may be a password, for a message."""
    scheme, colon, rest = text.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2].partition('?')[0]}"


def host_of(parts: SplitResult) -> str:
    """Return the host in lower case, with the port unless it is the scheme's own."""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    own = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    return host if own else f"{host}:{parts.port}"


def split_credentials(parts: SplitResult) -> tuple[str, Credentials | None]:
    """Return the address to open, without user and password, and these."""
    address = parts._replace(netloc=host_of(parts)).geturl()
    if parts.username is None:
        return address, None
    return address, Credentials(unquote(parts.username), unquote(parts.password or ""))


def clean_address(parts: SplitResult) -> str:
    """Return an address that may be written to a file or a terminal.

    User and password, parameters of the query whose name or value may be a secret, session ids in
    the path, and fragments that are not the route of a single-page application are left out.
    """
    return shorten(f"{parts.scheme}://{host_of(parts)}{clean_path(parts)}")


def clean_path(parts: SplitResult) -> str:
    """Return path, query and route of an address without secrets, see `clean_address`."""
    path = "/".join(_clean_parameters(segment, ";") for segment in parts.path.split("/")) or "/"
    query = _clean_query(parts.query)
    route, question, route_query = parts.fragment.partition("?")
    fragment = ""
    if route.startswith(("/", "!/")):
        kept = _clean_query(route_query)
        fragment = f"#{route}{question if kept else ''}{kept}"
    return f"{path}{'?' if query else ''}{query}{fragment}"


def _clean_parameters(segment: str, separator: str) -> str:
    first, *parameters = segment.split(separator)
    return separator.join([first, *(one for one in parameters if not _may_be_secret(one))])


def _clean_query(query: str) -> str:
    return "&".join(one for one in query.split("&") if one and not _may_be_secret(one))


def _may_be_secret(parameter: str) -> bool:
    name, _, value = unquote_plus(parameter).partition("=")
    return bool(
        _SECRET_NAME.search(name)
        or len(parameter) > 2 * _MAX_VALUE
        or len(value) > _MAX_VALUE
        or _RANDOM.search(value)
        or _RANDOM.search(name)
    )


def shorten(text: str) -> str:
    """Return text that leaves room for a width in an id; longer text ends with a hash of itself."""
    return short_text(text, MAX_TEXT - _ROOM)
