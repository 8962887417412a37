"""``brainage genmind harmonize`` and ``import`` on small files."""

import numpy as np
import pandas as pd
import pickles
import pytest

from bids_brainage.cohort import store
from bids_brainage.core import bundle
from bids_brainage.image.muse import regions
from bids_brainage.toolbox import main

CONTROLS = ("--controls", "diagnosis == 'CN'")


def table(n: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age, icv = np.linspace(50, 80, n), rng.normal(1.4e6, 1e5, n)
    volumes = 5000 + shift - 10 * (age - 65)[:, None] + rng.normal(0, 300, (n, 145))
    own = {
        "participant_id": [f"{seed}-{i}" for i in range(n)],
        "age": age,
        "sex": rng.choice(["F", "M"], n),
        "site": "here",
        "diagnosis": np.where(np.arange(n) % 3, "CN", "AD"),
        "MUSE_702": icv,
    }
    names = [f"MUSE_{region.number}" for region in regions()]
    return pd.concat([pd.DataFrame(own), pd.DataFrame(volumes, columns=names)], axis=1)


@pytest.fixture
def given(tmp_path):
    table(60, 1, shift=400).to_csv(tmp_path / "study.tsv", sep="\t", index=False)
    table(80, 2).to_csv(tmp_path / "reference.tsv", sep="\t", index=False)
    return tmp_path


def harmonize(folder, *more: str) -> int:
    return main(["genmind", "harmonize", str(folder / "study.tsv"), *map(str, more)])


def one_line(capsys, what):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("brainage: ")]
    assert what in line


def test_a_study_is_harmonised_and_the_fit_serves_again(given, capsys):
    fit = ("--reference", given / "reference.tsv", *CONTROLS, "--save", given / "fit")
    assert harmonize(given, *fit, "--out", given / "a.tsv") == 0
    assert capsys.readouterr().out == "here\t40 controls\t50.5-80.0 years\t78 reference people\n"
    first = pd.read_csv(given / "a.tsv", sep="\t")
    volumes = first.filter(regex=r"^MUSE_(?!702)")
    assert abs(volumes.to_numpy().mean() - 5000) < 30
    study = pd.read_csv(given / "study.tsv", sep="\t")
    rest = [name for name in study if name not in volumes]
    pd.testing.assert_frame_equal(first[rest], study[rest])
    assert harmonize(given, "--fitted", given / "fit", "--out", given / "b.tsv") == 0
    assert (given / "a.tsv").read_bytes() == (given / "b.tsv").read_bytes()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--reference", "reference.tsv"), "patients must not fit it"),
        (("--reference", "reference.tsv", *CONTROLS, "--site-column", "x"), "has no column 'x'"),
        (("--reference", "reference.tsv", "--controls", "age < 55"), "20 are needed"),
        (("--reference", "absent.tsv", *CONTROLS), "absent.tsv"),
        (("--fitted", "absent"), "holds no model.json"),
        (("--fitted", "absent", *CONTROLS), "nothing is fitted"),
    ],
)
def test_what_cannot_be_harmonised_is_one_line(given, capsys, monkeypatch, more, what):
    monkeypatch.chdir(given)
    assert harmonize(given, *more, "--out", "out.tsv") == 2
    one_line(capsys, what)
    assert not (given / "out.tsv").exists()


@pytest.mark.parametrize("name", ["study.tsv", "reference.tsv"])
def test_a_table_is_not_written_over_itself(given, capsys, name):
    before = (given / name).read_bytes()
    assert harmonize(given, "--reference", given / "reference.tsv", *CONTROLS, "--out", given / name) == 2
    one_line(capsys, f"{name}: is one of the tables themselves")
    assert (given / name).read_bytes() == before


def test_a_region_that_harmonising_emptied_does_not_lose_its_person(given, capsys):
    """Small ventricles come out below nothing and are 0: who has them would be left out of all that follows."""
    study = table(60, 1)
    study.loc[7, "MUSE_50"] = 0.0
    study.to_csv(given / "study.tsv", sep="\t", index=False)
    assert harmonize(given, "--reference", given / "reference.tsv", *CONTROLS, "--out", given / "a.tsv") == 0
    assert main(["genmind", "match", str(given / "study.tsv"), "--k", "5", "--out", str(given / "matched")]) == 0
    assert len(pd.read_csv(given / "matched" / "z.tsv", sep="\t")) == 60


def test_a_reference_without_icv_serves_and_is_said(given, capsys):
    table(80, 2).drop(columns="MUSE_702").to_csv(given / "reference.tsv", sep="\t", index=False)
    assert harmonize(given, "--reference", given / "reference.tsv", *CONTROLS, "--out", given / "a.tsv") == 0
    assert "head size is no covariate" in capsys.readouterr().err
    in_cm3 = table(80, 2).drop(columns="MUSE_702")
    in_cm3.iloc[:, 5:] /= 1000
    in_cm3.to_csv(given / "reference.tsv", sep="\t", index=False)
    assert harmonize(given, "--reference", given / "reference.tsv", *CONTROLS, "--out", given / "b.tsv") == 2
    one_line(capsys, "looks like cm^3")


