"""The report of a study: its table and charts, escaped data, and no external resources."""

from __future__ import annotations

import re
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from launch.compare import Interval
from launch.report import (
    SHOWN,
    interval_text,
    pca_distortion,
    plain_markdown,
    table,
    write_report,
)
from launch.study import Study, folder_name, load_study
from launch.training_process import Record
from launch.trials import Outcome
from shards.format.png import encode_png
from tests.support import chromium

HOSTILE = "<script>alert('x')</script> | a $b$ _c_ [d](http://e) `f` & {{ 7 * 7 }}"
SSIM = {0.1: [0.80, 0.82, 0.81], 1.0: [0.70, 0.72, 0.71], 3.0: [0.69, 0.75, 0.70]}


def a_study(folder: Path, text: str) -> Study:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_study(path, [])


def finished(study: Study, folder: Path, chosen: dict, ssim: list[float]) -> Outcome:
    """Return a finished setting that has one seed for each of these values."""
    records = {}
    for seed, value in enumerate(ssim):
        metrics = {"ssim": value, "l1": 1 - value, "kl": 100 * value, "loss_roughness": 0.1}
        curve = [[8, value / 2], [16, value]]
        records[seed] = Record(
            metrics,
            [[8, 1.0], [16, 0.01]],
            curve,
            images=1600,
            seconds=90.0,
            baselines={"mean page": 0.9, "pca": 0.25},
        )
    run = folder / folder_name(chosen)
    picture = run / "seed-0" / "final" / "reconstructions.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(encode_png(np.full((8, 8), 99, np.uint8)))
    return Outcome(chosen, "finished", records, run)


@pytest.fixture
def beta_study(tmp_path) -> tuple[Study, list[Outcome]]:
    text = "name: mine\nsweep: {baseline: beta.max=1.0, space: {beta.max: [0.1, 1.0, 3.0, 9.0]}}"
    study = a_study(tmp_path, text)
    outcomes = [finished(study, tmp_path, {"beta.max": b}, values) for b, values in SSIM.items()]
    failed = Outcome({"beta.max": 9.0}, "failed", {}, tmp_path / "none", HOSTILE)
    return study, [*outcomes, failed]


def test_table_has_intervals_comparisons_and_states_of_the_settings(beta_study):
    low, baseline, high, failed = table(*beta_study)
    interval = stats.t.interval(0.95, 2, loc=0.81, scale=stats.sem(SSIM[0.1]))
    assert low.scores["ssim"].mean == pytest.approx(0.81)
    assert low.scores["ssim"].half_width == pytest.approx((interval[1] - interval[0]) / 2)
    assert low.comparisons["ssim"].difference.mean == pytest.approx(0.1)
    assert low.comparisons["ssim"].verdict == "better"
    assert high.comparisons["ssim"].verdict == "can't tell"
    assert low.comparisons["l1"].verdict == "better"  # lower
    assert set(low.comparisons) == {"ssim", "l1"}  # the pages have no labels
    assert baseline.is_baseline
    assert baseline.comparisons == {}
    assert (low.images, low.minutes, low.seeds) == (1600, 1.5, 3)
    assert (failed.state, failed.seeds, failed.scores) == ("failed", 0, {})


def test_minimised_metric_is_better_if_lower(tmp_path):
    text = "sweep: {metric: l1, direction: minimize, space: {beta.max: [1.0, 0.1]}}"
    study = a_study(tmp_path, text)
    outcomes = [finished(study, tmp_path, {"beta.max": b}, SSIM[b]) for b in (1.0, 0.1)]
    assert table(study, outcomes)[1].comparisons["l1"].verdict == "better"


def test_a_setting_can_be_better_by_one_metric_and_worse_by_another(tmp_path):
    text = "sweep: {metrics: {kl: minimize}, space: {beta.max: [1.0, 0.1]}}"
    study = a_study(tmp_path, text)
    outcomes = [finished(study, tmp_path, {"beta.max": b}, SSIM[b]) for b in (1.0, 0.1)]
    comparisons = table(study, outcomes)[1].comparisons
    assert {name: each.verdict for name, each in comparisons.items()} == {
        "ssim": "better",
        "kl": "worse",
    }
    (page,) = [path for path in write_report(study, outcomes, tmp_path) if path.suffix == ".md"]
    assert "kl against the baseline" in page.read_text()


