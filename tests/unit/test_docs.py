"""The docs say what the code does."""

import re
from pathlib import Path

import pytest

from bids_brainage.bids import outputs
from bids_brainage.core import quality
from bids_brainage.core.flags import FLAGS, table
from bids_brainage.workflows.predict import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
CODE = {path: path.read_text(encoding="utf-8") for path in (ROOT / "bids_brainage").rglob("*.py")}


def test_the_table_of_flags_is_the_code_s():
    assert table() in OUTPUTS


def test_the_table_of_quality_gates_is_the_code_s():
    assert quality.table() in OUTPUTS


@pytest.mark.parametrize("flag", [f for f in FLAGS if f != "unusable"])
def test_every_flag_in_the_docs_is_raised_somewhere(flag):
    assert [path for path, text in CODE.items() if f'"{flag}"' in text and path.name != "flags.py"]


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_explained(column):
    assert f"| `{column}` | {COLUMNS[column]} |" in OUTPUTS


@pytest.mark.parametrize("artefact", outputs.artefact_names())
def test_every_output_is_named(artefact):
    name = outputs._table()["artefacts"][artefact]["name"].partition(".")[0]
    words = re.sub(r"label-(GM|WM|CSF)_|from-.*_to-[^_]*_|space-\{template\}_res-[^_]*_", "", name)
    assert words.split("_")[-1] in OUTPUTS


def test_commands_of_the_readme_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", readme, re.M):
        assert f"\n{target}:" in makefile


def test_ci_calls_the_test_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
