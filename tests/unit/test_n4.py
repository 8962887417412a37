"""A planted bias field is found again; what N4 at full resolution finds, N4 on the coarse grid finds."""

import numpy as np
import pytest
from scipy import ndimage

from bids_brainage.core.errors import ScanError
from bids_brainage.image import io, n4
from bids_brainage.image.brain import segment
from bids_brainage.image.conform import conform
from bids_brainage.models.registry import PACKAGED

GREY, WHITE = 300.0, 500.0


def planted(shape, seed, spread=0.2):
    """A smooth multiplicative field, SD of its logarithm ``spread``."""
    coarse = np.random.default_rng(seed).normal(size=(4, 4, 4))
    field = ndimage.zoom(coarse, np.asarray(shape) / 4, order=3)
    return np.exp((field - field.mean()) / field.std() * spread).astype(np.float32)


@pytest.fixture(scope="module")
def ball():
    """A folded two-tissue ball of 70 mm radius at 2 mm, its mask, and where its white matter is."""
    grid = np.stack(np.meshgrid(*[np.arange(-90, 91, 2.0)] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    white = radius + 6 * np.sin(grid / 7).sum(0) < 52
    data = np.where(white, WHITE, GREY) * (radius < 70) + 20 * (radius >= 70)
    noise = np.random.default_rng(1).normal(0, 10, data.shape)
    return io.Volume((data + noise).clip(1).astype(np.float32), np.diag([2.0, 2, 2, 1])), radius < 70, white


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_field_is_found(ball, seed):
    scan, mask, white = ball
    truth = planted(scan.data.shape, seed)
    field = n4.bias_field(io.Volume(scan.data * truth, scan.affine), mask)
    assert np.corrcoef(np.log(field[mask]), np.log(truth[mask]))[0, 1] > 0.97
    corrected = (scan.data * truth / field)[white]
    before = (scan.data * truth)[white]
    assert corrected.std() / corrected.mean() < 0.35 * before.std() / before.mean()


def test_without_a_field_little_is_changed(ball):
    scan, mask, _ = ball
    assert np.log(n4.bias_field(scan, mask)[mask]).std() < 0.03


def test_the_field_outside_the_brain_goes_on_smoothly(ball):
    scan, mask, _ = ball
    field = np.log(n4.bias_field(io.Volume(scan.data * planted(scan.data.shape, 0), scan.affine), mask))
    inside, outside = field[mask], field[~mask]
    assert outside.min() > inside.min() - 0.05
    assert outside.max() < inside.max() + 0.05
    assert max(np.abs(np.diff(field, axis=a)).max() for a in range(3)) < 0.1


@pytest.mark.parametrize("scale", [1e-4, 1.0, 50.0])
def test_the_median_of_the_brain_becomes_1000_whatever_the_scale(ball, tmp_path, scale):
    scan, mask, _ = ball
    native = io.save(tmp_path / "t1w.nii.gz", scan.data * np.float32(scale), scan.affine)
    brain = io.save(tmp_path / "mask.nii.gz", mask, scan.affine)
    done = io.read(n4.correct_bias(native, brain, out=tmp_path).t1w_preproc)
    assert np.median(done.data[mask]) == pytest.approx(1000, abs=1)
    assert done.data.min() >= 0
    assert np.allclose(done.affine, scan.affine)


def test_a_dark_brain_is_refused(ball, tmp_path):
    scan, mask, _ = ball
    native = io.save(tmp_path / "t1w.nii.gz", np.where(mask, 0, scan.data).astype(np.float32), scan.affine)
    brain = io.save(tmp_path / "mask.nii.gz", mask, scan.affine)
    with pytest.raises(ScanError, match=r"t1w\.nii\.gz: more than half of its brain is dark"):
        n4.correct_bias(native, brain, out=tmp_path)


@pytest.mark.slow
def test_the_coarse_field_is_that_of_full_resolution(shared_data, tmp_path):
    """On a real 2 mm scan: the field of ANTs' own settings (shrink factor 4), and as even a white matter."""
    import ants

    name = "sub-IXI012"
    native = conform(shared_data / "ds-t1w" / name / "anat" / f"{name}_T1w.nii.gz", out=tmp_path).t1w_native
    found = segment(native, bundle=PACKAGED / "segment", out=tmp_path)
    scan, mask = io.read(native), io.read(found.brain_mask, np.uint8).data > 0
    full = ants.n4_bias_field_correction(
        ants.from_numpy(scan.data, spacing=(2.0,) * 3),
        mask=ants.from_numpy(mask.astype(np.float32), spacing=(2.0,) * 3),
        return_bias_field=True,
    ).numpy()
    ours = n4.bias_field(scan, mask)
    classes = io.read(found.posteriors)
    white = io.resample(io.Volume(classes.data[..., 3], classes.affine), scan.grid) > 0.98

    def variation(values):
        return values[white].std() / values[white].mean()

    assert np.corrcoef(np.log(ours[mask]), np.log(full[mask]))[0, 1] > 0.95
    assert variation(scan.data / ours) < 1.15 * variation(scan.data / full)
    assert variation(scan.data / ours) < 0.5 * variation(scan.data)
