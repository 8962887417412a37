"""The roi model: what changes the age and what must not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bids_brainage.core.bundle import save
from bids_brainage.core.errors import BundleError, ScanError
from bids_brainage.core.types import Sex
from bids_brainage.models import registry
from bids_brainage.models.base import LocalConformal, conformal_half_width, load_model
from bids_brainage.models.roi import ICV, Conversion, RoiInputs, RoiModel, features, read_volumes

NO_FIXTURE_RESET = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


@pytest.fixture(scope="module")
def model() -> RoiModel:
    made = load_model(registry.find("roi", registry.search_path()))
    assert isinstance(made, RoiModel)
    return made


def average(model: RoiModel, sex: Sex | None = "F") -> RoiInputs:
    """The person whose every feature is the mean of training."""
    relative = np.where(model.logged, np.exp(model.mean) - model.offset, model.mean)
    return RoiInputs(relative * model.icv_mean, model.icv_mean, sex)


def write(path: Path, volumes: Mapping[int, float], scale: str | None = "dlmuse-1mm") -> Path:
    rows = [f"{index}\tname\t{volume!r}" for index, volume in volumes.items()]
    path.write_text("\n".join(["index\tname\tvolume_mm3", *rows]) + "\n")
    path.with_suffix(".json").write_text(json.dumps({} if scale is None else {"VolumeScale": scale}))
    return path


def table_of(model: RoiModel, person: RoiInputs) -> dict[int, float]:
    return {ICV: person.icv, 601: 1.0, **dict(zip(model.indices, person.volumes.tolist(), strict=True))}


def age_of(model: RoiModel, *people: RoiInputs) -> list[float]:
    return [prediction.brain_age for prediction in model.predict(people)]


def test_shipped_model_speaks_of_145_regions_and_needs_no_age(model: RoiModel) -> None:
    assert len(model.indices) == len(set(model.indices)) == 145
    assert model.needs == {"muse_volumes", "sex"}
    assert model.logged.sum() == 6


def test_average_person_gets_the_intercept_and_a_finite_interval(model: RoiModel) -> None:
    found = model.predict([average(model)])[0]
    assert found.brain_age == pytest.approx(model.intercept - model.sex_coefficient / 2)
    assert found.brain_age_high - found.brain_age == pytest.approx(found.brain_age - found.brain_age_low)
    assert 5 < found.brain_age_high - found.brain_age < 20
    assert found.flags == ()
    assert (found.model, found.training_data) == ("roi", "real")


@NO_FIXTURE_RESET
@given(factor=st.floats(0.5, 2.0), noise=st.integers(0, 1000))
def test_scaling_all_volumes_with_icv_leaves_the_age(model: RoiModel, factor: float, noise: int) -> None:
    person = average(model)
    volumes = person.volumes * np.exp(np.random.default_rng(noise).normal(0, 0.1, len(person.volumes)))
    one, other = age_of(
        model, RoiInputs(volumes, person.icv, "M"), RoiInputs(volumes * factor, person.icv * factor, "M")
    )
    assert other == pytest.approx(one, abs=1e-6)


@NO_FIXTURE_RESET
@given(k=st.integers(0, 144), change=st.floats(-0.3, 0.3))
def test_each_region_moves_the_age_by_its_own_coefficient(model: RoiModel, k: int, change: float) -> None:
    person = average(model)
    volumes = person.volumes.copy()
    volumes[k] *= 1 + change
    before, after = age_of(model, person, RoiInputs(volumes, person.icv, person.sex))
    old, new = (
        features(v[None], np.array([person.icv]), model.logged, model.offset)[0, k] for v in (person.volumes, volumes)
    )
    assert after - before == pytest.approx(model.coefficients[k] * (new - old) / model.sd[k], abs=1e-6)


def test_larger_ventricles_look_older(model: RoiModel) -> None:
    person = average(model)
    older = person.volumes.copy()
    older[[model.indices.index(i) for i in (4, 51, 52)]] *= 2
    before, after = age_of(model, person, RoiInputs(older, person.icv, person.sex))
    assert after > before + 0.5


def test_left_and_right_reach_their_own_features_in_any_row_order(model: RoiModel, tmp_path: Path) -> None:
    volumes = table_of(model, average(model))
    volumes[47], volumes[48] = 3000.0, 4000.0
    backwards = dict(reversed(volumes.items()))
    first, second = (
        model.prepare({"muse_volumes": write(tmp_path / f"{n}.tsv", v), "sex": "F"})
        for n, v in enumerate((volumes, backwards))
    )
    assert first.volumes[model.indices.index(47)] == 3000.0
    assert first.volumes[model.indices.index(48)] == 4000.0
    np.testing.assert_array_equal(first.volumes, second.volumes)


def test_missing_sex_is_the_mean_of_both_with_an_interval_over_both(model: RoiModel) -> None:
    woman, man, unknown = model.predict([average(model, sex) for sex in ("F", "M", None)])
    assert woman.brain_age != man.brain_age
    assert unknown.brain_age == pytest.approx((woman.brain_age + man.brain_age) / 2)
    assert unknown.brain_age_low == pytest.approx(min(woman.brain_age_low, man.brain_age_low))
    assert unknown.brain_age_high == pytest.approx(max(woman.brain_age_high, man.brain_age_high))
    assert unknown.flags == ("sex_missing",)


def test_age_beyond_training_is_flagged_and_not_clipped(model: RoiModel) -> None:
    person = average(model)
    steps = np.sign(model.coefficients) * model.sd * 2.0
    for sign in (-1, 1):
        target = model.mean + sign * steps
        relative = np.where(model.logged, np.exp(target) - model.offset, target)
        found = model.predict([RoiInputs(relative * person.icv, person.icv, "F")])[0]
        assert model.age_range is not None
        assert not model.age_range[0] <= found.brain_age <= model.age_range[1]
        assert found.brain_age == pytest.approx(
            model.predict([person])[0].brain_age + sign * 2 * np.abs(model.coefficients).sum()
        )
        assert "brain_age_outside_training_range" in found.flags


def test_failed_side_and_wrong_unit_are_out_of_distribution(model: RoiModel) -> None:
    person = average(model)
    empty = person.volumes.copy()
    empty[[model.indices.index(i) for i in (48, 58, 60)]] = 0
    failed = RoiInputs(empty, person.icv, "F")
    wrong_unit = RoiInputs(person.volumes / 1000, person.icv / 1000, "F")
    assert ["volumes_out_of_distribution" in p.flags for p in model.predict([failed, wrong_unit, person])] == [
        True,
        True,
        False,
    ]


def test_a_list_gives_what_each_alone_gives(model: RoiModel) -> None:
    rng = np.random.default_rng(0)
    people = [RoiInputs(average(model).volumes * rng.uniform(0.8, 1.2, 145), 1.4e6, sex) for sex in ("F", "M", None)]
    together = model.predict(people)
    assert [p.flags for p in together] == [model.predict([p])[0].flags for p in people]
    assert age_of(model, *people) == pytest.approx([age_of(model, p)[0] for p in people])
    assert model.predict([]) == []


def test_2mm_volumes_are_brought_to_1mm(model: RoiModel, tmp_path: Path) -> None:
    by = model.conversion
    icv = 1.5e6
    centre = np.exp(by.centre - by.regions + by.icv)  # relative to ICV, at 2 mm: what becomes the centre
    coarse = {ICV: icv, **dict(zip(model.indices, (centre * icv * 1.1).tolist(), strict=True))}
    prepared = model.prepare({"muse_volumes": write(tmp_path / "v.tsv", coarse, "dlmuse-2mm"), "sex": "F"})
    assert prepared.icv == pytest.approx(icv * np.exp(by.icv))
    np.testing.assert_allclose(prepared.volumes, np.exp(by.centre) * 1.1**by.slope * prepared.icv)
    assert abs(by.icv + 0.04) < 0.005
    assert 1.0 < by.slope < 1.2


ROUNDED = st.floats(1e-4, 1e-1)


@given(
    volumes=st.lists(ROUNDED, min_size=3, max_size=3),
    ratio=st.floats(-0.5, 0.5),
    slope=st.floats(0.7, 1.4),
    factor=st.floats(0.5, 2.0),
)
def test_conversion_keeps_order_emptiness_and_scale(
    volumes: list[float], ratio: float, slope: float, factor: float
) -> None:
    by = Conversion(np.full(3, ratio), -0.04, np.full(3, -6.0), slope)
    v, icv = np.array(volumes) * 1.4e6, 1.4e6
    converted, new_icv = by(v, icv)
    assert (np.argsort(converted, kind="stable") == np.argsort(v, kind="stable")).all()
    scaled, scaled_icv = by(v * factor, icv * factor)
    np.testing.assert_allclose(scaled, converted * factor)
    assert scaled_icv == pytest.approx(new_icv * factor)
    assert by(np.array([0.0, *v[1:]]), icv)[0][0] == 0.0
    plain = Conversion(by.regions, by.icv, by.centre, 1.0)(v, icv)[0]
    np.testing.assert_allclose(plain, v * np.exp(ratio))
    many, _ = by(np.stack([v, v * factor]), np.array([icv, icv * factor]))
    np.testing.assert_allclose(many, [converted, scaled])


@pytest.mark.parametrize("scale", [None, "dlmuse-3mm", "DLMUSE 2 mm", 2])
def test_unknown_scale_is_refused(tmp_path: Path, scale: Any) -> None:
    with pytest.raises(ScanError, match="VolumeScale"):
        read_volumes(write(tmp_path / "v.tsv", {702: 1.0}, scale))


def test_unreadable_tables_are_refused_with_one_line(tmp_path: Path) -> None:
    alone = write(tmp_path / "alone.tsv", {702: 1.0})
    alone.with_suffix(".json").unlink()
    listed = write(tmp_path / "listed.tsv", {702: 1.0})
    listed.with_suffix(".json").write_text("[]")
    foreign = write(tmp_path / "foreign.tsv", {702: 1.0})
    foreign.write_text("index\tmm3\n702\t1\n")
    words = write(tmp_path / "words.tsv", {702: 1.0})
    words.write_text("index\tname\tvolume_mm3\n702\tICV\tn/a\n")
    short = write(tmp_path / "short.tsv", {702: 1.0})
    short.write_text("index\tname\tvolume_mm3\n702\n")
    for path in (alone, listed, foreign, words, short, tmp_path / "absent.tsv"):
        with pytest.raises(ScanError) as error:
            read_volumes(path)
        assert "\n" not in str(error.value)
        assert path.stem in str(error.value)


@pytest.mark.parametrize(
    ("index", "value"), [(47, None), (47, -1.0), (47, float("nan")), (47, float("inf")), (ICV, 0.0), (ICV, None)]
)
def test_unusable_volume_is_a_failed_scan(model: RoiModel, tmp_path: Path, index: int, value: float | None) -> None:
    volumes = table_of(model, average(model))
    del volumes[index]
    if value is not None:
        volumes[index] = value
    with pytest.raises(ScanError, match=f"MUSE index {index}"):
        model.prepare({"muse_volumes": write(tmp_path / "v.tsv", volumes), "sex": "F"})


def small_bundle(folder: Path, **arguments: Any) -> Path:
    """A bundle of two regions: age = 50 + 3 z_51 + 2 z_47 + 4 sex."""
    folder.mkdir()
    lines = [
        "index\ttransform\tmean\tsd\tcoefficient\tlog_ratio_2mm\tcentre_2mm",
        "702\tnone\t1400000\t100000\t0\tn/a\tn/a",
        "51\tlog\t-5\t0.5\t3\tn/a\tn/a",
        "47\tlinear\t0.002\t0.0002\t2\tn/a\tn/a",
    ]
    (folder / "features.tsv").write_text("\n".join(lines) + "\n")
    (folder / "residuals.tsv").write_text("predicted\tresidual\n" + "".join(f"50\t{r}\n" for r in range(-9, 10)))
    given = {"regressor": "ridge", "scale": "dlmuse-1mm", "converts_2mm": False, "log_offset": 0.0, "intercept": 50.0}
    given |= {"sex_coefficient": 4.0, "coverage": 0.9, "largest_abs_z": 3.0, "slope_2mm": 1.0, "bandwidth": 1e9}
    card = {
        "name": folder.name,
        "architecture": "roi",
        "version": "1",
        "needs": ["muse_volumes", "sex"],
        "licence": "CC0",
    }
    card |= {"training": {"kind": "simulated"}, "metrics": {}, "not_meant_for": [], "age_range": [40.0, 60.0]}
    save(folder, card | {"arguments": given | arguments})
    return folder


def test_arithmetic_by_hand(tmp_path: Path) -> None:
    model = load_model(registry.verified(small_bundle(tmp_path / "small")))
    person = RoiInputs(np.array([np.exp(-4.5) * 1.4e6, 0.0022 * 1.4e6]), 1.4e6, "M")
    found = model.predict([person])[0]
    assert found.brain_age == pytest.approx(50 + 3 * 1 + 2 * 1 + 4 * 0.5)
    mean, mean_of_others = 90 / 19, (90 - 9) / 18
    assert found.brain_age_high == pytest.approx(57 + 9 / mean_of_others * mean)
    assert found.training_data == "simulated"


def test_bundle_without_conversion_refuses_2mm(tmp_path: Path) -> None:
    model = load_model(registry.verified(small_bundle(tmp_path / "small")))
    table = write(tmp_path / "v.tsv", {702: 1.4e6, 51: 9000.0, 47: 3000.0}, "dlmuse-2mm")
    with pytest.raises(ScanError, match="no conversion"):
        model.prepare({"muse_volumes": table, "sex": None})


@pytest.mark.parametrize(
    "arguments", [{"regressor": "forest"}, {"scale": "dlmuse-2mm"}, {"intercept": None}, {"coverage": 2}]
)
def test_bundle_of_another_kind_is_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="train it again"):
        load_model(registry.verified(small_bundle(tmp_path / "small", **arguments)))


def test_conformal_quantile_on_known_arrays() -> None:
    assert conformal_half_width(range(1, 10)) == 9.0
    assert conformal_half_width(range(1, 20)) == 18.0
    assert conformal_half_width([-3, 1, 2], 0.5) == 2.0
    assert conformal_half_width(np.arange(1, 100), 0.99) == 99.0
    assert conformal_half_width(range(1, 9)) == np.inf
    for residuals, coverage in (([], 0.9), ([np.nan], 0.9), ([1.0], 0.0), ([1.0], 1.0)):
        with pytest.raises(ValueError, match="finite residuals"):
            conformal_half_width(residuals, coverage)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=300), st.floats(0.05, 0.99))
def test_conformal_interval_holds_the_promised_share(residuals: list[float], coverage: float) -> None:
    width = conformal_half_width(residuals, coverage)
    share = np.mean(np.abs(residuals) <= width)
    assert share >= min(coverage * (1 + 1 / len(residuals)), 1) - 1e-6


def test_conformal_interval_covers_new_people() -> None:
    rng = np.random.default_rng(0)
    inside = [
        np.mean(np.abs(rng.standard_t(3, 500)) <= conformal_half_width(rng.standard_t(3, 60))) for _ in range(400)
    ]
    assert 0.89 < np.mean(inside) < 0.93


def heteroscedastic(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions between 20 and 80, with residuals whose SD falls from 9 to 3 years."""
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(20, 80, n)
    return predicted, rng.normal(0, 9 - (predicted - 20) / 10)


