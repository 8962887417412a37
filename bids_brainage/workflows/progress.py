"""Counted lines of progress, from Nipype's status callback."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

LOG = logging.getLogger("bids_brainage")


class Progress:
    """Call it as Nipype's ``status_callback``: a line for each stage that ends, with its seconds and the count.

    ``published`` is called with a scan's name when its last stage has ended. Nipype's Linear plugin says so of stages,
    too, that it left out because an earlier one failed.
    """

    def __init__(self, total: int, published: Callable[[str], object]):
        self.total, self.done, self.started = total, 0, {}  # type: int, int, dict[str, float]
        self.published = published

    def __call__(self, node: Any, status: str) -> None:
        """Note a start, or report an end."""
        name = node.fullname
        if status == "start":
            self.started[name] = time.monotonic()
            return
        self.done += 1
        now = time.monotonic()
        seconds = now - self.started.get(name, now)
        scan, stage = name.split(".")[-2:]
        outcome = f"{seconds:5.1f} s" if status == "end" else "FAILED"
        LOG.info("[%*d/%d] %s: %-8s %s", len(str(self.total)), self.done, self.total, scan, stage, outcome)
        if status == "end" and stage == "publish":
            self.published(scan)
