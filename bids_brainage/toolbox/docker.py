"""``bids-brainage-docker``: the app's own command line, run in a container. Needs nothing but the standard library.

Each folder that the options name is mounted under its own path, so that logs, provenance and relative links between
datasets say what they say without a container: read-only what is read, writable what is written.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_brainage import __version__
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import named
from bids_brainage.options import WORK, checked, fields, kind, parser, read, words

IMAGE = f"ghcr.io/bids-brainage/bids-brainage:{__version__}"
ENGINES = ("docker", "podman")
GPUS = {"docker": ["--gpus", "all"], "podman": ["--device", "nvidia.com/gpu=all"]}
HOMES = ("BIDS_BRAINAGE_HOME", "TEMPLATEFLOW_HOME")
OF_THE_IMAGE = {
    "",
    "bin",
    "boot",
    "dev",
    "etc",
    "lib",
    "lib64",
    "opt",
    "proc",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "var",
}
ITS_OWN = {*(f"/usr/{name}" for name in ("bin", "lib", "local", "local/bin", "local/lib", "sbin", "share"))} | {
    f"/opt/bids-brainage{name}" for name in ("", "/bin", "/lib")
}
"""Where the image has its programs."""
Mounts = dict[Path, str]


def inside(path: Path) -> str:
    """A folder's path in the container: its own; a Windows drive becomes a folder.

    Examples
    --------
    >>> from pathlib import PureWindowsPath
    >>> inside(PureWindowsPath("D:/data/bids"))
    '/d/data/bids'
    """
    return "/".join([*([f"/{path.drive[0].lower()}"] if path.drive else [""]), *path.parts[1:]])


def given(argv: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The app's options by flags and ``--config``, and the wrapper's own (``engine``, ``image``, ``dry_run``)."""
    made = parser("bids-brainage-docker", __version__)
    own = made.add_argument_group("Container (--dry-run prints the command)")
    own.add_argument("--engine", choices=ENGINES, default="docker", help="default: %(default)s")
    own.add_argument("--image", default=IMAGE, metavar="NAME", help="default: %(default)s")
    values = read(made, argv)
    values.pop("config", None)
    wrapper = {name: values.pop(name, False) for name in ("engine", "image", "dry_run")}
    return values, wrapper


def mapped(values: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[dict[str, Any], Mounts]:
    """Options as the container sees them, and which folders are mounted how (``ro`` or ``rw``).

    Raises
    ------
    UsageError
        Where a file or folder that must exist does not, or would hide the container's own.
    """
    mounts: Mounts = {}
    seen = dict(values)
    if values["level"] == "participant":
        seen["work_dir"] = values.get("work_dir") or WORK
    for f in fields():
        value = seen.get(f.name)
        if value is None:
            continue
        if kind(f)[0] is Path:
            seen[f.name] = mount(Path(value), mounts, made=f.metadata["made"])
        elif f.metadata["metavar"].endswith("=PATH"):
            seen[f.name] = [f"{name}={mount(path, mounts)}" for name, path in map(named, value)]
        elif f.metadata["metavar"].endswith("_OR_DIR") and Path(value).is_dir():
            seen[f.name] = mount(Path(value), mounts)
    seen["bids_dir"] = mount(values["bids_dir"], mounts)
    seen["out_dir"] = mount(values["out_dir"], mounts, made=True)
    for name in HOMES:
        if environment.get(name):
            mount(Path(environment[name]), mounts, made=True)
    return seen, mounts


def mount(path: Path, mounts: Mounts, *, made: bool = False) -> str:
    """Note the folder of a path among the mounts; returns the path inside.

    A file keeps its name and the files beside it; where it is a link, the folder that it leads to is mounted, too.
    """
    target = path.expanduser().resolve()
    if not made and not target.exists():
        raise UsageError(f"{target}: there is no such file or folder; correct the command")
    if target.exists() and made and not target.is_dir():
        raise UsageError(f"{target}: is a file; give a folder")
    if not target.is_file():
        _share(target, mounts, made)
        return inside(target)
    named = path.expanduser().absolute()
    folder = named.parent.resolve()
    for one in (folder, target.parent):
        _share(one, mounts, made)
    return inside(folder / named.name)


def _share(folder: Path, mounts: Mounts, made: bool) -> None:
    """Note a folder among the mounts, unless it would hide what the container has there."""
    if ":" in "".join(folder.parts[1:]):
        raise UsageError(f"{folder}: holds a colon, which cannot be mounted; rename it")
    parts = folder.parts[1:] or ("",)
    is_own = str(folder) in ITS_OWN or (len(parts) == 1 and parts[0] in OF_THE_IMAGE)
    if is_own and not folder.drive:
        raise UsageError(f"{folder}: cannot be shared with the container, which has its own; use a folder below it")
    mounts[folder] = "rw" if made else mounts.get(folder, "ro")


def command(values: Mapping[str, Any], wrapper: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    """The command that runs the container; nothing is made or started."""
    seen, mounts = mapped(values, environment)
    engine = wrapper["engine"]
    made = [engine, "run", "--rm", *_user(engine), *(GPUS[engine] if values.get("device") == "cuda" else [])]
    for folder in sorted(mounts):  # what lies in another comes after it
        made += ["-v", f"{folder}:{inside(folder)}:{mounts[folder]}"]
    for name in HOMES:
        if environment.get(name):
            made += ["-e", f"{name}={inside(Path(environment[name]).expanduser().resolve())}"]
    return [*made, wrapper["image"], seen["bids_dir"], seen["out_dir"], str(values["level"]), *words(seen)]


def _user(engine: str) -> list[str]:
    """Files belong to who called, and what only one of the caller's groups may read is read.

    Rootless podman maps the user to itself; it is not let down by SELinux, which would deny it folders that bear no
    label of containers. Docker gives up the caller's further groups where a user is named.
    """
    if not hasattr(os, "getuid"):
        return []
    user = ["--user", f"{os.getuid()}:{os.getgid()}"]
    if engine == "podman":
        return ["--security-opt", "label=disable", *(["--userns", "keep-id"] if os.getuid() else []), *user]
    further = sorted({*os.getgroups()} - {os.getgid()})
    return [*user, *(word for group in further for word in ("--group-add", str(group)))]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; on success the engine takes this process over, so that signals and exit code are the app's."""
    try:
        values, wrapper = given(argv)
        checked(values)
        line = command(values, wrapper, os.environ)
        if wrapper["dry_run"]:
            print(shlex.join(line))
            return 0
        engine = shutil.which(wrapper["engine"])
        if engine is None:
            other = next(name for name in ENGINES if name != wrapper["engine"])
            raise UsageError(
                f"{wrapper['engine']}: is not installed or not on the PATH; install it, or --engine {other}"
            )
        for folder, how in mapped(values, os.environ)[1].items():
            if how == "rw":
                folder.mkdir(parents=True, exist_ok=True)
    except UsageError as error:
        print(f"bids-brainage-docker: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"bids-brainage-docker: {error.filename}: cannot be made ({error.strerror})", file=sys.stderr)
        return 2
    sys.stdout.flush()
    os.execv(engine, line)  # noqa: S606 - a list, without a shell


if __name__ == "__main__":
    sys.exit(main())
