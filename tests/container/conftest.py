"""The image, built once with the engine that is there; all tests here are skipped unless they are asked for."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from bids_brainage.toolbox import selftest

ROOT = Path(__file__).resolve().parents[2]
ASKED = "BIDS_BRAINAGE_CONTAINER"
BUILD, RUN, IMAGE = (f"BIDS_BRAINAGE_{name}" for name in ("BUILD", "RUN", "IMAGE"))
USER = "1234:1234"
VERSION = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]


def engine() -> str | None:
    """``docker`` or ``podman``, whichever answers."""
    for name in ("docker", "podman"):
        if shutil.which(name) and not subprocess.run([name, "info"], capture_output=True, check=False).returncode:
            return name
    return None


@dataclass(frozen=True)
class Image:
    """An image that was built, and the words that run a container."""

    name: str
    run: list[str]

    def __call__(self, *words: object, mounts: dict[Path, str], entry: str = "", trace: Path | None = None):
        """Run as a user that the image does not know, without network, home, rights or a writable root."""
        line = [*self.run, "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=all", f"--user={USER}"]
        line += [word for path, where in mounts.items() for word in ("-v", f"{path}:{where}")]
        line += ["--entrypoint", entry] if entry else []
        traced = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect", "-o", str(trace)] if trace else []
        argv = [*traced, *line, self.name, *map(str, words)]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=3600)


@pytest.fixture(scope="session")
def image() -> Image:
    """Build the CPU image, or take the one that ``BIDS_BRAINAGE_IMAGE`` names."""
    if not os.environ.get(ASKED):
        pytest.skip(f"{ASKED} is not set: containers are built on request alone")
    found = engine()
    build, run = (
        os.environ.get(name) or (f"{found} {word}" if found else "") for name, word in ((BUILD, "build"), (RUN, "run"))
    )
    if not (build and run):
        pytest.skip(f"neither docker nor podman answers, and {BUILD} and {RUN} do not say how to build and run")
    name = os.environ.get(IMAGE)
    if not name:
        name = f"localhost/bids-brainage:{VERSION}-test"
        given = {"VARIANT": "cpu", "VERSION": VERSION, "IMAGE": name}
        words = [word for pair in given.items() for word in ("--build-arg", "=".join(pair))]
        built = subprocess.run([*shlex.split(build), *words, "-t", name, "."], cwd=ROOT, check=False)
        assert built.returncode == 0
    return Image(name, shlex.split(run))


@pytest.fixture(scope="session")
def heads(tmp_path_factory) -> Path:
    """The dataset behind the stored results of ``brainage selftest``."""
    folder = tmp_path_factory.mktemp("heads") / "bids"
    selftest.write_heads(folder)
    return folder


def unlike_stored(heads: Path, out: Path) -> list[selftest.Difference]:
    """What of golden1's results is further from the stored ones than their tolerance."""
    stem = "sub-golden1"
    differences = selftest.compare({stem: selftest.stored()[stem]}, {stem: selftest.results(heads, out, stem)})
    return [one for one in differences if one.share > 1]
