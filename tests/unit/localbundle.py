"""Makes a small bundle of the local architecture with random weights, and maps for it."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from bids_brainage.bids.tables import write_tsv
from bids_brainage.core.bundle import Bundle, save
from bids_brainage.image.io import save as save_image
from bids_brainage.image.network import WEIGHTS
from bids_brainage.image.template import DEFAULT, template
from bids_brainage.models.local import BINS, BRAIN, RESIDUALS, brain_of, write_brain
from bids_brainage.models.networks.local_unet import LocalUNet
from bids_brainage.stats.voxel_bins import fit_voxel_bins, write_voxel_bins

COARSE_MM = 6.0
ARGUMENTS = {"inputs": 3, "channels": 4, "reduction": 2, "dropout": 0.2, "slope": 0.2}
CARD = {
    "name": "local",
    "architecture": "local",
    "version": "0.1",
    "needs": ["gm_modulated", "wm_modulated", "sex"],
    "training": {"kind": "simulated"},
    "licence": "none",
    "metrics": {},
    "not_meant_for": ["anything"],
    "template": DEFAULT,
    "age_range": [20, 90],
    "arguments": ARGUMENTS,
    "maps": ["age", "sd", "gap_corrected"],
    "prediction": {"mean_age": 55.0, "coverage": 0.9, "bandwidth": 10.0, "samples": 3, "dropped_from": 8},
}


def make_bundle(folder: Path, *, resolution: float = COARSE_MM, bins: bool = True, **card) -> Bundle:
    """A bundle on the template's grid of a resolution; controls are 2 years too old at 30, 4 at 60."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = LocalUNet(**{**ARGUMENTS, **card.get("arguments", {})})
    with torch.no_grad():
        network.output.weight *= 150
    save_file(network.state_dict(), folder / WEIGHTS)
    brain = brain_of(template(resolution=resolution))
    write_brain(brain, folder / BRAIN)
    spread = np.random.default_rng(0)
    rows = [{"predicted": 50 + i / 4, "residual": float(spread.normal(0, 8))} for i in range(100)]
    write_tsv(folder / RESIDUALS, rows, ["predicted", "residual"])
    if bins:
        size = int(brain.data.sum())
        write_voxel_bins(fit_voxel_bins([(30.0, np.full(size, 2.0)), (60.0, np.full(size, 4.0))]), folder / BINS)
    return save(folder, CARD | card)


def write_maps(folder: Path, resolution: float = COARSE_MM) -> dict[str, Path]:
    """The template's own grey and white matter, as if they were a scan's."""
    head = template(resolution=resolution)
    parts = {"gm_modulated": head.gm, "wm_modulated": head.wm}
    return {name: save_image(folder / f"{name}.nii.gz", part, head.grid.affine) for name, part in parts.items()}
