"""The map and the charts in Chromium, and all pages on a phone and in the dark."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from scipy import ndimage

from tests.support.atlas_tab import Tab
from tests.support.chromium import needs_chromium

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture
def overview(browser, atlas):
    """The page "Map"; checks that nothing came from elsewhere and no script failed or ran."""
    tab = Tab(browser, atlas.address)
    tab.open("index.html").wait_for_selector("body[data-ready]")
    yield tab.page
    assert tab.faults == []
    assert tab.page.evaluate("window.hacked") is None
    tab.context.close()


def place_of(page, row: int) -> tuple[float, float]:
    """Return the place of a page's point in the window."""
    x, y = page.evaluate(
        """(row) => { const map = window.overview.map;
        const [x, y] = map._at(row); const box = map.canvas.getBoundingClientRect();
        const factor = box.width / map.canvas.width;
        return [box.left + x * factor, box.top + y * factor]; }""",
        row,
    )
    return x, y


def test_a_clicked_point_shows_its_page_and_the_pages_most_like_it(overview, atlas):
    rows = parquet.read_table(atlas.folder / "map" / "data" / "dataset.parquet").to_pylist()
    # The clicked point may cover another one.
    overview.mouse.move(*place_of(overview, 5))
    overview.locator("#hover img").wait_for()
    overview.mouse.click(*place_of(overview, 5))
    overview.locator("#like button").first.wait_for()
    row = overview.evaluate("window.overview.chosen.row")
    text = overview.locator("#card").inner_text()
    assert rows[row]["id"] in text
    assert f"{rows[row]['height']} rows" in text
    near = rows[row]["__neighbours"]
    texts = overview.locator("#like button").all_inner_texts()
    distances = [float(text.rpartition("distance ")[2]) for text in texts]
    np.testing.assert_allclose(distances, near["distances"], atol=6e-4)
    assert overview.url.endswith(f"#page={row}")
    assert overview.locator("#open").get_attribute("href") == f"latent.html#page={row}"
    overview.locator("#like button").first.click()
    overview.locator("#morph").wait_for()
    expected = f"latent.html#page={row}&to={near['ids'][0]}"
    assert overview.locator("#morph").get_attribute("href") == expected


def test_the_map_is_dragged_and_zoomed(overview):
    before, size = place_of(overview, 3), overview.evaluate("window.overview.map.scale")
    box = overview.locator("#map").bounding_box()
    x, y = box["x"] + 5, box["y"] + 5
    overview.mouse.move(x, y)
    overview.mouse.down()
    overview.mouse.move(x + 60, y + 20, steps=4)
    overview.mouse.up()
    np.testing.assert_allclose(place_of(overview, 3), np.add(before, (60, 20)), atol=1)
    overview.get_by_role("button", name="Zoom in").click()
    assert overview.evaluate("window.overview.map.scale") == pytest.approx(1.5 * size)
    overview.get_by_role("button", name="Reset zoom").click()
    np.testing.assert_allclose(place_of(overview, 3), before, atol=1)


def resize(page, width: int) -> None:
    """Change the window's size, and wait until the map follows."""
    before = page.evaluate("window.overview.map.canvas.width")
    page.set_viewport_size({"width": width, "height": 700})
    while page.evaluate("window.overview.map.canvas.width") == before:
        page.wait_for_timeout(20)


def test_another_size_keeps_the_view_and_never_shows_an_empty_map(overview):
    whole = overview.evaluate("window.overview.map.scale")
    overview.evaluate("window.requestAnimationFrame = () => 0")  # what a later frame would draw
    resize(overview, 1100)
    assert overview.evaluate("window.overview.map.scale") != whole
    assert overview.evaluate(
        """() => { const { canvas } = window.overview.map;
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return data.some((value) => value !== 0); }"""
    )
    overview.get_by_role("button", name="Zoom in").click()
    zoomed = overview.evaluate("window.overview.map.scale")
    resize(overview, 1200)
    assert overview.evaluate("window.overview.map.scale") == zoomed


def test_a_cluster_is_shown_alone_with_its_typical_page(overview):
    button = overview.locator("#legend button", has_text="cluster 1 (11)")
    button.click()
    overview.locator("#card[data-row='21']").wait_for()
    shown = overview.evaluate("Array.from(window.overview.map.colours, (colour) => colour !== 0)")
    assert shown == [row % 2 == 1 for row in range(23)] + [False]
    button.click()
    assert overview.evaluate("window.overview.map.colours.every((colour) => colour !== 0)")


