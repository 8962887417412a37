"""The table of contributions: years that add up, and centiles where age and sex are known."""

import json
from pathlib import Path

import numpy as np
import pytest

from bids_brainage.bids.tables import read_tsv
from bids_brainage.core.types import Age, Scan
from bids_brainage.models.base import load_model
from bids_brainage.models.registry import PACKAGED, find
from bids_brainage.stats import normative
from bids_brainage.workflows.predict import EXPLAINED, predict

ROI = PACKAGED / "roi"
CURVES = PACKAGED / "normative"


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Volumes of a typical person at 1 mm, the right hippocampus (47) small."""
    model = load_model(find("roi", [PACKAGED]))
    typical = np.where(model.logged, np.exp(model.mean), model.mean) * 1.45e6
    values = dict(zip(model.indices, typical, strict=True)) | {702: 1.45e6}
    values[47] *= 0.7
    path = tmp_path / "v.tsv"
    path.write_text("\n".join(["index\tname\tvolume_mm3", *(f"{i}\tx\t{v:.3f}" for i, v in values.items())]) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"VolumeScale": "dlmuse-1mm"}))
    return path


def run(volumes: Path, out: Path, age: Age, sex: str | None) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    out.mkdir()
    scan = Scan(Path("x"), {"sub": "1"}, age=age, sex=sex)
    made = predict((ROI,), scan, CURVES, out=out, muse_volumes=volumes)
    return read_tsv(made.brainage)[0], {int(row["index"]): row for row in read_tsv(made.contributions)}


def test_years_add_up_and_a_small_region_has_a_low_centile(volumes: Path, tmp_path: Path) -> None:
    table, regions = run(volumes, tmp_path / "out", Age(60.0, ""), "F")
    assert list(regions[47]) == list(EXPLAINED)
    start = float(json.loads((ROI / "model.json").read_text())["arguments"]["intercept"])
    assert start + sum(float(row["years"]) for row in regions.values()) == pytest.approx(
        float(table["brain_age"]), abs=0.1
    )
    assert float(regions[47]["centile"]) < 5 < float(regions[48]["centile"])
    curves = normative.arranged(normative.read(CURVES), [48])
    expected = normative.centiles(curves, [[float(regions[48]["volume_mm3"])]], [60.0], ["F"])[0, 0]
    assert float(regions[48]["centile"]) == pytest.approx(expected, abs=1)
    assert (regions[0]["name"], regions[0]["centile"], regions[0]["volume_mm3"]) == ("sex", "n/a", "n/a")


@pytest.mark.parametrize(("age", "sex"), [(Age(), "F"), (Age(60.0, ""), None), (Age(25.0, ""), "M")])
def test_no_centile_without_age_or_sex_or_beyond_the_curves(
    volumes: Path, tmp_path: Path, age: Age, sex: str | None
) -> None:
    _, regions = run(volumes, tmp_path / "out", age, sex)
    assert {row["centile"] for row in regions.values()} == {"n/a"}
    assert any(abs(float(row["years"])) > 0.05 for row in regions.values())
