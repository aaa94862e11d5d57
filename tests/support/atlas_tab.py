"""A page of an atlas in Chromium, with all that goes wrong in it."""

from __future__ import annotations

NO_WEBGPU = "Could not get WebGPU device"  # the map's line before it falls back to WebGL
SECONDS = 60_000  # ms; the machine may be busy


class Tab:
    """A page of the atlas, and all that went wrong in it.

    faults: errors of the console and of scripts, and requests of other hosts.
    """

    def __init__(self, browser, address: str, **settings) -> None:
        self.faults: list[str] = []
        self.address = address
        self.context = browser.new_context(accept_downloads=True, **settings)
        self.context.set_default_timeout(SECONDS)
        self.context.route("**/*", self._allow)
        # The map then uses WebGL, which is drawn in software here.
        self.context.add_init_script("delete Navigator.prototype.gpu")
        self.page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))

    def _allow(self, route) -> None:
        if route.request.url.startswith(self.address + "/"):
            route.continue_()
        else:
            self.faults.append(f"request of {route.request.url}")
            route.abort()

    def _console(self, message) -> None:
        if message.type == "error" and message.text != NO_WEBGPU:
            self.faults.append(message.text)

    def open(self, path: str):
        """Open a page of the atlas and return it."""
        self.page.goto(f"{self.address}/{path}")
        return self.page

    def frame(self):
        """Return the frame of the map."""
        return next(frame for frame in self.page.frames if "/map/" in frame.url)
