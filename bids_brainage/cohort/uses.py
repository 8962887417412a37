"""What synthetic people are for: more controls for a classifier of patients, and training people for brain age."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.cohort.fidelity import MOST, boosted
from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError
from bids_brainage.stats import bias
from bids_brainage.stats.groups import pearson

Array = NDArray[np.float64]

FEW, MANY, TIMES = 100, 500, (0, 1, 2, 3, 4)
SPLITS = 50
TEST_SHARE = 0.2
FEWEST = 20


def augmentation(
    controls: People, synthetic: People, patients: People, rng: np.random.Generator, splits: int = SPLITS
) -> pd.DataFrame:
    """A linear SVM of controls against patients, whose controls are few real ones with ever more synthetic ones.

    A fifth of controls and patients tests. The rest trains: 100 real controls (half of them where there are fewer
    than 200) with 0 to 4 times as many synthetic ones of the controls' ages, against up to 500 real controls and none.

    Returns
    -------
    pandas.DataFrame
        ``real, synthetic`` (controls in training), ``patients, auc`` (mean over splits), ``low, high`` (2.5th and
        97.5th centile of splits), ``sd``.

    Raises
    ------
    UsageError
        Where there are fewer than 20 controls or patients, or no synthetic person of the controls' ages.
    """
    if min(len(controls), len(patients)) < FEWEST:
        raise UsageError(
            f"{len(controls)} controls and {len(patients)} patients are too few to classify; give {FEWEST} of each"
        )
    within = (synthetic.age >= controls.age.min()) & (synthetic.age <= controls.age.max())
    if not within.any():
        raise UsageError("no synthetic person is of the controls' ages; give others")
    made = synthetic.take(within)
    n_train = len(controls) - round(TEST_SHARE * len(controls))
    few = min(FEW, n_train // 2)
    plans = [(few, min(times * few, len(made))) for times in TIMES] + [(min(MANY, n_train), 0)]
    aucs = np.array([_split(controls, made, patients, plans, rng) for _ in range(splits)])
    low, high = np.quantile(aucs, (0.025, 0.975), axis=0)
    rows = zip(plans, aucs.mean(axis=0), low, high, aucs.std(axis=0, ddof=1), strict=True)
    return pd.DataFrame(
        [(*plan, len(patients), *figures) for plan, *figures in rows],
        columns=["real", "synthetic", "patients", "auc", "low", "high", "sd"],
    )


def _split(
    controls: People, synthetic: People, patients: People, plans: Sequence[tuple[int, int]], rng: np.random.Generator
) -> list[float]:
    """AUC of each plan on one random split; a plan's real controls are among those of a larger one."""
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    healthy, ill = (z.features[rng.permutation(len(z))] for z in (controls, patients))
    more = synthetic.features[rng.permutation(len(synthetic))]
    cut = [round(TEST_SHARE * len(z)) for z in (healthy, ill)]
    test = np.vstack([healthy[: cut[0]], ill[: cut[1]]])
    found = []
    for real, made in plans:
        train = np.vstack([healthy[cut[0] : cut[0] + real], more[:made], ill[cut[1] :]])
        label = np.repeat([0, 1], [real + made, len(ill) - cut[1]])
        model = make_pipeline(StandardScaler(), SVC(kernel="linear", class_weight="balanced")).fit(train, label)
        score = model.decision_function(test)
        found.append(float(roc_auc_score(np.repeat([0, 1], cut), score)))
    return found


def gap_and_score(
    real: People, synthetic: People, judged: People, score: Array, control: NDArray[np.bool_], rng: np.random.Generator
) -> pd.DataFrame:
    """Correlation of the brain-age gap with a clinical score, by who trained the brain age.

    XGBoost on volumes, trained on ``real`` or ``synthetic`` people; Cole's correction by the controls, cross-fitted.

    Parameters
    ----------
    judged : People
        Who trained nothing.
    score : array, (n,)
        Of them; ``nan`` where it is not known.
    control : bool array, (n,)
        Who of them is healthy.

    Returns
    -------
    pandas.DataFrame
        ``trained_on, group`` (controls, patients), ``n, r, low, high`` (Fisher's interval).
    """
    rows = []
    for source, people in (("real", real), ("synthetic", synthetic)):
        train = people.take(rng.permutation(len(people))[: 2 * MOST])
        model = boosted("age", int(rng.integers(2**31))).fit(train.features[:, :-1], train.age)
        predicted = np.asarray(model.predict(judged.features[:, :-1]), dtype=float)
        corrected = bias.cross_fitted(judged.age, predicted, control, np.array(judged.who), form="cole")
        for group, some in (("controls", control), ("patients", ~control)):
            known = some & np.isfinite(corrected.gap) & np.isfinite(score)
            rows.append((source, group, int(known.sum()), *pearson(corrected.gap[known], score[known])))
    return pd.DataFrame(rows, columns=["trained_on", "group", "n", "r", "low", "high"])
