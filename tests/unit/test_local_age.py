"""Local brain age of simulated people: lobes, offsets, random field, and the truth that is written."""

from importlib import resources

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_brainage.core.errors import UsageError
from bids_brainage.image import muse
from bids_brainage.image.atlas import read_atlas
from bids_brainage.simulate import aging, anatomy, cohort, deform, lobes, local
from bids_brainage.simulate.anatomy import REGIONS
from bids_brainage.simulate.person import Person, Visit, grown

MUSE = {"Frontal": 0, "Temporal": 1, "Parietal": 2, "Occipital": 3}


def test_the_surfaces_agree_with_the_lobes_of_the_atlas() -> None:
    with resources.as_file(resources.files("bids_brainage.data") / "bundles" / "muse-atlas") as folder:
        atlas = read_atlas(folder)
    lobe = {n: MUSE[c.name] for c in muse.composites() if c.name in MUSE for n in c.members}
    table = np.array([*(lobe.get(r.number, 9) for r in muse.regions()), 9, 9])
    likeliest = atlas.labels[np.arange(len(atlas.labels)), atlas.probabilities.argmax(1)]
    wanted = np.where(atlas.rows >= 0, table[likeliest[atlas.rows]], 9)
    index = np.argwhere(wanted < 9)
    x, y, z = (index @ atlas.grid.affine[:3, :3].T + atlas.grid.affine[:3, 3]).T.astype(np.float32)
    found = lobes.lobe_at(x, y, z)
    assert (found == wanted[wanted < 9]).mean() > 0.93
    for k in range(4):
        both = ((found == k) & (wanted[wanted < 9] == k)).sum()
        assert 2 * both / ((found == k).sum() + (wanted == k).sum()) > 0.88, lobes.LOBES[k]


def test_offsets_of_all_names_of_a_place_add_up() -> None:
    years = local.offsets_by_parcel({"temporal": 3.0, "left_temporal": 4.0, "medial_temporal": 5.0, "thalamus": -2.0})
    by_name = {(REGIONS[p.region].name, p.lobe): y for p, y in zip(local.PARCELS, years, strict=True)}
    assert by_name["left_cerebral_cortex", 1] == by_name["left_cerebral_white_matter", 1] == 7
    assert by_name["right_cerebral_cortex", 1] == 3
    assert by_name["right_cerebral_cortex", 0] == 0
    assert by_name["left_hippocampus", None] == by_name["right_amygdala", None] == 5
    assert by_name["left_thalamus", None] == -2
    assert by_name["csf", None] == 0


@pytest.mark.parametrize("name", ["csf", "temporale", "left_third_ventricle"])
def test_unknown_places_are_refused(name) -> None:
    with pytest.raises(UsageError, match=f"{name}: no such region"):
        local.offsets_by_parcel({name: 1.0})


@pytest.mark.parametrize("years", [61.0, float("nan"), float("inf")])
def test_senseless_offsets_are_refused(years) -> None:
    with pytest.raises(UsageError, match="from -60 to 60"):
        local.offsets_by_parcel({"thalamus": years})


@pytest.mark.parametrize(("sd", "length"), [(-1, 20), (float("nan"), 20), (3, 2), (3, 100)])
def test_senseless_fields_are_refused(sd, length) -> None:
    with pytest.raises(UsageError, match="give an SD"):
        local.random_field(np.random.default_rng(0), sd, length)


@given(st.sampled_from(sorted(aging._MEDIAN)), st.floats(15, 99), st.sampled_from("FM"))
def test_the_curve_of_many_ages_is_that_of_one(kind, age, sex) -> None:
    many = aging.log_expected(kind, np.array([age, 40.0]), sex)
    assert np.exp(many) == pytest.approx([aging.expected(kind, age, sex), 1.0])


def volumes(aged, parcels) -> np.ndarray:
    """Parcel volumes after the deformation, relative to the base."""
    points = deform.nodes(parcels.values.shape[1:], parcels.origin, parcels.spacing)
    moved = deform.sample(parcels.values, parcels.origin, parcels.spacing, points + aged.warp.displacement)
    return moved.sum((1, 2, 3)) / parcels.values.sum((1, 2, 3))


def test_an_old_lobe_shrinks_as_its_age_asks_and_no_other(base, shares) -> None:
    parcels = local.split(shares, base)
    plain = volumes(grown(Person("x", "F", 4), 50, base, shares, divided=True), parcels)
    old = volumes(grown(Person("x", "F", 4, offsets={"left_temporal": 20.0}), 50, base, shares), parcels)
    for parcel, ratio in zip(local.PARCELS, old / plain, strict=True):
        kind, is_old = REGIONS[parcel.region].kind, "left_temporal" in parcel.names
        wanted = aging.expected(kind, 70, "F") / aging.expected(kind, 50, "F") if is_old else 1.0
        if kind in ("cerebral_cortex", "cerebral_white_matter", "hippocampus", "thalamus"):
            assert ratio == pytest.approx(wanted, abs=0.01), parcel.names


