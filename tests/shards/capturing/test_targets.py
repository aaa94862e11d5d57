"""Sources of a capture: files, folders, addresses and lists of them."""

import os

import pytest

from shards.capturing.targets import find_targets
from shards.errors import UserError


@pytest.fixture
def site(tmp_path):
    """Return a folder with pages, and files that are no pages."""
    root = tmp_path / "site"
    for name in ("index.html", "shop/a.HTM", "shop/deep/b.xhtml", "shop/c.css", ".git/d.html"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("<p>")
    return root


def test_a_folder_gives_its_pages_in_order_with_templates_by_folder(site):
    targets = find_targets([str(site)])
    assert [t.url_path for t in targets] == ["index.html", "shop/a.HTM", "shop/deep/b.xhtml"]
    assert [t.template for t in targets] == ["site", "shop", "shop"]
    assert {t.source for t in targets} == {"site"}
    assert targets[0].address == f"file://{site}/index.html"
    assert targets[0].url == (site / "index.html").as_uri()
    assert all(t.host is None for t in targets)


def test_a_file_given_twice_is_one_page(site):
    page = site / "index.html"
    assert len(find_targets([str(page), page.as_uri(), str(site)])) == 3


def test_a_list_gives_its_addresses(tmp_path):
    path = tmp_path / "pages.txt"
    lines = ["\ufeff# my site", "https://a.example/x?page=1", "", " https://ann:pw@b.example:81/y "]
    path.write_text("\n".join(lines))
    first, second = find_targets([str(path)])
    assert (first.host, first.template, first.url_path) == ("a.example", "a.example", "/x?page=1")
    assert second.url == "https://b.example:81/y"
    assert second.credentials == ("ann", "pw")
    assert "pw" not in second.address + second.url + second.url_path + second.source


def test_addresses_that_differ_only_in_secrets_are_one_page():
    assert len(find_targets(["https://a.example/?token=1", "https://a.example/?token=2"])) == 1


def test_names_that_are_no_text_are_written_as_text(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.html")).write_text("<p>")
    (target,) = find_targets([str(tmp_path)])
    (target.address + target.url_path).encode()
    assert target.url.endswith("caf%E9.html")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file or folder; an address begins with https"),
        ("style.css", "is not opened; name HTML files"),
        ("empty", "holds no HTML"),
        ("s3://bucket/x", "only http, https and file are opened"),
        ("bad.txt", r"bad.txt, line 2: .*not an address"),
        ("latin.txt", "cannot be read as UTF-8 text"),
    ],
)
def test_a_source_that_cannot_be_opened_is_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "style.css").write_text("p {}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_text("https://a.example\nexample.org\n")
    (tmp_path / "latin.txt").write_bytes(b"http://a.example/caf\xe9")
    with pytest.raises(UserError, match=message):
        find_targets([name])
