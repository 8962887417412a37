"""Harmonisation of a study to reference people: ComBat and ComBat-GAM with the reference kept as it is.

Volumes of region g of person j at site i are modelled as

    y_ijg = alpha_g + x_j' beta_g + sigma_g (gamma_ig + delta_ig e_ijg)

(Johnson et al. 2007, Biostatistics 8:118-127, doi:10.1093/biostatistics/kxj037; for images Fortin et al. 2018,
NeuroImage 167:104-120, doi:10.1016/j.neuroimage.2017.11.024), x sex, age and, where both have it, intracranial volume,
which keep their effect. With a reference batch alpha, sigma are the reference's, and its gamma is 0, its delta 1. Gamma
and delta are drawn to what is common to all regions by parametric empirical Bayes. In ComBat-GAM (Pomponio et al. 2020,
NeuroImage 208:116450, doi:10.1016/j.neuroimage.2019.116450) age is a penalised cubic spline.

Fitted on a study's controls; patients are moved by it, and never fit it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_brainage.bids.tables import is_missing
from bids_brainage.cohort.gam import Spline, fit_penalised
from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError

FloatArray = NDArray[np.float64]
Method = Literal["combat", "combat-gam"]

METHODS: tuple[Method, ...] = ("combat", "combat-gam")
FEWEST_CONTROLS = 20
TOLERANCE = 1e-8
MOST_ROUNDS = 1000


@dataclass(frozen=True)
class Harmonisation:
    """What brings people of some sites to the reference, k regions.

    Attributes
    ----------
    method : {"combat", "combat-gam"}
    indices : tuple of int
        MUSE indices of the regions.
    uses_icv : bool
        Whether the intracranial volume is among the covariates.
    sites : tuple of str
        The s sites that it knows.
    ages : array, shape (s, 2)
        Youngest and oldest age that each site's controls share with the reference, years.
    controls : tuple of int
        How many controls each site was fitted on.
    reference : int
        How many reference people it was fitted on.
    spline : Spline or None
        Of age; ``None`` where age is linear.
    alpha : array, shape (k,)
        mm^3.
    beta : array, shape (p, k)
        Of :func:`covariates`.
    sigma : array, shape (k,)
        SD of the reference people about the model, mm^3.
    gamma, delta2 : array, shape (s, k)
        Shift and factor of the variance of each site, in units of sigma.
    """

    method: Method
    indices: tuple[int, ...]
    uses_icv: bool
    sites: tuple[str, ...]
    ages: FloatArray
    controls: tuple[int, ...]
    reference: int
    spline: Spline | None
    alpha: FloatArray
    beta: FloatArray
    sigma: FloatArray
    gamma: FloatArray
    delta2: FloatArray


def fit(study_controls: People, site: ArrayLike, reference: People, *, method: Method = "combat-gam") -> Harmonisation:
    """Fit what brings a study's sites to the reference, from controls.

    Parameters
    ----------
    study_controls : People
        Healthy people of the study.
    site : array of str, shape (n,)
        Site, scanner or acquisition of each.
    reference : People
        Healthy people who stay as they are, matched ones at best; the same regions in the same order.

    Raises
    ------
    UsageError
        Where the regions differ, a value or sex is missing, or a site has fewer than 20 controls in the ages that it
        shares with the reference.
    """
    sites = np.asarray(site, dtype=str)
    _comparable(study_controls, sites, reference)
    names = tuple(sorted(set(sites.tolist())))
    ages = np.array([_shared_ages(name, study_controls.age[sites == name], reference.age) for name in names])
    where = np.searchsorted(names, sites)
    kept = (study_controls.age >= ages[where, 0]) & (study_controls.age <= ages[where, 1])
    used = (reference.age >= ages[:, 0].min()) & (reference.age <= ages[:, 1].max())
    study, base, where = study_controls.take(kept), reference.take(used), where[kept]
    if not (varies := np.ptp(base.volumes, axis=0) > 0).all():
        raise UsageError(
            f"MUSE_{base.indices[int(np.argmin(varies))]}: is the same in all reference people; leave it out"
        )
    spline = Spline.over(np.concatenate([base.age, study.age])) if method == "combat-gam" else None
    uses_icv = study.icv is not None and base.icv is not None
    alpha, beta, sigma, z = _standardised(study, np.eye(len(names))[where], base, spline, uses_icv)
    moved = [empirical_bayes(z[where == i]) for i in range(len(names))]
    return Harmonisation(
        *(method, study.indices, uses_icv, names, ages, tuple(np.bincount(where).tolist()), len(base), spline),
        *(alpha, beta, sigma, np.array([gamma for gamma, _ in moved]), np.array([delta2 for _, delta2 in moved])),
    )


def _standardised(
    study: People, batch: FloatArray, base: People, spline: Spline | None, uses_icv: bool
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Alpha, beta, sigma, and the study's residuals about the reference's model in units of sigma, (n, k)."""
    x = np.vstack([covariates(people, spline, uses_icv) for people in (base, study)])
    y = np.vstack([base.volumes, study.volumes])
    sites = np.vstack([np.zeros((len(base), batch.shape[1])), batch])
    coefficients = _coefficients(x, sites, y, spline)
    alpha, beta = coefficients[0], coefficients[1 + batch.shape[1] :]
    residuals = y - alpha - x @ beta
    sigma = np.sqrt((residuals[: len(base)] ** 2).mean(axis=0))
    return alpha, beta, sigma, residuals[len(base) :] / sigma


