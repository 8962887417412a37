"""Locks, Dockerfile and Singularity recipe say one thing; the version stands in one place and is copied right."""

import re
import tomllib
from pathlib import Path

import pytest

from bids_brainage.toolbox import docker

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CUDA = re.compile(r"nvidia-|cuda-|triton$")
LOCKS = ("cpu", "cuda", "build")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(text):
    """Version by name of the lines ``name==version``."""
    found = re.findall(r"^([\w.-]+)==([\w.+]+)", text, re.MULTILINE)
    return {canonical(name): version for name, version in found}


def words(requirements):
    return {canonical(re.split(r"[<>=!~\[; ]", line)[0]) for line in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_of_a_lock_has_version_and_hash(lock):
    text = re.sub(r"^#.*\n", "", read(f"requirements/{lock}.lock"), flags=re.MULTILINE)
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) == len(pinned(text))
    for block in blocks:
        assert re.match(r"[\w.-]+==[\w.+]+( ;[^\\]+)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\\n|$))+$", block), block[:80]


@pytest.mark.parametrize("lock", LOCKS)
def test_the_locks_hold_the_versions_that_the_project_is_tested_with(lock):
    tested, locked = pinned(read("constraints.txt")), pinned(read(f"requirements/{lock}.lock"))
    differ = {name for name in locked.keys() & tested.keys() if locked[name].partition("+")[0] != tested[name]}
    assert differ == set()


def test_the_two_images_differ_by_torch_and_its_cuda_alone():
    cpu, cuda = (pinned(read(f"requirements/{lock}.lock")) for lock in LOCKS[:2])
    assert cpu.pop("torch") == cuda.pop("torch") + "+cpu"
    rest = {name: version for name, version in cuda.items() if not CUDA.match(name)}
    assert rest != cuda
    assert cpu == rest


@pytest.mark.parametrize("lock", LOCKS[:2])
def test_all_that_the_project_needs_is_locked(lock):
    wanted = words(PROJECT["dependencies"]) | words(PROJECT["optional-dependencies"]["genmind"])
    assert wanted <= pinned(read(f"requirements/{lock}.lock")).keys()


def test_the_build_backend_is_locked():
    assert words(["hatchling"]) <= pinned(read("requirements/build.lock")).keys()


def test_packages_of_the_image_are_named_in_the_locks_alone():
    """The Singularity recipe takes the image's layers, and the Dockerfile installs locks and the project's wheel."""
    recipe = re.sub(r"#.*", "", read("singularity/bids-brainage.def"))
    assert not re.search(r"\b(pip|apt|apt-get|conda|wget|curl)\b|%post|%files", recipe)
    dockerfile = re.sub(r"^#.*", "", read("Dockerfile"), flags=re.MULTILINE)
    assert not re.search(r"\b(apt|apt-get|conda|wget|curl|git)\b", dockerfile)
    installed = re.findall(r"pip (?:--python \S+ )?install ([^\\&\n]+)", dockerfile)
    assert len(installed) == 3
    for line in installed:
        assert "--require-hashes -r /tmp/requirements.lock" in line or line.strip().endswith("--no-index /dist/*.whl")


def test_the_singularity_image_is_the_one_that_the_wrapper_runs():
    assert f"from={docker.IMAGE.partition(':')[0]}:{PROJECT['version']}\n" in read("singularity/bids-brainage.def")


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("CITATION.cff", r"^version: (.+)$"),
        ("singularity/bids-brainage.def", r"bids-brainage:(\d[\w.]*)"),
        ("docs/platforms.md", r"bids-brainage:(\d[\w.]*)"),
        ("docs/containers.md", r"bids-brainage:(\d+\.\d+\.\d+)"),
        ("descriptors/bids-brainage.json", r"bids-brainage:(\d[\w.]*)"),
    ],
)
def test_the_version_is_that_of_the_project(file, pattern):
    assert set(re.findall(pattern, read(file), re.MULTILINE)) == {PROJECT["version"]}


def test_the_wheel_is_built_from_files_that_reach_the_builder():
    (copied,) = re.findall(r"^COPY (pyproject.*) \./$", read("Dockerfile"), re.MULTILINE)
    needed = [PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml"]
    assert sorted(copied.split()) == sorted(needed)
    assert {f"!{name}" for name in [*needed, "bids_brainage", "requirements"]} <= set(read(".dockerignore").split())


def test_nothing_that_runs_in_the_image_looks_for_a_network_or_a_home():
    dockerfile = read("Dockerfile")
    for setting in ("HOME=/tmp", "NO_ET=1", "TEMPLATEFLOW_AUTOUPDATE=off"):
        assert f" {setting} " in dockerfile
    assert "HEALTHCHECK" not in dockerfile
    assert re.search(r'^ENTRYPOINT \["bids-brainage"\]$', dockerfile, re.MULTILINE)
    assert re.search(r"^ARG BASE=[\w./]+:\d+\.\d+\.\d+-[\w-]+$", dockerfile, re.MULTILINE)  # pinned
