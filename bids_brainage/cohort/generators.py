"""The generators that are compared, by name, each with its choices made once so that it can be fitted many times."""

from __future__ import annotations

from typing import get_args

import numpy as np

from bids_brainage.cohort import genmind
from bids_brainage.cohort.alternatives import Fit, choose_copula, choose_mixture, fit_copula, fit_mixture
from bids_brainage.cohort.density import Kernel
from bids_brainage.cohort.people import People

KERNEL = "-kernel"
COPULA, MIXTURE, INDEPENDENT = "copula", "mixture", "mixture-independent"
GENERATORS = (*(f"{kernel}{KERNEL}" for kernel in get_args(Kernel)), COPULA, MIXTURE, INDEPENDENT)


def settled(name: str, people: People, rng: np.random.Generator) -> Fit:
    """A generator of :data:`GENERATORS` whose choices are made by the held-out likelihood of all ``people``.

    Kernels take the median of the bandwidths that their search finds for the categories.
    """
    if name.endswith(KERNEL):
        return _kernel("published" if name.startswith("published") else "shrunken", people, rng)
    if name == COPULA:
        copula = choose_copula(people, rng)
        return lambda some, again: fit_copula(some, again, copula)
    mixture = choose_mixture(people, rng)._replace(joined=name == MIXTURE)
    return lambda some, again: fit_mixture(some, again, mixture)


def _kernel(kernel: Kernel, people: People, rng: np.random.Generator) -> Fit:
    by = tuple(sorted(people.categories, key=lambda name: (name != "sex", name)))
    searched = genmind.fit(people, by=by, kernel=kernel, seed=int(rng.integers(2**31))).model
    bandwidth = float(np.median([made.bandwidth for made in searched.densities.values()]))
    return lambda some, again: genmind.fit(some, by=by, kernel=kernel, bandwidths=[bandwidth]).model