def apply(harmonisation: Harmonisation, people: People, site: ArrayLike) -> People:
    """People of known sites, patients or controls, as the reference's scanners would have measured them.

    A volume that would come out below zero is zero (see :func:`notes`). Outside the ages of the fit, the expected
    volume is that at its youngest or oldest age.

    Raises
    ------
    UsageError
        Where a site is not known, the regions differ, or a covariate is missing.
    """
    return replace(people, volumes=np.maximum(moved(harmonisation, people, site), 0))


def moved(harmonisation: Harmonisation, people: People, site: ArrayLike) -> FloatArray:
    """Harmonised volumes, shape (n, k), mm^3, as the model gives them; as :func:`apply` otherwise."""
    h, sites = harmonisation, np.asarray(site, dtype=str)
    if people.indices != h.indices:
        raise UsageError("people and harmonisation have other regions; harmonise the regions that it was fitted on")
    if unseen := sorted(set(sites.tolist()) - set(h.sites)):
        raise UsageError(
            f"site {unseen[0]!r}: was not fitted (known: {', '.join(h.sites)}); fit it on its own controls"
        )
    _complete(people, sites)
    expected = h.alpha + covariates(_within(h, people), h.spline, h.uses_icv) @ h.beta
    where = np.searchsorted(h.sites, sites)
    z = (people.volumes - expected) / h.sigma
    return np.asarray(expected + h.sigma * (z - h.gamma[where]) / np.sqrt(h.delta2[where]))


def notes(harmonisation: Harmonisation, people: People, site: ArrayLike) -> list[str]:
    """What is to be said of people who are harmonised: ages outside the fit, and volumes set to zero."""
    h, where = harmonisation, np.searchsorted(harmonisation.sites, np.asarray(site, dtype=str))
    said = []
    for i, name in enumerate(h.sites):
        low, high = h.ages[i]
        outside = int(((people.age < low) | (people.age > high))[where == i].sum())
        if outside:
            said.append(
                f"site {name!r}: {outside} people are outside {low:.1f}-{high:.1f} years, on which it was fitted"
            )
    below = int((moved(h, people, site) < 0).sum())
    if below:
        said.append(f"{below} of {people.volumes.size} volumes would be below zero and are set to 0 mm^3")
    return said


def covariates(people: People, spline: Spline | None, uses_icv: bool) -> FloatArray:
    """What keeps its effect, (n, p): sex (M 1, F 0), ICV in litres where used, and age in decades or its spline."""
    sex = (np.asarray(people.categories["sex"]) == "M").astype(float)
    icv = [] if people.icv is None or not uses_icv else [people.icv / 1e6]
    if uses_icv and people.icv is None:
        raise UsageError("people have no intracranial volume, which this harmonisation keeps; add it")
    age = spline.basis(people.age) if spline else people.age[:, None] / 10
    return np.column_stack([sex, *icv, age])


