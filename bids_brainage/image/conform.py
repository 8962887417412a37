"""From a file that somebody stored to a volume that can be trusted: RAS, 3D, finite, of a sensible size."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.errors import ScanError
from bids_brainage.image.io import save

SMALLEST_FIELD, USUAL_FIELD, LARGEST_FIELD = 80.0, 140.0, 500.0
THICKEST_VOXEL = 10.0
SHEARED = 0.1
SIZES_ALIKE = 0.02
FEW_NONFINITE = 0.01
ANISOTROPIC_RATIO, ANISOTROPIC_VOXEL = 2.0, 3.0
LARGE_VOXEL = 2.2


class Conformed(NamedTuple):
    """The scan on its own grid in RAS order, ``float32``, and what a reader must know of it."""

    t1w_native: Path
    flags: tuple[str, ...]


def conform(t1w: Path, *, out: Path) -> Conformed:
    """Reorient a scan to RAS and check that it can be used; voxels are moved, never resampled.

    Flags: ``nonfinite_voxels`` (a few NaN or Inf, set to 0), ``anisotropic`` (largest voxel side over 3 mm or over
    twice the smallest), ``large_voxels`` (all sides over 2.2 mm), ``small_field_of_view`` (an axis under 140 mm).

    Raises
    ------
    ScanError
        Where the file cannot be read, is not one 3D volume of real numbers, has no usable affine, holds no contrast,
        holds more than 1 % NaN or Inf, or covers a field of view in which there is no room for a head.
    """
    image = load(t1w)
    check_geometry(t1w, image)
    data = voxels(t1w, image)
    share = 1 - np.isfinite(data).mean(dtype=np.float64)
    if share > FEW_NONFINITE:
        raise ScanError(f"{t1w}: {100 * share:.0f} % of its voxels are NaN or infinite; convert the scan again")
    if share > 0:
        data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
    if float(data.max()) == float(data.min()):
        raise ScanError(f"{t1w}: all voxels have the value {data.flat[0]:g}; convert the scan again")
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data, image.affine))
    zooms = np.linalg.norm(canonical.affine[:3, :3], axis=0)
    flags = {
        "nonfinite_voxels": share > 0,
        "anisotropic": zooms.max() > ANISOTROPIC_VOXEL or zooms.max() / zooms.min() > ANISOTROPIC_RATIO,
        "large_voxels": zooms.min() > LARGE_VOXEL,
        "small_field_of_view": bool((zooms * data_shape(canonical)).min() < USUAL_FIELD),
    }
    path = save(out / "t1w_native.nii.gz", np.asarray(canonical.dataobj, dtype=np.float32), canonical.affine)
    return Conformed(path, tuple(name for name, raised in flags.items() if raised))


def data_shape(image: nib.Nifti1Image) -> NDArray[np.int64]:
    """Voxels along the three axes."""
    return np.asarray(image.shape[:3])


def load(t1w: Path) -> nib.Nifti1Image:
    """Open a file as an image, or say why it is none."""
    try:
        size = Path(t1w).stat().st_size
        if not size:
            raise ScanError(f"{t1w}: the file is empty; copy or convert the scan again")
        image = nib.load(t1w)
    except FileNotFoundError:
        raise ScanError(f"{t1w}: there is no such file (a link to content that was not fetched?); fetch it") from None
    except PermissionError:
        raise ScanError(f"{t1w}: permission denied; make the file readable") from None
    except (OSError, nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, zlib.error) as error:
        raise ScanError(f"{t1w}: not a readable image ({_short(error, t1w)}); copy or convert the scan again") from None
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise ScanError(f"{t1w}: is {type(image).__name__}, not NIfTI; convert it")
    return image


def check_geometry(t1w: Path, image: nib.Nifti1Image) -> None:
    """Dimensions, voxel sizes, affine and field of view."""
    shape = image.shape
    if len(shape) < 3 or min(shape[:3]) < 8:
        raise ScanError(f"{t1w}: has the dimensions {_times(shape)}, not those of a 3D volume; give a 3D T1w image")
    if len(shape) > 3 and int(np.prod(shape[3:])) != 1:
        raise ScanError(f"{t1w}: holds {int(np.prod(shape[3:]))} volumes ({_times(shape)}); give one 3D T1w image")
    stored = stored_zooms(t1w, image)
    if not np.isfinite(stored).all() or (stored <= 0).any():
        raise ScanError(f"{t1w}: has the voxel sizes {_times(stored)} mm in its header; convert the scan again")
    if not int(image.header["sform_code"]) and not int(image.header["qform_code"]):
        raise ScanError(
            f"{t1w}: has no affine (sform and qform codes are 0): left and right are unknown; convert again"
        )
    affine = image.affine
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    check_forms(t1w, image, zooms, stored)
    if not np.isfinite(affine).all() or not zooms.all() or abs(np.linalg.det(affine[:3, :3] / zooms)) < SHEARED:
        raise ScanError(f"{t1w}: has an affine that maps no volume; convert the scan again")
    field = zooms * data_shape(image)
    if zooms.max() > THICKEST_VOXEL or field.min() < SMALLEST_FIELD or field.max() > LARGEST_FIELD:
        raise ScanError(
            f"{t1w}: covers {_times(field)} mm with voxels of {_times(zooms)} mm, in which no head can be found; "
            "check the voxel sizes and the units of the header"
        )


def check_forms(t1w: Path, image: nib.Nifti1Image, zooms: NDArray[np.float64], stored: NDArray[np.float64]) -> None:
    """The header says one voxel size, and one side that is left: an affine of an alignment to a template may not."""
    header = image.header
    if int(header["sform_code"]) and np.isfinite(zooms).all() and zooms.all():
        if (np.abs(zooms / stored - 1) > SIZES_ALIKE).any():
            raise ScanError(
                f"{t1w}: its sform says voxels of {_times(zooms)} mm, its pixdim {_times(stored)} mm, and volumes hang "
                "on it; put the scanner's affine into both (e.g. fslorient -copyqform2sform)"
            )
        if int(header["qform_code"]):
            signs = [np.linalg.det(form()[:3, :3]) for form in (header.get_sform, header.get_qform)]
            if signs[0] * signs[1] < 0:
                raise ScanError(
                    f"{t1w}: sform and qform disagree on which side is left; put the right one into both "
                    "(e.g. fslorient -copyqform2sform)"
                )


def stored_zooms(t1w: Path, image: nib.Nifti1Image) -> NDArray[np.float64]:
    """Voxel sizes as they stand in the file, mm: nibabel makes 0 a 1 and drops signs without a word."""
    with nib.openers.ImageOpener(str(t1w)) as stream:
        header = type(image.header).from_fileobj(stream, check=False)
    return np.asarray(header["pixdim"][1:4], dtype=np.float64)


def voxels(t1w: Path, image: nib.Nifti1Image) -> NDArray[np.float32]:
    """All voxels as ``float32``, header scaling applied; a volume stored as 4D becomes 3D."""
    if np.issubdtype(image.get_data_dtype(), np.complexfloating) or image.get_data_dtype().fields:
        raise ScanError(f"{t1w}: holds complex or colour values; give a magnitude image")
    try:
        data = image.get_fdata(dtype=np.float32, caching="unchanged")
        _read_to_the_end(t1w)
    except (OSError, EOFError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        raise ScanError(f"{t1w}: is truncated or damaged ({_short(error, t1w)}); copy the scan again") from None
    return data.reshape(image.shape[:3])


def _read_to_the_end(t1w: Path) -> None:
    """Let gzip compare its checksum, which stands at the end of a file: damaged bytes may well be numbers."""
    with nib.openers.ImageOpener(str(t1w)) as stream:
        while stream.read(2**22):
            pass


def _times(values: object) -> str:
    return " x ".join(f"{float(v):g}" for v in np.round(np.asarray(values, dtype=np.float64), 2))


def _short(error: Exception, t1w: Path) -> str:
    return " ".join(str(error).replace(str(t1w), Path(t1w).name).split())[:120] or type(error).__name__
