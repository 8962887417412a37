"""What synthetic people tell of the real people whom their generator saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.cohort.alternatives import Fit
from bids_brainage.cohort.auc import Scored, interval, of_attacks
from bids_brainage.cohort.margins import strata
from bids_brainage.cohort.people import People
from bids_brainage.cohort.structure import FEWEST
from bids_brainage.core.errors import UsageError
from bids_brainage.stats.groups import Interval

Array = NDArray[np.float64]

PRIVATE = 0.60
"""Largest upper bound of the membership AUC with which synthetic people may be called private."""
ROWS = (100, 500, 1000, 3000)
HALVES = 20
RESAMPLES = 1000
MOST_ATTACKED = 1000
FALSE_POSITIVES = 0.01


class Distances(NamedTuple):
    """Nearest neighbours in SDs of the training people over all features; see :func:`nearest_distances`.

    Attributes
    ----------
    ratio : Interval
        Median over synthetic people of the distance to the nearest training person by that to the nearest held-out
        one: 1 where synthetic people are no nearer to those whom their generator saw.
    closer_to_training : Interval
        Share of synthetic people nearer to a training person; 0.5 is expected.
    relative : Interval
        Median distance of a synthetic by that of a held-out person to the nearest training person: much below 1 is a
        copy with noise.
    """

    ratio: Interval
    closer_to_training: Interval
    relative: Interval


def nearest_distances(
    training: People, held_out: People, synthetic: People, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Distances:
    """Distances of synthetic people to training and to as many held-out people, with bootstrap intervals over rows."""
    known, unknown, made = _spaced(training.features, [held_out.features, synthetic.features])
    size = min(len(known), len(unknown))
    seen, unseen = (_nearest(made, some[rng.permutation(len(some))[:size]]) for some in (known, unknown))
    ratio, closer = seen / np.maximum(unseen, 1e-12), np.where(seen == unseen, 0.5, seen < unseen)
    near, far = _nearest(made, known), _nearest(unknown, known)
    rows, people = (rng.integers(0, len(some), (resamples, len(some))) for some in (near, far))
    relative = np.median(near[rows], axis=1) / np.maximum(np.median(far[people], axis=1), 1e-12)
    return Distances(
        interval(float(np.median(ratio)), np.median(ratio[rows], axis=1)),
        interval(float(closer.mean()), closer[rows].mean(axis=1)),
        interval(float(np.median(near) / max(float(np.median(far)), 1e-12)), relative),
    )


def exact_copies(real: People, synthetic: People) -> int:
    """Synthetic people whose volumes are those of a real person to a thousandth of a mm^3."""
    known = {row.tobytes() for row in np.round(real.volumes, 3) + 0.0}
    return sum(row.tobytes() in known for row in np.round(synthetic.volumes, 3) + 0.0)


def attack_scores(synthetic: People, attacked: People) -> dict[str, Array]:
    """How much each attacked person looks like a member to three attackers who see the synthetic people alone.

    Returns
    -------
    dict of str to array, (n,)
        Larger for members: ``nearest`` (minus the distance to the nearest synthetic person in SDs), ``whitened`` (the
        same after whitening) and ``likelihood`` (normal log density), both by the Ledoit-Wolf covariance.
    """
    from sklearn.covariance import LedoitWolf

    made, asked = _spaced(*_coded(synthetic, attacked))
    normal = LedoitWolf().fit(made)
    whiten = np.linalg.cholesky(np.linalg.inv(normal.covariance_ + 1e-9 * np.eye(made.shape[1])))
    return {
        "nearest": -_nearest(asked, made),
        "whitened": -_nearest(asked @ whiten, made @ whiten),
        "likelihood": -normal.mahalanobis(asked),
    }


def membership(
    real: People,
    fit: Fit,
    rng: np.random.Generator,
    rows: Sequence[int] = ROWS,
    *,
    halves: int = HALVES,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Attack generators refitted on random halves of the real people, by the number of rows released.

    Parameters
    ----------
    real : People
    fit : callable
        ``(people, rng) -> Generator``; fitted on each half, whose people are the members.
    rows : sequence of int
        Numbers of synthetic people released, of ages and categories drawn from the members' with replacement.
    halves, resamples : int
        Random halves; bootstrap resamples of halves, and of members and others within them.

    Returns
    -------
    pandas.DataFrame
        ``rows, attack, auc, low, high, tpr`` (true positives at 1 % false positives), the mean over halves.
    """
    collected: dict[tuple[int, str], list[Scored]] = {}
    attacked = np.sort(rng.permutation(len(real))[:MOST_ATTACKED])
    for _ in range(halves):
        member = half(real, rng)
        members = real.take(member)
        generator = fit(members, rng)
        for n in rows:
            drawn = rng.integers(0, len(members), n)
            made = generator.at(members.age[drawn], {k: v[drawn] for k, v in members.categories.items()}, rng)
            for attack, score in attack_scores(made, real.take(attacked)).items():
                collected.setdefault((n, attack), []).append((score, member[attacked]))
    return pd.DataFrame([_row(n, attack, scored, rng, resamples) for (n, attack), scored in collected.items()])


