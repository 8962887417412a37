"""Measure with what error the app measures regional volumes, for ``brainage train roi --noise``.

The app's volumes of heads that have a DLMUSE segmentation are compared with DLMUSE's, each person left out of the atlas
and of the calibration: what the regions of one structure share in a head, and each region's own rest. Some of the heads
are then turned, resampled, blurred and made noisy (``perturb.py``), taken through the same stages, and compared with
themselves, and so are their copies without skull and in larger voxels, once calibrated as such: the strongest patterns
of these differences are the last shared errors of the table. No age takes part. A head and change take about 20 s on
two cores; the stages' files stay in ``--work``, so that a stopped call goes on.

    python benchmarks/error.py --data ../shared/data/ds-t1w --work work --out bids_brainage/data/muse_error.tsv
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

import numpy as np
from accuracy import PATTERNS, SEGMENT, against_dlmuse
from numpy.typing import NDArray
from perturb import CHANGES

from bids_brainage.core.files import write_text
from bids_brainage.image import io, muse
from bids_brainage.image.atlas import Atlas
from bids_brainage.image.calibration import logarithm
from bids_brainage.training import agreement, coarse, heads, stripped
from bids_brainage.training.measurement import MeasurementError, with_repeats

LOG = logging.getLogger("benchmarks.error")
FloatArray = NDArray[np.float64]

WHICH = ("rotate-15", "voxel-1.5", "noise-9", "bias-60")
SKIPPED = ("sub-IXI012", "sub-nichart06")
"""Heads that ``stability.py`` judges the ages by."""


def main() -> None:
    """Run the stages of heads and changed heads, estimate, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BIDS dataset with derivatives/dlmuse")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the stages' files")
    parser.add_argument("--out", type=Path, required=True, help="table to write")
    parser.add_argument("--changes", nargs="+", default=WHICH, choices=sorted(CHANGES), metavar="CHANGE")
    parser.add_argument("--most", type=int, default=3, help="heads that are changed (default: 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    found = heads.find_heads(args.data)
    examples = [heads.prepare(head, args.work, segment_bundle=SEGMENT, threads=args.threads) for head in found]
    who = agreement.people(examples)
    atlases = agreement.without_each(examples, who)
    judged = agreement.leave_one_out(examples, who, atlases)
    _, slope = agreement.calibration(judged.raw, judged.reference)
    names, chosen = [one.name for one in examples], [head for head in found if head[0] not in SKIPPED][: args.most]
    how = {"segment_bundle": SEGMENT, "threads": args.threads}
    bare = stripped.judge_stripped(judged, stripped.copies_of(found, examples, atlases, who, args.work, **how), who)
    large = coarse.judge_coarse(judged, coarse.coarse_volumes(found, atlases, who, args.work, **how), who)
    apart = by_icv(np.concatenate([bare, large], axis=1)) - by_icv(judged.volumes)[:, None]
    rows = [row for head in chosen for row in apart[names.index(head[0])]]
    for number, head in enumerate(chosen):
        atlas = atlases[who[names.index(head[0])]]
        clean = relative(atlas, heads.through_stages(head[1], args.work / head[0], segment_bundle=SEGMENT))
        for change in args.changes:
            changed = stages(head, change, args.work, args.threads)
            rows.append((relative(atlas, changed) - clean) * slope[:145])
            LOG.info("head %d of %d, %s: median %.1f %%", number + 1, len(chosen), change, size(rows[-1]))
    error = with_repeats(
        against_dlmuse(judged.volumes, judged.reference), np.array(rows), PATTERNS, muse.mirrored()[:145]
    )
    write_text(args.out, table(error))


def by_icv(volumes: FloatArray) -> FloatArray:
    """Log volumes of the 145 regions relative to the ICV, which is the last of ``(..., 146)``."""
    log = logarithm(volumes)
    return np.asarray(log[..., :145] - log[..., 145:])


def size(difference: FloatArray) -> float:
    """Median absolute difference of log volume, in per cent."""
    return 100 * float(np.median(np.abs(difference)))


def stages(head: tuple[str, Path, Path], change: str, work: Path, threads: int) -> dict[str, Path]:
    """The stages' files of a changed head."""
    name, t1w, _ = head
    brain = io.read(work / name / "brain_mask.nii.gz", np.uint8).data > 0
    made = CHANGES[change].call(io.read(t1w), brain).volume
    return heads.copy_through_stages(made, work / f"{name}_{change}", segment_bundle=SEGMENT, threads=threads)


def relative(atlas: Atlas, paths: dict[str, Path]) -> FloatArray:
    """Log volumes of the 145 regions relative to the ICV, not calibrated."""
    return by_icv(agreement.raw_volumes(atlas, heads.seen(paths), paths["xfm_inverse"]))


def table(error: MeasurementError) -> str:
    """Text of the table: a row a region."""
    names = ["index", "relative_sd", *(f"shared_{m + 1}" for m in range(len(error.shared)))]
    values = np.column_stack([error.own, *error.shared])
    rows = [
        "\t".join([str(region.number), *(f"{value:.4f}" for value in row)])
        for region, row in zip(muse.regions(), values, strict=True)
    ]
    return "\n".join(["\t".join(names), *rows]) + "\n"


if __name__ == "__main__":
    main()
