"""Texts of a page: any script, at most 1,024 characters."""

import pytest

from shards.format.layout import MAX_TEXT, BadLayout
from shards.format.metadata import metadata_of, short_text

TEXTS = ["登录页0", "สวัสดี", "عربي\u200cمتن", "a\u202eb", "\u2066", "two\nlines", "a\tb"]
TEXTS += ["👩\u200d👧", "e\u0301", "é", "\0x", " "]


def test_texts_of_any_script_are_unchanged():
    for text in TEXTS:
        assert metadata_of({"id": text, "label": text, "template": text}) == {
            "id": text,
            "label": text,
            "template": text,
        }


def test_a_long_text_is_shortened_to_a_hash_and_counted():
    exact, long = "登" * MAX_TEXT, "登" * (MAX_TEXT + 1)
    assert metadata_of({"id": exact}) == {"id": exact}
    meta = metadata_of({"id": long, "label": long + "a", "source": "x"})
    assert meta["shortened"] == 2
    assert len(meta["id"]) == len(meta["label"]) == MAX_TEXT
    assert meta["id"] != meta["label"]
    assert meta["id"][:1000] == meta["label"][:1000] == long[:1000]


def test_lone_surrogates_are_replaced():
    assert short_text("a\ud800") == "a?"
    assert len(short_text("\ud800" * 2000)) == MAX_TEXT


def test_numbers_become_text_and_empty_values_are_left_out():
    assert metadata_of({"id": 7, "viewport": 390, "label": "", "template": None}) == {
        "id": "7",
        "viewport": 390,
    }


@pytest.mark.parametrize("value", [[1], {}, 1.5, True, 10**30])
def test_a_value_that_is_no_text_is_refused(value):
    with pytest.raises(BadLayout, match='"label" is'):
        metadata_of({"label": value})