def test_local_interval_covers_every_third_of_new_people() -> None:
    inside = []
    for seed in range(100):
        interval = LocalConformal(*heteroscedastic(250, seed), 0.9, 8.0)
        predicted, residual = heteroscedastic(300, 1000 + seed)
        covered = np.abs(residual) <= interval.half_width(predicted)
        inside.append([covered[(low <= predicted) & (predicted < low + 20)].mean() for low in (20, 40, 60)])
    shares = np.mean(inside, axis=0)
    assert (shares > 0.88).all()
    assert (shares < 0.93).all()
    young, old = interval.half_width([25.0, 75.0])
    assert young > 1.5 * old
    one_width = LocalConformal(*heteroscedastic(250, 0), 0.9, np.inf).half_width([25.0, 75.0])
    assert one_width[0] == one_width[1]


@given(st.integers(2, 80), st.integers(0, 1000), st.floats(0.1, 10), st.floats(0.5, 50), st.floats(-1e4, 1e4))
def test_local_interval_grows_with_the_residuals_and_stays_finite(
    n: int, seed: int, factor: float, bandwidth: float, at: float
) -> None:
    predicted, residual = heteroscedastic(n, seed)
    coverage = 0.9 * n / (n + 1)
    width = LocalConformal(predicted, residual, coverage, bandwidth).half_width(at)
    assert np.isfinite(width)
    assert width >= 0
    scaled = LocalConformal(predicted, -factor * residual, coverage, bandwidth).half_width(at)
    assert scaled == pytest.approx(factor * width)


