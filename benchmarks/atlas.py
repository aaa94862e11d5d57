"""Cost of an atlas: to build it, to open it in a browser, and to move its map.

    python -m benchmarks.atlas build RUN --shards DIR --out FOLDER
    python -m benchmarks.atlas made PAGES --out FOLDER
    python -m benchmarks.atlas browse FOLDER [--rounds N] [--seconds S]
    python -m benchmarks.atlas pictures FOLDER --out DIR

`build` builds the atlas and prints seconds, peak memory, and the folder's size.

`made` writes an atlas of made-up pages, without a model and the page "Latent": the places are
twenty round heaps, neighbours are random. It is for `browse`.

`browse` opens each page with a map in Chromium, without a window and with graphics computed by the
processor. It prints the seconds until all points are drawn, and, while the map is dragged, frames
per second and milliseconds of processor time per frame, of all processes of the browser. The
processor time shows the cost on a machine that other programs use, too.

`pictures` takes the pictures of docs/atlas.md.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from shards import cli, optional_dependencies
from vaetrain.cli import whole

SIZE = {"width": 1280, "height": 800}
PAGES = ("index.html", "charts.html", "latent.html")
LIMIT = 60_000  # ms until a page is open
COUNT_FRAMES = """() => {
  window.frames = 0;
  const count = () => { window.frames += 1; requestAnimationFrame(count); };
  requestAnimationFrame(count);
}"""
DRAWN = """() => new Promise((resolve) =>
  requestAnimationFrame(() => requestAnimationFrame(resolve)))"""


def main() -> int:
    """Run the command and return the exit status."""
    parser = cli.Parser(
        prog="benchmarks.atlas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="seconds, memory and size of a build")
    build.add_argument("run", type=Path, metavar="RUN", help="run directory")
    build.add_argument("--shards", type=cli.location, required=True, metavar="DIR")
    build.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    made = commands.add_parser("made", help="an atlas of made-up pages")
    made.add_argument("pages", type=whole(20, 10**7), metavar="PAGES")
    made.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    browse = commands.add_parser("browse", help="seconds to open, frames per second")
    browse.add_argument("folder", type=Path, metavar="FOLDER", help="an atlas")
    browse.add_argument("--rounds", type=whole(1, 100), default=3, metavar="N", help="default 3")
    browse.add_argument("--seconds", type=whole(1, 60), default=4, metavar="S", help="of dragging")
    pictures = commands.add_parser("pictures", help="pictures of the pages, for the documentation")
    pictures.add_argument("folder", type=Path, metavar="FOLDER", help="an atlas with clusters")
    pictures.add_argument("--out", type=Path, required=True, metavar="DIR", help="existing folder")
    arguments = parser.parse_args()
    if arguments.command in ("browse", "pictures"):
        optional_dependencies.require("playwright", "capture", "this benchmark")
    if arguments.command == "build":
        measure_build(arguments.run, arguments.shards, arguments.out)
    elif arguments.command == "made":
        measure_made(arguments.pages, arguments.out)
    elif arguments.command == "browse":
        optional_dependencies.require("psutil", "bench", "this benchmark")
        measure_browser(arguments.folder, arguments.rounds, arguments.seconds)
    else:
        take_pictures(arguments.folder, arguments.out)
    return 0


def measure_build(run: Path, shards: str | Path, out: Path) -> None:
    """Build an atlas and print the cost."""
    from vaetrain.atlas_site.build import build_atlas

    before, start, processor = peak_memory(), time.perf_counter(), time.process_time()
    build_atlas(run, shards, out, None, 64)
    print(
        f"{time.perf_counter() - start:.0f} s ({time.process_time() - processor:.0f} s of this "
        f"process' processor time), peak memory {peak_memory() / 1e9:.2f} GB "
        f"({before / 1e9:.2f} GB before)"
    )


def measure_made(pages: int, out: Path) -> None:
    """Write an atlas of made-up pages and print the cost."""
    from benchmarks.support.made_atlas import write_made_atlas

    start = time.perf_counter()
    write_made_atlas(pages, out)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(
        f"{time.perf_counter() - start:.0f} s, peak memory {peak_memory() / 1e9:.2f} GB, "
        f"{size / 1e6:.0f} MB"
    )


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve an atlas; give its address."""
    from vaetrain.atlas_site.server import make_server

    server = make_server(folder, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium without a window; give a page of its, closed at the end."""
    from playwright.sync_api import sync_playwright

    from shards.capturing.browser import find_browser

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(None, playwright.chromium.executable_path),
            args=["--disable-dev-shm-usage", "--enable-unsafe-swiftshader"],
            chromium_sandbox=False,
        )
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(LIMIT)
        # Without WebGPU, which would be computed by the processor, too, and more slowly.
        page.add_init_script("delete Navigator.prototype.gpu")
        yield page
        browser.close()


def measure_browser(folder: Path, rounds: int, seconds: int) -> None:
    """Open and drag each page of an atlas, in turns, and print the cost."""
    pages = [name for name in PAGES if (folder / name).is_file()]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
    text = points_text(folder)
    with served(folder) as address:
        for _ in range(rounds):
            for name in pages:
                with chromium() as page:  # a new one: nothing is in its memory
                    found[name].append(open_and_drag(page, f"{address}/{name}", seconds, text))
    print_rounds(found)


def points_text(folder: Path) -> str:
    """Return the text of the charts that appears when all pages of an atlas are loaded."""
    count = json.loads((folder / "pages" / "pages.json").read_text())["pages"]
    return f"{count:,} / {count:,} points"


def take_pictures(folder: Path, out: Path) -> None:
    """Write pictures of an atlas' pages: the map, the charts, and a morph with samples."""
    with served(folder) as address, chromium() as page:
        page.goto(f"{address}/index.html")
        page.locator("#legend button").first.click()
        page.locator("#like button").first.wait_for()
        page.locator("#legend button").first.click()
        _save(page, out / "atlas_map.png")
        page.goto(f"{address}/charts.html")
        page.frame_locator("iframe").get_by_text(points_text(folder)).first.wait_for()
        _save(page, out / "atlas_charts.png")
        page.set_viewport_size({"width": 1280, "height": 1300})
        page.goto(f"{address}/latent.html")
        page.wait_for_selector("body[data-ready]")
        page.locator("#sample").click()
        page.locator("#samples button").first.wait_for()
        _save(page, out / "atlas_latent.png")


def _save(page: Any, path: Path) -> None:
    """Write what the page shows as soon as it has come to rest."""
    page.wait_for_timeout(2000)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, optimize=True)


