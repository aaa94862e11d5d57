"""Messages of errors are one printable line."""

from shards.errors import one_line


def test_unprintable_characters_become_escapes():
    assert one_line("a\x1b[2J\nü") == "a\\x1b[2J\\nü"
