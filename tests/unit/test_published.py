"""Released GenMIND files become plain arrays, and nothing in them is run."""

import builtins
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pickles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from bids_brainage.bids.region_names import index_of, region_labels
from bids_brainage.cohort import published, unpickle
from bids_brainage.core.errors import BrainAgeError, UsageError
from bids_brainage.image.muse import regions


def as_npz(path: Path, content: bytes, key: str = "model") -> Path:
    """A file whose array of one object has this pickle."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{key}.npy", stream.getvalue() + content)
    return path


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
@pytest.mark.parametrize("columns", [pickles.COLUMNS, np.array(pickles.COLUMNS), np.array(pickles.COLUMNS, object)])
def test_what_was_fitted_comes_back(tmp_path, algorithm, columns):
    values = pickles.people()
    path = pickles.write(tmp_path, pickles.contents(values, columns, algorithm=algorithm), "kde_black_male.npz")
    (found,) = published.read_published([path])
    assert (found.race, found.sex, found.bandwidth) == ("Black", "M", pickles.BANDWIDTH)
    assert found.indices == tuple(region.number for region in regions())
    np.testing.assert_allclose(found.mean + found.scale * found.centres, values, rtol=1e-12)


def test_age_comes_last_wherever_it_stood(tmp_path):
    values = pickles.people()
    moved = np.hstack([values[:, -1:], values[:, :-1]])
    path = pickles.write(tmp_path, pickles.contents(moved, ["age", *pickles.COLUMNS[:-1]]))
    (found,) = published.read_published([path])
    np.testing.assert_allclose(found.mean + found.scale * found.centres, values, rtol=1e-12)


def test_col_dict_names_the_columns(tmp_path):
    columns = [*(f"H_c{i}" for i in range(145)), "Age"]
    path = pickles.write(tmp_path, pickles.contents(pickles.people(), columns))
    with pytest.raises(UsageError, match=r"no MUSE region \(H_c0, H_c1, H_c2\); give col_dict.npz"):
        published.read_published([path])
    names = dict(zip(columns, [region.name for region in regions()], strict=False))
    for mapping in (names, {new: old for old, new in names.items()}):
        other = pickles.write(tmp_path, mapping, published.NAMES, "dict")
        (found,) = published.read_published([path, other])
        assert found.indices == tuple(region.number for region in regions())


def test_an_index_of_pandas_is_read(tmp_path):
    columns = pd.Index(np.array(pickles.COLUMNS, object), dtype=object)
    path = pickles.write(tmp_path, pickles.contents(pickles.people(), columns))
    assert published.read_published([path])


class Evil:
    """Calls something with something where it is unpickled."""

    def __init__(self, what, *arguments):
        self.call = (what, arguments)

    def __reduce__(self):
        return self.call


EVIL = {
    "system": lambda p: Evil(os.system, f"touch {p}"),
    "eval": lambda p: Evil(builtins.eval, f"open({str(p)!r}, 'w')"),
    "open": lambda p: Evil(open, str(p), "w"),
    "load": lambda p: Evil(np.load, str(p), None, True),
    "nested": lambda p: {"model": [Evil(getattr, Evil(__import__, "os"), "system")]},
    "inside an array": lambda p: {"columns": np.array([Evil(os.system, f"touch {p}")], dtype=object)},
    "beside a density": lambda p: pickles.contents(pickles.people()) | {"more": Evil(os.system, f"touch {p}")},
}


@pytest.mark.parametrize("name", EVIL)
def test_a_pickle_that_calls_is_refused(tmp_path, name):
    path = pickles.write(tmp_path, EVIL[name](tmp_path / "ran"))
    with pytest.raises(UsageError, match=r"names .*; nothing in it was run, and it is refused") as caught:
        published.read_published([path])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_evil_files_are_evil(tmp_path):
    pickle.loads(pickle.dumps(EVIL["system"](tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


GENUINE = pickle.dumps(np.array(pickles.contents(pickles.people(8)), dtype=object), protocol=4)
KDE = b"csklearn.neighbors._kde\nKernelDensity\n"
PROGRAMS = {
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02Pposix\n.",
    "binary persistent id": b"\x80\x02K\x01Q.",
    "INST": b"(S'touch x'\niposix\nsystem\n.",
    "INST of an admitted class": b"(isklearn.neighbors._kde\nKernelDensity\n.",
    "OBJ": b"(" + KDE + b"o.",
    "NEWOBJ_EX": KDE + b")}\x92.",
    "a name with dots": b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
    "another name of numpy": b"cnumpy\nload\n.",
    "an alias of a module": b"cnumpy.testing._private.utils\nruncommand\n.",
    "state of a class": KDE + b"}\x8c\x0c__setstate__K\x01sb.",
    "state of a class by slots": KDE + b"N}\x8c\x08__call__K\x01s\x86b.",
    "state of a number": b"K\x01}b.",
    "a call of a text": b"\x8c\x02os)R.",
    "a call of what was made": KDE + b")\x81)R.",
    "arguments that are no tuple": KDE + b"]R.",
    "a key that is no text": b"}K\x01K\x02s.",
    "a key that is a list": b"}]K\x02s.",
    "a dictionary out of pairs": b"(K\x01d.",
    "a list that holds itself": b"]q\x00h\x00a.",
    "a set": b"\x8f.",
    "nothing": b"",
    "no end": b"K\x01",
    "an empty stack": b".",
    "two values": b"K\x01K\x02.",
    "under the mark": b"K\x01(\x85.",
    "a memo that is not there": b"h\x07.",
    "a length that is not there": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a text that is none": b"\x8c\x02\xff\xfe.",
    "rubbish": bytes(range(256)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_tricks_of_opcodes_are_refused(tmp_path, name):
    path = as_npz(tmp_path / "kde_white_male.npz", PROGRAMS[name])
    with pytest.raises(UsageError, match="nothing in it was run") as caught:
        published.read_published([path])
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_made_carries_no_behaviour():
    made = unpickle.Reader({published.DENSITY}).read(KDE + b")\x81}\x8c\x0c__setstate__K\x01sb.")
    assert type(made) is unpickle.Made
    assert made.state == {"__setstate__": 1}
    assert made.maker.pair == published.DENSITY


def test_a_crafted_state_of_an_admitted_class_is_inert(tmp_path):
    content = pickles.contents(pickles.people())
    content["model"].__dict__["__setstate__"] = "os.system"
    content["model"].__dict__["__class__x"] = [1]
    assert published.read_published([pickles.write(tmp_path, content)])


def test_a_pickle_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "MOST_STEPS", 100)
    path = as_npz(tmp_path / "kde_white_male.npz", b"]" + b"K\x01a" * 1000 + b".")
    with pytest.raises(UsageError, match="takes more than 100 steps"):
        published.read_published([path])


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "LARGEST", 1 << 20)
    path = tmp_path / "kde_white_male.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("model.npy", bytes(2 << 20))
    assert path.stat().st_size < 10_000
    with pytest.raises(BrainAgeError, match="too large"):
        published.read_published([path])
    content = bytearray(path.read_bytes())
    for record in (content.find(b"PK\x01\x02") + 24, 22):  # the size that the zip claims
        content[record : record + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(BrainAgeError, match="cannot be read"):
        published.read_published([path])


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_pickles_are_refused_or_read_as_plain_data(data):
    """Bytes of a real file exchanged, taken out or put in: an answer or one kind of error, never anything else."""
    content = bytearray(GENUINE)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = unpickle.array(unpickle.Reader(unpickle.ARRAY | published.ADMITTED).read(bytes(content)))
    except unpickle.NotPlainError:
        return
    assert isinstance(found, np.ndarray)


@given(content=st.binary(max_size=60))
@settings(max_examples=200)
def test_random_programs_are_refused_or_read_as_plain_data(content):
    try:
        found = unpickle.Reader({published.DENSITY}).read(KDE + content + b".")
    except unpickle.NotPlainError:
        return
    assert isinstance(found, unpickle.Made | unpickle.Name | list | dict | tuple | str | bytes | int | float | None)


def _array(shape: bytes, content: bytes, kind: bytes = b"f8") -> bytes:
    dtype = (
        b"cnumpy\ndtype\n(\x8c"
        + bytes([len(kind)])
        + kind
        + b"\x89\x88tR(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
    return start + shape + dtype + b"\x89" + content + b"tb."


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (_array(b"K\x02\x85", b"C\x08" + bytes(8)), "bytes do not fit"),
        (_array(b"J\xff\xff\xff\xff\x85", b"C\x08" + bytes(8)), "impossible shape"),
        (_array(b"(" + b"J\xff\xff\xff\x7f" * 1000 + b"t", b"C\x08" + bytes(8)), "impossible shape"),
        (_array(b"K\x01", b"C\x08" + bytes(8)), "impossible shape"),
        (_array(b"K\x01\x85", b"C\x08" + bytes(8), b"M8"), "type that is not admitted"),
        (_array(b"K\x01\x85", b"C\x08" + bytes(8), b"O8"), "objects do not fit"),
        (_array(b"J\xff\xff\xff\x7f\x85", b"]", b"O8"), "objects do not fit"),
    ],
)
def test_arrays_that_lie_are_refused(content, what):
    made = unpickle.Reader(unpickle.ARRAY).read(content)
    with pytest.raises(unpickle.NotPlainError, match=what):
        unpickle.array(made)


def test_arrays_of_old_and_new_numpy_are_read():
    made = unpickle.Reader(unpickle.ARRAY).read(_array(b"K\x01\x85", b"C\x08" + np.float64(2.5).tobytes()))
    np.testing.assert_array_equal(unpickle.array(made), [2.5])
    for value in (np.arange(6.0).reshape(2, 3), np.arange(6, dtype="i4").reshape(2, 3).T, np.array([">x", "y"])):
        for protocol in (3, 4):
            found = unpickle.array(unpickle.Reader(unpickle.ARRAY).read(pickle.dumps(value, protocol)))
            np.testing.assert_array_equal(found, value)
    assert unpickle.number(unpickle.Reader(unpickle.ARRAY).read(pickle.dumps(np.float64(0.7), 3))) == 0.7


def _changed(**changes):
    return pickles.contents(pickles.people()) | changes


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lambda: _changed(columns=pickles.COLUMNS[:-2]), "regions and 0 ages"),
        (lambda: _changed(columns=[*pickles.COLUMNS[:-2], pickles.COLUMNS[0], "Age"]), "144 regions"),
        (lambda: _changed(columns=[1] * 146), "no texts"),
        (lambda: _changed(scaler=pickles.contents(pickles.people()[:, 1:])["scaler"]), "do not fit each other"),
        (lambda: _changed(model=3), "where a KernelDensity is expected"),
        (lambda: {"model": 3, "columns": pickles.COLUMNS}, "where a KernelDensity is expected"),
        (lambda: {}, "lacks 'columns'"),
        (lambda: None, "holds no dictionary"),
        (lambda: pickles.contents(pickles.people(), kernel="tophat"), "not Gaussian"),
        (lambda: pickles.contents(pickles.people(), metric="manhattan"), "names 'sklearn.metrics"),
        (lambda: pickles.contents(pickles.people() * 1e3), "mean age of"),
    ],
)
def test_what_is_no_released_density_is_refused(tmp_path, content, what):
    with pytest.raises(UsageError, match=what):
        published.read_published([pickles.write(tmp_path, content())])


def test_weights_are_refused(tmp_path):
    content = pickles.contents(pickles.people())
    content["model"].fit(pickles.people(), sample_weight=np.arange(1.0, 41))
    with pytest.raises(UsageError, match="with weights"):
        published.read_published([pickles.write(tmp_path, content)])


def test_other_files_are_refused(tmp_path):
    plain = tmp_path / "kde_white_male.npz"
    np.savez(plain, model=np.arange(3))
    with pytest.raises(UsageError, match="plain array"):
        published.read_published([plain])
    with pytest.raises(UsageError, match="its race and sex are not known"):
        published.read_published([tmp_path / "model.npz"])
    np.savez(plain, other=np.arange(3))
    with pytest.raises(BrainAgeError, match=r"0 model\.npy"):
        published.read_published([plain])
    plain.write_text("no zip")
    with pytest.raises(BrainAgeError, match="cannot be read"):
        published.read_published([plain])
    path = pickles.write(tmp_path, _changed())
    (tmp_path / "again").mkdir()
    with pytest.raises(UsageError, match="comes twice"):
        published.read_published([path, pickles.write(tmp_path / "again", _changed())])


GIVEN = {
    "3rd Ventricle": 4,
    "4th Ventricle": 11,
    "Right Accumbens Area": 23,
    "Brain Stem": 35,
    "Left Cerebellum White Matter": 41,
    "Right Inf Lat Vent": 49,
    "Left Inferior Lateral Ventricle": 50,
    "Right Lateral Ventricle": 51,
    "Left Ventral DC": 62,
    "Cerebellar Vermal Lobules I-V": 71,
    "Cerebellar Vermal Lobules VI-VII": 72,
    "Cerebellar Vermal Lobules VIII-X": 73,
    "Left Basal Forebrain": 75,
    "frontal lobe WM right": 81,
    "fornix left": 90,
    "posterior limb of internal capsule inc. cerebral peduncle right": 93,
    "corpus callosum": 95,
    "Right ACgG  anterior cingulate gyrus": 100,
    "Right Cun cuneus": 114,
    "Left MPoG postcentral gyrus medial segment": 149,
    "Right OpIFG opercular part of the inferior frontal gyrus": 162,
    "Right SFG superior frontal gyrus": 190,
    "H_MUSE_Volume_47": 47,
    "H_47": 47,
    "H_Right Hippocampus": 47,
    "Hippocampus_R": 47,
    "Right Cerebral White Matter": None,
    "Right vessel": None,
    "MUSE_702": None,
    "Hippocampus": None,
    "": None,
}


@pytest.mark.parametrize("name", GIVEN)
def test_names_of_regions(name):
    assert index_of(name) == GIVEN[name]


def test_every_region_is_known_by_its_own_name():
    for region in regions():
        assert index_of(region.name) == region.number
        assert index_of(f"H_{region.name}") == region.number
        assert index_of(region.name.lower()) == region.number


def test_every_region_is_known_by_its_label_in_any_case():
    for index, label in region_labels().items():
        assert {index_of(label), index_of(label.lower()), index_of(f"h_{label.replace(' ', '_')}")} == {index}


def dataset(n: int = 6) -> pd.DataFrame:
    values = pickles.people(n)
    frame = pd.DataFrame(values[:, :-1], columns=[region.name for region in regions()])
    own = {"SampleID": [f"S{i}" for i in range(n)], "Sex": ["F", "M"] * (n // 2), "Race": "Asian", "Age": values[:, -1]}
    return pd.concat([pd.DataFrame(own), frame], axis=1)


def test_the_dataset_is_people(tmp_path):
    frame = dataset()
    frame.to_csv(tmp_path / "genmind_dataset.csv", index=False)
    found = published.read_dataset(tmp_path / "genmind_dataset.csv")
    assert found.who == tuple(frame["SampleID"])
    assert found.icv is None
    assert found.categories["race"].tolist() == ["Asian"] * 6
    np.testing.assert_allclose(found.features, pickles.people(6))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda f: f.drop(columns="Race"), "lacks column race"),
        (lambda f: f.drop(columns="Hippocampus_R"), "144 regions"),
        (lambda f: f.assign(Other=1), "no MUSE region"),
        (lambda f: f.assign(Age="old"), "could not convert"),
        (lambda f: f.assign(Sex="X"), "other than F and M"),
        (lambda f: f.assign(Age=np.nan), "could not convert|no number"),
    ],
)
def test_a_wrong_dataset_is_refused(tmp_path, change, what):
    change(dataset()).to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(UsageError, match=what):
        published.read_dataset(tmp_path / "d.csv")