def test_rate_and_distortion_are_drawn_beside_pca(beta_study, tmp_path):
    study, outcomes = beta_study
    assert pca_distortion(outcomes) == {"PCA": pytest.approx(0.25)}
    write_report(study, outcomes, tmp_path)
    drawing = (tmp_path / "report" / "rate_distortion.svg").read_text()
    assert "<!-- PCA -->" in drawing
    assert "<!-- mean page -->" not in drawing


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.87654, 0.0123, 3), "0.877 ± 0.012"),
        (Interval(152.47, 9.12, 3), "152.5 ± 9.1"),
        (Interval(1234.5, 567.0, 3), "1234 ± 567"),
        (Interval(126.0, 0.0, 3), "126 ± 0"),
        (Interval(0.12450980392156863, 1.8e-19, 2), "0.1245 ± 0"),
        (Interval(0.87654, float("inf"), 1), "0.8765"),
    ],
)
def test_numbers_are_rounded_to_their_interval(interval, text):
    assert interval_text(interval) == text


class Page(HTMLParser):
    """Parser of a page: its tags, the addresses they load from, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_loads_no_external_resource(tmp_path, beta_study):
    html, markdown = write_report(*beta_study, tmp_path)
    page = Page(html.read_text())
    assert page.tags.count("img") == 5 + 3  # charts and pictures
    assert all(address.startswith("data:") for address in page.addresses)
    assert "script" not in page.tags
    assert "▲ better" in page.text
    assert "0.810 ± 0.025" in page.text
    assert "14,400 images and 13.5 minutes" in page.text
    linked = re.findall(r"\]\(([^)]*)\)", markdown.read_text())
    assert len(linked) == 5 + 3  # charts and pictures
    assert all((tmp_path / unquote(address)).is_file() for address in linked)
    for chart in (tmp_path / "report").glob("*.svg"):
        ElementTree.parse(chart)


def test_markup_in_names_and_errors_is_escaped(tmp_path):
    variants = f"""variants: {{"{HOSTILE}": {{beta.max: 1}}, _plain: {{beta.max: 2}}}}"""
    study = a_study(tmp_path, f"name: '<b>x</b>'\nsweep:\n  {variants}")
    good, bad = study.grid()
    reason = f"{HOSTILE}\n# not a heading"
    outcomes = [
        finished(study, tmp_path, good, [0.5, 0.6]),
        Outcome(bad, "failed", {}, tmp_path / "none", reason),
    ]
    html, markdown = write_report(study, outcomes, tmp_path)
    page = Page(html.read_text())
    assert not {"script", "b"} & set(page.tags)
    assert page.text.count("<script>alert('x')</script>") >= 3
    assert all(address.startswith("data:") for address in page.addresses)
    text = markdown.read_text()
    assert "<script" not in text
    assert "\n# not" not in text
    assert "](http" not in text
    row = next(line for line in text.splitlines() if line.startswith("| &lt;script"))
    header = next(line for line in text.splitlines() if line.startswith("| setting"))
    assert len(re.findall(r"(?<!\\)\|", row)) == header.count("|")


def test_escaped_markdown_renders_as_the_original_text():
    escaped = plain_markdown(HOSTILE)
    assert unescape(re.sub(r"\\(.)", r"\1", escaped)) == HOSTILE


def test_many_settings_are_sorted_and_only_the_best_are_drawn(tmp_path):
    betas = [float(number) for number in range(1, 21)]
    study = a_study(tmp_path, f"sweep: {{space: {{beta.max: {betas}}}}}")
    outcomes = [finished(study, tmp_path, {"beta.max": b}, [b / 20, b / 21]) for b in betas]
    rows = table(study, outcomes)
    assert [row.label for row in rows[:2]] == ["beta.max=20.0", "beta.max=19.0"]
    html, _ = write_report(study, outcomes, tmp_path)
    page = Page(html.read_text())
    assert page.tags.count("img") == 5 + SHOWN  # five charts
    assert "The best 8 settings" in page.text


def test_a_study_without_finished_settings_has_a_report(tmp_path):
    study = a_study(tmp_path, "sweep: {space: {beta.max: [1.0, 2.0]}}")
    outcomes = [Outcome({"beta.max": 1.0}, "running", {}, tmp_path / "none")]
    html, _ = write_report(study, outcomes, tmp_path)
    assert "1 running" in Page(html.read_text()).text


@chromium.needs_chromium_command
@pytest.mark.slow
def test_page_opens_in_a_browser_without_errors(tmp_path, beta_study):
    html, _ = write_report(*beta_study, tmp_path)
    shot = tmp_path / "shot.png"
    command = [
        chromium.COMMAND,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
    ]
    command += [f"--user-data-dir={tmp_path}/profile", "--window-size=1300,2000"]
    command += [f"--screenshot={shot}", "--host-resolver-rules=MAP * ~NOTFOUND", html.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    assert "CONSOLE" not in done.stderr  # errors in the page
    assert shot.stat().st_size > 50_000
