"""Whatever the storage, the same RAS volume comes out; whatever cannot be used is refused in one line."""

import gzip
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff, ornt_transform

from bids_brainage.core.errors import ScanError
from bids_brainage.image.conform import conform

RAS = np.array([[0, 1], [1, 1], [2, 1]])
ORIENTATIONS = [
    np.column_stack([order, signs]) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]
QUICK = settings(max_examples=48, suppress_health_check=[HealthCheck.function_scoped_fixture])


def head(shape=(80, 90, 70)):
    """A gradient in every direction, so that a flip or a swap is seen."""
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    return np.round(100 * x + 200 * y**2 + 50 * np.sqrt(z))


AFFINE = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.5]), [-80, -100, -60])


def store(path, data, affine=AFFINE, **header):
    image = nib.Nifti1Image(data, affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


@QUICK
@given(st.sampled_from(ORIENTATIONS), st.booleans())
def test_every_storage_order_gives_the_same_volume(tmp_path, orientation, as_4d):
    move = ornt_transform(RAS, orientation)
    data = apply_orientation(head(), move)
    affine = AFFINE @ inv_ornt_aff(move, head().shape)
    stored = store(tmp_path / "x.nii.gz", (data[..., None] if as_4d else data).astype(np.int16), affine)
    result = nib.load(conform(stored, out=tmp_path).t1w_native)
    assert nib.aff2axcodes(result.affine) == ("R", "A", "S")
    assert np.array_equal(result.get_fdata(), head())
    assert np.allclose(result.affine, AFFINE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.int32])
def test_every_number_type_is_read(tmp_path, dtype):
    data = head() / 2
    result = nib.load(conform(store(tmp_path / "x.nii", data.astype(dtype)), out=tmp_path).t1w_native)
    assert result.get_data_dtype() == np.float32
    assert np.array_equal(result.get_fdata(), data.astype(dtype).astype(np.float32))


def test_an_oblique_scan_keeps_its_affine(tmp_path):
    turn = np.eye(4)
    angle = np.deg2rad(20)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    result = nib.load(conform(store(tmp_path / "x.nii.gz", head(), turn @ AFFINE), out=tmp_path).t1w_native)
    assert np.allclose(result.affine, turn @ AFFINE, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda d, a: (np.where(d == d.max(), np.nan, d), a), "nonfinite_voxels"),
        (lambda d, a: (d[:, :, ::2], a @ np.diag([1, 1, 2, 1])), "anisotropic"),
        (lambda d, a: (d[::2, ::2, ::2], a @ np.diag([2, 2, 2, 1])), "large_voxels"),
        (lambda d, a: (d[:, :, :40], a), "small_field_of_view"),
        (lambda d, a: (d, a), None),
    ],
)
def test_what_limits_trust_is_flagged(tmp_path, change, flag):
    data, affine = change(head(), AFFINE)
    result = conform(store(tmp_path / "x.nii.gz", data.astype(np.float32), affine), out=tmp_path)
    assert (flag in result.flags) if flag else (result.flags == ())
    assert np.isfinite(nib.load(result.t1w_native).get_fdata()).all()


def truncated(path):
    noise = np.random.default_rng(0).normal(size=(80, 80, 80))
    whole = gzip.compress(nib.Nifti1Image(noise, AFFINE).to_bytes())
    path.write_bytes(whole[: len(whole) // 2])


def without_affine(path):
    image = nib.Nifti1Image(head(), None)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, path)


def with_zoom(path, zoom):
    store(path, head())
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[80:84] = np.float32(zoom).tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


def with_forms(path, sform, qform):
    image = nib.Nifti1Image(head(), AFFINE)
    image.set_qform(qform, 1)
    image.header["pixdim"][1:4] = np.linalg.norm(qform[:3, :3], axis=0)
    image.set_sform(sform, 4)
    nib.save(image, path)


def damaged(path):
    """One changed byte that gzip only notices by its checksum, far behind the voxels' beginning."""
    whole = bytearray(gzip.compress(nib.Nifti1Image(head().astype(np.float32), AFFINE).to_bytes(), compresslevel=0))
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


BAD = {
    "truncated": truncated,
    "damaged": damaged,
    "short": lambda path: path.write_bytes(gzip.compress(b"\0" * 100)),
    "empty": lambda path: path.write_bytes(b""),
    "not_gzip": lambda path: path.write_bytes(b"hello" * 1000),
    "dangling": lambda path: path.symlink_to(path.parent / "annex" / "object"),
    "many_volumes": lambda path: store(path, np.stack([head(), head()], -1)),
    "2d": lambda path: store(path, head()[:, :, :1]),
    "zeros": lambda path: store(path, np.zeros_like(head())),
    "nan": lambda path: store(path, np.where(head() > 100, np.nan, head())),
    "complex": lambda path: store(path, head().astype(np.complex64)),
    "no_affine": without_affine,
    "microns": lambda path: store(path, head(), np.diag([0.002, 0.002, 0.002, 1])),
    "thick": lambda path: store(path, head()[:, :, :12], AFFINE @ np.diag([1, 1, 6, 1])),
    "zero_zoom": lambda path: with_zoom(path, 0),
    "negative_zoom": lambda path: with_zoom(path, -2),
    "scaled": lambda path: with_forms(path, np.diag([1.15, 1.18, 1.2, 1]) @ AFFINE, AFFINE),
    "mirrored": lambda path: with_forms(path, np.diag([-1, 1, 1, 1]) @ AFFINE, AFFINE),
}


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("truncated", "truncated or damaged"), ("damaged", "CRC check failed"),
        ("short", "not a readable"), ("empty", "is empty"), ("not_gzip", "not a readable image"),
        ("dangling", "no such file"), ("many_volumes", "holds 2 volumes"), ("2d", "not those of a 3D"),
        ("zeros", "all voxels have the value 0"), ("nan", "NaN or infinite"), ("complex", "complex or colour"),
        ("no_affine", "no affine"), ("microns", "no head can be found"), ("thick", "no head can be found"),
        ("zero_zoom", "voxel sizes"), ("negative_zoom", "voxel sizes"),
        ("scaled", "sform says voxels of 2.3"), ("mirrored", "disagree on which side is left"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line_that_names_the_file(tmp_path, kind, word):
    path = tmp_path / "x.nii.gz"
    BAD[kind](path)
    before = set(tmp_path.iterdir())
    with pytest.raises(ScanError, match=word) as caught:
        conform(path, out=tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)
    assert set(tmp_path.iterdir()) == before