def test_local_interval_refuses_what_it_cannot_use() -> None:
    for predicted, residual, coverage, bandwidth in (
        ([], [], 0.9, 8.0),
        ([1.0], [np.nan], 0.9, 8.0),
        ([1.0, 2.0], [1.0], 0.9, 8.0),
        ([np.inf, 2.0], [1.0, 1.0], 0.9, 8.0),
        ([1.0, 2.0], [1.0, 1.0], 0.9, 0.0),
    ):
        with pytest.raises(ValueError, match="are needed"):
            LocalConformal(predicted, residual, coverage, bandwidth)


def test_contributions_and_the_mean_add_up_to_the_brain_age():
    from bids_brainage.models.registry import PACKAGED, find

    shipped = load_model(find("roi", [PACKAGED]))
    rng = np.random.default_rng(0)
    typical = np.where(shipped.logged, np.exp(shipped.mean), shipped.mean) * 1.5e6
    people = [shipped.inputs(typical * rng.normal(1, 0.1, len(typical)), 1.5e6, sex) for sex in ("F", "M", None)]
    for prediction, parts in zip(shipped.predict(people), shipped.explain(people), strict=True):
        assert shipped.intercept + sum(part.years for part in parts) == pytest.approx(prediction.brain_age)
        assert [part.number for part in parts] == [*shipped.indices, 0]
    assert [parts[-1].years for parts in shipped.explain(people)] == pytest.approx(
        [-shipped.sex_coefficient / 2, shipped.sex_coefficient / 2, 0]
    )
    assert shipped.explain([]) == []
