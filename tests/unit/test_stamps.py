"""A checksum is remembered only while its file is the same."""

import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bids_brainage.core.files import sha256
from bids_brainage.core.stamps import checksum, recalled, stamp

QUICK = 0.02  # seconds: some ticks of the clock of a local file system


def overwrite(path, content):
    path.write_bytes(content)


def overwrite_and_keep_the_time(path, content):
    seen = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def rename_over_and_keep_the_time(path, content):
    seen, other = path.stat(), path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    other.replace(path)


def lead_the_link_elsewhere(path, content):
    other = path.with_name("other")
    other.write_bytes(content)
    path.unlink()
    path.symlink_to(other)


WAYS = (overwrite, overwrite_and_keep_the_time, rename_over_and_keep_the_time, lead_the_link_elsewhere)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(WAYS), st.booleans())
def test_any_other_content_is_noticed(tmp_path, first, second, way, same_size):
    path = tmp_path / "x"
    path.unlink(missing_ok=True)
    second = second.ljust(len(first), b"x")[: len(first)] if same_size else second
    path.write_bytes(first)
    time.sleep(2 * QUICK)
    known, mark = checksum(path, QUICK)
    assert mark
    assert recalled(path, "as remembered", mark) == "as remembered"
    way(path, second)
    assert stamp(path) != mark
    assert recalled(path, known, mark) == sha256(path)


@pytest.mark.parametrize("ahead", [0, 3600])
def test_a_file_written_just_now_or_in_the_future_is_read_each_time(tmp_path, ahead):
    path = tmp_path / "x"
    path.write_text("x")
    os.utime(path, (time.time() + ahead,) * 2)
    known, mark = checksum(path)
    assert mark == ""
    assert known == sha256(path)
    assert recalled(path, "as remembered", mark) == known


def test_what_cannot_be_read_has_no_stamp(tmp_path):
    assert checksum(tmp_path / "none") == ("unreadable (No such file or directory)", "")
    assert stamp(tmp_path / "none") == ""
    assert recalled(tmp_path / "none", "as remembered", "1 2 3 4").startswith("unreadable")
