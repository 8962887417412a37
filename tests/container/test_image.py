"""The image runs both levels under the narrowest rights, asks nobody outside, and gives the stored results."""

import os
import re
import shutil

import pytest

from bids_brainage.core.files import read_json
from tests.container.conftest import VERSION, unlike_stored
from tests.e2e.conftest import tree

pytestmark = [pytest.mark.container, pytest.mark.slow]
ONE = ("--participant-label", "golden1")
OUTWARD = re.compile(r"connect\(\d+, \{sa_family=AF_INET6?,.*")


def traceable(image):
    """Docker's containers are children of its daemon, not of the client that strace watches."""
    return bool(shutil.which("strace")) and "docker" not in image.run


def outward(trace):
    """The calls of a trace that try to connect to another machine."""
    calls = OUTWARD.findall(trace.read_text(encoding="utf-8", errors="replace"))
    return [call for call in calls if "127.0.0.1" not in call and "::1" not in call]


@pytest.fixture(scope="session")
def folders(heads, tmp_path_factory):
    """Dataset, output and work folder; the last two belong to the user of the container."""
    made = {heads: "/data:ro"}
    for name, where in (("out", "/out"), ("work", "/scratch")):
        made[tmp_path_factory.mktemp(name)] = where
    for folder in list(made)[1:]:
        folder.chmod(0o777)
    return made


@pytest.fixture(scope="session")
def participant(image, heads, folders, tmp_path_factory):
    """The participant level on one head; what it connected to lies in ``trace`` where strace can see it."""
    before = tree(heads)
    trace = tmp_path_factory.mktemp("trace") / "connect.log" if traceable(image) else None
    done = image("/data", "/out", "participant", *ONE, mounts=folders, trace=trace)
    assert tree(heads) == before
    assert done.returncode == 0, done.stderr
    return done, trace


def test_the_version_is_that_of_the_project(image):
    done = image("--version", mounts={})
    assert done.stdout.strip() == f"bids-brainage {VERSION}", done.stderr


def test_the_ages_are_the_stored_ones(participant, heads, folders):
    out = list(folders)[1]
    assert unlike_stored(heads, out) == []


def test_nothing_outside_is_asked(image, participant, tmp_path):
    if not traceable(image):
        pytest.skip("no strace, or an engine whose containers it cannot see")
    code = "import socket; socket.socket().connect(('192.0.2.1', 80))"
    image("-c", code, mounts={}, entry="python", trace=tmp_path / "control.log")
    assert len(outward(tmp_path / "control.log")) == 1  # an attempt in a container is seen
    assert outward(participant[1]) == []


def test_the_group_level_reads_it_and_the_files_belong_to_the_user(image, participant, folders):
    done = image("/data", "/out", "group", mounts=folders)
    assert done.returncode == 0, done.stderr
    out = list(folders)[1]
    assert (out / "group_scans.tsv").is_file()
    (owner,) = {path.stat().st_uid for path in out.rglob("*")}
    assert owner != os.getuid()  # 1234, or what rootless Podman maps it to
    (made, *_) = read_json(out / "dataset_description.json")["GeneratedBy"]
    assert made["Container"] == {"Type": "docker", "Tag": image.name}


def test_the_toolbox_is_inside_and_its_bundles_are_whole(image):
    done = image("models", "verify", mounts={}, entry="brainage")
    assert done.returncode == 0, done.stderr


def test_without_a_work_folder_one_line_says_so(image, heads):
    done = image("/data", "/tmp/out", "participant", mounts={heads: "/data:ro"})  # noqa: S108 - in the container
    assert done.returncode == 2
    assert "give another with -w" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_no_file_of_the_app_can_be_changed_by_the_user(image):
    code = "import os, bids_brainage as b; print(os.access(os.path.dirname(b.__file__), os.W_OK))"
    done = image("-c", code, mounts={}, entry="python")
    assert done.stdout.strip() == "False", done.stderr
