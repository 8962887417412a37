"""``brainage models``: list, show and verify the bundles that are there; fetch and install others."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import BundleError, UsageError


def add_parser(subparsers: Any) -> None:
    """Add ``models`` with its actions."""
    made = subparsers.add_parser("models", help="list, show, verify, fetch and install models", description=__doc__)
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--models-dir", type=Path, metavar="DIR", help="folder with further bundles")
    actions = made.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[where], help="models that give a brain age")
    listing.add_argument(
        "--all", action="store_true", help="also those that give none (segmentation, atlas, reference)"
    )
    listing.set_defaults(run=run_list)
    show = actions.add_parser("show", parents=[where], help="figures and limits of one bundle")
    show.add_argument("name", metavar="NAME")
    show.add_argument("--json", action="store_true", help="the whole card")
    show.set_defaults(run=run_show)
    verify = actions.add_parser("verify", parents=[where], help="check every file of every bundle against its sha256")
    verify.set_defaults(run=run_verify)
    add_fetch(actions, where)
    add_install(actions, where)


def add_fetch(actions: Any, where: argparse.ArgumentParser) -> None:
    """Add ``fetch``, the one action that uses the network."""
    made = actions.add_parser("fetch", parents=[where], help="download weights that others released (network)")
    made.add_argument("name", nargs="?", metavar="NAME", help="which (default: list them)")
    made.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="a copy of the released file (of several: their folder): no network",
    )
    made.add_argument(
        "--accept-licence", action="store_true", help="needed where the licence is not an open-source one"
    )
    made.add_argument("--accept-unverified", action="store_true", help="needed where no checksum of the files is known")
    made.add_argument("--releases", type=Path, metavar="FILE", help="another list, of the form of data/releases.json")
    made.add_argument("--force", action="store_true", help="replace or hide a bundle of this name")
    made.set_defaults(run=run_fetch)


def add_install(actions: Any, where: argparse.ArgumentParser) -> None:
    """Add ``install``."""
    made = actions.add_parser("install", parents=[where], help="install a bundle from a folder or an archive")
    made.add_argument("source", type=Path, metavar="FOLDER_OR_ARCHIVE", help="bundle folder, .zip or .tar.gz")
    made.add_argument("--force", action="store_true", help="replace or hide a bundle of this name")
    made.set_defaults(run=run_install)


def places(args: argparse.Namespace) -> list[Path]:
    """Where bundles are looked for."""
    from bids_brainage.models.registry import search_path

    home = os.environ.get("BIDS_BRAINAGE_HOME")
    return search_path(args.models_dir, Path(home) if home else None)


def run_list(args: argparse.Namespace) -> int:
    """Print a line a bundle."""
    from bids_brainage.models import registry

    for bundle in registry.every(places(args)) if args.all else registry.available(places(args)):
        card = bundle.card
        print(
            "\t".join(map(str, (bundle.name, card["version"], registry.role(bundle), card["licence"], bundle.folder)))
        )
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print what one bundle is and how well it does."""
    from bids_brainage.models.registry import find

    bundle = find(args.name, places(args))
    print(json.dumps(bundle.card, indent=2, ensure_ascii=False) if args.json else summary(bundle))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Verify all bundles, the damaged ones named; 1 where there are any."""
    from bids_brainage.models import registry

    damaged = 0
    for name, folder in registry.folders(places(args)).items():
        try:
            bundle = registry.verified(folder)
            print(f"{name}\tok\t{bundle.digest[:12]}\t{folder}")
        except BundleError as error:
            damaged += 1
            print(f"{name}\tDAMAGED\t{error}")
    return 1 if damaged else 0


def target(args: argparse.Namespace) -> Path:
    """Where bundles are installed: the first place in which they are looked for, but the package."""
    first, *others = places(args)
    if not others:
        raise UsageError("no folder for models is known; give --models-dir DIR, or set BIDS_BRAINAGE_HOME")
    return first


def say(text: str) -> None:
    """One line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def run_fetch(args: argparse.Namespace) -> int:
    """Fetch a released model and print its name and folder; without a name, print which there are."""
    from bids_brainage.models import releases
    from bids_brainage.models.install import fetch

    known = releases.read_releases(args.releases or releases.RELEASES)
    if args.name is None:
        for release in known.values():
            print("\t".join((release.name, release.licence, release.reference, release.address)))
        return 0
    if args.name not in known:
        raise UsageError(f"{args.name}: no release has this name; there are: {', '.join(sorted(known)) or 'none'}")
    release = known[args.name]
    say(f"licence of {release.name}: {release.licence} ({release.licence_address}); cite {release.reference}")
    if not (release.osi or args.accept_licence):
        raise UsageError(f"{release.name}: read its licence at {release.licence_address}, then give --accept-licence")
    if release.unverified and not args.accept_unverified:
        raise UsageError(
            f"{release.name}: no checksum of {len(release.unverified)} files is known, so that what comes cannot be "
            "compared with anything; give --accept-unverified to take it and keep its sha256"
        )
    bundle = fetch(release, target(args), places(args), say, source=args.source, force=args.force)
    print(f"{bundle.name}\t{bundle.folder}")
    return 0


def run_install(args: argparse.Namespace) -> int:
    """Install a bundle and print its name and folder."""
    from bids_brainage.models.install import install

    bundle = install(args.source, target(args), places(args), say, force=args.force)
    print(f"{bundle.name}\t{bundle.folder}")
    return 0


def summary(bundle: Bundle) -> str:
    """A bundle's card for the terminal."""
    card = bundle.card
    lines = [
        f"{card['name']} {card['version']} ({card['architecture']}): {card.get('description', '')}",
        f"folder: {bundle.folder}",
        f"sha256 of the card: {bundle.digest}",
        f"needs: {', '.join(card['needs']) or 'nothing'}",
        f"licence: {card['licence']}",
        "metrics:",
        *_indented(card["metrics"]),
        *(f"note: {note}" for note in card.get("notes", ())),
        *(f"not meant for: {use}" for use in card["not_meant_for"]),
    ]
    if "age_range" in card:
        lines.insert(3, "ages that it is for: {:g}-{:g} years".format(*card["age_range"]))
    return "\n".join(lines)


def _indented(value: Any, depth: int = 1) -> list[str]:
    """Nested figures as indented lines; an estimate with its interval on one."""
    lines = []
    for key, entry in value.items() if isinstance(value, dict) else ():
        if isinstance(entry, dict) and set(entry) == {"value", "low", "high"}:
            entry = f"{entry['value']} [{entry['low']}, {entry['high']}]"
        elif isinstance(entry, dict) and not any(isinstance(v, dict) for v in entry.values()):
            entry = ", ".join(f"{k} {v}" for k, v in entry.items())
        if isinstance(entry, dict):
            lines += [f"{'  ' * depth}{key}:", *_indented(entry, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{key}: {entry}")
    return lines
