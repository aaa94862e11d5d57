"""Addresses: secrets never reach an id or a message, pages stay distinct."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.capturing.addresses import clean_address, parse_address, shorten, split_credentials
from shards.errors import UserError
from shards.format.layout import MAX_TEXT

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    ("address", "clean"),
    [
        ("https://shop.example", "https://shop.example/"),
        ("HTTPS://Shop.Example:443/A?page=2", "https://shop.example/A?page=2"),
        ("http://a.example:8080/x", "http://a.example:8080/x"),
        ("http://[::1]:80/x", "http://[::1]/x"),
        ("https://ann:pass@a.example/x", "https://a.example/x"),
        ("https://a.example/?q=red+shoes&token=abc", "https://a.example/?q=red+shoes"),
        ("https://a.example/?keyword=tea&author=me", "https://a.example/?keyword=tea&author=me"),
        (
            "https://a.example/?access_token=1&api_key=2&X-Amz-Signature=3&pwd=4",
            "https://a.example/",
        ),
        ("https://a.example/?%74oken=1", "https://a.example/"),
        (f"https://a.example/?j={JWT}", "https://a.example/"),
        ("https://a.example/?s=9f86d081884c7d659a2feaa0c55ad015", "https://a.example/"),
        ("https://a.example/a;jsessionid=12AB/b?x=1", "https://a.example/a/b?x=1"),
        ("https://a.example/#top", "https://a.example/"),
        ("https://a.example/#access_token=1", "https://a.example/"),
        ("https://a.example/#/news?page=3&sid=1", "https://a.example/#/news?page=3"),
        ("https://例え.jp/ニュース?頁=2", "https://例え.jp/ニュース?頁=2"),
    ],
)
def test_secrets_are_removed_from_an_address(address, clean):
    assert clean_address(parse_address(address)) == clean


def test_credentials_are_separated_and_decoded():
    url, credentials = split_credentials(
        parse_address("http://ann:p%40ss@a.example:81/x?token=1#y")
    )
    assert url == "http://a.example:81/x?token=1#y"
    assert credentials == ("ann", "p@ss")
    assert split_credentials(parse_address("http://a.example/"))[1] is None


@pytest.mark.parametrize(
    "address", ["ftp://a.example/", "https://", "https:///x", "http://[::1/", "http://a:99999/"]
)
def test_a_malformed_address_is_refused(address):
    with pytest.raises(UserError, match="not an address"):
        parse_address(address)


def test_the_refusal_of_a_malformed_address_has_no_password():
    with pytest.raises(UserError) as refused:
        parse_address("http://ann:hunter2@a.example:port/x?token=abc")
    assert "hunter2" not in str(refused.value)
    assert "abc" not in str(refused.value)


@given(
    st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=30),
    st.sampled_from(["token", "password", "sid", "auth", "client_secret", "code", "key"]),
)
def test_the_value_of_a_secret_never_stays(value, name):
    marked = f"Zq{value}qZ"
    address = f"https://u:{marked}@a.example/x;{name}={marked}?{name}={marked}&a=1#{name}={marked}"
    assert marked not in clean_address(parse_address(address))


def test_long_text_is_shortened_with_a_hash_and_stays_distinct():
    first, second = shorten("x" * 2000 + "1"), shorten("x" * 2000 + "2")
    assert first != second
    assert len(first) <= MAX_TEXT - len("-12800")
    assert shorten("brief") == "brief"
    assert shorten("\udce9") == "?"
