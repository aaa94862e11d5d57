"""Messages of errors are one printable line."""

import errno

from shards.errors import REMEDIES, one_line, plain_os_error


def test_unprintable_characters_become_escapes():
    assert one_line("a\x1b[2J\nü") == "a\\x1b[2J\\nü"


def test_errors_of_the_system_name_file_and_remedy():
    assert plain_os_error(OSError(errno.ENOENT, "No such file", "a\nb")) == "a\\nb: No such file"
    assert plain_os_error(OSError("AF_UNIX path too long")) == "AF_UNIX path too long"
    assert plain_os_error(TimeoutError()) == "TimeoutError"
    for number, remedy in REMEDIES.items():
        assert plain_os_error(OSError(number, "x")) == f"x; {remedy}"
