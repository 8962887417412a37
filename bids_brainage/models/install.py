"""Bundles from elsewhere, put where the registry looks: checked first, whole when they appear, one writer at a time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from bids_brainage.core.archive import unpack
from bids_brainage.core.bundle import CARD, Bundle
from bids_brainage.core.download import download
from bids_brainage.core.errors import BrainAgeError, BundleError
from bids_brainage.core.files import alone, make_writable
from bids_brainage.models.base import load_model
from bids_brainage.models.registry import folders, verified
from bids_brainage.models.releases import Release, check, check_file, collect, convert

LOCK, STAGING, PARTS = ".lock", ".staging", ".download"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
READERS = {
    "synthstrip": "bids_brainage.image.synthstrip:load_synthstrip",
    "segment": "bids_brainage.image.network:load_network",
    "atlas": "bids_brainage.image.atlas:read_atlas",
    "normative": "bids_brainage.stats.normative:read",
    "released-files": "bids_brainage.models.releases:read_files",
}
Say = Callable[[str], None]


def install(source: Path, place: Path, known: Sequence[Path], say: Say, *, force: bool = False) -> Bundle:
    """Install a bundle from a folder, ``.zip`` or ``.tar.gz``.

    Parameters
    ----------
    place : Path
        Folder of bundles that it goes to; made where it is not there.
    known : sequence of Path
        All folders in which bundles are looked for: a name that stands in one of them is not taken without ``force``.
    say : callable
        Told what is waited for.
    force : bool
        Replace a bundle of this name in ``place``, and hide one elsewhere.

    Raises
    ------
    BundleError
        Where the source is refused, the name is taken, or the place cannot be written.
    """
    with _workshop(place, say) as staging:
        unpack(source, staging / "bundle", CARD)
        return _settle(staging, source, place, known, force)


def fetch(
    release: Release, place: Path, known: Sequence[Path], say: Say, *, source: Path | None = None, force: bool = False
) -> Bundle:
    """Install a released model, downloaded or from a local copy; one that is there is returned as it is.

    A transfer that ended early is kept and gone on with by the next call; a wrong file is removed.

    Parameters
    ----------
    source : Path, optional
        A copy of the released file, of several files their folder: no network is touched.

    Others as for :func:`install`.

    Raises
    ------
    BrainAgeError
        As :func:`install`, and where the file cannot be had, is not the released one, or does not fit.
    """
    if not force and (there := _there(release, known)):
        return there
    with _workshop(place, say) as staging:
        if not force and (there := _there(release, known)):
            return there
        if release.files:
            return _fetch_files(release, place, known, say, staging, source, force)
        if source is not None:
            check(source, release)
        checkpoint = source or _downloaded(release, place, say)
        convert(release, checkpoint, staging / "bundle")
        bundle = _settle(staging, checkpoint, place, known, force)
        if source is None:
            checkpoint.unlink()
    return bundle


def _fetch_files(
    release: Release, place: Path, known: Sequence[Path], say: Say, staging: Path, source: Path | None, force: bool
) -> Bundle:
    """Install a release of several files; the sha256 of those of which none is known is said and kept on the card."""
    found = {}
    for number, (path, expected) in enumerate(release.files.items()):
        if source is None:
            found[path] = _part(place, f"{release.digest}.{number}", release.address + path, say, None)
        else:
            found[path] = source / Path(path).name
            if not found[path].is_file():
                raise BundleError(f"{found[path]}: is not there; give the folder of the released files with --from")
        try:
            check_file(found[path], expected)
        except BundleError:
            if source is None:
                found[path].unlink()
            raise
    bundle = collect(release, found, staging / "bundle")
    for path in release.unverified:
        say(f"not compared with anything: {path} has sha256 {bundle.card['files'][Path(path).name]}")
    bundle = _settle(staging, source or Path(release.name), place, known, force)
    for part in found.values() if source is None else ():
        part.unlink()
    return bundle


def _there(release: Release, known: Sequence[Path]) -> Bundle | None:
    """The bundle of this release where it is installed already.

    Raises
    ------
    BundleError
        Where another bundle, or a damaged one, has its name.
    """
    folder = folders(known).get(release.name)
    if folder is None:
        return None
    bundle = verified(folder)
    if bundle.card.get("release") != release.made_from:
        raise _taken(release.name, folder)
    return bundle


def _taken(name: str, folder: Path) -> BundleError:
    return BundleError(f"{folder}: another bundle is called {name!r}; --force takes its place")


def _downloaded(release: Release, place: Path, say: Say) -> Path:
    """The released file, checked, under a name that no other release has."""
    part = _part(place, release.digest, release.address, say, release.size)
    try:
        check(part, release)
    except BundleError as error:
        part.unlink()
        reason = str(error).removeprefix(f"{part}: ")
        raise BundleError(f"{release.address}: what came is not the released file and was removed: {reason}") from None
    return part


def _part(place: Path, name: str, address: str, say: Say, size: int | None) -> Path:
    """One file, unchecked; what an earlier transfer left is gone on with."""
    part = place / PARTS / f"{name}.part"
    part.parent.mkdir(exist_ok=True)
    begun = part.stat().st_size if part.is_file() else 0
    say(f"{f'going on at byte {begun} of' if begun else 'downloading'} {address}")
    download(address, part, size=size)
    return part


@contextmanager
def _workshop(place: Path, say: Say) -> Iterator[Path]:
    """Hold the lock of ``place``; yields an empty folder in it, where a bundle is made ready out of sight."""
    try:
        make_writable(place)
        with alone(place / LOCK, lambda: say(f"waiting for another process that installs into {place}")):
            yield from _emptied(place / STAGING)
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{place}: cannot be written ({reason}); check space and permissions") from error


def _emptied(staging: Path) -> Iterator[Path]:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _settle(staging: Path, source: Path, place: Path, known: Sequence[Path], force: bool) -> Bundle:
    """Check the bundle in ``staging`` and give it its final name; of ``source`` is spoken where it is refused."""
    folder = staging / "bundle"
    try:
        bundle = verified(folder)
        fits(bundle)
    except BrainAgeError as error:
        reason = str(error).replace(f"{folder}/", f"{source}: ").replace(str(folder), str(source))
        raise BundleError(reason) from None
    if not NAME.fullmatch(bundle.name):
        raise BundleError(f"{source}: {bundle.name[:64]!r} is no name for a bundle; it is refused")
    for path in folder.iterdir():
        if path.name not in (CARD, *bundle.card["files"]):
            path.unlink()
    there = folders(known).get(bundle.name)
    if there is not None and not force:
        raise _taken(bundle.name, there)
    target = place / bundle.name
    old = folders([place]).get(bundle.name)
    if target.exists() and target != old:
        raise BundleError(f"{target}: stands where {bundle.name!r} would go, and is not it; move it away")
    _exchange(folder, target, old, staging / "old")
    return verified(target)


def _exchange(new: Path, target: Path, old: Path | None, aside: Path) -> None:
    """Rename ``new`` to ``target``; ``old`` goes aside first and comes back where that fails."""
    if old is not None:
        old.rename(aside)
    try:
        new.rename(target)
    except OSError:
        if old is not None:
            aside.rename(old)
        raise


def fits(bundle: Bundle) -> None:
    """Read the bundle as the app will.

    Raises
    ------
    BundleError
        Where this version has no such architecture, or the files are not what it wants.
    """
    architecture = str(bundle.card["architecture"])
    try:
        if architecture not in READERS:
            load_model(bundle)
            return
        module, _, reader = READERS[architecture].partition(":")
        getattr(import_module(module), reader)(bundle.folder)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{bundle.folder}: not a bundle of the {architecture} architecture ({error!r})") from None
