"""A reference and a study of two sites whose shift is known."""

import numpy as np

from bids_brainage.cohort.people import People

REGIONS = (47, 48, 51, 52, 59, 60)
SLOPES = np.array([-20.0, -18.0, 300.0, 280.0, -25.0, -22.0])
MIDDLE = np.array([3800.0, 3700.0, 15000.0, 14000.0, 7200.0, 7100.0])
SPREAD = np.array([300.0, 280.0, 4000.0, 3900.0, 500.0, 480.0])


def healthy(n: int, seed: int, *, low: float = 50.0, high: float = 80.0, icv: bool = True) -> People:
    """Healthy people of ages evenly between two."""
    rng = np.random.default_rng(seed)
    age, sex = np.linspace(low, high, n), np.where(rng.random(n) < 0.5, "M", "F")
    head = rng.normal(1.35e6, 1e5, n) + 1.5e5 * (sex == "M")
    volumes = MIDDLE + np.outer(age - 65, SLOPES) + np.outer((head - 1.4e6) / 1e5, SPREAD / 3)
    volumes += 0.004 * np.outer((age - 65) ** 2, SPREAD) + rng.normal(size=(n, len(REGIONS))) * SPREAD
    names = tuple(f"p{seed}-{i}" for i in range(n))
    return People(names, age, {"sex": sex}, REGIONS, volumes, head if icv else None)


def elsewhere(people: People, shift: float, factor: float) -> People:
    """The same people by a scanner that shifts by so many SD, and whose errors are so much larger."""
    mean = people.volumes.mean(axis=0)
    moved = mean + factor * (people.volumes - mean) + shift * SPREAD * np.linspace(0.5, 1.5, len(REGIONS))
    return People(people.who, people.age, people.categories, people.indices, moved, people.icv)


def together(first: People, second: People) -> People:
    """All people of both."""
    return People(
        first.who + second.who,
        np.concatenate([first.age, second.age]),
        {"sex": np.concatenate([first.categories["sex"], second.categories["sex"]])},
        first.indices,
        np.vstack([first.volumes, second.volumes]),
        None if first.icv is None or second.icv is None else np.concatenate([first.icv, second.icv]),
    )
