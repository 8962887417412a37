"""Weights that others released: where each file is, how to know it, and how it becomes a bundle.

One entry of ``data/releases.json`` a model: ``address``, ``sha256`` or ``git_blob`` (SHA-1 of git's blob), ``size`` in
bytes where known, ``licence`` (``name``, ``address``, ``osi``), ``reference``, ``state`` (``within``: keys that lead to
the state dict in the file, ``prefix``: taken off each name) and ``card``, the bundle's card without licence and files.
A release of several files has ``files`` (path below ``address`` -> sha256, or null where none is known) in place of
checksum and ``state``; its bundle holds them as they were released, for another command to read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bids_brainage.core.bundle import Bundle, load, save
from bids_brainage.core.errors import BundleError, UsageError
from bids_brainage.core.files import atomic, copy, git_blob, read_json, sha256, sha256_of

if TYPE_CHECKING:
    from torch import Tensor

HEXADECIMAL = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
RELEASES = Path(__file__).resolve().parents[1] / "data" / "releases.json"


@dataclass(frozen=True)
class Release:
    """One released file of weights.

    Attributes
    ----------
    name : str
        Of the bundle that it becomes.
    address : str
        Pinned: the same file for ever.
    size : int or None
        Bytes.
    sha256, git_blob : str or None
        One of them at least.
    licence, licence_address : str
        Name, and where its text is.
    osi : bool
        Whether the Open Source Initiative approved the licence; any other must be accepted by the user.
    reference : str
        The paper.
    within : tuple of str
        Keys that lead to the state dict in the file.
    prefix : str
        Taken off the name of each tensor.
    card : mapping
        Of the bundle.
    files : mapping of str to str or None
        sha256 by path below the address, where the release is several files.
    """

    name: str
    address: str
    size: int | None
    sha256: str | None
    git_blob: str | None
    licence: str
    licence_address: str
    osi: bool
    reference: str
    within: tuple[str, ...]
    prefix: str
    card: Mapping[str, Any]
    files: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What identifies the file: its sha256, else git's name for it; of several, the sha256 of their list."""
        return sha256_of(self.files) if self.files else str(self.sha256 or self.git_blob)

    @property
    def unverified(self) -> tuple[str, ...]:
        """Files of which no checksum is known."""
        return tuple(name for name, known in self.files.items() if known is None)

    @property
    def made_from(self) -> dict[str, str]:
        """Which file it is; stands on the bundle's card as ``release``."""
        return {"address": self.address, "digest": self.digest}

    def full_card(self) -> dict[str, Any]:
        """The bundle's card: that of the release, its licence, and which file it was made from."""
        own = {"name": self.name, "licence": f"{self.licence}, {self.licence_address}", "reference": self.reference}
        return {**self.card, **own, "release": self.made_from}


def read_releases(path: Path = RELEASES) -> dict[str, Release]:
    """All releases by name.

    Raises
    ------
    UsageError
        Where the file cannot be read or an entry is not complete.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: is no list of releases; correct it")
    return {name: _release(path, name, entry) for name, entry in content.items()}


def _release(path: Path, name: str, entry: Any) -> Release:
    try:
        files = _files(entry["files"]) if "files" in entry else {}
        licence, state = entry["licence"], {"within": (), "prefix": ""} if files else entry["state"]
        if not files and not HEXADECIMAL.fullmatch(str(entry.get("sha256") or entry["git_blob"])):
            raise ValueError("no checksum")
        return Release(
            name,
            entry["address"],
            entry.get("size"),
            entry.get("sha256"),
            entry.get("git_blob"),
            licence["name"],
            licence["address"],
            licence["osi"] is True,
            entry["reference"],
            tuple(state["within"]),
            str(state["prefix"]),
            entry["card"],
            files,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: the release {name!r} is not complete ({error!r}); correct it") from None


def _files(given: Mapping[str, str | None]) -> dict[str, str | None]:
    """Paths and sha256 of a release of several files; ``ValueError`` where one is no path below or no checksum."""
    names = [PurePosixPath(path).name for path in given]
    if not given or len(set(names)) < len(names) or any(".." in PurePosixPath(p).parts or p[:1] == "/" for p in given):
        raise ValueError("files")
    if not all(known is None or HEXADECIMAL.fullmatch(known) for known in given.values()):
        raise ValueError("no checksum")
    return dict(given)


def check(path: Path, release: Release) -> None:
    """See whether a file is the released one.

    Raises
    ------
    BundleError
        Where it cannot be read, or its size or checksum is another.
    """
    try:
        size = path.stat().st_size
        found = {"sha256": sha256(path), "git_blob": git_blob(path)}
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); give the released file") from None
    if release.size not in (None, size):
        raise BundleError(f"{path}: has {size} bytes, the released file {release.size}; get it again")
    for kind, expected in (("sha256", release.sha256), ("git_blob", release.git_blob)):
        if expected not in (None, found[kind]):
            raise BundleError(f"{path}: its {kind} is {found[kind]}, that of the release {expected}; get it again")


def check_file(path: Path, expected: str | None) -> None:
    """See whether one of several files is the released one, where that is known.

    Raises
    ------
    BundleError
        Where its sha256 is another.
    """
    if expected is not None and (found := sha256(path)) != expected:
        raise BundleError(f"{path}: its sha256 is {found}, that of the release {expected}; get it again")


def collect(release: Release, found: Mapping[str, Path], folder: Path) -> Bundle:
    """A bundle of a release of several files, unread; the card says of which no checksum was known."""
    folder.mkdir()
    kept = {PurePosixPath(path).name: copy(source, folder / PurePosixPath(path).name) for path, source in found.items()}
    return save(folder, {**release.full_card(), "not_compared": list(release.unverified)}, kept)


def read_files(folder: Path) -> dict[str, Path]:
    """The files of such a bundle by name."""
    bundle = load(folder)
    return {name: bundle.file(name) for name in bundle.card["files"]}


def convert(release: Release, checkpoint: Path, folder: Path) -> Bundle:
    """Make a bundle of a released PyTorch file: safetensors and a card, in the new folder ``folder``.

    The same file gives the same bytes, so the bundle's digest is the same everywhere.

    Raises
    ------
    BundleError
        Where the file cannot be read without running code, or does not hold what the release says.
    """
    from safetensors.torch import save as as_safetensors

    from bids_brainage.image.network import WEIGHTS

    state = state_dict(release, checkpoint)
    folder.mkdir()
    with atomic(folder / WEIGHTS) as temporary:
        temporary.write_bytes(as_safetensors(state))
    return save(folder, release.full_card(), {WEIGHTS: folder / WEIGHTS})


def state_dict(release: Release, checkpoint: Path) -> dict[str, Tensor]:
    """Tensors of a PyTorch file by the names of our architecture; nothing in the file is run."""
    import torch

    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickler, zip reader and tensors each raise their own kind
        what = f"holds more than tensors, or is damaged ({type(error).__name__})"
        raise BundleError(f"{checkpoint}: {what}; nothing in it was run, and it is refused") from error
    for key in release.within:
        found = found.get(key) if isinstance(found, Mapping) else None
    tensors = found if isinstance(found, Mapping) else {}
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise BundleError(
            f"{checkpoint}: holds no state dict at {'/'.join(release.within) or 'its top'}; it is refused"
        )
    if foreign := [name for name in tensors if not str(name).startswith(release.prefix)]:
        raise BundleError(f"{checkpoint}: {str(foreign[0])!r} does not begin with {release.prefix!r}; it is refused")
    return {str(name).removeprefix(release.prefix): value.contiguous().clone() for name, value in tensors.items()}
