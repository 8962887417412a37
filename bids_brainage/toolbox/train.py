"""``brainage train``: one recipe a kind of bundle, each made again by one command."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import UsageError
from bids_brainage.toolbox import show_log


def add_parser(subparsers: Any) -> None:
    """Add ``train`` with one subcommand for each recipe."""
    made = subparsers.add_parser("train", help="fit a model and write it as a bundle", description=__doc__)
    recipes = made.add_subparsers(required=True, metavar="RECIPE")
    for add in RECIPES:
        add(recipes)


def _roi(recipes: Any) -> None:
    """Brain age from regional volumes."""
    recipe = recipes.add_parser("roi", help="brain age from a table of regional volumes", description=_roi.__doc__)
    recipe.add_argument(
        "--table",
        type=Path,
        required=True,
        metavar="FILE",
        help="TSV: participant_id, age, sex, MUSE_702, MUSE_<index>; 1 mm",
    )
    files = {
        "--coarse-table": "TSV of other people, segmented at 2 mm; wants --same-heads",
        "--same-heads": "TSV of some of the people of --table, segmented at 2 mm",
        "--noise": "TSV of measurement errors that the fit reckons with: index, relative_sd, any shared_1 ...",
        "--judge": "TSV as --table with diagnosis (CN, ...): judged, never trained on",
    }
    for name, text in files.items():
        recipe.add_argument(name, type=Path, metavar="FILE", help=text)
    recipe.add_argument("--compare", action="store_true", help="judge other regressions too (needs xgboost-cpu)")
    recipe.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="new folder; its name becomes the model's"
    )
    recipe.add_argument("--seed", type=int, default=0, metavar="N", help="of folds and bootstrap (default: 0)")
    recipe.set_defaults(run=run_roi)


def run_roi(args: argparse.Namespace) -> int:
    """Fit the ``roi`` model and print how well it does on people who were left out."""
    from bids_brainage.training.roi import fit

    bundle = fit(
        args.table,
        coarse_table=args.coarse_table,
        same_heads=args.same_heads,
        noise=args.noise,
        judged=args.judge,
        compare=args.compare,
        out=args.out,
        seed=args.seed,
    )
    for who, why in bundle.card["training"]["left_out"].items():
        print(f"left out of training: {who} ({why})")
    return _report(bundle)


def _atlas(recipes: Any) -> None:
    """Regions of the brain in template space, from heads with a DLMUSE segmentation."""
    recipe = recipes.add_parser(
        "atlas", help="the MUSE atlas, from heads segmented by DLMUSE", description=_atlas.__doc__
    )
    recipe.add_argument(
        "--data", type=Path, required=True, metavar="DATASET", help="BIDS dataset with derivatives/dlmuse"
    )
    recipe.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle")
    recipe.add_argument("--work", type=Path, metavar="DIR", help="keeps the stages' files (default: beside the bundle)")
    recipe.add_argument("--threads", type=int, default=1, metavar="N", help="of each stage; one gives the same bytes")
    recipe.add_argument("--segment", type=Path, metavar="BUNDLE", help="the network (default: the one that ships)")
    recipe.set_defaults(run=run_atlas)


def run_atlas(args: argparse.Namespace) -> int:
    """Build the atlas and print how well it does on heads that were left out."""
    from bids_brainage.models.registry import PACKAGED, find
    from bids_brainage.training import atlas
    from bids_brainage.training.heads import find_heads

    show_log()
    work = args.work or args.out.with_name(f"{args.out.name}-work")
    segment = args.segment or find("segment", [PACKAGED]).folder
    heads = find_heads(args.data)
    return _report(atlas.build(heads, args.out, work=work, segment_bundle=segment, threads=args.threads))


def _segment(recipes: Any) -> None:
    """The segmentation network, from label maps alone; the same command goes on with a run that was stopped."""
    recipe = recipes.add_parser(
        "segment", help="the segmentation network, from label maps alone", description=_segment.__doc__
    )
    add = recipe.add_argument
    add("--labels", type=Path, required=True, metavar="DIR", help="label maps of whole heads at 1 mm (*.nii.gz)")
    add("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle; its name becomes the model's")
    add("--work", type=Path, metavar="DIR", help="keeps the checkpoints (default: beside the bundle)")
    add("--start", type=Path, metavar="BUNDLE", help="begin with the weights of this bundle")
    add("--judge", type=Path, metavar="DATASET", help="BIDS dataset with derivatives/dlmuse: figures for the card")
    add("--steps", type=int, default=200_000, metavar="N", help="in all, earlier calls included (default: 200000)")
    add("--every", type=int, default=500, metavar="N", help="steps between validations and checkpoints (default: 500)")
    add("--hours", type=float, default=math.inf, metavar="H", help="stop after this long, to go on later")
    add("--batch", type=int, default=1, metavar="N", help="scans a step (default: 1)")
    add("--hold-back", type=int, default=4, metavar="N", help="label maps that only validate, the last (default: 4)")
    add("--device", default="cpu", metavar="NAME", help="cpu, cuda (all GPUs) or cuda:N (default: cpu)")
    add("--threads", type=int, metavar="N", help="of torch (default: all cores)")
    add("--seed", type=int, default=0, metavar="N", help="of weights and images (default: 0)")
    add("--tiny", action="store_true", help="a network of a few thousand weights, to try the command")
    recipe.set_defaults(run=run_segment)


def run_segment(args: argparse.Namespace) -> int:
    """Train, write the bundle of the best weights so far, and print what its card says."""
    _ready(args.threads)
    from bids_brainage.core.device import usable
    from bids_brainage.training.engine import Plan
    from bids_brainage.training.segment import Recipe, fit

    work = args.work or args.out.with_name(f"{args.out.name}-work")
    plan = Plan(work, args.steps, args.every, args.seed, usable(args.device), args.hours)
    return _report(
        fit(Recipe(args.labels, args.out, plan, args.start, args.judge, args.hold_back, args.batch, args.tiny))
    )


def _normative(recipes: Any) -> None:
    """Centiles of regional volumes by age and sex, from published centiles."""
    recipe = recipes.add_parser(
        "normative", help="centiles of regional volumes by age and sex", description=_normative.__doc__
    )
    for sex in ("female", "male"):
        recipe.add_argument(
            f"--{sex}",
            type=Path,
            required=True,
            metavar="FILE",
            help="TSV of published centiles: VarName, Age, centile_5 to centile_95; mm^3",
        )
    recipe.add_argument(
        "--judge", type=Path, metavar="FILE", help="TSV of healthy people at 1 mm, as --table of roi: never fitted"
    )
    recipe.add_argument("--same-heads", type=Path, metavar="FILE", help="TSV of some of them, segmented at 2 mm")
    recipe.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="new folder; its name becomes the bundle's"
    )
    recipe.set_defaults(run=run_normative)


def run_normative(args: argparse.Namespace) -> int:
    """Fit the curves and print how well they give the published centiles, and where healthy people lie on them."""
    from bids_brainage.training.normative import fit

    return _report(fit(args.female, args.male, judged=args.judge, same_heads=args.same_heads, out=args.out))


def _reference(recipes: Any) -> None:
    """Synthetic reference people on the scale of published centiles, as densities to draw and match from."""
    recipe = recipes.add_parser("reference", help="synthetic reference people", description=_reference.__doc__)
    files = {
        "--table": "TSV of healthy people at 1 mm, as --table of roi",
        "--coarse-table": "TSV of other people, segmented at 2 mm",
        "--same-heads": "TSV of some of the people of --table, segmented at 2 mm",
        "--female": "TSV of published centiles of women, as --female of normative",
        "--male": "the same of men",
    }
    for name, text in files.items():
        recipe.add_argument(name, type=Path, required=True, metavar="FILE", help=text)
    recipe.add_argument("--n", type=int, default=1500, metavar="N", help="people of each sex (default: %(default)s)")
    recipe.add_argument("--halves", type=int, default=20, metavar="N", help="that judge (default: %(default)s)")
    recipe.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random (default: 0)")
    recipe.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="new folder; its name is the model's")
    recipe.set_defaults(run=run_reference)


def run_reference(args: argparse.Namespace) -> int:
    """Make the reference and print what its card says of people who were left out."""
    from bids_brainage.training.reference import fit

    bundle = fit(
        args.table,
        args.coarse_table,
        args.same_heads,
        female=args.female,
        male=args.male,
        out=args.out,
        n=args.n,
        halves=args.halves,
        seed=args.seed,
    )
    return _report(bundle)


def _local(recipes: Any) -> None:
    """An age at each voxel, from modulated tissue maps; the same command goes on with a run that was stopped."""
    recipe = recipes.add_parser("local", help="an age at each voxel, from tissue maps", description=_local.__doc__)
    add = recipe.add_argument
    add(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DERIVATIVES",
        help="output of the app with modulated maps, or of brainage simulate --maps-only",
    )
    add("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle; its name becomes the model's")
    add("--work", type=Path, metavar="DIR", help="keeps maps and checkpoints (default: beside the bundle)")
    presets = ("compact", "default", "published", "tiny")
    add("--preset", choices=presets, default="default", help="settings (default: default)")
    add("--config", type=Path, metavar="FILE", help="TOML file of settings that replace the preset's (docs/models.md)")
    add("--label", choices=("age", "truth"), default="age", help="at every voxel the age, or the simulated local age")
    add("--steps", type=int, metavar="N", help="in all, earlier calls included (default: the preset's)")
    add("--every", type=int, metavar="N", help="steps between validations and checkpoints (default: the preset's)")
    add("--hours", type=float, default=math.inf, metavar="H", help="stop after this long, to go on later")
    add("--device", default="cpu", metavar="NAME", help="cpu, cuda (all GPUs) or cuda:N (default: cpu)")
    add("--threads", type=int, metavar="N", help="of torch (default: all cores)")
    add("--seed", type=int, default=0, metavar="N", help="of split, weights and blocks (default: 0)")
    add("--fold", type=int, choices=range(10), default=0, metavar="I", help="tenth of the people that judges, 0 to 9")
    add("--start", type=Path, metavar="BUNDLE", help="begin with the weights of this bundle")
    recipe.set_defaults(run=run_local)


def run_local(args: argparse.Namespace) -> int:
    """Train, write the bundle of the best weights so far, and print what its card says."""
    _ready(args.threads)
    from bids_brainage.core.device import usable
    from bids_brainage.training.local.config import configure
    from bids_brainage.training.local.fit import fit
    from bids_brainage.training.local.recipe import Recipe

    recipe = Recipe(
        data=tuple(args.data),
        out=args.out,
        config=configure(args.preset, args.config, steps=args.steps, every=args.every),
        work=args.work or args.out.with_name(f"{args.out.name}-work"),
        label=args.label,
        seed=args.seed,
        fold=args.fold,
        device=usable(args.device),
        hours=args.hours,
        start=args.start,
        preset=args.preset,
        settings=args.config,
    )
    return _report(fit(recipe))


def _ready(threads: int | None) -> None:
    """Refuse where Lightning is not installed; set the threads of torch; show the log."""
    try:
        import lightning  # noqa: F401
    except ImportError:
        raise UsageError("training needs Lightning; run: pip install 'bids-brainage[train]'") from None
    import torch

    if threads:
        torch.set_num_threads(threads)
    show_log()


def _report(bundle: Bundle) -> int:
    from bids_brainage.toolbox.models import summary

    print(summary(bundle))
    return 0


RECIPES = (_roi, _atlas, _segment, _local, _normative, _reference)
