"""Downloads go on where they ended, and what goes wrong is told in one line."""

import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import Server, serving

from bids_brainage.core import download as module
from bids_brainage.core.download import download
from bids_brainage.core.errors import BrainAgeError
from bids_brainage.core.files import git_blob

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server():
    with serving(CONTENT) as running:
        yield running


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "weights.part"


def refused(server: Server, part: Path, size: int | None = len(CONTENT)) -> str:
    with pytest.raises(BrainAgeError) as error:
        download(server.address, part, size=size, timeout=5)
    assert "\n" not in str(error.value)
    assert server.address in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("announces", [True, False])
def test_a_whole_file(server, part, size, announces):
    server.announces = announces
    download(server.address, part, size=size)
    assert part.read_bytes() == CONTENT


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 5000), max_size=3), ranges=st.booleans())
def test_any_series_of_cuts_ends_in_the_whole_file(server, part, cuts, ranges):
    part.unlink(missing_ok=True)
    server.ranges = ranges
    for server.cut in cuts:
        assert "run it again" in refused(server, part)
    server.cut = None
    download(server.address, part, size=len(CONTENT))
    assert part.read_bytes() == CONTENT


def test_a_cut_transfer_goes_on_at_its_byte(server, part):
    server.cut = 1000
    assert "1000 of 10240 bytes" in refused(server, part, None)
    server.cut = None
    download(server.address, part)
    assert server.asked == [None, "bytes=1000-"]
    assert part.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_begins_anew(server, part):
    part.write_bytes(b"x" * 1000)
    server.ranges = False
    download(server.address, part, size=len(CONTENT))
    assert server.asked == ["bytes=1000-"]
    assert part.read_bytes() == CONTENT


def test_a_whole_part_asks_nothing(server, part):
    part.write_bytes(CONTENT)
    download(server.address, part, size=len(CONTENT))
    assert server.asked == []


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_that_is_longer_than_the_file_begins_anew(server, part, size):
    part.write_bytes(b"x" * 20000)
    download(server.address, part, size=size)
    assert part.read_bytes() == CONTENT


def test_an_answer_of_another_length_is_not_written(server, part):
    """A page to log in at, for instance: it would be gone on with, and the file be damaged."""
    part.write_bytes(CONTENT[:7])
    server.ranges = False
    assert "is 10240 bytes long, not the 12000 of the file" in refused(server, part, 12000)
    assert part.read_bytes() == CONTENT[:7]


def test_too_many_bytes_are_not_kept(server, part):
    server.announces = False
    assert "sends more than 5000 bytes" in refused(server, part, 5000)
    assert not part.exists()


@pytest.mark.parametrize("code", [403, 404, 500, 503])
def test_a_server_error_keeps_what_is_there(server, part, code):
    part.write_bytes(CONTENT[:7])
    server.code = code
    assert f"answered {code}" in refused(server, part)
    assert part.read_bytes() == CONTENT[:7]


def test_no_one_there(part):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        with pytest.raises(BrainAgeError, match=r"cannot be reached .*--from"):
            download(address, part)


def test_a_server_that_says_nothing_is_given_up(part):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(BrainAgeError, match="cannot be reached"):
            download(address, part, timeout=0.2)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd"])
def test_nothing_but_http(part, address):
    with pytest.raises(BrainAgeError, match="only http and https"):
        download(address, part)


def test_a_disk_that_is_full_is_an_error_of_the_file(server):
    with pytest.raises(OSError, match="No space left"):
        download(server.address, Path("/dev/full"))


def test_the_name_that_git_gives(tmp_path):
    (tmp_path / "x").write_bytes(b"test content\n")
    assert git_blob(tmp_path / "x") == "d670460b4b4aece5915caf5c68d12f560a9fe3e4"


def test_the_limit_without_a_size_is_the_module_s():
    assert module.LARGEST >= 1 << 30
