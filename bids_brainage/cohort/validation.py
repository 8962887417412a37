"""All tests of synthetic people as one content for JSON: what the report shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage import __version__
from bids_brainage.cohort import fidelity, privacy, structure, uses
from bids_brainage.cohort.alternatives import Fit
from bids_brainage.cohort.margins import strata
from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError

Array = NDArray[np.float64]


class Patients(NamedTuple):
    """People of a clinical table.

    Attributes
    ----------
    people : People
    diagnosis : array of str, (n,)
    control : str
        The diagnosis of healthy people.
    score : array, (n,), or None
        A clinical score; ``nan`` where it is not known.
    score_name : str
    """

    people: People
    diagnosis: NDArray[np.str_]
    control: str
    score: Array | None = None
    score_name: str = ""


def validate(
    real: People,
    synthetic: People,
    seed: int,
    *,
    patients: Patients | None = None,
    held_out: People | None = None,
    refit: tuple[str, Fit] | None = None,
    splits: int = uses.SPLITS,
) -> dict[str, Any]:
    """Run every test that these people allow.

    Parameters
    ----------
    real, synthetic : People
    seed : int
    patients : Patients, optional
        For augmentation and, where a score is known, its correlation with the gap.
    held_out : People, optional
        Real people whom the generator did not see; ``real`` are those whom it saw.
    refit : (name, fit), optional
        The generator, to be refitted on halves of ``real``.
    splits : int
        Random splits of the augmentation.
    """
    if len(synthetic) < structure.FEWEST:
        raise UsageError(f"{len(synthetic)} synthetic people are too few to compare; give at least {structure.FEWEST}")
    if held_out is not None and (n := privacy.exact_copies(real, held_out)):
        raise UsageError(
            f"{n} of the people held out are among the real people; give people whom the generator never saw"
        )
    rng = np.random.default_rng(seed)
    correlations = structure.correlations(real, synthetic, rng)
    made, expected = structure.manifold(real, synthetic, rng)
    found: dict[str, Any] = {
        "Version": __version__,
        "RandomSeed": seed,
        "People": {"Real": _described(real), "Synthetic": _described(synthetic)},
        "Regions": len(real.indices),
        "WithICV": real.icv is not None,
        "NegativeVolumes": int((synthetic.volumes < 0).sum()),
        "PeopleWithNegativeVolumes": int((synthetic.volumes < 0).any(axis=1).sum()),
        "Univariate": records(fidelity.univariate(real, synthetic)),
        "Discrimination": records(fidelity.discrimination(real, synthetic, rng)),
        "Correlations": {
            **{k: _plain(v) for k, v in correlations._asdict().items() if k != "worst"},
            "worst": records(correlations.worst),
        },
        "AgeTrends": records(structure.age_trends(real, synthetic)),
        "Manifold": {"synthetic": _plain(made), "other_half_of_real": _plain(expected)},
        "Covariates": records(fidelity.covariates(real, synthetic, rng, held_out)),
        "GeneratorSawTheTested": held_out is None,
        "Augmentation": _augmentations(real, synthetic, patients, held_out, rng, splits),
        "Gap": _gap(real, synthetic, patients, rng),
        "Privacy": _privacy(real, synthetic, held_out, refit, rng),
    }
    return found


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON holds them: ``None`` for what is not a finite number."""
    return [{str(k): _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {k: _plain(v) for k, v in value._asdict().items()}
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _described(people: People) -> dict[str, Any]:
    names, counts = np.unique(strata(people.categories, len(people)), return_counts=True)
    return {
        "n": len(people),
        "age": [float(people.age.min()), float(people.age.max())],
        "categories": dict(zip(names.tolist(), counts.tolist(), strict=True)),
    }


def _augmentations(
    real: People,
    synthetic: People,
    patients: Patients | None,
    held_out: People | None,
    rng: np.random.Generator,
    splits: int,
) -> dict[str, Any]:
    """Controls of the patients' own table where there are enough; else, of another source, real people.

    These are those whom the generator did not see, where such are given and enough.
    """
    if patients is None:
        return {}
    healthy = patients.diagnosis == patients.control
    if int(healthy.sum()) >= uses.FEWEST:
        controls, source = patients.people.take(healthy), "patients' table"
    elif held_out is not None and len(held_out) >= uses.FEWEST:
        controls, source = held_out, "held-out people"
    else:
        controls, source = real, "real people"
    found = {}
    for name in sorted(set(patients.diagnosis.tolist()) - {patients.control}):
        ill = patients.people.take(patients.diagnosis == name)
        if len(ill) >= uses.FEWEST:
            found[f"{patients.control} vs {name}"] = records(uses.augmentation(controls, synthetic, ill, rng, splits))
    return {"controls": source, "splits": splits, "contrasts": found}


def _gap(real: People, synthetic: People, patients: Patients | None, rng: np.random.Generator) -> Mapping[str, Any]:
    if patients is None or patients.score is None:
        return {}
    control = patients.diagnosis == patients.control
    rows = uses.gap_and_score(real, synthetic, patients.people, patients.score, control, rng)
    return {"score": patients.score_name, "rows": records(rows)}


def _privacy(
    real: People, synthetic: People, held_out: People | None, refit: tuple[str, Fit] | None, rng: np.random.Generator
) -> dict[str, Any]:
    attacks = {}
    if held_out is not None:
        attacks["released"] = privacy.released(real, held_out, synthetic, rng)
    if refit is not None:
        attacks["refitted"] = privacy.membership(real, refit[1], rng)
    bounds = (float(privacy.strongest(some)["high"]) for some in attacks.values())
    upper = max((bound for bound in bounds if math.isfinite(bound)), default=math.nan)
    distances = None if held_out is None else privacy.nearest_distances(real, held_out, synthetic, rng)
    return {
        "ExactCopies": privacy.exact_copies(real, synthetic),
        "Distances": None if distances is None else _plain(distances),
        "Generator": None if refit is None else refit[0],
        "Attacks": {name: records(some) for name, some in attacks.items()},
        "UpperBound": _plain(upper),
        "MayBeCalledPrivate": privacy.may_be_called_private(upper),
        "Verdict": privacy.verdict(upper),
    }
