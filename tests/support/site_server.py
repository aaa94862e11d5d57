"""Web server of the pages that capture is tested with, and of answers that no file can give."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from tests.support.paths import REPO

SITE = REPO / "tests" / "fixtures" / "site"
USER, PASSWORD = "reader", "pass-word-2941"
ROBOTS = "User-agent: *\nDisallow: /private\nDisallow: /*?print\n"
SLOW_SECONDS = 0.1
_STREAM = b"<!doctype html><main style='width: 120px; height: 60px'></main>"


class Site:
    """Server on the loopback, and a record of its requests.

    Attributes:
        requests: (host name, path) of every request, in order.
        most_open: largest number of slow requests open at once, by host.
        with_cookie: paths of the documents that were requested with a cookie.
        hooks: functions called at a request of a path, by the path.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.most_open: Counter = Counter()
        self.with_cookie: list[str] = []
        self.hooks: dict[str, Callable[[], None]] = {}
        self._open: Counter = Counter()
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the address of a path."""
        return f"http://{host}:{self.port}/{path}"

    def paths(self, host: str = "127.0.0.1") -> list[str]:
        """Return the paths requested of a host."""
        return [path for name, path in self.requests if name == host]

    @contextmanager
    def count(self, name: str) -> Iterator[None]:
        """Count a request while it is open."""
        with self._lock:
            self._open[name] += 1
            self.most_open[name] = max(self.most_open[name], self._open[name])
            self.most_open["all"] = max(self.most_open["all"], self._open.total())
        try:
            yield
        finally:
            with self._lock:
                self._open[name] -= 1

    def stop(self) -> None:
        """Stop the server and end the answers without end."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Handler(SimpleHTTPRequestHandler):
    """Request handler of the pages in tests/fixtures/site and of special paths."""

    protocol_version = "HTTP/1.1"

    def __init__(self, site: Site, *args: object) -> None:
        self.site = site
        super().__init__(*args, directory=str(SITE))

    def do_GET(self) -> None:
        self.site.requests.append((self._host, self.path))
        if self.headers.get("Sec-Fetch-Dest") == "document" and "Cookie" in self.headers:
            self.site.with_cookie.append(self.path)
        path = self.path.partition("?")[0]
        self.site.hooks.get(path, lambda: None)()
        name = path.strip("/").replace(".", "_").replace("-", "_")
        special = getattr(self, f"_get_{name}", None)
        try:
            super().do_GET() if special is None else special()
        except OSError:
            self.close_connection = True  # the browser closed the connection

    @property
    def _host(self) -> str:
        return self.headers.get("Host", "").partition(":")[0]

    def end_headers(self) -> None:
        self.send_header("Set-Cookie", "session=cookie-value-8462")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(
        self, content: bytes, kind: str = "text/html", status: int = 200, **more: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _get_robots_txt(self) -> None:
        self._answer(ROBOTS.encode(), "text/plain")

    def _get_private_html(self) -> None:
        self._answer(b"<p>private</p>")

    def _get_ping(self) -> None:
        self._answer(b"{}", "application/json")

    def _get_data_json(self) -> None:
        self._answer(b"{}", "application/json")

    def _get_file_bin(self) -> None:
        self._answer(b"saved", "application/octet-stream", Content_Disposition="attachment")

    def _get_moved_html(self) -> None:
        self._answer(b"", status=302, Location="/plain.html")

    def _get_moved_to_private_html(self) -> None:
        self._answer(b"", status=302, Location="/private.html")

    def _get_locked_html(self) -> None:
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") == f"Basic {expected}":
            self._answer(b"<main style='width: 90px; height: 40px'></main>")
        else:
            self._answer(b"", status=401, WWW_Authenticate='Basic realm="pages"')

    def _get_slow_svg(self) -> None:
        with self.site.count(self._host):
            time.sleep(SLOW_SECONDS)
        self._answer((SITE / "picture.svg").read_bytes(), "image/svg+xml")

    def _get_silent_html(self) -> None:
        self.site.closing.wait(60)

    def _get_never_ends_html(self) -> None:
        self._stream("text/html", _STREAM, b" ")

    def _get_never_ends_png(self) -> None:
        self._stream("image/png", b"\x89PNG\r\n\x1a\n", b"\0")

    def _stream(self, kind: str, first: bytes, then: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.close_connection = True
        self.wfile.write(first)
        while not self.site.closing.wait(0.05):
            self.wfile.write(then)
