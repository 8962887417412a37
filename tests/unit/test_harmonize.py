"""A study is brought to the reference, which stays; age, sex and head size keep their effects."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.gam.api import BSplines, GLMGam
from studies import MIDDLE, REGIONS, SLOPES, SPREAD, elsewhere, healthy, together

from bids_brainage.cohort import gam, harmonize, store
from bids_brainage.core.errors import BundleError, UsageError

REFERENCE = healthy(60, 1)
STUDY = together(elsewhere(healthy(30, 2), 0.8, 1.3), elsewhere(healthy(25, 3), -0.5, 0.8))
SITE = np.array(["a"] * 30 + ["b"] * 25)

# neuroCombat 0.2.12 (batch as here, categorical sex, continuous age and ICV, ref_batch) on these people: five of them.
PUBLISHED = {
    0: [4748.678, 4449.69, 15663.339, 12835.092, 8745.264, 7898.135],
    15: [3335.984, 3881.768, 13680.026, 12117.662, 7292.772, 7158.249],
    29: [3522.839, 3884.508, 16536.467, 21875.61, 6826.255, 6643.169],
    30: [4365.857, 3995.905, 17291.253, 16739.507, 8068.448, 7626.019],
    54: [3697.934, 3437.542, 22452.548, 23422.568, 7628.888, 7659.329],
}
# neuroHarmonize 2.5.2 (smooth age, the same otherwise): its penalties are chosen by AIC, and one at a time.
PUBLISHED_GAM = {
    0: [4791.05, 4446.885, 15656.206, 13274.622, 8816.817, 7981.961],
    15: [3319.273, 3880.399, 13676.106, 11457.944, 7202.124, 7134.432],
    29: [3517.369, 3882.332, 16578.892, 23138.971, 6889.277, 6728.749],
    30: [4355.581, 3997.71, 17254.219, 16736.766, 7989.785, 7612.792],
    54: [3683.321, 3439.167, 22471.935, 22571.719, 7534.165, 7591.062],
}


def test_combat_is_that_of_neurocombat():
    found = harmonize.apply(harmonize.fit(STUDY, SITE, REFERENCE, method="combat"), STUDY, SITE)
    np.testing.assert_allclose(found.volumes[list(PUBLISHED)], list(PUBLISHED.values()), rtol=1e-5)


def test_combat_gam_is_near_that_of_neuroharmonize():
    found = harmonize.apply(harmonize.fit(STUDY, SITE, REFERENCE), STUDY, SITE)
    difference = (found.volumes[list(PUBLISHED_GAM)] - list(PUBLISHED_GAM.values())) / SPREAD
    assert np.sqrt((difference**2).mean()) < 0.1
    linear = harmonize.apply(harmonize.fit(STUDY, SITE, REFERENCE, method="combat"), STUDY, SITE)
    other = (linear.volumes[list(PUBLISHED_GAM)] - list(PUBLISHED_GAM.values())) / SPREAD
    assert (difference**2).mean() < (other**2).mean()


@pytest.mark.parametrize("weight", [0.01, 3.0, 1000.0])
def test_the_penalised_fit_is_that_of_statsmodels(weight):
    age, x = REFERENCE.age, harmonize.covariates(REFERENCE, None, True)[:, :2]
    spline, splines = gam.Spline.over(age), BSplines(age[:, None], df=[10], degree=[3])
    np.testing.assert_allclose(spline.basis(age), splines.basis, atol=1e-12)
    np.testing.assert_allclose(spline.penalty(), splines.penalty_matrices[0], atol=1e-12)
    design = np.column_stack([np.ones(len(age)), x])
    y = REFERENCE.volumes / SPREAD
    theirs = GLMGam(y[:, 2], exog=design, smoother=splines, alpha=weight / 2).fit()  # it doubles its weights
    mine = gam.fit_penalised(np.hstack([design, spline.basis(age)]), y, spline.penalty(), np.array([weight]))
    np.testing.assert_allclose(mine[:, 2], theirs.params, rtol=1e-6, atol=1e-8)


def test_cross_validation_chooses_what_it_should():
    age = np.linspace(40, 90, 200)
    spline = gam.Spline.over(age)
    rng = np.random.default_rng(0)
    truth = np.column_stack([0.1 * age, np.sin(age / 4)])
    y = truth + rng.normal(size=(200, 2)) * 0.2
    design = np.hstack([np.ones((200, 1)), spline.basis(age)])
    fitted = design @ gam.fit_penalised(design, y, spline.penalty())
    assert np.sqrt(((fitted - truth) ** 2).mean(axis=0)).max() < 0.08
    straight = design @ gam.fit_penalised(design, y, spline.penalty(), np.array([1e10]))
    assert np.abs(np.diff(straight[:, 1], 2)).max() < 1e-6


def test_by_hand_on_one_region():
    """Without age, sex or other regions to borrow from, it is a shift and a scaling: sigma of n, delta of n - 1."""
    z = np.array([[1.0], [2.0], [6.0]])
    gamma, delta2 = harmonize.empirical_bayes(z)
    assert (gamma[0], delta2[0]) == (3.0, 7.0)


@given(seed=st.integers(0, 10_000), n=st.integers(5, 60))
@settings(max_examples=25)
def test_empirical_bayes_lies_between_a_region_and_all(seed, n):
    rng = np.random.default_rng(seed)
    z = rng.normal(rng.normal(size=20), rng.uniform(0.5, 2, 20), (n, 20))
    gamma, delta2 = harmonize.empirical_bayes(z)
    raw, centre = z.mean(axis=0), z.mean()
    assert ((np.minimum(raw, centre) - 1e-9 <= gamma) & (gamma <= np.maximum(raw, centre) + 1e-9)).all()
    assert (delta2 > 0).all()


def slopes(people):
    x = np.column_stack([np.ones(len(people)), people.age, harmonize.covariates(people, None, True)[:, :2]])
    return np.linalg.lstsq(x, people.volumes, rcond=None)[0][1]


@pytest.mark.parametrize("method", harmonize.METHODS)
def test_the_shift_goes_and_age_stays(method):
    truth = healthy(200, 5)
    study, half = elsewhere(truth, 1.5, 1.0), np.arange(200) % 2 == 0
    site = np.full(200, "a")
    fitted = harmonize.fit(study.take(half), site[half], healthy(300, 6), method=method)
    found = harmonize.apply(fitted, study.take(~half), site[~half])
    error = (found.volumes - truth.take(~half).volumes).mean(axis=0) / SPREAD
    assert np.abs(error).max() < 0.35
    np.testing.assert_allclose(slopes(found), slopes(study.take(~half)), rtol=0.25, atol=4)


def test_nothing_moves_where_there_is_no_shift():
    study = healthy(2000, 8)
    found = harmonize.apply(harmonize.fit(study, np.full(2000, "a"), healthy(2000, 9)), study, np.full(2000, "a"))
    assert np.abs((found.volumes - study.volumes) / SPREAD).mean() < 0.06


def test_patients_are_moved_as_controls_are():
    fitted = harmonize.fit(STUDY, SITE, REFERENCE)
    ill = replace(STUDY, volumes=STUDY.volumes - 0.5 * SPREAD)
    lost = harmonize.apply(fitted, STUDY, SITE).volumes - harmonize.apply(fitted, ill, SITE).volumes
    expected = 0.5 * SPREAD / np.sqrt(fitted.delta2)[np.searchsorted(fitted.sites, SITE)]
    np.testing.assert_allclose(lost, expected)


def test_few_controls_in_the_shared_ages_are_refused():
    young = healthy(60, 4, low=20, high=59)
    with pytest.raises(UsageError, match="site 'x': has 14 controls of ages that the reference has too, 20 are needed"):
        harmonize.fit(young, np.full(60, "x"), REFERENCE)
    with pytest.raises(UsageError, match="site 'b': has 5 controls"):
        harmonize.fit(STUDY, np.array(["a"] * 50 + ["b"] * 5), REFERENCE)


def test_what_is_asked_of_others_is_refused():
    fitted = harmonize.fit(STUDY, SITE, REFERENCE)
    with pytest.raises(UsageError, match=r"site 'c': was not fitted \(known: a, b\)"):
        harmonize.apply(fitted, STUDY, np.full(len(STUDY), "c"))
    with pytest.raises(UsageError, match="other regions"):
        harmonize.apply(fitted, replace(STUDY, indices=REGIONS[::-1]), SITE)
    with pytest.raises(UsageError, match="no intracranial volume, which this harmonisation keeps"):
        harmonize.apply(fitted, replace(STUDY, icv=None), SITE)
    with pytest.raises(UsageError, match="p2-0: has no sex of F or M"):
        harmonize.apply(fitted, replace(STUDY, categories={"sex": np.full(len(STUDY), "n/a")}), SITE)
    with pytest.raises(UsageError, match="p2-0: has no volume"):
        harmonize.fit(replace(STUDY, volumes=STUDY.volumes * np.nan), SITE, REFERENCE)
    with pytest.raises(UsageError, match="1 sites for 55 people"):
        harmonize.fit(STUDY, ["a"], REFERENCE)
    same = replace(REFERENCE, categories={"sex": np.full(60, "F")})
    with pytest.raises(UsageError, match="cannot be told from the site"):
        harmonize.fit(replace(STUDY, categories={"sex": np.full(55, "M")}), np.full(55, "a"), same)
    with pytest.raises(UsageError, match="MUSE_47: is the same in all"):
        harmonize.fit(STUDY, SITE, replace(REFERENCE, volumes=REFERENCE.volumes * [0, 1, 1, 1, 1, 1]), method="combat")


def test_a_reference_without_icv_keeps_age_and_sex():
    fitted = harmonize.fit(STUDY, SITE, replace(REFERENCE, icv=None))
    assert not fitted.uses_icv
    assert harmonize.apply(fitted, replace(STUDY, icv=None), SITE).volumes.shape == STUDY.volumes.shape


def test_ages_outside_and_volumes_below_zero_are_said():
    fitted = harmonize.fit(STUDY, SITE, REFERENCE)
    assert harmonize.notes(fitted, STUDY, SITE) == []
    old = replace(STUDY, age=STUDY.age + 10, volumes=STUDY.volumes - MIDDLE - 10 * np.abs(SLOPES))
    said = harmonize.notes(fitted, old, SITE)
    assert said[0] == "site 'a': 10 people are outside 50.0-80.0 years, on which it was fitted"
    assert "volumes would be below zero and are set to 0 mm^3" in said[-1]
    assert harmonize.apply(fitted, old, SITE).volumes.min() == 0


@pytest.mark.parametrize("method", harmonize.METHODS)
def test_what_is_saved_comes_back(tmp_path, method):
    fitted = harmonize.fit(STUDY, SITE, REFERENCE, method=method)
    store.save(tmp_path / "moved", fitted)
    found = store.load(tmp_path / "moved")
    assert (found.sites, found.controls, found.reference, found.indices) == (("a", "b"), (30, 25), 60, REGIONS)
    first, second = (harmonize.apply(h, STUDY, SITE).volumes for h in (fitted, found))
    np.testing.assert_array_equal(first, second)


def test_a_damaged_bundle_is_refused(tmp_path):
    store.save(tmp_path / "moved", harmonize.fit(STUDY, SITE, REFERENCE))
    card = json.loads((tmp_path / "moved" / "model.json").read_text())
    for change in ({"sites": ["a"]}, {"method": None, "sites": 3}):
        text = card | {"arguments": card["arguments"] | change}
        (tmp_path / "moved" / "model.json").write_text(json.dumps(text))
        with pytest.raises(BundleError, match="not a harmonisation"):
            store.load(tmp_path / "moved")
    (tmp_path / "moved" / "model.json").write_text(json.dumps(card | {"architecture": "roi"}))
    with pytest.raises(BundleError, match="is a bundle of 'roi'"):
        store.load(tmp_path / "moved")


@pytest.mark.parametrize("unknown", ["n/a", ""])
def test_people_without_a_site_are_refused(unknown):
    """Of different scanners, they would be shifted as if of one."""
    site = SITE.astype(object)
    site[40] = unknown
    with pytest.raises(UsageError, match="has no site"):
        harmonize.fit(STUDY, site.astype(str), REFERENCE)