def open_and_drag(page: Any, address: str, seconds: int, text: str) -> dict[str, float]:
    """Open a page of an atlas and drag its map; return the measured values.

    Args:
        text: of `points_text`.
    """
    spent, start = processor_time(), time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector("iframe, body[data-ready]", state="attached")
    if page.locator("iframe").count():
        frame = page.frames[-1]
        inner = page.frame_locator("iframe")
        inner.get_by_text(text).first.wait_for()
        canvas = inner.locator("canvas").first
        canvas.wait_for()
    else:
        frame, canvas = page.main_frame, page.locator("canvas").first
    frame.evaluate(DRAWN)
    values = {"open, s": time.perf_counter() - start, "open, CPU s": processor_time() - spent}
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    frame.evaluate(COUNT_FRAMES)
    spent, start, step = processor_time(), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step += 1
        page.mouse.move(x + 100 * ((step / 40) % 2 - 1), y + 50 * ((step / 60) % 2 - 1))
        page.wait_for_timeout(10)
    frames, passed = frame.evaluate("window.frames"), time.perf_counter() - start
    page.mouse.up()
    values["frames/s"] = frames / passed
    values["CPU ms a frame"] = 1000 * (processor_time() - spent) / max(1, frames)
    return values


def processor_time() -> float:
    """Return the seconds of processor time of all child processes that run now."""
    import psutil

    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def print_rounds(found: dict[str, list[dict[str, float]]]) -> None:
    """Print the median and the range over the rounds of each value of each page."""
    for name, rounds in found.items():
        print(name)
        for key in rounds[0]:
            values = [values[key] for values in rounds]
            print(
                f"  {key:16} {statistics.median(values):8.2f}  "
                f"({min(values):.2f} to {max(values):.2f}; {len(values)} rounds)"
            )


if __name__ == "__main__":
    cli.run("benchmarks.atlas", main)
