"""``brainage validate``: what a bundle finds of what was planted into simulated people."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_brainage.core.errors import UsageError
from bids_brainage.toolbox import show_log

if TYPE_CHECKING:
    from bids_brainage.core.bundle import Bundle
    from bids_brainage.models.local import LocalModel
    from bids_brainage.training.validate.people import Plan
    from bids_brainage.training.validate.table import Row


LOG = logging.getLogger("bids_brainage")
CHAIN = "chain"
"""Folder of the simulated heads and what the app makes of them."""


def add_parser(subparsers: Any) -> None:
    """Add ``validate`` with one subcommand for each kind of bundle."""
    made = subparsers.add_parser("validate", help="judge a bundle on simulated people", description=__doc__)
    kinds = made.add_subparsers(required=True, metavar="KIND")
    local = kinds.add_parser(
        "local",
        help="maps of local brain age against what was planted",
        description="Judge bundles of local brain age on simulated people, and a site, that no training saw: error,"
        " what is found of planted years and where, resolution, reliability; with people simulated as for training"
        " and by other means. All figures are of simulated people (docs/validation.md).",
    )
    add = local.add_argument
    add("bundles", type=Path, nargs="+", metavar="BUNDLE", help="folder of a bundle; several are set side by side")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for table, details, picture and page")
    add("--bases", type=Path, metavar="DIR", help="label maps of heads that no training saw (default: the one shipped)")
    add("--site", metavar="NAME", help="profile that no bundle was trained on (default: one never trained on)")
    add("--n", type=int, metavar="N", help="simulated people (default: 40)")
    add("--planted", type=int, metavar="N", help="how many of them get planted years (default: 12)")
    add("--chain", type=int, default=0, metavar="N", help="also run the app on N simulated heads (default: none)")
    add("--seed", type=int, default=0, metavar="S", help="of people, scans and bootstrap (default: 0)")
    add("--device", default="cpu", metavar="NAME", help="cpu or cuda:N (default: cpu)")
    add("--threads", type=int, metavar="N", help="of torch (default: all cores)")
    add("--quick", action="store_true", help="few people, regions and a coarse anatomy: to see that it runs")
    local.set_defaults(run=run_local)


def run_local(args: argparse.Namespace) -> int:
    """Validate, write, and print the figures side by side."""
    show_log()
    import torch

    from bids_brainage.core.bundle import load
    from bids_brainage.core.files import make_writable
    from bids_brainage.training.validate.run import validate
    from bids_brainage.training.validate.table import side_by_side
    from bids_brainage.training.validate.write import write

    if args.threads:
        torch.set_num_threads(args.threads)
    bundles, plan = [load(folder) for folder in args.bundles], _plan(args)
    plan.check(bundles)
    names = _names(bundles)
    models = _models(bundles, args.device)
    _check_chain(models, plan, args)
    try:
        make_writable(args.out)
    except OSError as error:
        raise UsageError(f"--out {args.out}: cannot be written ({error.strerror}); give another folder") from None
    found = validate(models, names, plan)
    if args.chain:
        found = found._replace(rows=[*found.rows, *_chained(models, names, plan, args)])
    page = write(args.out, found, _settings(bundles, names, plan, args))
    headings, lines = side_by_side(found.rows)
    print("simulated people only, 95 % intervals over people")
    print("\n".join("\t".join(line) for line in (headings, *lines)))
    print(f"page: {page}")
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    """The defaults, or those of a quick run, with what was asked for."""
    from bids_brainage.training.validate.people import Plan

    few = {"n": 5, "planted": 1, "step": 2, "offsets": (-10.0, 15.0), "regions": ("left_temporal",)}
    asked = {name: getattr(args, name) for name in ("n", "planted", "site", "bases") if getattr(args, name) is not None}
    base: dict[str, Any] = {**few, "spots": ("left_frontal",)} if args.quick else {}
    return Plan(**{**base, "seed": args.seed, **asked})


def _models(bundles: Sequence[Bundle], device: str) -> list[LocalModel]:
    """The models on a device, fit to be compared."""
    from bids_brainage.core.device import usable
    from bids_brainage.models.base import load_model
    from bids_brainage.models.local import LocalModel
    from bids_brainage.training.validate.scenes import check

    models = []
    for bundle in bundles:
        model = load_model(bundle)
        if not isinstance(model, LocalModel):
            raise UsageError(f"{bundle.folder}: is no bundle of local brain age; give one of `brainage train local`")
        models.append(model)
    check(models)
    where = usable(device)
    return [model.to(where) for model in models]


def _names(bundles: Sequence[Bundle]) -> list[str]:
    """Names on the cards, or of the folders where two are alike."""
    names = [bundle.name for bundle in bundles]
    names = names if len(set(names)) == len(names) else [bundle.folder.resolve().name for bundle in bundles]
    if len(set(names)) < len(names):
        raise UsageError(f"BUNDLE: two are called {names[0]}; rename a folder, or give each once")
    return names


def _settings(bundles: Sequence[Bundle], names: Sequence[str], plan: Plan, args: argparse.Namespace) -> dict[str, Any]:
    """What made the figures."""
    from dataclasses import asdict

    from bids_brainage import __version__
    from bids_brainage.training.validate.run import PLANTED

    labels = {
        name: bundle.card["training"].get("label", "not stated") for name, bundle in zip(names, bundles, strict=True)
    }
    told = {key: value for key, value in asdict(plan).items() if key != "bases"}
    return {
        "version": __version__,
        "bundles": {name: bundle.digest for name, bundle in zip(names, bundles, strict=True)},
        "labels": labels,
        PLANTED: "figures of the simulation itself, no model's",
        **told,
        "bases": "the anatomy that ships" if plan.bases is None else plan.bases.name,
        "chain": args.chain,
        "device": args.device,
    }


def _check_chain(models: Sequence[LocalModel], plan: Plan, args: argparse.Namespace) -> None:
    """Refuse heads for the app that it could not use, before any work."""
    from bids_brainage.image.modulate import RESOLUTION
    from bids_brainage.training.validate.scenes import made_at

    if not 0 <= args.chain <= plan.n:
        raise UsageError(f"--chain {args.chain}: give a number from 0 to the number of people, {plan.n}")
    if args.chain and (args.out / CHAIN).exists():
        raise UsageError(f"{args.out / CHAIN}: holds another run; remove it, or give another --out")
    if args.chain and made_at(models[0].brain.grid) != RESOLUTION:
        raise UsageError(f"--chain: the app's maps of {RESOLUTION:g} mm do not fit these bundles; leave it out")


def _chained(models: Sequence[LocalModel], names: Sequence[str], plan: Plan, args: argparse.Namespace) -> list[Row]:
    """Simulate heads, run the participant level on them with each bundle, and compare its maps with the truth."""
    from bids_brainage.training.validate.chain import compared, write_heads
    from bids_brainage.training.validate.people import age_range, subjects

    folder = args.out / CHAIN
    scans = write_heads(folder / "bids", subjects(plan, age_range(models))[: args.chain], plan)
    rows: list[Row] = []
    for name, model in zip(names, models, strict=True):
        bundle = model.bundle
        out = folder / name
        where = ["--models", bundle.name, "--models-dir", str(bundle.folder.resolve().parent)]
        argv = [sys.executable, "-m", "bids_brainage.cli", str(folder / "bids"), str(out), "participant", *where]
        LOG.info("bids-brainage on %d simulated heads with %s", len(scans), name)
        if subprocess.run([*argv, "--work-dir", str(folder / "work")], check=False).returncode:
            raise UsageError(f"{out}: the app failed on simulated heads; its log in {out / 'logs'} says why")
        found = compared(folder / "bids", out, scans, bundle.name, plan.seed)
        rows += [row._replace(key=row.key._replace(bundle=name)) for row in found]
    return rows
