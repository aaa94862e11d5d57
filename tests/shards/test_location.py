"""Locations of shards: folders, and addresses of servers."""

from pathlib import Path

import pytest

from shards.errors import UserError
from shards.location import parse_location


@pytest.mark.parametrize(
    "address",
    [
        "pipe:cat x",
        "pipe://cat",
        "file:///tmp/x",
        "simplecache::s3://bucket/x",
        "s3://a::b",
        "http://me:secret@host/x",
        "http://host/x?token=1",
        "s3:///x",
    ],
)
def test_unsupported_addresses_are_refused(address):
    with pytest.raises(UserError) as caught:
        parse_location(address)
    assert "secret" not in str(caught.value)


def test_a_folder_becomes_a_path_and_an_address_stays_text():
    assert parse_location("data/a:b") == Path("data/a:b")
    assert parse_location("s3://bucket/x/") == "s3://bucket/x"
