"""Shards on a server: addresses, what fetching a file needs, and how failures are told and retried.

Files are read through fsspec, which knows credentials from where its drivers usually find them: the
environment, the files of the clouds' own tools, `.netrc`. An address never holds any.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shards.errors import DamagedShards, one_line
from shards.location import protocol_of

SILENCE = 30.0  # seconds without a byte after which a request has failed
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 20.0  # seconds between two attempts
_DAMAGED_ATTEMPTS = 4  # a file that came damaged so often lies damaged on the server

_LOCAL_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE}
_pauses = random.Random()  # of its own: no training draws from it, and it is seeded by the system

Result = TypeVar("Result")


class Damaged(OSError):
    """A file came, but not the one that was asked for."""


@dataclass(frozen=True)
class Remote:
    """A folder on a server.

    Attributes:
        url: its address.
        patience: seconds for which a fetch that fails is tried again.
    """

    url: str
    patience: float

    def read(self, name: str) -> bytes:
        """The bytes of a small file; raises DamagedShards naming it and the reason."""
        return self.retrying(name, lambda: self._filesystem().cat_file(self.address(name)))

    def fetch(self, name: str, path: Path) -> None:
        """One attempt to copy a file to `path`; for use inside `retrying`."""
        self._filesystem().get_file(self.address(name), str(path))

    def address(self, name: str) -> str:
        """The address of one of the folder's files."""
        return f"{self.url}/{name}"

    def retrying(self, name: str, attempt: Callable[[], Result]) -> Result:
        """What `attempt` returns in the end, tried again with growing pauses while it fails.

        Raises DamagedShards, naming the file and the reason, at once where trying again would be in
        vain, else after `patience` seconds.
        """
        start, pause, damaged = time.monotonic(), _FIRST_PAUSE, 0
        while True:
            try:
                return attempt()
            except self._failures() as error:
                reason = _final(error)
                damaged += isinstance(error, Damaged)
                if reason is None and damaged == _DAMAGED_ATTEMPTS:
                    reason = f"{error}, in {damaged} attempts"
                waited = time.monotonic() - start
                if reason is None and waited >= self.patience:
                    reason = f"{_told(error)}; tried for {waited:.0f} s"
                if reason is not None:
                    message = f"{self.address(name)}: cannot be fetched ({one_line(reason)})"
                    raise DamagedShards(message) from error
            left = start + self.patience - time.monotonic()
            time.sleep(max(0.0, min(left, pause * _pauses.uniform(0.5, 1.0))))
            pause = min(2 * pause, _LONGEST_PAUSE)

    @property
    def _protocol(self) -> str:
        return protocol_of(self.url)

    def _filesystem(self) -> Any:
        # Imported only where a file is fetched. fsspec keeps one of these a process and thread.
        import fsspec

        return fsspec.filesystem(self._protocol, **_options(self._protocol))

    def _failures(self) -> tuple[type[Exception], ...]:
        """The exceptions in which a protocol's driver says that a request failed."""
        import asyncio

        # asyncio's TimeoutError is no OSError before Python 3.11.
        failures: list[type[Exception]] = [OSError, asyncio.TimeoutError]
        if self._protocol in ("http", "https", "gs"):
            from aiohttp import ClientError

            failures.append(ClientError)
        if self._protocol == "s3":
            from aiohttp import ClientError
            from botocore.exceptions import BotoCoreError
            from botocore.exceptions import ClientError as S3Error

            failures += [ClientError, BotoCoreError, S3Error]
        if self._protocol == "gs":
            from gcsfs.retry import ChecksumError, HttpError
            from google.auth.exceptions import GoogleAuthError

            failures += [HttpError, ChecksumError, GoogleAuthError]
        return tuple(failures)


def _options(protocol: str) -> dict[str, Any]:
    """What a driver is told: to give up on silence, and to take credentials from their places."""
    if protocol == "s3":
        quick = {"connect_timeout": SILENCE, "read_timeout": SILENCE}
        return {"config_kwargs": {**quick, "retries": {"max_attempts": 1}}}
    if protocol == "gs":
        return {"requests_timeout": None, "timeout": None}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def _final(error: Exception) -> str | None:
    """Why trying again would be in vain; None where it may help."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", status)
    if isinstance(error, PermissionError) or str(status) in ("401", "403"):
        return "no permission; credentials are taken from the environment"
    if isinstance(error, FileNotFoundError) or str(status) in ("404", "410"):
        return "there is no such file"
    if type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError"):
        return "no credentials in the environment"
    if isinstance(error, OSError) and error.errno in _LOCAL_TROUBLE:
        return f"{error.filename or 'the cache'}: {error.strerror}"
    return None


def _told(error: Exception) -> str:
    text = str(error).strip()
    return text if isinstance(error, OSError) and text else f"{type(error).__name__} {text}".strip()
