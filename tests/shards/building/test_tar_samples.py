"""Tars of other tools as sources: pictures with JSON, layouts, shards, and damaged tars."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from PIL import Image

from shards.build import build
from shards.building.inputs import Input, Reject
from shards.building.options import BuildOptions
from shards.building.tar_samples import read_samples
from shards.errors import UserError
from shards.format.png import encode_png
from shards.open import open_index
from shards.reading.shard_files import ShardFiles
from shards.source_formats import suffixes_of
from tests.shards.pages import page
from tests.support.damage import damaged

AUTO = suffixes_of("auto")


def picture(number: int, form: str = "PNG") -> bytes:
    """Return a picture with a shape that depends on the number."""
    gray = np.zeros((40, 30), np.uint8)
    gray[5 : 12 + 4 * number, 4:25] = 60
    stream = io.BytesIO()
    Image.fromarray(gray).save(stream, form)
    return stream.getvalue()


def tar_of(files: dict[str, bytes], **options: object) -> bytes:
    """Return a tar of files by name, in their order."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def built(source: Path, out: Path, **options: object) -> list[dict]:
    """Build shards; return the JSON of their pages, sorted by id."""
    build([source], out, BuildOptions(workers=1, keep_duplicates=True, **options))
    index = open_index(out)
    files = ShardFiles(index)
    metas = [json.loads(files.members(number)["json"]) for number in range(len(index))]
    return sorted(metas, key=lambda meta: meta["id"])


def rejects_of(out: Path) -> list[dict]:
    """Return the refused inputs of a build."""
    return [json.loads(line) for line in (out / "rejects.jsonl").open()]


def test_a_tar_of_webdatasets_writer_is_built(tmp_path):
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=2, verbose=0) as sink:
        for number in range(5):
            facts = {"label": f"kind{number % 2}", "template": f"t{number}"}
            png = np.full((30, 20, 3), 9 + number, np.uint8)
            sink.write({"__key__": f"s{number}", "png": png, "json": facts})
    pages = built(tmp_path, tmp_path.parent / f"{tmp_path.name}-out", png_width=16)
    assert [meta["id"] for meta in pages] == [f"s{number}" for number in range(5)]
    assert [meta["label"] for meta in pages] == ["kind0", "kind1", "kind0", "kind1", "kind0"]
    assert [meta["template"] for meta in pages] == [f"t{number}" for number in range(5)]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar_as_img2dataset_makes_it_is_built(tmp_path, suffix, form):
    files = {}
    for number in range(3):
        key = f"{number:09}"
        facts = {"caption": "a page", "url": "https://example.org/a.jpg", "key": key}
        facts |= {"status": "success", "width": 30, "height": 40, "exif": "{}", "sha256": "0" * 64}
        files |= {f"{key}.jpg": picture(number, "JPEG"), f"{key}.json": json.dumps(facts).encode()}
        files[f"{key}.txt"] = b"a page"
    data = tar_of(files, format=form)
    source = tmp_path / f"00000{suffix}"
    source.write_bytes(data if suffix == ".tar" else gzip.compress(data))
    pages = built(source, tmp_path / "out", png_width=16)
    assert [meta["id"] for meta in pages] == [f"{number:09}" for number in range(3)]
    assert [(meta["w"], meta["h"], meta["label"]) for meta in pages] == [(30, 40, "other")] * 3


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_in_any_script_and_nested_folders_are_read(tmp_path, form):
    names = ["购物/" + "深" * 120 + "/登录.png", "a/b/c/" + "x" * 200 + ".png", "./plain.png"]
    source = tmp_path / "x.tar"
    files = {name: picture(number) for number, name in enumerate(names)}
    source.write_bytes(tar_of(files, format=form))
    pages = built(source, tmp_path / "out", png_width=16)
    assert {meta["id"] for meta in pages} == {name.removesuffix(".png") for name in names}
    assert {meta["label"] for meta in pages} == {"深" * 120, "c", "other"}


def test_layouts_in_a_tar_are_built(tmp_path):
    lines = "".join(json.dumps(page(f"line{n}", x=9 * n)) + "\n" for n in range(3)).encode()
    files = {
        "combined/0.jpg": picture(0, "JPEG"),  # a screenshot beside its view hierarchy, as in RICO
        "combined/0.json": json.dumps(page("zero")).encode(),
        "one.json.gz": gzip.compress(json.dumps(page("one")).encode()),
        "many.jsonl": lines,
        "packed.jsonl.gz": gzip.compress(lines.replace(b"line", b"packed")),
        "class.json": json.dumps(page("two")).encode(),
        "class.cls": b"shop",
        "._class.json": b"resource fork",
        "notes.md": b"text",
    }
    (tmp_path / "x.tar").write_bytes(tar_of(files))
    pages = built(tmp_path / "x.tar", tmp_path / "out")
    ids = ["line0", "line1", "line2", "one", "packed0", "packed1", "packed2", "two", "zero"]
    assert [meta["id"] for meta in pages] == ids
    assert pages[7]["label"] == "shop"
    assert rejects_of(tmp_path / "out") == []
    assert open_index(tmp_path / "out").header["counts"]["other_files"] == 1