def released(real: People, held_out: People, synthetic: People, rng: np.random.Generator) -> pd.DataFrame:
    """Attack the synthetic people as they are: ``real`` trained their generator, ``held_out`` did not; as above.

    Bounds are ``nan`` where fewer than :data:`FEWEST` people were held out: a bootstrap over so few knows no doubt.
    """
    attacked = [some.take(np.sort(rng.permutation(len(some))[:MOST_ATTACKED])) for some in (real, held_out)]
    scores = [attack_scores(synthetic, some) for some in attacked]
    doubt = {} if len(held_out) >= FEWEST else {"low": math.nan, "high": math.nan}
    rows = []
    for attack in scores[0]:
        both = [each[attack] for each in scores]
        member = np.repeat([True, False], [len(each) for each in both])
        rows.append(_row(len(synthetic), attack, [(np.concatenate(both), member)], rng, RESAMPLES) | doubt)
    return pd.DataFrame(rows)


def _row(n: int, attack: str, scored: Sequence[Scored], rng: np.random.Generator, resamples: int) -> dict[str, object]:
    auc = of_attacks(scored, rng, resamples)
    tpr = float(np.mean([true_positives(score[member], score[~member]) for score, member in scored]))
    return {"rows": n, "attack": attack, "auc": auc.value, "low": auc.low, "high": auc.high, "tpr": tpr}


def true_positives(members: Array, others: Array) -> float:
    """Share of members above the threshold that at most 1 % of the others exceed."""
    allowed = math.floor(FALSE_POSITIVES * len(others))
    return float((members > np.sort(others)[len(others) - 1 - allowed]).mean())


def strongest(attacks: pd.DataFrame) -> pd.Series:
    """The row with the largest upper bound."""
    return attacks.iloc[int(attacks["high"].to_numpy().argmax())]


def may_be_called_private(upper: float) -> bool:
    """Whether the upper bound of the membership AUC is at most 0.60; never where it is unknown."""
    return math.isfinite(upper) and upper <= PRIVATE


def verdict(upper: float) -> str:
    """What a report may say, given the upper bound of the strongest attack's AUC."""
    if not math.isfinite(upper):
        return "Privacy was not measured; treat these rows as if they were those of the people behind them."
    told = f"the upper bound of the membership AUC is {upper:.2f}"
    if may_be_called_private(upper):
        return f"Membership is hard to infer by the attacks tried: {told}, at most {PRIVATE:.2f}."
    return (
        f"Not private: {told}, above {PRIVATE:.2f}; treat these rows as if they were those of the people behind them."
    )


def half(real: People, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Who is in a random half with equal shares of each category, shape (n,)."""
    stratum, member = strata(real.categories, len(real)), np.zeros(len(real), dtype=bool)
    for name in np.unique(stratum):
        rows = rng.permutation(np.flatnonzero(stratum == name))
        member[rows[: len(rows) // 2]] = True
    if member.sum() < 2:
        raise UsageError(f"{len(real)} people are too few to halve; give more")
    return member


def _coded(synthetic: People, attacked: People) -> tuple[Array, list[Array]]:
    """Features of both, with an indicator for all values but one of each category."""
    coded = []
    for people in (synthetic, attacked):
        columns = [people.features]
        for name, values in sorted(synthetic.categories.items()):
            both = np.unique(np.concatenate([values, attacked.categories[name]]))
            columns.append((people.categories[name][:, None] == both[1:]).astype(float))
        coded.append(np.hstack(columns))
    return coded[0], coded[1:]


def _spaced(reference: Array, others: Sequence[Array]) -> list[Array]:
    mean, sd = reference.mean(axis=0), reference.std(axis=0)
    sd[sd == 0] = 1.0
    return [(z - mean) / sd for z in (reference, *others)]


def _nearest(of: Array, among: Array) -> Array:
    from sklearn.neighbors import NearestNeighbors

    return np.asarray(NearestNeighbors(n_neighbors=1, algorithm="brute").fit(among).kneighbors(of)[0][:, 0])
