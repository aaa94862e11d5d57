"""Client for shards on a server: addresses, fetching of files, retries and error messages.

Files are read through fsspec. Its drivers take credentials from the environment, the files of the
cloud providers' own tools, or `.netrc`. An address never contains credentials.
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
_DAMAGED_ATTEMPTS = 4  # after so many damaged copies, the file on the server itself is damaged

_LOCAL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE}
_pauses = random.Random()  # separate from all generators of a training; seeded by the system

Result = TypeVar("Result")


class DamagedFile(OSError):
    """A fetched file with the wrong content."""


@dataclass(frozen=True)
class Remote:
    """A folder on a server.

    Attributes:
        url: address of the folder.
        patience: seconds for which a failing fetch is retried.
    """

    url: str
    patience: float

    def read(self, name: str) -> bytes:
        """Return the bytes of a small file; raise DamagedShards naming it and the reason."""
        return self.retrying(name, lambda: self._filesystem().cat_file(self.address(name)))

    def fetch(self, name: str, path: Path) -> None:
        """Try once to copy a file to `path`; for use inside `retrying`."""
        self._filesystem().get_file(self.address(name), str(path))

    def address(self, name: str) -> str:
        """Return the address of a file of the folder."""
        return f"{self.url}/{name}"

    def retrying(self, name: str, attempt: Callable[[], Result]) -> Result:
        """Return the result of `attempt`, which is retried with growing pauses while it fails.

        Raises DamagedShards naming the file and the reason: at once for a permanent failure, else
        after `patience` seconds.
        """
        start, pause, damaged = time.monotonic(), _FIRST_PAUSE, 0
        while True:
            try:
                return attempt()
            except self._failures() as error:
                reason = _permanent_reason(error)
                damaged += isinstance(error, DamagedFile)
                if reason is None and damaged == _DAMAGED_ATTEMPTS:
                    reason = f"{error}, in {damaged} attempts"
                waited = time.monotonic() - start
                if reason is None and waited >= self.patience:
                    reason = f"{_describe(error)}; tried for {waited:.0f} s"
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
        # Imported only if a file is fetched. fsspec caches one filesystem per process and thread.
        import fsspec

        return fsspec.filesystem(self._protocol, **_options(self._protocol))

    def _failures(self) -> tuple[type[Exception], ...]:
        """Return the exceptions that the driver of the protocol raises for a failed request."""
        import asyncio

        # asyncio's TimeoutError is not an OSError before Python 3.11.
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
    """Return the driver's options: timeouts, and credentials from the environment."""
    if protocol == "s3":
        timeouts = {"connect_timeout": SILENCE, "read_timeout": SILENCE}
        return {"config_kwargs": {**timeouts, "retries": {"max_attempts": 1}}}
    if protocol == "gs":
        return {"requests_timeout": None, "timeout": None}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def _permanent_reason(error: Exception) -> str | None:
    """Return the reason of a permanent failure; None if a retry may help."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", status)
    if isinstance(error, PermissionError) or str(status) in ("401", "403"):
        return "no permission; check the credentials in the environment"
    if isinstance(error, FileNotFoundError) or str(status) in ("404", "410"):
        return "no such file; check the address"
    if type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError"):
        return "no credentials in the environment"
    if isinstance(error, OSError) and error.errno in _LOCAL_ERRORS:
        return f"{error.filename or 'the cache'}: {error.strerror}"
    return None


def _describe(error: Exception) -> str:
    text = str(error).strip()
    return text if isinstance(error, OSError) and text else f"{type(error).__name__} {text}".strip()