def empirical_bayes(z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Shift and variance of one site, drawn to what is common to all regions (Johnson et al. 2007, section 3.2).

    Gamma has a normal prior and delta^2 an inverse gamma one, whose parameters are those of the regions' estimates by
    moments; the two conditional posterior means are iterated until both stand still.

    Parameters
    ----------
    z : array, shape (n, k)
        Standardised residuals of its controls.

    Returns
    -------
    gamma, delta2 : array, shape (k,)
    """
    n, raw, variance = len(z), z.mean(axis=0), z.var(axis=0, ddof=1)
    if z.shape[1] < 2:
        return raw, variance
    centre, spread = raw.mean(), raw.var(ddof=1)
    middle, between = variance.mean(), variance.var(ddof=1)
    shape = (2 * between + middle**2) / between
    rate = (middle * between + middle**3) / between
    gamma, delta2 = raw, variance
    for _ in range(MOST_ROUNDS):
        new_gamma = (n * spread * raw + delta2 * centre) / (n * spread + delta2)
        squares = ((z - new_gamma) ** 2).sum(axis=0)
        new_delta2 = (rate + squares / 2) / (n / 2 + shape - 1)
        change = max(np.abs(new_gamma - gamma).max(), np.abs(new_delta2 - delta2).max())
        gamma, delta2 = new_gamma, new_delta2
        if change < TOLERANCE:
            break
    return gamma, delta2


def _coefficients(x: FloatArray, batch: FloatArray, y: FloatArray, spline: Spline | None) -> FloatArray:
    """Intercept of the reference, shift of each site, and effects of covariates: (1 + s + p, k)."""
    design = np.hstack([np.ones((len(x), 1)), batch, x])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise UsageError("sex, age or ICV cannot be told from the site or does not vary; give controls of both sexes")
    if spline is None:
        return np.asarray(np.linalg.lstsq(design, y, rcond=None)[0])
    return fit_penalised(design, y, spline.penalty())


def _shared_ages(site: str, study: FloatArray, reference: FloatArray) -> tuple[float, float]:
    low, high = max(study.min(), reference.min()), min(study.max(), reference.max())
    inside = int(((study >= low) & (study <= high)).sum())
    if inside < FEWEST_CONTROLS:
        raise UsageError(
            f"site {site!r}: has {inside} controls of ages that the reference has too, {FEWEST_CONTROLS} are needed; "
            "leave the site out, or give more controls"
        )
    return float(low), float(high)


def _comparable(study: People, sites: NDArray[np.str_], reference: People) -> None:
    if study.indices != reference.indices:
        raise UsageError("study and reference have other regions; give the same regions in the same order")
    if not len(study) or not len(reference):
        raise UsageError("there are no controls or no reference people; give both")
    _complete(study, sites)
    _complete(reference)


def _complete(people: People, sites: NDArray[np.str_] | None = None) -> None:
    """Refuse people without an age, sex or volume, or, where sites are given, without one."""
    if sites is not None and sites.shape != (len(people),):
        raise UsageError(f"{sites.size} sites for {len(people)} people; give one a person")
    everybody = np.ones(len(people), bool)
    there: Mapping[str, NDArray[np.bool_]] = {
        "site": everybody if sites is None else np.array([not is_missing(name) for name in sites]),
        "age": np.isfinite(people.age),
        "sex of F or M": np.isin(np.asarray(people.categories["sex"]), ["F", "M"]),
        "volume of each region": np.asarray(np.isfinite(people.volumes).all(axis=1)),
        "intracranial volume": everybody if people.icv is None else np.isfinite(people.icv),
    }
    for what, has in there.items():
        if not has.all():
            raise UsageError(f"{people.who[int(np.argmin(has))]}: has no {what}; complete the row or take it out")


def _within(h: Harmonisation, people: People) -> People:
    """The same people, none younger or older than those of the fit."""
    return replace(people, age=np.clip(people.age, h.ages[:, 0].min(), h.ages[:, 1].max()))