def test_a_page_that_arrives_late_does_not_replace_a_later_choice(overview):
    chosen = overview.evaluate(
        """async () => {
        const { overview } = window;
        const read = overview.atlas.page.bind(overview.atlas);
        overview.atlas.page = async (row) => {
          if (row === 6) await new Promise((done) => setTimeout(done, 300));
          return read(row);
        };
        await Promise.all([overview.choose(6), overview.choose(7)]);
        return [overview.chosen.row, document.getElementById("card").dataset.row]; }"""
    )
    assert chosen == [7, "7"]
    assert overview.url.endswith("#page=7")


def test_the_map_says_how_to_show_all_pages_again(overview):
    hint = overview.locator("#legend-hint")
    assert "with its typical page" in hint.inner_text()
    assert "click it again to show all" in hint.inner_text()
    overview.locator("#colour").select_option("template")
    groups = overview.locator("#legend button").count()
    assert ("after the largest 10 are grey" in hint.inner_text()) == (groups > 10)


def test_a_search_says_how_many_pages_it_found(overview):
    texts = overview.evaluate(
        """async () => { const { foundText } = await import("./pages/lists.js");
        return [[0, 0], [1, 1], [24, 24], [24, 1033]].map(([shown, all]) => foundText(shown, all));
        }"""
    )
    assert texts == [
        "No page has all of these words in its label, template or id.",
        "1 page found.",
        "24 pages found.",
        "24 of 1,033 pages found; more words find fewer.",
    ]
    overview.locator("#search").fill("no such text")
    overview.locator("#found-text", has_text="No page has all of these words").wait_for()
    assert overview.locator("#found button").count() == 0


def test_words_of_label_and_template_are_searched_together_and_enter_opens_the_first(overview):
    page = overview.evaluate("window.overview.atlas.page(3)")
    overview.locator("#search").fill(f"{page['label']} {page['template']} {page['id']}")
    overview.locator("#found-text", has_text="1 page found.").wait_for()
    overview.locator("#search").press("Enter")
    overview.locator("#card", has_text=page["id"]).wait_for()


def test_a_group_alone_is_said_on_the_map_and_a_page_outside_of_it_shows_all(overview):
    def shown() -> int:
        return overview.evaluate("window.overview.map.colours.filter((c) => c !== 0).length")

    pages = shown()
    bar = overview.locator("#alone")
    assert not bar.is_visible()
    overview.locator("#colour").select_option("label")
    overview.locator("#legend button").first.click()
    few = shown()
    assert few < pages
    assert f"{few} of {pages} pages" in bar.inner_text()
    bar.get_by_role("button").click()
    assert shown() == pages
    assert not bar.is_visible()
    overview.locator("#legend button").first.click()
    outside = overview.evaluate("window.overview.map.colours.findIndex((c) => c === 0)")
    overview.evaluate(f"window.overview.choose({outside})")
    assert shown() == pages
    assert overview.locator("#legend button[aria-pressed=true]").count() == 0


def test_a_choice_neither_moves_the_map_nor_leaves_the_preview(overview):
    before = overview.locator("#map").bounding_box()
    overview.mouse.move(*place_of(overview, 3))
    overview.locator("#hover").wait_for()
    overview.mouse.click(*place_of(overview, 3))
    overview.locator("#card").wait_for()
    assert overview.locator("#map").bounding_box() == before
    assert not overview.locator("#hover").is_visible()


def test_every_column_colours_the_points(overview):
    columns = overview.locator("#colour option").all_inner_texts()
    assert columns == ["cluster", "label", "template", "height", "reconstruction error"]
    for column in columns:
        overview.locator("#colour").select_option(column)
        assert overview.locator("#legend li").count() >= 2
        assert overview.evaluate("new Set(window.overview.map.colours).size") >= 2
    overview.locator("#search").fill("<script>")
    overview.locator("#found button").first.click()
    overview.locator("#card", has_text="<script>").wait_for()


def test_charts_open_pan_and_show_a_page_with_its_neighbours(browser, atlas):
    tab = Tab(browser, atlas.address)
    page = tab.open("charts.html")
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


@pytest.mark.parametrize("path", ["latent.html", "index.html", "charts.html"])
def test_pages_fit_a_phone_and_are_dark_in_the_dark(browser, atlas, path):
    colours = {}
    for scheme in ("light", "dark"):
        size = {"width": 360, "height": 740}
        tab = Tab(browser, atlas.address, viewport=size, color_scheme=scheme)
        page = tab.open(path)
        if path != "charts.html":
            page.wait_for_selector("body[data-ready]")
        else:
            page.frame_locator("iframe").locator("canvas").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert tab.faults == []
        tab.context.close()
    assert colours == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 23, 27)"}
