"""The reference people that ship, and the recipe that makes them."""

import numpy as np
import pandas as pd
import pytest

from bids_brainage.cohort import genmind
from bids_brainage.models.registry import PACKAGED, find
from bids_brainage.stats import normative
from bids_brainage.toolbox import main
from bids_brainage.toolbox.genmind.model import DEFAULT
from bids_brainage.training import reference


@pytest.fixture(scope="module")
def shipped():
    return find(DEFAULT, [PACKAGED])


def test_what_ships_is_small_and_says_what_it_is(shipped):
    card = shipped.card
    assert sum(path.stat().st_size for path in shipped.folder.iterdir()) < 5e6
    assert card["training"]["kind"] == "synthetic"
    assert {"LICENSE.txt", "CC-BY-SA-3.0.txt", "SBIA-1.1.txt"} <= {path.name for path in shipped.folder.iterdir()}
    assert any("race" in text for text in card["not_meant_for"])
    assert [entry["n"] for entry in card["categories"]] == [1500, 1500]


def test_the_card_keeps_the_bounds_that_a_reference_must_meet(shipped):
    metrics = shipped.card["metrics"]
    assert metrics["correlation_rmse"]["ratio"] <= 1.1
    for row in metrics["z_of_held_out_people"]:
        assert abs(row["mean"]) < 0.25
        assert 0.85 < row["sd"] < 1.15
        assert 0.03 < row["beyond_1.96"] < 0.08


def test_draws_lie_on_the_shipped_centile_curves(shipped):
    model = genmind.read(shipped)
    drawn = genmind.sample(model, 4000, np.random.default_rng(0), (40, 86))
    assert (drawn.volumes > 0).all()
    curves = normative.arranged(normative.read(PACKAGED / "normative"), drawn.indices)
    z = normative.z_scores(curves, drawn.volumes, drawn.age, drawn.categories["sex"].tolist())
    known = np.isfinite(z).any(axis=0)
    assert known.sum() == 141
    middle = np.nanmedian(z[:, known], axis=0)
    assert np.abs(middle).mean() < 0.05
    assert np.abs(middle).max() < 0.3


def test_it_is_drawn_from_and_matched_without_a_name(tmp_path, capsys):
    drawn, out = tmp_path / "people.tsv", tmp_path / "matched"
    assert main(["genmind", "sample", "--n", "40", "--ages", "30", "80", "--out", str(drawn)]) == 0
    assert DEFAULT in capsys.readouterr().out
    assert main(["genmind", "match", str(drawn), "--out", str(out), "--k", "20"]) == 0
    z = pd.read_csv(out / "z.tsv", sep="\t").filter(like="MUSE_").to_numpy()
    assert z.shape == (40, 145)
    assert abs(np.median(z)) < 0.2


def test_the_recipe_gives_the_same_bytes_again(tmp_path, shared_data, capsys):
    data = shared_data / "muse"
    tables = [data / f"ixi_dlmuse_{name}.tsv" for name in ("1mm", "2mm", "2mm_same_heads")]
    centiles = {sex: data / f"istaging_cn_centiles_{sex}.tsv" for sex in ("female", "male")}
    made = [
        reference.fit(*tables, **centiles, out=tmp_path / folder / "reference", n=60, halves=2) for folder in ("a", "b")
    ]
    assert made[0].digest == made[1].digest
    left_out = made[0].card["training"]["left_out"]
    assert left_out.keys() == {"IXI012-HH-1211", "IXI256-HH-1723"}
    one = ["train", "reference", "--table", tables[0], "--coarse-table", tables[1], "--same-heads", tables[2]]
    one += ["--female", centiles["female"], "--male", centiles["male"], "--out", tmp_path / "c", "--n", "2"]
    assert main(list(map(str, one))) == 2
    assert "--n must be at least" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
