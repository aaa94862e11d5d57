"""Server of an atlas on the loopback interface."""

from __future__ import annotations

import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from shards.errors import UserError
from vaetrain.atlas_site.map_files import POLICY

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Static files, with the content policy also for workers, which a page's own does not cover."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".parquet": "application/octet-stream",
        ".bin": "application/octet-stream",
    }

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", f"{POLICY}; frame-src 'self'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing: every page needs dozens of files."""

    def list_directory(self, path: str) -> None:
        """Refuse to list folders."""
        self.send_error(404)


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the folder; port 0: any free one. Raises UserError if it is taken."""
    handler = functools.partial(_Handler, directory=str(folder))
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--port {port}: cannot be used ({reason}); name another") from None


def serve(folder: Path, port: int) -> None:
    """Serve the folder until Ctrl-C."""
    server = make_server(folder, port)
    print(f"http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
