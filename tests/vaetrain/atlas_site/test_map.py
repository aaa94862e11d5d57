"""The map in Chromium, and both pages on a phone and in the dark."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tests.support.atlas_tab import Tab
from tests.support.chromium import needs_chromium

pytestmark = [pytest.mark.slow, needs_chromium]


def test_map_opens_pans_and_shows_a_page_with_its_neighbours(browser, atlas):
    tab = Tab(browser, atlas.address)
    page = tab.open("index.html")
    frame = page.frame_locator("iframe")
    frame.get_by_text("24 / 24 points").wait_for()
    canvas = frame.locator("canvas").first
    canvas.wait_for()
    page.wait_for_timeout(1500)  # the first view moves to its place
    box = canvas.bounding_box()
    assert box["width"] > 300
    before = canvas.screenshot()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2 + 20, steps=4)
    page.mouse.up()
    page.wait_for_timeout(1000)
    assert canvas.screenshot() != before
    button = frame.get_by_text("Nearest Neighbors").first
    for x, y in points_of(canvas)[:8]:
        page.mouse.move(x, y)
        page.wait_for_timeout(500)
        page.mouse.click(x, y)
        page.wait_for_timeout(1000)
        if button.count():
            break
    button.click()
    frame.get_by_text("Neighbors of #", exact=False).first.wait_for()
    assert tab.faults == []
    assert tab.frame().evaluate("window.hacked") is None
    tab.context.close()


def points_of(canvas) -> list[tuple[float, float]]:
    """Return places within coloured areas of the map, those near its middle first."""
    picture = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("HSV"))
    coloured = (picture[:, :, 1] > 90) & (picture[:, :, 2] > 80)
    rows, columns = np.nonzero(ndimage.minimum_filter(coloured, 5))
    middle = np.array(picture.shape[:2]) / 2
    order = np.argsort((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2)
    box = canvas.bounding_box()
    # Every fortieth: a point has about as many pixels.
    return [(box["x"] + int(columns[i]), box["y"] + int(rows[i])) for i in order[::40]]


@pytest.mark.parametrize("path", ["latent.html", "index.html"])
def test_pages_fit_a_phone_and_are_dark_in_the_dark(browser, atlas, path):
    colours = {}
    for scheme in ("light", "dark"):
        size = {"width": 360, "height": 740}
        tab = Tab(browser, atlas.address, viewport=size, color_scheme=scheme)
        page = tab.open(path)
        if path == "latent.html":
            page.wait_for_selector("body[data-ready]")
        else:
            page.frame_locator("iframe").locator("canvas").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert tab.faults == []
        tab.context.close()
    assert colours == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 23, 27)"}
