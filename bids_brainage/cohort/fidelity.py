"""Whether synthetic people can stand in for real ones: the paper's tests, and a discriminator that sees curves.

XGBoost belongs to the extra ``genmind``: :func:`xgboost` says what to install.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.cohort.auc import of_folds
from bids_brainage.cohort.margins import strata
from bids_brainage.cohort.people import People
from bids_brainage.cohort.structure import FEWEST, standardised
from bids_brainage.core.errors import UsageError
from bids_brainage.stats.groups import Interval, accuracy, age_adjusted

Array = NDArray[np.float64]

FOLDS = 5
ALPHA = 0.05
RESAMPLES = 500
MOST = 2000
"""People of each kind that a discriminator or an XGBoost model sees: more say no more and take long."""
EVERYONE = "everyone"
Tests = Sequence[tuple[People, NDArray[np.int_]]]
"""Who trains, and the rows of those who are tested."""


def xgboost() -> Any:
    """The module.

    Raises
    ------
    UsageError
        Where it is not installed.
    """
    try:
        import xgboost as found
    except ImportError:
        raise UsageError("this needs XGBoost; run: pip install 'bids-brainage[genmind]'") from None
    return found


def univariate(real: People, synthetic: People) -> pd.DataFrame:
    """Volume ~ group + age by region and category (OLS), Bonferroni over the regions.

    Returns
    -------
    pandas.DataFrame
        ``category, index, difference`` (synthetic minus real, SD of the real), ``low, high, p, significant``.
    """
    a, b = standardised(real, synthetic)
    ours, theirs = strata(real.categories, len(real)), strata(synthetic.categories, len(synthetic))
    rows = []
    for name in np.unique(theirs).tolist():
        mine, made = ours == name, theirs == name
        age = np.concatenate([real.age[mine], synthetic.age[made]])
        first = np.repeat([False, True], [mine.sum(), made.sum()])
        for k, index in enumerate(real.indices):
            difference, p = age_adjusted(np.concatenate([a[mine, k], b[made, k]]), first, age)
            rows.append((name, index, *difference, p, p < ALPHA / len(real.indices)))
    return pd.DataFrame(rows, columns=["category", "index", "difference", "low", "high", "p", "significant"])


def discrimination(real: People, synthetic: People, rng: np.random.Generator) -> pd.DataFrame:
    """How well classifiers tell real from synthetic people, by category and for all: 0.5 is perfect.

    A linear support vector machine as in the paper, and gradient boosting (scikit-learn's), which sees what is not
    linear. Five folds, as many people of each kind; intervals by bootstrap over people.

    Returns
    -------
    pandas.DataFrame
        ``category, classifier, n`` (people of each kind), ``auc, low, high``.
    """
    a, b = standardised(real, synthetic)
    ours, theirs = strata(real.categories, len(real)), strata(synthetic.categories, len(synthetic))
    names = np.unique(theirs).tolist()
    wanted = {EVERYONE: (np.ones(len(a), bool), np.ones(len(b), bool))}
    wanted |= {name: (ours == name, theirs == name) for name in names} if len(names) > 1 else {}
    rows = []
    for name, (mine, made) in wanted.items():
        n = int(min(mine.sum(), made.sum(), MOST))
        if n < FEWEST:
            continue
        chosen = [z[rng.permutation(np.flatnonzero(some))[:n]] for z, some in ((a, mine), (b, made))]
        for classifier in ("linear SVM", "gradient boosting"):
            auc = _separability(np.vstack(chosen), np.repeat([0, 1], n), classifier, rng)
            rows.append((name, classifier, n, *auc))
    return pd.DataFrame(rows, columns=["category", "classifier", "n", "auc", "low", "high"])


def _separability(x: Array, y: NDArray[np.int_], classifier: str, rng: np.random.Generator) -> Interval:
    """AUC within each fold's test people, averaged: scores of different folds are on different scales."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    seed = int(rng.integers(2**31))
    found = []
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y):
        if classifier == "linear SVM":
            model = make_pipeline(StandardScaler(), SVC(kernel="linear")).fit(x[train], y[train])
            score = model.decision_function(x[test])
        else:
            boosted = HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=8, random_state=seed)
            score = boosted.fit(x[train], y[train]).decision_function(x[test])
        found.append((score, y[test] == 1))
    return of_folds(found, rng, RESAMPLES)


