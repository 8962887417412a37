"""Recipe of the MUSE atlas in template space, from heads with a DLMUSE segmentation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core import bundle as bundles
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import atomic, contents_of, write_text
from bids_brainage.image import muse
from bids_brainage.image.atlas import Atlas
from bids_brainage.image.conform import load
from bids_brainage.image.template import DEFAULT
from bids_brainage.training.agreement import (
    Judged,
    average,
    leave_one_out,
    people,
    summary,
    without_each,
)
from bids_brainage.training.coarse import EDGES, coarse_volumes, judge_coarse, lines
from bids_brainage.training.heads import RESOLUTION, prepare
from bids_brainage.training.judge import STRUCTURES, interval
from bids_brainage.training.stripped import CUTS, copies_of, judge_stripped, shifts

LOG = logging.getLogger("bids_brainage")


def build(
    heads: Sequence[tuple[str, Path, Path]],
    out: Path,
    *,
    work: Path,
    segment_bundle: Path,
    leave_out: str | None = None,
    threads: int = 1,
) -> Bundle:
    """Make the atlas bundle.

    Parameters
    ----------
    heads
        Name, T1w and DLMUSE segmentation of each.
    out, work : Path
        Folder of the bundle; folder that keeps the stages' files, so that a second call is quick.
    segment_bundle : Path
        The network's bundle: the calibration holds for it.
    leave_out : str, optional
        Name of a head that takes no part, so that the atlas may judge it.

    Raises
    ------
    UsageError
        With fewer than three heads, or people, or with a head in voxels as large as those of the copies that teach
        what large voxels do.
    """
    used = [head for head in heads if head[0] != leave_out]
    _refuse(used, out)
    examples = [prepare(head, work, segment_bundle=segment_bundle, threads=threads) for head in _counted(used)]
    who = people(examples)
    if who.max() < 2:
        raise UsageError(
            f"{out}: an atlas needs heads of three people or more, these are of {who.max() + 1}; add heads"
        )
    atlases = without_each(examples, who)
    judged = leave_one_out(examples, who, atlases)
    coarse = coarse_volumes(used, atlases, who, work, segment_bundle=segment_bundle, threads=threads)
    copies = copies_of(used, examples, atlases, who, work, segment_bundle=segment_bundle, threads=threads)
    out.mkdir(parents=True, exist_ok=True)
    known = shifts(copies, judged.raw)
    write(average(examples)._replace(lines=lines(judged, coarse), shifts=known), out)
    shipped = contents_of(path for _, *paths in used for path in paths) == SHIPPED_HEADS
    card = describe(
        [e.name for e in examples],
        who,
        judged,
        stripped=judge_stripped(judged, copies, who),
        coarse=judge_coarse(judged, coarse, who),
        shipped=shipped,
    )
    card["training"]["segmentation"] = bundles.load(segment_bundle).digest
    return bundles.save(out, card)


def _refuse(heads: Sequence[tuple[str, Path, Path]], out: Path) -> None:
    """Stop before any work where the heads can make no atlas."""
    if len(heads) < 3:
        raise UsageError(f"{out}: an atlas needs three heads or more, {len(heads)} given; add heads")
    if large := [name for name, t1w, _ in heads if max(load(t1w).header.get_zooms()[:3]) >= EDGES[0]]:
        raise UsageError(
            f"{out}: an atlas needs voxels of less than {EDGES[0]:g} mm, {', '.join(large)} has larger ones; leave out"
        )


def _counted(heads: Sequence[tuple[str, Path, Path]]) -> Iterator[tuple[str, Path, Path]]:
    """The heads, each told in the log as its turn comes."""
    for number, head in enumerate(heads, start=1):
        LOG.info("head %d of %d: %s", number, len(heads), head[0])
        yield head


def write(atlas: Atlas, out: Path) -> None:
    """Write ``atlas.npz`` (no pickle) and ``labels.tsv`` (the lookup table of the label maps)."""
    covered = atlas.rows >= 0
    with atomic(out / "atlas.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            shape=np.array(atlas.grid.shape),
            affine=atlas.grid.affine,
            covered=np.packbits(covered),
            labels=np.where(atlas.probabilities > 0, atlas.labels, 0).astype(np.uint8),
            probabilities=np.rint(atlas.probabilities * 255).astype(np.uint8),
            **atlas.lines._asdict(),
            **atlas.shifts._asdict(),
        )
    rows = [f"{region.number}\t{region.name}" for region in muse.regions()]
    write_text(out / "labels.tsv", "\n".join(["index\tname", *rows]) + "\n")


SHIPPED_HEADS = "841f5af0bb52cb1ce80b12fc87e4953b2746180a172b75df4cfbe44e88e2dd28"
SHIPPED_LICENCE = "CC BY-SA 3.0; the terms of SBIA Agreement 1.1, Part B, go with it"
SHIPPED_DATA = [
    {
        "title": "NiChart_Project sample data: T1w scans and DLMUSE segmentations",
        "source": "https://github.com/CBICA/NiChart_Project",
        "licence": "SBIA Agreement 1.1, Part B",
    },
    {
        "title": "IXI012 of the IXI dataset",
        "source": "https://brain-development.org/ixi-dataset/",
        "licence": "CC BY-SA 3.0",
    },
]


def _one_person(names: Sequence[str], who: NDArray[np.int_]) -> list[list[str]]:
    """Names of the heads of each person who has several."""
    own = ([name for name, one in zip(names, who, strict=True) if one == person] for person in np.unique(who))
    return [heads for heads in own if len(heads) > 1]


def against_heads(judged: Judged, copies: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """Accuracy of the volumes of copies, ``(heads, 146)``, against those of the heads."""
    return summary(judged._replace(volumes=copies, reference=judged.volumes))


def metrics(
    who: NDArray[np.int_], judged: Judged, *, stripped: NDArray[np.float64], coarse: NDArray[np.float64]
) -> dict[str, Any]:
    """The card's figures: heads, and copies of them against the heads, each person left out."""
    return {
        "how": "each person left out of the atlas and of the calibration that judge it; reference DLMUSE",
        "heads": len(who),
        "people": int(who.max()) + 1,
        "volumes": summary(judged),
        "dice_mean_of_145_regions": round(float(np.mean([one.regions for one in judged.measured])), 3),
        "dice": {
            "brain": interval(np.array([one.brain for one in judged.measured])),
            **{
                name: interval(np.array([one.structures[k] for one in judged.measured]))
                for k, name in enumerate(STRUCTURES)
            },
            **{
                name: interval(np.array([one.tissues[k] for one in judged.measured]))
                for k, name in enumerate(("grey matter", "white matter", "csf"))
            },
        },
        "dice_lowest_brain": round(min(one.brain for one in judged.measured), 4),
        "stripped": {
            "how": "volumes of the heads without skull against those of the whole heads, each person left out of the "
            "shift too",
            **{
                cut: {"cut": how, **against_heads(judged, copies)}
                for (cut, how), copies in zip(CUTS.items(), stripped.swapaxes(0, 1), strict=True)
            },
        },
        "coarse": {
            "how": "volumes of the heads in larger voxels against those of the heads, each person left out of the "
            "calibration too",
            **{
                f"{edge:g} mm": against_heads(judged, copies)
                for edge, copies in zip(EDGES, coarse.swapaxes(0, 1), strict=True)
            },
        },
    }


