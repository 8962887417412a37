"""A typed function becomes a Nipype node."""

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nipype.pipeline import engine as pe

from bids_brainage.core.errors import ScanError
from bids_brainage.core.files import write_text
from bids_brainage.workflows import node as nodes
from bids_brainage.workflows.node import REASON, convert, node, plain


class Made(NamedTuple):
    file: Path
    number: float
    words: tuple[str, ...]


def stage(source: Path, factor: float, folder: Path | None = None, *, out: Path, **artefacts: Path) -> Made:
    assert isinstance(source, Path)
    text = source.read_text() * int(factor) + "".join(sorted(artefacts))
    if folder is not None:
        assert isinstance(folder, Path)
        text += (folder / "content").read_text()
    return Made(write_text(out / "made.txt", text), factor / 3, ("a", "b"))


def failing(source: Path, *, out: Path) -> Made:
    raise ScanError(f"{source}: is not good; mend it")


HERE = f"{__name__}:stage"


def run(tmp_path, **constants):
    """Outputs of the stage in a workflow, and whether it was taken from the cache."""
    workflow = pe.Workflow("wf", base_dir=str(tmp_path / "work"))
    workflow.add_nodes([node(HERE, "stage", mem_gb=0.5, n_procs=2, constants=constants)])
    workflow.config["execution"] = {"hash_method": "content", "crashdump_dir": str(tmp_path)}
    result = tmp_path / "work" / "wf" / "stage" / "made.txt"
    before = result.stat().st_mtime_ns if result.exists() else None
    ran = workflow.run()
    outputs = next(iter(ran.nodes)).result.outputs
    return outputs, result.stat().st_mtime_ns == before


@pytest.fixture
def source(tmp_path):
    return write_text(tmp_path / "source.txt", "x")


def test_values_keep_their_types_and_resources_are_set(tmp_path, source):
    outputs, _ = run(tmp_path, source=source, factor=2.0)
    assert Path(outputs.file).read_text() == "xx"
    assert outputs.number == 2 / 3
    assert outputs.words == ("a", "b")
    made = node(HERE, "named", mem_gb=3.5, n_procs=2, constants={"source": source, "factor": 1.0})
    assert (made.name, made.mem_gb, made.n_procs) == ("named", 3.5, 2)


def test_the_same_inputs_are_not_run_again_and_changed_content_is(tmp_path, source):
    assert run(tmp_path, source=source, factor=1.0)[1] is False
    assert run(tmp_path, source=source, factor=1.0)[1] is True
    source.write_text("y")
    outputs, cached = run(tmp_path, source=source, factor=1.0)
    assert cached is False
    assert Path(outputs.file).read_text() == "y"


def test_a_folder_is_known_by_its_content_not_by_its_name(tmp_path, source):
    folder = write_text(tmp_path / "bundle" / "content", "1").parent
    run(tmp_path, source=source, factor=1.0, folder=folder)
    assert run(tmp_path, source=source, factor=1.0, folder=folder)[1] is True
    write_text(folder / "content", "2")
    outputs, cached = run(tmp_path, source=source, factor=1.0, folder=folder)
    assert cached is False
    assert Path(outputs.file).read_text() == "x2"


def test_artefacts_of_any_name_are_handed_on(tmp_path, source):
    made = node(HERE, "stage", mem_gb=1, artefacts=("zeta", "alpha"), constants={"source": source, "factor": 1.0})
    made.base_dir = str(tmp_path)
    made.inputs.zeta = made.inputs.alpha = str(source)
    assert Path(made.run().outputs.file).read_text() == "xalphazeta"


def test_a_failed_stage_leaves_its_reason(tmp_path, source):
    made = node(f"{__name__}:failing", "failing", mem_gb=1, constants={"source": source})
    made.base_dir = str(tmp_path)
    with pytest.raises(Exception, match="is not good"):
        made.run()
    assert (tmp_path / "failing" / REASON).read_text() == f"{source}: is not good; mend it"


@given(st.recursive(st.text(min_size=1).map(Path), lambda inner: st.lists(inner).map(tuple), max_leaves=5))
def test_paths_travel_as_strings(value):
    def strings(item):
        return all(strings(i) for i in item) if isinstance(item, tuple) else isinstance(item, str)

    assert strings(plain(value))


def test_conversion_follows_the_annotation():
    assert convert("x", Path) == Path("x")
    assert convert(["x", "y"], tuple[Path, ...]) == (Path("x"), Path("y"))
    assert convert({"a": "x"}, dict[str, Path]) == {"a": Path("x")}
    assert convert(None, Path | None) is None
    assert convert(1.25, float) == 1.25


def spaced(template: str = "A", threads: int = 1, *, out: Path) -> Made:
    return Made(write_text(out / "made.txt", template), 1.0, ())


def test_a_template_is_known_by_its_files_and_threads_are_no_part_of_a_result(monkeypatch):
    files = {"A": "1", "B": "1"}
    monkeypatch.setattr(nodes, "_template_behind", lambda name: files[name])

    def key(**constants):
        made = node(f"{__name__}:spaced", "spaced", mem_gb=1, constants=constants)
        return made.inputs.get_hashval("content")[1]

    before = key(template="A", threads=1)
    assert key(template="A", threads=4) == before
    assert key(template="B", threads=1) != before
    default = key()
    files["A"] = "2"
    assert key(template="A", threads=1) != before
    assert key() != default


def test_a_result_whose_files_are_gone_is_made_again(tmp_path, source):
    outputs, _ = run(tmp_path, source=source, factor=1.0)
    Path(outputs.file).unlink()
    outputs, cached = run(tmp_path, source=source, factor=1.0)
    assert cached is False
    assert Path(outputs.file).read_text() == "x"


def test_a_work_folder_may_be_moved(tmp_path, source):
    (tmp_path / "a").mkdir()
    run(tmp_path / "a", source=source, factor=1.0)
    (tmp_path / "a").rename(tmp_path / "b")
    outputs, _ = run(tmp_path / "b", source=source, factor=1.0)
    assert Path(outputs.file).read_text() == "x"
