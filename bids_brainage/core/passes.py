"""Passes of scans through a network: one scan after the other on the CPU, all that wait at once on a GPU.

One process computes on a GPU at a time. Who comes meanwhile leaves a request in a folder that all processes of the
user share, and waits; the next one in answers all requests for the same network in one pass ("flat combining",
Hendler et al. 2010, doi:10.1145/1810479.1810540). Nobody waits for a batch to fill, no process serves the others, and
one that dies takes nobody along: its lock is released, and whoever still waits computes for himself.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bids_brainage import __version__
from bids_brainage.core.device import exclusive, identity, shared_folder
from bids_brainage.core.errors import BrainAgeError
from bids_brainage.core.files import atomic, sweep

Pass = Callable[[Tensor], tuple[Tensor, ...]]
MOST = 8
LOCK, ASKED, ANSWERED = ".lock", ".in.safetensors", ".out.safetensors"
UNREADABLE = (OSError, RuntimeError, KeyError, SafetensorError)
LOG = logging.getLogger("bids_brainage")


def through(run: Pass, scans: Tensor, network: nn.Module, *settings: object) -> tuple[Tensor, ...]:
    """What a network gives for scans; on a GPU in one pass with those that other processes wait for.

    Parameters
    ----------
    run : callable
        Takes ``(n, ...)`` on the CPU and gives tensors ``(n, ...)`` on any device; a scan's part of the result does
        not depend on the scans beside it, but for rounding.
    scans : tensor, (n, ...)
    network : module
        That ``run`` uses; where it is decides where the pass is.
    settings
        All else that decides what ``run`` computes.

    Returns
    -------
    tuple of tensor, (n, ...)
        On the CPU.
    """
    device = str(next(network.parameters()).device)
    if not device.startswith("cuda"):
        return _joined([run(one) for one in scans.split(1)])
    folder = shared_folder() / f"passes-{key_of(network, scans, identity(device), *settings)}"
    return combined(run, scans, folder, lambda: exclusive(device))


def key_of(network: nn.Module, scans: Tensor, *settings: object) -> str:
    """Digest of the weights, the versions, the settings and the form of a scan."""
    total = hashlib.sha256()
    for name, value in network.state_dict().items():
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    told = (__version__, torch.__version__, settings, scans.dtype, tuple(scans.shape[1:]))
    total.update(repr(told).encode())
    return total.hexdigest()[:24]


def combined(
    run: Pass, scans: Tensor, folder: Path, turn: Callable[[], AbstractContextManager[object]], most: int = MOST
) -> tuple[Tensor, ...]:
    """As :func:`through`, for a folder of requests and a turn of one's own.

    Parameters
    ----------
    folder : Path
        Shared by all processes that ask for the same: network, settings and form of a scan.
    turn : callable
        Gives what lets one process in at a time.
    most : int
        Scans in one pass, unless one request alone has more.
    """
    with asked(folder, scans) as request, turn():
        if request is None:
            return _answering(run, scans, [])
        found = request.answer()
        if found is not None:
            return found
        request.withdraw()
        return _answering(run, scans, waiting(folder, request, most - len(scans)))


class Request(NamedTuple):
    """One process's scans and what becomes of them: files of one name in a folder, while that process holds a lock."""

    folder: Path
    name: str

    def path(self, kind: str) -> Path:
        """Of its lock, of the scans, or of the answer."""
        return self.folder / f"{self.name}{kind}"

    def scans(self) -> Tensor | None:
        """What was asked; ``None`` where it is not there, no more, or was answered."""
        if self.path(ANSWERED).is_file():
            return None
        with suppress(*UNREADABLE):
            return load_file(self.path(ASKED))["scans"]
        return None

    def answer(self) -> tuple[Tensor, ...] | None:
        """What another process computed, if one did."""
        with suppress(*UNREADABLE):
            found = load_file(self.path(ANSWERED))
            return tuple(found[str(number)] for number in range(len(found)))
        return None

    def respond(self, found: Sequence[Tensor]) -> None:
        """Leave the answer; where that fails, the other process computes for itself."""
        if not self.path(LOCK).is_file():
            return
        with suppress(BrainAgeError, *UNREADABLE), atomic(self.path(ANSWERED)) as temporary:
            save_file({str(number): part.contiguous() for number, part in enumerate(found)}, temporary)

    def withdraw(self) -> None:
        """Ask no longer: the scans are being computed."""
        self.path(ASKED).unlink(missing_ok=True)

    def remove(self) -> None:
        """Take its files away, also what a killed process had begun to write."""
        sweep(self.folder, self.name)
        for kind in (ASKED, ANSWERED, LOCK):
            self.path(kind).unlink(missing_ok=True)


@contextmanager
def asked(folder: Path, scans: Tensor) -> Iterator[Request | None]:
    """A request that others may answer while the block runs; ``None`` where the folder takes none."""
    request = Request(folder, uuid.uuid4().hex)
    with ExitStack() as stack:
        try:
            _make_private(folder)
            stack.callback(request.remove)
            stack.enter_context(FileLock(request.path(LOCK)))
            with atomic(request.path(ASKED)) as temporary:
                save_file({"scans": scans.contiguous()}, temporary)
        except (BrainAgeError, NotImplementedError, *UNREADABLE) as error:
            LOG.debug("%s: scans go alone (%s)", folder, error)
            yield None
        else:
            yield request


def _make_private(folder: Path) -> None:
    """Make a folder, and the one it lies in, for this user alone; ``OSError`` where one is somebody else's."""
    for one in (folder.parent, folder):
        one.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and one.stat().st_uid != os.getuid():
            raise PermissionError(f"{one}: belongs to another user")


def waiting(folder: Path, own: Request, most: int) -> list[tuple[Request, Tensor]]:
    """Requests of other processes that live, with at most so many scans; what dead ones left goes."""
    found = []
    for name in sorted({path.name.partition(".")[0] for path in folder.glob("[!.]*")} - {own.name}):
        request = Request(folder, name)
        if not request.path(LOCK).is_file() or _abandoned(request.path(LOCK)):  # the lock is made first
            request.remove()
        elif most > 0 and (scans := request.scans()) is not None and len(scans) <= most:
            found.append((request, scans))
            most -= len(scans)
    return found


def _abandoned(lock: Path) -> bool:
    """Whether nobody holds a lock."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False


def _answering(run: Pass, own: Tensor, others: Sequence[tuple[Request, Tensor]]) -> tuple[Tensor, ...]:
    """One pass over one's own scans and those of others, who get theirs; one's own alone where that fails."""
    if others:
        try:
            found = run(torch.cat([own, *(scans for _, scans in others)]))
        except RuntimeError as error:  # too much for the memory, or a scan among them that cannot be computed
            LOG.debug("%d scans together failed (%s); one's own alone", 1 + len(others), error)
        else:
            first = len(own)
            for request, scans in others:
                request.respond([part[first : first + len(scans)].cpu() for part in found])
                first += len(scans)
            return tuple(part[: len(own)].cpu() for part in found)
    return tuple(part.cpu() for part in run(own))


def _joined(found: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Results of single scans, one after the other."""
    return found[0] if len(found) == 1 else tuple(torch.cat(parts) for parts in zip(*found, strict=True))
