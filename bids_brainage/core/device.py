"""Where networks compute: a GPU that works, and one process at a time on it."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from bids_brainage.core.errors import BrainAgeError, UsageError
from bids_brainage.core.files import alone, make_writable

PATIENCE = 10.0
NONE = "is the driver there, and --nv or --gpus given?"
LOG = logging.getLogger("bids_brainage")


def usable(device: str) -> str:
    """What ``--device`` comes to: ``cpu``, ``cuda`` or ``cuda:N``.

    A GPU is tried in a process of its own, which takes seconds: this one then holds no memory on it. ``auto`` is a GPU
    that works, else the CPU, with a warning where there is a GPU that does not.

    Raises
    ------
    UsageError
        Where the name is none, or the GPU that was asked for is not there or does not work.
    """
    if device == "cpu":
        return device
    name = "cuda" if device == "auto" else device
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise UsageError(f"--device {device}: is no device; give cpu, cuda or cuda:N")
    reason = _absent(name) or failing_alone(name)
    if not reason:
        return name
    if device != "auto":
        raise UsageError(f"--device {device}: no usable GPU was found ({reason}); use --device cpu")
    if reason != NONE:
        LOG.warning("the GPU cannot be used (%s); networks run on the CPU", reason)
    return "cpu"


def _absent(device: str) -> str:
    """Why there is no such GPU; empty where there is."""
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not there:
        return NONE
    return "" if int(device.partition(":")[2] or 0) < there else f"the last one is cuda:{there - 1}"


def failing_alone(device: str) -> str:
    """As :func:`failing`, in a process of its own, which may be killed by it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(failing, device).result()
        except BrokenProcessPool:
            return "the process that tried it died"


def failing(device: str) -> str:
    """Why a convolution fails on a device, in a line; empty where it does not."""
    import torch

    try:
        image, kernel = (torch.ones(1, 1, size, size, size, device=device) for size in (4, 3))
        torch.nn.functional.conv3d(image, kernel).cpu()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return ""


@contextmanager
def exclusive(device: str) -> Iterator[None]:
    """Let one process of this user compute on a GPU at a time; nothing on the CPU.

    What PyTorch keeps for its next pass is given back at the end. The weights and CUDA's own part (some hundred MB a
    process) stay. Not to be nested.

    Parameters
    ----------
    device : str
        As PyTorch writes it.

    Raises
    ------
    BrainAgeError
        Where there can be no lock.
    """
    if not device.startswith("cuda"):
        yield
        return
    import torch

    with locked(identity(device), shared_folder()):
        try:
            yield
        finally:
            torch.cuda.empty_cache()


def identity(device: str) -> str:
    """The UUID of a GPU, the same in all processes, whatever number each has for it."""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid)


def shared_folder() -> Path:
    """The folder that all processes of this user on this machine know."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"bids-brainage-{user}"


@contextmanager
def locked(gpu: str, folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of a GPU; where that takes over ``patience`` seconds, the log says once that it is waited for.

    The system releases it when the holder dies.

    Parameters
    ----------
    gpu : str
        What tells it from others, whatever number a process has for it: its UUID.
    folder : Path
        That all processes share; made where it is not there.

    Raises
    ------
    BrainAgeError
        Where the folder allows no lock.
    """
    path = folder / f"gpu-{gpu}.lock"
    try:
        make_writable(folder)
        held = alone(path, lambda: LOG.warning("waiting for another process on GPU %s (%s)", gpu, path), patience)
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BrainAgeError(
            f"{path}: the GPU cannot be locked ({reason}); set TMPDIR to a folder that can be written, "
            "or use --device cpu"
        ) from None
    with held:
        yield