def covariates(
    real: People, synthetic: People, rng: np.random.Generator, held_out: People | None = None
) -> pd.DataFrame:
    """Age and categories by XGBoost, trained on real or on synthetic people, tested on real ones.

    They are tested on ``held_out``, whom the generator did not see. Without these, on ``real`` in five folds: who
    trains on real people then has not seen whom it is tested on, but the generator of the synthetic ones has.

    Returns
    -------
    pandas.DataFrame
        ``covariate, trained_on, n_train, measure, value, low, high``: MAE (years) and r of age; accuracy, balanced
        accuracy and AUC (one against the rest, weighted equally) of each category with two values or more. Intervals
        by bootstrap over people.
    """
    from sklearn.model_selection import KFold

    xgboost()
    seed = int(rng.integers(2**31))
    real = real.take(rng.permutation(len(real))[: 2 * MOST])
    judged = real if held_out is None else held_out.take(rng.permutation(len(held_out))[: 2 * MOST])
    everyone = np.arange(len(judged))
    made = synthetic.take(rng.permutation(len(synthetic))[: 2 * MOST])
    folds = KFold(FOLDS, shuffle=True, random_state=seed).split(real.age)
    blind = [(real.take(train), test) for train, test in folds] if held_out is None else [(real, everyone)]
    tests: dict[str, Tests] = {"real": blind, "synthetic": [(made, everyone)]}
    rows: list[tuple[Any, ...]] = []
    for source, own in tests.items():
        for target in ("age", *real.categories):
            if target != "age" and len(np.unique(judged.categories[target])) < 2:
                continue
            measures = _age(judged, own, seed) if target == "age" else _category(judged, own, source, target, rng, seed)
            rows += [(target, source, len(own[0][0]), measure, *interval) for measure, interval in measures.items()]
    return pd.DataFrame(rows, columns=["covariate", "trained_on", "n_train", "measure", "value", "low", "high"])


def _regions(people: People) -> Array:
    """Volumes and, where it is known, ICV."""
    return people.features[:, :-1]


def boosted(kind: Literal["age", "category"], seed: int) -> Any:
    """XGBoost as the covariates' tests and the gap use it."""
    module = xgboost()
    maker = module.XGBRegressor if kind == "age" else module.XGBClassifier
    return maker(
        n_estimators=200, max_depth=3, learning_rate=0.1, subsample=0.8, colsample_bytree=0.5, n_jobs=1,
        random_state=seed,
    )  # fmt: skip


def _age(judged: People, tests: Tests, seed: int) -> dict[str, Interval]:
    predicted = np.empty(len(judged))
    for people, test in tests:
        model = boosted("age", seed).fit(_regions(people), people.age)
        predicted[test] = model.predict(_regions(judged.take(test)))
    found = accuracy(judged.age, predicted, np.arange(len(judged)), resamples=RESAMPLES, seed=seed)
    return {"MAE, years": found.mae, "r": found.r}


def _category(
    judged: People, tests: Tests, source: str, target: str, rng: np.random.Generator, seed: int
) -> dict[str, Interval]:
    """All measures on the probabilities of those tested, whose scale is that of probabilities in every fold."""
    names = np.unique(judged.categories[target])
    truth = np.searchsorted(names, judged.categories[target])
    probability = np.empty((len(judged), len(names)))
    for people, test in tests:
        people = people.take(np.isin(people.categories[target], names))
        codes = np.searchsorted(names, people.categories[target])
        if set(codes.tolist()) != set(range(len(names))):
            lack = f"{source} people lack a {target} that the people have on whom it is tested"
            raise UsageError(f"{lack}; give some of {', '.join(names)}")
        model = boosted("category", seed).fit(_regions(people), codes)
        probability[test] = model.predict_proba(_regions(judged.take(test)))
    value = _classified(truth, probability)
    draws = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(truth), len(truth))
        if len(np.unique(truth[drawn])) == len(names):
            draws.append(_classified(truth[drawn], probability[drawn]))
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    measures = ("accuracy", "balanced accuracy", "AUC")
    return {m: Interval(*map(float, v)) for m, v in zip(measures, np.column_stack([value, low, high]), strict=True)}


def _classified(truth: NDArray[np.int_], probability: Array) -> Array:
    from scipy.stats import rankdata

    right = probability.argmax(axis=1) == truth
    classes = range(probability.shape[1])
    ranks = rankdata(probability, axis=0)
    auc = []
    for c in classes:
        n, m = int((truth == c).sum()), int((truth != c).sum())
        auc.append((ranks[truth == c, c].sum() - n * (n + 1) / 2) / (n * m))
    return np.array([right.mean(), np.mean([right[truth == c].mean() for c in classes]), np.mean(auc)])
