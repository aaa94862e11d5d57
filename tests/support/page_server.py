"""Servers of shards that fail on demand: a web server and an S3 server."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


class FailingServer:
    """Record of a server's requests, and the fault that some of them get.

    Attributes:
        requests: the requested paths.
        every: every n-th request gets the `fault`; 0: none.
        fault: a status, "truncated", or of the web alone "flipped" or "slow".
        failed: number of requests that got it.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.every, self.fault, self.failed = 0, 500, 0
        self._lock = threading.Lock()

    @property
    def tars(self) -> list[str]:
        """The requests for shards."""
        return [path for path in self.requests if path.endswith(".tar")]

    def fails(self, path: str) -> bool:
        """Count a request and return True if it has to fail."""
        with self._lock:
            self.requests.append(path)
            hit = self.every > 0 and len(self.requests) % self.every == 0
            self.failed += hit
        return hit


class Handler(SimpleHTTPRequestHandler):
    """Request handler of a folder; every n-th request gets the server's `fault`."""

    def __init__(self, owner: "PageServer", *args: object) -> None:
        self.owner = owner
        super().__init__(*args, directory=str(owner.folder.parent))

    def do_GET(self) -> None:
        owner = self.owner
        if not owner.fails(self.path):
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


class PageServer(FailingServer):
    """Web server of a folder, from `start` to `stop`; it can be started again.

    Attributes, beside those of `FailingServer`:
        url: the folder's address, the same each time.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/{self.folder.name}"

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), partial(Handler, self))
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class S3Server(FailingServer):
    """Moto's S3 server; every n-th GET gets the `fault`."""

    def __init__(self) -> None:
        super().__init__()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler
        )
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _answer(self, asked: dict, start_response: Callable) -> Iterable[bytes]:
        if asked["REQUEST_METHOD"] != "GET" or not self.fails(asked["PATH_INFO"]):
            return self._moto(asked, start_response)
        if self.fault != "truncated":
            start_response(f"{self.fault} as asked for", [("Content-Length", "0")])
            return []
        content = b"".join(self._moto(asked, start_response))  # with the length of all of it
        return [content[: len(content) // 2]]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def served_by_s3(folder: Path) -> Iterator[tuple[str, S3Server]]:
    """Give the address of a folder in an S3 server on this machine, and the server."""
    server = S3Server()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_ENDPOINT_URL": server.url,
            "NO_PROXY": "127.0.0.1",
        }.items():
            environment.setenv(name, value)
        try:
            # fsspec keeps one for its arguments, and knows nothing of the environment.
            files = fsspec.filesystem("s3", endpoint_url=server.url)
            files.makedirs("bucket", exist_ok=True)
            files.put(f"{folder}/*", "bucket/pages/")
            yield "s3://bucket/pages", server
        finally:
            server.stop()
