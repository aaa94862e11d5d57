"""The atlas in Chromium: every other host is blocked, and the console must stay without errors."""

from __future__ import annotations

import json
import time
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from shards.format.layout import parse_layout
from shards.format.png import encode_png
from shards.page_file import read_page
from tests.support.atlas_tab import SECONDS, Tab
from tests.support.chromium import needs_chromium
from tests.vaetrain.atlas_site.conftest import BIDI, SCRIPT
from tests.vaetrain.pages_one_by_one import MAX_HEIGHT, WIDTH
from vaetrain.inference.interpolation import interpolate_latents
from vaetrain.inference.prior_samples import padded_size
from vaetrain.inference.search import search_pages
from vaetrain.inference.trained_model import TrainedModel

pytestmark = [pytest.mark.slow, needs_chromium]
CLOSE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def latent(browser, atlas):
    """The page "Latent", ready; the tests of this module change its controls."""
    tab = Tab(browser, atlas.address)
    tab.open("latent.html").wait_for_selector("body[data-ready]", timeout=SECONDS)
    yield tab
    tab.context.close()


@pytest.fixture(autouse=True)
def no_faults(request):
    """Check after each test that nothing was loaded from elsewhere, and no script failed or ran."""
    yield
    if "latent" in request.fixturenames:
        tab = request.getfixturevalue("latent")
        assert tab.faults == []
        assert tab.page.evaluate("window.hacked") is None


@pytest.fixture(scope="module")
def trained(atlas) -> TrainedModel:
    return TrainedModel(atlas.run)


def wait_until(page, expression: str) -> None:
    """Wait for an expression; Playwright's own wait is refused by the page's policy."""
    deadline = time.monotonic() + SECONDS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def result(page, name: str) -> dict:
    """Return a result of the page, as soon as its model has computed it."""
    wait_until(page, f"window.latentPage.results.{name}.image !== undefined")
    values = page.evaluate(
        f"""() => {{ const r = window.latentPage.results.{name};
        return {{ image: Array.from(r.image), height: r.height, name: r.name,
                  z: Array.from(r.z ?? []), embedding: Array.from(r.embedding ?? []) }}; }}"""
    )
    image = np.array(values["image"], np.float32).reshape(values["height"], WIDTH)
    return values | {"image": image}


def named_result(page, name: str, title: str) -> dict:
    """Return a result that has a title."""
    wait_until(page, f"window.latentPage.results.{name}.name === {json.dumps(title)}")
    return result(page, name)


def decoded(trained: TrainedModel, z: torch.Tensor, height: int) -> np.ndarray:
    """Return the picture of a latent (D,): (height, W) in [0, 1]."""
    heights = torch.tensor([height])
    with torch.no_grad():
        size = padded_size(trained.model, heights, trained.experiment.data.width)
        image = trained.model.decode(z[None], heights, size)
    return image[0, 0, :height].clamp(0, 1).numpy()


def test_picture_of_a_layout_equals_python(latent, layouts):
    for layout in layouts[4:12]:
        image, height = latent.page.evaluate(
            """async ([text, width, most]) => {
            const draw = await import("./latent/draw.js");
            const drawn = draw.drawLayout(draw.parseLayout(text), width, most);
            return [Array.from(drawn.image), drawn.height]; }""",
            [json.dumps(layout), WIDTH, MAX_HEIGHT],
        )
        expected = drawn_by_python(layout)
        np.testing.assert_allclose(np.reshape(image, (height, WIDTH)), expected, **CLOSE)