def test_a_row_that_is_not_complete_is_named(given, capsys):
    table(80, 2).assign(age=[*range(79), "n/a"]).to_csv(given / "reference.tsv", sep="\t", index=False)
    assert harmonize(given, "--reference", given / "reference.tsv", *CONTROLS, "--out", given / "a.tsv") == 2
    one_line(capsys, "age is missing, censored or no number in 1 rows (2-79)")


def test_released_files_become_a_bundle(tmp_path, capsys):
    values = pickles.people()
    path = pickles.write(tmp_path, pickles.contents(values), "kde_asian_female.npz")
    frame = pd.DataFrame(values[:, :-1], columns=[region.name for region in regions()])
    own = pd.DataFrame({"SampleID": [f"S{i}" for i in range(40)], "Sex": "F", "Race": "Asian", "Age": values[:, -1]})
    data = tmp_path / "genmind_dataset.csv"
    pd.concat([own, frame], axis=1).to_csv(data, index=False)
    assert main(["genmind", "import", str(path), str(data), "--out", str(tmp_path / "made")]) == 0
    assert capsys.readouterr().out == "Asian\tF\t40 centres\tbandwidth 0.7\ndataset\t40 people\n"
    (found,), people = store.load_published(tmp_path / "made")
    np.testing.assert_allclose(found.mean + found.scale * found.centres, values)
    np.testing.assert_allclose(people.features, values)
    assert people.categories["race"].tolist() == ["Asian"] * 40
    assert main(["genmind", "import", str(path), "--out", str(tmp_path / "made")]) == 2
    one_line(capsys, "is there already")


def test_imported_densities_are_drawn_from_and_matched(tmp_path, capsys):
    values = pickles.people(200)
    other = pickles.contents(values[:, [*range(144, -1, -1), 145]], [*pickles.COLUMNS[144::-1], "Age"])
    for name, content in (("black_male", other), ("white_female", pickles.contents(values))):
        pickles.write(tmp_path, content, f"kde_{name}.npz")
    made = tmp_path / "made"
    assert main(["genmind", "import", str(tmp_path), "--out", str(made)]) == 0
    model = store.read_generator(bundle.load(made))
    assert model.by == ("sex", "race")
    for found in model.densities.values():
        assert (found.kernel, found.bandwidth) == ("published", pickles.BANDWIDTH)
        np.testing.assert_allclose(found.centres * found.scale + found.mean, values)
        np.testing.assert_allclose(found.least, values.min(axis=0))
    drawn = tmp_path / "drawn.tsv"
    assert main(["genmind", "sample", str(made), "--n", "2000", "--out", str(drawn)]) == 0
    frame = pd.read_csv(drawn, sep="\t")
    assert set(zip(frame["sex"], frame["race"], strict=True)) == {("F", "White"), ("M", "Black")}
    spread = frame.filter(like="MUSE_").std().to_numpy() / values[:, :-1].std(axis=0)
    assert spread.mean() == pytest.approx(np.sqrt(1 + pickles.BANDWIDTH**2), abs=0.01)
    study = tmp_path / "study.tsv"
    frame.query("50 <= age <= 80").head(3).to_csv(study, sep="\t", index=False)
    assert main(["genmind", "match", str(made), str(study), "--out", str(tmp_path / "m")]) == 0
    assert len(pd.read_csv(tmp_path / "m" / "z.tsv", sep="\t")) == 3


def test_an_imported_dataset_alone_is_no_model(tmp_path, capsys):
    frame = pd.DataFrame(pickles.people(4)[:, :-1], columns=[region.name for region in regions()])
    own = {"SampleID": list("abcd"), "Sex": "F", "Race": "Asian", "Age": 50.0}
    pd.concat([pd.DataFrame(own), frame], axis=1).to_csv(tmp_path / "genmind_dataset.csv", index=False)
    assert main(["genmind", "import", str(tmp_path), "--out", str(tmp_path / "made")]) == 0
    assert main(["genmind", "sample", str(tmp_path / "made"), "--out", str(tmp_path / "s.tsv")]) == 2
    one_line(capsys, "holds people and no densities")


def test_what_cannot_be_imported_leaves_nothing(tmp_path, capsys):
    path = pickles.write(tmp_path, {"model": 1})
    assert main(["genmind", "import", str(path), "--out", str(tmp_path / "made")]) == 2
    one_line(capsys, "lacks 'columns'")
    assert main(["genmind", "import", str(tmp_path / "absent.npz"), "--out", str(tmp_path / "made")]) == 2
    one_line(capsys, "no such file")
    other = pickles.write(tmp_path, {}, "col_dict.npz", "dict")
    assert main(["genmind", "import", str(other), "--out", str(tmp_path / "made")]) == 2
    one_line(capsys, "is or holds no density and no dataset")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["col_dict.npz", "kde_white_female.npz"]
