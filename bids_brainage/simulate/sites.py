"""Named sites: how each takes its scans, and how these are segmented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bids_brainage.core.errors import UsageError
from bids_brainage.simulate.maps import Site
from bids_brainage.simulate.scanner import Protocol


class Profile(NamedTuple):
    """A site: its protocol, and how its scans are segmented."""

    protocol: Protocol
    segmentation: Site


SITES: Mapping[str, Profile] = {
    "standard": Profile(Protocol(), Site()),
    "sharp": Profile(Protocol(noise=2.5, bias=0.06, blur=0.2), Site(inner=-0.05, outer=0.05, blur=0.6)),
    "soft": Profile(Protocol(blur=0.8, contrast=0.06), Site(inner=0.10, outer=-0.05, blur=1.3)),
    "noisy": Profile(Protocol(noise=9.0, bias=0.2), Site(inner=-0.10, outer=-0.05, blur=1.0)),
    "thick": Profile(Protocol(slices=3), Site(inner=0.05, outer=-0.10, blur=1.8)),
    "restless": Profile(Protocol(motion=1.5), Site(inner=0.05, outer=-0.10, blur=1.3)),
    "cut": Profile(Protocol(cut=36.0), Site()),
}
"""``thick`` has slices of three voxels, ``restless`` moving heads, ``cut`` a field of view that ends in the brain."""


def profiles(names: str) -> dict[str, Profile]:
    """The sites of a list of names parted by commas.

    Raises
    ------
    UsageError
        Where one is not known or stands twice.
    """
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in SITES:
            raise UsageError(f"--sites: no site is called {name!r}; give some of {', '.join(SITES)}")
        if wanted.count(name) > 1:
            raise UsageError(f"--sites: {name} stands twice; name each site once")
    return {name: SITES[name] for name in wanted}