def drawn_by_python(layout: dict) -> np.ndarray:
    """Return the model's picture of a layout."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.json")
        path.write_text(json.dumps(layout))
        batch = read_page(path, width=WIDTH, max_height=MAX_HEIGHT, stride=16)
    return batch.images()[0, 0, : int(batch.heights)].numpy()


def test_morph_equals_python(latent, trained, atlas):
    page = latent.page
    for row, letter in ((4, "A"), (9, "B")):
        page.evaluate(f"window.latentPage.choose({row}, '{letter}')")
    page.locator("#share").fill("30")
    names = page.evaluate("['A', 'B'].map((at) => window.latentPage.chosen[at].id.slice(0, 40))")
    shown = named_result(page, "morph", f"morph-30-{names[0]}-{names[1]}")
    data = trained.open_shards(atlas.shards)
    ends = data.collator.batch(np.array([4, 9]), np.zeros(2, int), training=False)
    mu = trained.latents([ends])
    z = interpolate_latents(mu, 11)[3]
    np.testing.assert_allclose(shown["z"], z, **CLOSE)
    first, last = ends.heights.tolist()
    height = round(first + 0.3 * (last - first))
    assert shown["height"] == height
    np.testing.assert_allclose(shown["image"], decoded(trained, z, height), **CLOSE)


def test_variation_equals_python(latent, trained, atlas):
    page = latent.page
    page.evaluate("window.latentPage.choose(4, 'A')")
    page.locator("#axis-x").select_option("1")
    page.locator("#axis-y").select_option("0")
    page.locator("#pad-x").fill("1.5")
    page.locator("#pad-y").fill("-0.5")
    latents = torch.from_numpy(all_latents(trained, atlas))
    centred = (latents - latents.mean(dim=0)).double()
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    deviations, axes = variances.flip(0).sqrt(), vectors.flip(1).T
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    expected = latents[4] + 1.5 * deviations[1] * axes[1] - 0.5 * deviations[0] * axes[0]
    wait_until(
        page, f"Math.abs(window.latentPage.results.vary.z[0] - ({float(expected[0])})) < 1e-4"
    )
    np.testing.assert_allclose(result(page, "vary")["z"], expected, **CLOSE)
    dot = page.locator("#pad span")
    assert dot.evaluate("dot => [dot.style.left, dot.style.top]") == ["75%", "41.6667%"]


def all_latents(trained: TrainedModel, atlas) -> np.ndarray:
    """Return `mu` of all pages, in the order of their ids."""
    return trained.features(trained.open_shards(atlas.shards)).mu.numpy()


@pytest.mark.parametrize(("label", "height"), [(None, None), (SCRIPT, None), ("article", 50)])
def test_samples_equal_python(latent, trained, label, height):
    page = latent.page
    page.locator("#seed").fill("7")
    page.locator("#count").fill("3")
    page.locator("#height").fill("" if height is None else str(height))
    page.locator("#label").select_option(label="any" if label is None else label)
    page.evaluate("window.latentPage.results.chosen.name = 'none'")
    page.get_by_role("button", name="Sample", exact=True).click()
    named_result(page, "chosen", "sample-7-0")
    page.locator("#samples button").nth(2).click()
    shown = named_result(page, "chosen", "sample-7-2")
    images, heights = next(trained.sample(3, height, 7, label))
    assert shown["height"] == int(heights[2])
    expected = images[2, 0, : int(heights[2])].clamp(0, 1).numpy()
    np.testing.assert_allclose(shown["image"], expected, **CLOSE)


def drop(page, name: str, content: bytes) -> None:
    """Give a file to the page, as if it was dropped."""
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.evaluate("for (const r of ['dropped', 'rebuilt']) window.latentPage.results[r].name = ''")
    page.locator("#file").set_input_files([])
    page.locator("#file").set_input_files(file)


@pytest.mark.parametrize("kind", ["layout", "png"])
def test_dropped_file_is_placed_as_python_does(latent, trained, atlas, layouts, tmp_path, kind):
    page = latent.page
    if kind == "layout":
        path = tmp_path / "page.json"
        path.write_text(json.dumps(layouts[6]))
    else:
        path = tmp_path / "page.png"
        grey = np.random.default_rng(0).integers(0, 120, (70, WIDTH), np.uint8)
        path.write_bytes(encode_png(grey))
    drop(page, path.name, path.read_bytes())
    named_result(page, "rebuilt", "reconstruction")
    wait_until(
        page, "document.getElementById('status').textContent.startsWith('The file is marked')"
    )
    query = trained.read_page(path)
    shown = result(page, "dropped")
    rows = int(query.heights)
    np.testing.assert_allclose(shown["image"], query.images()[0, 0, :rows].numpy(), **CLOSE)
    embedding = embedding_of(trained, atlas, query)
    np.testing.assert_allclose(shown["embedding"], embedding, **CLOSE)
    data = trained.open_shards(atlas.shards)
    expected = search_pages(trained, data, query, 12)
    texts = page.locator("#like-file button").all_inner_texts()
    distances = [float(text.rpartition("distance ")[2]) for text in texts]
    # Shown with three digits, of embeddings stored in half precision.
    np.testing.assert_allclose(distances, [r.distance for r in expected], atol=2e-3)
    assert page.evaluate("window.latentPage.map.marks.has('file')")


def embedding_of(trained: TrainedModel, atlas, query) -> np.ndarray:
    """Return the embedding of one page, in the space of the atlas."""
    from vaetrain.inference.embedding import page_features

    space = trained.space_of(trained.open_shards(atlas.shards))
    mu, _, structure = page_features(trained.model, query)
    return space.vectors(mu, structure)[0].numpy()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<script>window.hacked = 1</script>", "neither a layout"),
        (b'{"w": 10, "h": 10, "r": {"b": ["<script>", 0, 1, 1]}}', "no number of pixels"),
        (b'{"w": 1e99, "h": 10, "r": {"b": [0, 0, 1, 1]}}', "side of the canvas"),
        (b'{"w": 10, "h": 10, "r": {"b": [0, 0, 0, 0]}}', "no visible box"),
        (b"[" * 10**6, "neither a layout"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "damaged"),
        (f'{{"{BIDI}": "{"x" * 10**6}"}}'.encode(), "none of the schemas"),
    ],
)
def test_hostile_files_are_refused_in_words(latent, content, message):
    drop(latent.page, "page.json", content)
    wait_until(
        latent.page,
        f"document.getElementById('status').textContent.includes({json.dumps(message)})",
    )


def test_hostile_layout_is_harmless(latent):
    layout = {"w": 100, "h": 100, "id": SCRIPT, "label": "x" * 10**6, "template": BIDI}
    layout["r"] = {"b": [0, 0, 100, 100], "t": SCRIPT, "c": [{"b": [5, 5, 50, 1e8]}]}
    drop(latent.page, "page.json", json.dumps(layout).encode())
    shown = named_result(latent.page, "rebuilt", "reconstruction")
    assert shown["height"] == WIDTH


@pytest.mark.parametrize(("place", "name"), [("morph", "morph"), ("chosen", "sample")])
def test_results_are_saved_as_svg_and_layout(latent, place, name):
    page = latent.page
    if place == "chosen":
        page.get_by_role("button", name="Sample", exact=True).click()
    shown = result(page, place)
    with page.expect_download() as download:
        page.locator(f"#{place}").get_by_role("button", name="Save boxes (layout JSON)").click()
    assert download.value.suggested_filename.startswith(name)
    saved = parse_layout(json.loads(download.value.path().read_bytes()))
    assert (saved.width, saved.height) == (WIDTH, shown["height"])
    assert len(saved.boxes) >= 1
    with page.expect_download() as download:
        page.locator(f"#{place}").get_by_role("button", name="Save boxes (SVG)").click()
    root = ElementTree.fromstring(download.value.path().read_bytes())
    assert root.attrib["viewBox"] == f"0 0 {WIDTH} {shown['height']}"


def test_regions_of_a_drawn_layout_are_its_boxes(latent):
    boxes = {"b": [0, 0, 60, 80], "c": [{"b": [4, 6, 20, 30], "c": [{"b": [2, 2, 10, 12]}]}]}
    boxes["c"].append({"b": [30, 40, 20, 10], "c": []})
    text = latent.page.evaluate(
        """async ([text]) => {
        const draw = await import("./latent/draw.js");
        const regions = await import("./latent/regions.js");
        const { image, height } = draw.drawLayout(draw.parseLayout(text), 60, 80);
        return regions.layoutOf(image, 60, height); }""",
        [json.dumps({"w": 60, "h": 80, "r": boxes})],
    )
    expected = parse_layout({"w": 60, "h": 80, "r": boxes}).boxes.tolist()
    assert sorted(parse_layout(json.loads(text)).boxes.tolist()) == sorted(expected)


def test_pages_are_found_and_chosen_by_keyboard(latent):
    page = latent.page
    page.evaluate("window.latentPage.choose(5, 'A')")
    page.locator("input[name=target][value=A]").check()
    page.locator("#map").focus()
    before = page.locator("#card-A").get_attribute("data-row")
    for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    wait_until(page, f"document.getElementById('card-A').dataset.row !== '{before}'")
    page.locator("#search").fill("script")
    wait_until(page, "document.querySelectorAll('#found button').length > 0")
    assert any(SCRIPT in text for text in page.locator("#found button").all_inner_texts())
    page.locator("#typical").select_option(label="cluster 1 (11 pages)")
    wait_until(page, "window.latentPage.chosen.B.row === 21")


def test_two_quick_choices_set_both_pages(latent):
    page = latent.page
    page.locator("input[name=target][value=A]").check()
    page.evaluate("Promise.all([window.latentPage.choose(7), window.latentPage.choose(11)])")
    assert page.evaluate("['A', 'B'].map((l) => window.latentPage.chosen[l].row)") == [7, 11]


def test_every_control_has_a_name(latent):
    unnamed = latent.page.evaluate(
        """() => Array.from(document.querySelectorAll("input, select, button, canvas, section"))
        .filter((node) => !(node.labels?.length || node.textContent.trim() ||
          node.ariaLabel || node.ariaHidden || node.getAttribute("aria-labelledby")))
        .map((node) => node.outerHTML.slice(0, 100))"""
    )
    assert unnamed == []
