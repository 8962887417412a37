"""Ages and sexes as people write them, and the tables they stand in."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import make_dataset, t1w, tsv, write

from bids_brainage.bids.ages import Register, parse_age, parse_sex
from bids_brainage.bids.tables import cell, join_people, participants_frame, read_tsv, write_tsv
from bids_brainage.core.errors import UsageError


@pytest.mark.parametrize(
    ("written", "units", "years"),
    [
        ("38.78", None, 38.78),
        ("24", "years", 24),
        (" 24.0 ", "Year", 24),
        ("30", "yr", 30),
        ("30", "n/a", 30),
        (".5", "", 0.5),
        ("0", "years", 0),
        ("18", "months", 1.5),
        ("26", "weeks", 26 * 7 / 365.25),
        ("14610", "days", 40),
        ("1e1", "y", 10),
    ],
)
def test_ages_in_their_units(written: str, units: str | None, years: float) -> None:
    age = parse_age(written, units)
    assert age.years == pytest.approx(years)
    assert age.note == ""


@pytest.mark.parametrize(
    ("written", "units", "said"),
    [
        ("89+", None, "censored"),
        (">89", None, "censored"),
        ("≥ 90", None, "censored"),
        ("90 or older", None, "censored"),
        ("over 89", None, "censored"),
        ("n/a", None, "missing"),
        ("", None, "missing"),
        ("NaN", None, "missing"),
        ("-5", None, "negative"),
        ("adult", None, "not a number"),
        ("70-75", None, "not a number"),
        ("72,5", None, "not a number"),
        ("7_5", None, "not a number"),
        ("045Y", None, "not a number"),
        ("inf", None, "not a number"),
        ("٣٠", None, "not a number"),
        ("480", None, "check Units"),
        ("30", "decades", "decades"),
        ("30", ["years"], "years"),
    ],
)
def test_ages_that_are_none_say_why_and_what_was_written(written: str, units: object, said: str) -> None:
    age = parse_age(written, units, "some.tsv")
    assert age.years is None
    assert said in age.note
    assert "some.tsv" in age.note
    assert written.strip() in age.note or said == "missing"


@given(st.floats(0, 120))
def test_any_age_in_years_is_kept(years: float) -> None:
    assert parse_age(repr(years)).years == years


@given(st.text())
def test_any_text_gives_an_age_or_a_reason(text: str) -> None:
    age = parse_age(text)
    assert (age.years is None) == bool(age.note)
    assert age.years is None or 0 <= age.years <= 125


@pytest.mark.parametrize(
    ("written", "levels", "sex"),
    [
        *[(w, None, "F") for w in ("F", "f", "female", "Female", "WOMAN")],
        *[(w, None, "M") for w in ("M", "m", "male", "Male", "man")],
        ("1", {"1": "male", "2": "female"}, "M"),
        ("2", {"1": "male", "2": "Female participants"}, "F"),
        ("0", {"0": {"Description": "female"}}, "F"),
        ("m", {"M": "masculino", "F": "femenino"}, "M"),
        ("W", {"w": "woman", "m": "man"}, "F"),
        ("M", {"M": "mother (female)", "F": "father (male)"}, "F"),
        ("1", None, None),
        ("0", {}, None),
        ("1", {"1": "male or female"}, None),
        ("1", {"1": "group m"}, None),
        ("O", {"O": "other"}, None),
        ("n/a", None, None),
    ],
)
def test_sex_codes(written: str, levels: object, sex: str | None) -> None:
    found, note = parse_sex(written, levels)
    assert found == sex
    assert bool(note) == (sex is None)


@given(st.text(), st.none() | st.dictionaries(st.text(max_size=3), st.text() | st.integers()))
def test_any_text_gives_a_sex_or_a_reason(text: str, levels: object) -> None:
    sex, note = parse_sex(text, levels)
    assert (sex is None) == bool(note)


def register(tmp_path: Path, participants: str, **more: object) -> Register:
    return Register(make_dataset(tmp_path / "ds", participants=participants, **more))


def test_session_comes_before_participant_and_units_are_each_files_own(tmp_path: Path) -> None:
    people = register(
        tmp_path,
        tsv("participant_id age sex", "sub-01 600 F", "sub-02 n/a M"),
        participants_json={"age": {"Units": "months"}},
        extra={
            "sub-01/sub-01_sessions.tsv": tsv("session_id age sex", "ses-a 18628 n/a", "b 52 F", "ses-c n/a F"),
            "sub-01/sub-01_sessions.json": {"age": {"Units": "days"}},
        },
    )
    assert people.of("01", "a", 3).age.years == pytest.approx(51.0, abs=0.01)
    assert people.of("01", "a", 3).flags == ()
    assert people.of("01", "a", 3).sex == "F"
    assert people.of("01", "b", 3).age.years == pytest.approx(52 / 365.25)
    assert people.of("01", "c", 3).age.years is None
    assert "sessions.tsv" in people.of("01", "c", 3).age.note
    assert people.of("01", "d", 3).age.years == 50
    assert people.of("01", "d", 3).flags == ("age_not_by_session",)
    assert people.of("01").age.years == 50
    assert people.of("02").age.note == "age is missing in participants.tsv"


def test_inherited_dictionary_of_sessions(tmp_path: Path) -> None:
    extra = {
        "sessions.json": {"age": {"Units": "weeks"}},
        "sub-01/sub-01_sessions.tsv": tsv("session_id age", "ses-a 522"),
    }
    people = register(tmp_path, tsv("participant_id", "sub-01"), extra=extra)
    assert people.of("01", "a").age.years == pytest.approx(10.0, abs=0.01)


def test_a_session_without_age_takes_the_participants_where_it_is_the_only_one(tmp_path: Path) -> None:
    extra = {"sub-01/sub-01_sessions.tsv": tsv("session_id age", "ses-a n/a")}
    people = register(tmp_path, tsv("participant_id age", "sub-01 50"), extra=extra)
    assert people.of("01", "a", 1).age.years == 50
    assert people.of("01", "a", 2).age.years is None


def test_censored_session_is_not_replaced(tmp_path: Path) -> None:
    extra = {"sub-01/sub-01_sessions.tsv": tsv("session_id age", "ses-a 89+")}
    people = register(tmp_path, tsv("participant_id age", "sub-01 88"), extra=extra)
    assert "censored" in people.of("01", "a", 1).age.note


def test_participants_with_sessions_in_one_table(tmp_path: Path) -> None:
    people = register(tmp_path, tsv("participant_id session_id Age", "sub-01 ses-a 60", "sub-01 b 62", "sub-02 n/a 70"))
    assert people.of("01", "a", 2) == people.of("01", "a", 1)
    assert people.of("01", "b", 2).age.years == 62
    assert people.of("02", "a", 1).age.years == 70
    assert people.of("01", "c", 2).age.note == "no row of this session of sub-01 in participants.tsv"


def test_contradicting_rows_give_no_age_and_name_their_lines(tmp_path: Path) -> None:
    people = register(tmp_path, tsv("participant_id age sex", "01 60 F", "02 5 F", "sub-01 61 M", "02 5 F", "02 n/a F"))
    one = people.of("01")
    assert one.age.years is None
    assert "'60' (line 2)" in one.age.note
    assert "'61' (line 4)" in one.age.note
    assert (one.sex, "both" in one.sex_note) == (None, True)
    assert people.of("02").age.years == 5


def test_zeros_of_labels_are_kept_and_lost_ones_noticed(tmp_path: Path) -> None:
    people = register(tmp_path, tsv("participant_id age", "1 60", "010 70"))
    assert people.of("010").age.years == 70
    assert people.of("01").age.years is None
    assert "'1'" in people.of("01").age.note
    assert people.of("77").age.note == "no row of sub-77 in participants.tsv"


def test_no_table_at_all(tmp_path: Path) -> None:
    person = Register(make_dataset(tmp_path / "ds", [t1w("01")])).of("01", "a")
    assert person.age.note == "no age in sessions.tsv or participants.tsv"
    assert (person.sex, person.sex_note) == (None, "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"participant_id\tage\nsub-01\n", "line 2"),
        (b"participant_id\tage\nsub-01\t5\nsub-02\t5\t6\n", "line 3"),
        (b"participant_id\tage\n\nsub-01\t5\n", "line 2"),
        (b"participant_id\tage\nsub-01\t5\nsub-M\xfcller\t6\n", "line 3"),
        ("participant_id\tage\n".encode("utf-16"), "line 1"),
        (b"participant_id\tage\tage\n", "'age'"),
        (b"participant_id\t\tage\n", "line 1"),
        (b"/annex/objects/MD5E-s10--00.tsv\n", "git-annex pointer"),
    ],
)
def test_malformed_tables_name_the_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "participants.tsv"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_tsv(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_that_are_only_untidy_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b"\xef\xbb\xbfparticipant_id\tage\t\r\n sub-01 \t5\t\r\nsub-02\t6\t\t\r\n\r\n")
    assert read_tsv(path) == [{"participant_id": "sub-01", "age": "5"}, {"participant_id": "sub-02", "age": "6"}]


def test_commas_for_tabs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="participant_id,age"):
        register(tmp_path, "participant_id,age\nsub-01,5\n")


@pytest.mark.parametrize("name", ["participants.tsv", "participants.json", "sessions.json"])
def test_a_link_to_nowhere_is_no_missing_table(tmp_path: Path, name: str) -> None:
    root = make_dataset(tmp_path / "ds", [t1w("01")], participants=tsv("participant_id age", "sub-01 5"))
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to("../annex/objects/nowhere")
    with pytest.raises(UsageError, match=rf"{name}: .*No such file"):
        Register(root)
    if name == "participants.tsv":
        with pytest.raises(UsageError, match=r"participants\.tsv: cannot be read"):
            participants_frame(root)


def test_bad_dictionary_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"participants\.json"):
        register(tmp_path, tsv("participant_id age", "sub-01 5"), participants_json="{")


plain = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\u2028\u2029"), max_size=8)


@given(st.lists(st.tuples(plain, st.floats(allow_infinity=False) | st.none(), st.booleans()), max_size=6))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("t") / "t.tsv"
    write_tsv(path, [{"id": "x", "a": a, "b": b, "c": c, "other": 1} for a, b, c in rows], ["id", "a", "b", "c"])
    again = read_tsv(path)
    assert len(again) == len(rows)
    for (a, b, c), row in zip(rows, again, strict=True):
        assert row == {"id": "x", "a": cell(a), "b": cell(b), "c": str(c).lower()}
        assert row["b"] == "n/a" or float(row["b"]) == b


def test_cells() -> None:
    values = [None, float("nan"), "nan", "", "a\tb\nc", 1, 0.1, True, pd.Series([0.5])[0], pd.Series([3])[0], pd.NA]
    assert [cell(v) for v in values] == ["n/a"] * 4 + ["a b c", "1", "0.1", "true", "0.5", "3", "n/a"]
    with pytest.raises(ValueError, match="infinite"):
        cell(float("inf"))


def test_people_of_the_group_level(tmp_path: Path) -> None:
    root = make_dataset(
        tmp_path / "ds",
        participants=tsv("participant_id age diagnosis site", "sub-01 60 CN 01", "02 70 AD 02", "sub-03 n/a n/a n/a"),
        extra={"sub-01/sub-01_sessions.tsv": tsv("session_id mmse", "ses-a 30", "ses-b 28")},
    )
    phenotype = write(
        tmp_path / "p.tsv", tsv("participant_id session_id diagnosis apoe", "01 ses-b MCI 34", "03 n/a CN 33")
    )
    people = participants_frame(root, phenotype)
    table = pd.DataFrame(
        {
            "participant_id": ["sub-02", "sub-01", "01", "sub-03", "sub-9"],
            "session_id": [None, "ses-a", "b", None, "x"],
            "age": 1.0,
        }
    )
    joined = join_people(table, people)
    assert joined["diagnosis"].fillna("-").tolist() == ["AD", "CN", "MCI", "CN", "-"]
    assert joined["mmse"].fillna(-1).tolist() == [-1, 30, 28, -1, -1]
    assert joined["site"].fillna("-").tolist() == ["02", "01", "01", "-", "-"]
    assert joined["age"].tolist() == [1.0] * 5
    assert len(joined.query("diagnosis == 'CN' and mmse > 29")) == 1


def test_people_where_nothing_is_known(tmp_path: Path) -> None:
    people = participants_frame(make_dataset(tmp_path / "ds"))
    assert list(people.columns) == ["participant_id", "session_id"]
    assert len(join_people(pd.DataFrame({"participant_id": ["sub-01"]}), people)) == 1


@pytest.mark.parametrize("rows", [("participant_id a", "01 1", "sub-01 2"), ("id a", "01 1")])
def test_phenotype_that_cannot_be_used(tmp_path: Path, rows: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"p\.tsv"):
        participants_frame(make_dataset(tmp_path / "ds"), write(tmp_path / "p.tsv", tsv(*rows)))


@pytest.mark.parametrize(("column", "described"), [("Age", "age"), ("age", "Age"), ("AGE", "AGE")])
def test_units_are_found_however_the_column_is_written(tmp_path: Path, column: str, described: str) -> None:
    people = register(
        tmp_path, tsv(f"participant_id {column}", "sub-01 96"), participants_json={described: {"Units": "months"}}
    )
    assert people.of("01").age.years == 8
