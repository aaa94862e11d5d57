"""Servers of shards: one of the web that fails when a test says so, and one that speaks S3."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and does to every n-th request what the server's `fault` says."""

    def __init__(self, owner: "PageServer", *args: object) -> None:
        self.owner = owner
        super().__init__(*args, directory=str(owner.folder.parent))

    def do_GET(self) -> None:
        owner = self.owner
        with owner.lock:
            owner.requests.append(self.path)
            hit = owner.every and len(owner.requests) % owner.every == 0
        if not hit:
            super().do_GET()
        elif isinstance(owner.fault, int):
            self.send_error(owner.fault)
        else:
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if owner.fault == "flipped":
                content = content[:-1] + bytes([content[-1] ^ 1])
            self.wfile.write(content[: len(content) // 2])
            if owner.fault == "slow":
                time.sleep(0.03)
            if owner.fault != "truncated":
                self.wfile.write(content[len(content) // 2 :])

    def log_message(self, *_: object) -> None:
        pass


class PageServer:
    """Serves a folder from `start` to `stop`, which may come more than once.

    Attributes:
        url: the folder's address, the same each time.
        requests: the paths that were asked for.
        every: what every n-th request meets is `fault`; 0: none.
        fault: a status, or "truncated", "flipped" or "slow".
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.every, self.fault = 0, 500
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/{self.folder.name}"

    @property
    def tars(self) -> list[str]:
        """The requests for shards."""
        return [path for path in self.requests if path.endswith(".tar")]

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), partial(Handler, self))
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def served_by_s3(folder: Path) -> Iterator[tuple[str, ThreadedMotoServer]]:
    """The address of a folder in an S3 of this machine, and its server."""
    found = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    found.start()
    with pytest.MonkeyPatch.context() as environment:
        host, port = found.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "NO_PROXY": "127.0.0.1",
        }.items():
            environment.setenv(name, value)
        files = fsspec.filesystem("s3")
        files.mkdir("bucket")
        files.put(f"{folder}/*", "bucket/pages/")
        yield "s3://bucket/pages", found
        found.stop()
