"""Wheel and sdist hold what they should and nothing else, and the wheel works where nothing else is installed."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from bids_brainage import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
INFO = f"bids_brainage-{__version__}.dist-info"
MOST_MB = 12


def call(*words, **how):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source, target, kind):
    call(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target, cwd=source)
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


def package(root):
    """Every file of the package, but what Python and other tools left there."""
    return {
        str(path.relative_to(root))
        for path in (root / "bids_brainage").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_its_licences_alone(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if not name.startswith(INFO)} == package(ROOT)
    assert {f"{INFO}/licenses/LICENSE", f"{INFO}/licenses/NOTICE"} <= names
    for bundle in ("roi", "segment", "muse-atlas", "normative", "genmind-reference"):
        assert f"bids_brainage/data/bundles/{bundle}/model.json" in names
    assert wheel.stat().st_size < MOST_MB * 1e6


def test_no_image_of_anybody_is_distributed(wheel, sdist):
    with tarfile.open(sdist) as archive:
        names = [*zipfile.ZipFile(wheel).namelist(), *archive.getnames()]
    assert [name for name in names if name.endswith((".nii", ".nii.gz", ".mgz", ".pkl", ".pth", ".env"))] == []


def test_the_sdist_gives_the_same_wheel(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for name in ("Dockerfile", ".dockerignore", "requirements/cpu.lock", "singularity/bids-brainage.def", "NOTICE"):
        assert (source / name).is_file(), name
    again = build(source, tmp_path / "again", "wheel")
    first, second = ({one.filename: one.CRC for one in zipfile.ZipFile(made).infolist()} for made in (wheel, again))
    assert first == second


def test_the_wheel_works_in_a_clean_environment(wheel, tmp_path):
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    run = {"cwd": tmp_path, "env": {"PATH": f"{tmp_path / 'clean' / 'bin'}:/usr/bin:/bin"}}
    assert call("bids-brainage", "--version", **run) == f"bids-brainage {__version__}\n"
    (tmp_path / "bids").mkdir()
    assert call("bids-brainage-docker", "bids", "out", "group", "--dry-run", **run).startswith("docker run")
    where = sysconfig.get_path("purelib", vars={"base": tmp_path / "clean", "platbase": tmp_path / "clean"})
    Path(where, "libraries.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")  # this one's libraries
    code = "import bids_brainage; print(bids_brainage.__file__)"
    assert call(python, "-c", code, **run).strip() == f"{where}/bids_brainage/__init__.py"
    call("brainage", "models", "verify", **run)