def describe(
    names: Sequence[str],
    who: NDArray[np.int_],
    judged: Judged,
    *,
    stripped: NDArray[np.float64],
    coarse: NDArray[np.float64],
    shipped: bool,
) -> dict[str, Any]:
    """The card, without its files; heads that are not those of the shipped atlas are given no licence of theirs."""
    return {
        "name": "muse-atlas", "architecture": "atlas", "role": "atlas", "version": "1.10.0", "needs": [],
        "description": "Probabilities of the 145 MUSE regions in template space, both sides averaged, and the "
        "ratios that bring volumes measured with it to DLMUSE's scale on 2 mm scans",
        "template": DEFAULT, "resolution_mm": RESOLUTION, "training": {
            "kind": "real", "heads": list(names), "one_person": _one_person(names, who),
            "seed": 0, "command": "brainage train atlas",
            "data": SHIPPED_DATA if shipped else [{"title": "heads of the user", "licence": "not stated"}],
        },
        "licence": SHIPPED_LICENCE if shipped else "not stated",
        "metrics": metrics(who, judged, stripped=stripped, coarse=coarse),
        "not_meant_for": [
            "children: nearly all heads are elderly", "clinical decisions about a person",
            "volumes beside those of other segmentations as if they were alike",
            "brains after surgery or with large lesions",
        ],
    }  # fmt: skip
