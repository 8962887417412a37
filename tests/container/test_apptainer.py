"""The Singularity recipe makes a SIF of the image's layers, and the SIF runs the app."""

import os
import shlex
import shutil
import subprocess

import pytest

from tests.container.conftest import ROOT, VERSION, unlike_stored

pytestmark = [pytest.mark.container, pytest.mark.slow]
APPTAINER, OPTIONS = "BIDS_BRAINAGE_APPTAINER", "BIDS_BRAINAGE_APPTAINER_OPTIONS"


def call(*words):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=3600)


@pytest.fixture(scope="session")
def apptainer(image):
    """The words that start Apptainer, and what its ``build`` and ``run`` need on this machine (``--userns``)."""
    found = os.environ.get(APPTAINER) or shutil.which("apptainer")
    if not found:
        pytest.skip(f"no apptainer, and {APPTAINER} does not say how to start it")
    return shlex.split(found)


@pytest.fixture(scope="session")
def sif(apptainer, image, tmp_path_factory):
    """The recipe, built from the image as an archive, because a registry may hold another one."""
    folder = tmp_path_factory.mktemp("sif")
    save = call(*image.run[: image.run.index("run")], "save", "-o", folder / "image.tar", image.name)
    assert save.returncode == 0, save.stderr
    source = ["--build-arg", "bootstrap=docker-archive", "--build-arg", f"from={folder / 'image.tar'}"]
    recipe = shutil.copy(ROOT / "singularity" / "bids-brainage.def", folder)
    made = call(*apptainer, "build", *source, "--fakeroot", folder / "app.sif", recipe)
    assert made.returncode == 0, made.stderr
    assert f"bids-brainage {VERSION}" in made.stdout + made.stderr  # %test ran
    return folder / "app.sif"


def test_help_and_labels_are_inside(apptainer, sif):
    assert "brain age" in call(*apptainer, "run-help", sif).stdout.lower()
    assert f"org.opencontainers.image.version: {VERSION}" in call(*apptainer, "inspect", sif).stdout


def test_the_sif_gives_the_stored_ages(apptainer, sif, heads, tmp_path):
    """One head, without network, without a home, with nothing of the environment outside."""
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    work.mkdir()
    options = shlex.split(os.environ.get(OPTIONS, ""))
    options += ["--containall", "--cleanenv", "--no-home", "--net", "--network=none"]
    binds = ["-B", f"{heads}:/data:ro", "-B", f"{out}:/out", "-B", f"{work}:/scratch"]
    words = ["/data", "/out", "participant", "-w", "/scratch/work", "--participant-label", "golden1"]
    done = call(*apptainer, "run", *options, *binds, sif, *words)
    assert done.returncode == 0, done.stderr
    assert unlike_stored(heads, out) == []