def test_shards_are_built_again_with_the_same_boxes(tmp_path, shards):
    for store in ("boxes", "png"):
        again = built(shards, tmp_path / store, store=store, png_width=32)
        files = ShardFiles(open_index(shards))
        members = [files.members(number) for number in range(len(files.index))]
        before = sorted((json.loads(m["json"]) for m in members), key=lambda meta: meta["id"])
        assert again == before
    names = {Path(reject["file"]).name for reject in rejects_of(tmp_path / "boxes")}
    assert names <= {"index.json", "rejects.jsonl"}


def test_names_with_dots_and_several_pictures_of_a_key_are_separate_pages(tmp_path):
    files = {f"shot-1.{n}.png": picture(n) for n in range(3)}
    files |= {"s.image.png": picture(4), "s.meta.json": b'{"label": "shop"}'}
    (tmp_path / "x.tar").write_bytes(tar_of(files))
    pages = built(tmp_path / "x.tar", tmp_path / "out", png_width=16)
    assert [(meta["id"], meta["label"]) for meta in pages] == [
        ("s.image", "shop"),
        *((f"shot-1.{n}", "other") for n in range(3)),
    ]


def test_bad_members_are_listed_by_name_and_good_ones_kept(tmp_path):
    files = {"a.png": picture(0), "b.png": picture(1)[:60], "c.json": b'{"hello": 1}'}
    files |= {"d.png": picture(2), "d.json": b"{", "e.jsonl.gz": gzip.compress(b"{}\n" * 99)[:-9]}
    (tmp_path / "x.tar").write_bytes(tar_of(files))
    pages = built(tmp_path / "x.tar", tmp_path / "out", png_width=16, store="png")
    assert [meta["id"] for meta in pages] == ["a"]
    refused = {reject["member"] for reject in rejects_of(tmp_path / "out")}
    assert refused == {"b.png", "c.json", "d.png", "e.jsonl.gz"}


def test_a_truncated_tar_is_named_and_its_complete_samples_are_kept(tmp_path):
    files = {}
    for number in range(4):
        files |= {f"s{number}.json": b"{}", f"s{number}.png": picture(number)}
    whole = tar_of(files)
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for length in (*range(1, end, 512), *range(512, end + 1, 512)):
        source = tmp_path / "x.tar"
        source.write_bytes(whole[:length])
        items = list(read_samples(source, "x", AUTO, Counter()))
        assert isinstance(items[-1], Reject)
        assert items[-1].file == str(source)
        assert "truncated" in items[-1].reason
        complete = length // 2048
        assert complete - 1 <= sum(item.facts is not None for item in items[:-1]) <= complete
    packed = gzip.compress(whole)
    for length in range(1, len(packed), 13):
        source = tmp_path / "x.tar.gz"
        source.write_bytes(packed[:length])
        items = list(read_samples(source, "x", AUTO, Counter()))
        assert isinstance(items[-1], Reject)
        assert "truncated" in items[-1].reason


def test_links_and_devices_are_ignored_and_data_behind_the_end_is_reported(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    (tmp_path / "x.tar").write_bytes(stream.getvalue())
    (only,) = read_samples(tmp_path / "x.tar", "x", AUTO, Counter())
    assert only.reason == "holds no layout or picture"
    (tmp_path / "x.tar").write_bytes(tar_of({"a.png": picture(0)}) * 2)
    first, rest = read_samples(tmp_path / "x.tar", "x", AUTO, Counter())
    assert isinstance(first, Input)
    assert rest.reason == "data behind the end of the tar is not read"


def test_a_tar_without_pages_says_what_it_holds(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_of({"a.txt": b"a", "b.txt": b"b", "c": b"c"}))
    message = r"x.tar: holds no layout or picture among 3 files \(2 .txt, 1 without suffix\)"
    with pytest.raises(UserError, match=message):
        build([tmp_path / "x.tar"], tmp_path / "out", BuildOptions(workers=1))


def test_a_compressed_tar_is_read_once(tmp_path):
    files = {f"{n}.png": encode_png(np.full((9, 9), n, np.uint8)) for n in range(50)}
    files["large.bin"] = bytes(5 << 20)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(tar_of(files), 1))
    items = list(read_samples(tmp_path / "x.tar.gz", "x", AUTO, Counter()))
    assert [item.member for item in items] == [f"{n}.png" for n in range(50)]


WHOLE = tar_of(
    {"a/" + "深" * 90 + ".png": picture(0), "b.json": b"{}", "b.png": picture(1)},
    format=tarfile.PAX_FORMAT,
)


@given(data=damaged(WHOLE))
def test_damaged_tars_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(data)
    for item in read_samples(path, "x", AUTO, Counter()):
        assert isinstance(item, Input | Reject)
        assert not isinstance(item, Reject) or len(item.reason.splitlines()) == 1