def test_a_field_moves_volumes_within_a_region_but_not_its_total(base, shares) -> None:
    person = Person("x", "M", 9, field_sd=8.0, field_mm=15.0)
    parcels = local.split(shares, base)
    aged = grown(person, 65, base, shares)
    asked = local.targets(aged.local, parcels, "M", {})
    own = aging.individual(np.random.default_rng((9, 2)))[[p.region for p in local.PARCELS]]
    reached = volumes(aged, parcels)
    big = [i for i, p in enumerate(local.PARCELS) if REGIONS[p.region].kind == "cerebral_cortex"]
    assert reached[big] == pytest.approx((asked.factors * own)[big], rel=0.03)
    without = aging.grow(parcels, asked.factors * own)
    change = np.log(deform.jacobian(aged.warp)) - np.log(deform.jacobian(without))
    assert aged.local.field is not None
    cortex = parcels.values[big].sum(0) > 0.5
    points = deform.nodes(parcels.values.shape[1:], parcels.origin, parcels.spacing)
    field = deform.sample(*aged.local.field, points)[0]
    assert np.corrcoef(change[cortex], field[cortex])[0, 1] > 0.6  # a pull-back: larger where tissue is lost
    assert deform.jacobian(aged.warp).min() > 0


def test_the_truth_of_a_dataset_holds_the_planted_ages(tmp_path) -> None:
    person = Person("a", "F", 3, gap=2.0, offsets={"right_frontal": 10.0, "cerebellum": -5.0})
    out = cohort.write_scans(tmp_path / "ds", [Visit(person, 60.0, 1)], seed=1, resolution=4.0, step=2)
    folder = out / "derivatives" / "truth" / "sub-a" / "anat"
    age = nib.load(folder / "sub-a_desc-truth_brainagemap.nii.gz")
    labels = np.asarray(nib.load(folder / "sub-a_desc-truth_dseg.nii.gz").dataobj)
    years = np.asarray(age.dataobj)
    assert years.dtype == np.float32
    assert set(np.unique(years)) == {0.0, 57.0, 62.0, 72.0}
    assert set(np.unique(labels[years == 72])) == {41, 42}
    assert set(np.unique(labels[years == 57])) == {7, 8, 46, 47}
    assert set(np.unique(labels[years == 0])) == {0, anatomy.CSF}
    points = nib.affines.apply_affine(age.affine, np.argwhere(years == 72))
    assert points[:, 0].mean() > 15
    assert points[:, 1].mean() > 10
    row = pd.read_csv(out / "derivatives" / "truth" / "brainage.tsv", sep="\t").iloc[0]
    tissue = (labels > 0) & ~np.isin(labels, (4, 43, 14, 15, 24))
    assert row["brain_age"] == pytest.approx(years[tissue].mean(), abs=1e-3)
    planted = pd.read_csv(out / "derivatives" / "truth" / "volumes.tsv", sep="\t").set_index("name")["planted"]
    assert planted["left_cerebral_cortex"] == pytest.approx(aging.expected("cerebral_cortex", 62, "F"), abs=1e-3)
    assert planted["right_cerebral_cortex"] < planted["left_cerebral_cortex"] - 0.005
    assert planted["left_cerebellar_cortex"] == pytest.approx(aging.expected("cerebellar_cortex", 57, "F"), abs=1e-3)


def test_related_variation_makes_families_and_leaves_the_plain_draws() -> None:
    def drawn(variation) -> np.ndarray:
        return np.log([aging.individual(np.random.default_rng(s), variation) for s in range(600)])

    index = {r.name: i for i, r in enumerate(REGIONS)}
    left = [index[f"left_{kind}"] for kind in ("caudate", "putamen", "thalamus")]
    plain, related = (np.corrcoef(drawn(v)[:, left].T) for v in (aging.PLAIN, aging.RELATED))
    assert np.abs(plain[np.triu_indices(3, 1)]).max() < 0.15
    assert related[0, 1] == pytest.approx(aging.RELATED.shared / (1 + 0.25**2), abs=0.1)
    assert abs(related[0, 2]) < 0.15
    spread = drawn(aging.RELATED)[:, index["left_lateral_ventricle"]].std()
    assert spread == pytest.approx(0.40 * np.hypot(1, 0.25), rel=0.1)
    known = Person("x", "F", 4)
    assert known.variation is aging.PLAIN
