"""All options of the app, once: source of the flags, the TOML keys, the descriptors and the docs table."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bids_brainage.core.errors import UsageError

Level = Literal["participant", "group"]
Device = Literal["auto", "cpu", "cuda"]
WORK = Path("work")
"""The work folder where none is asked for, in the current one."""


def option(
    default: Any, text: str, group: str, *, short: str = "", metavar: str = "", made: bool = False, bare: str = ""
) -> Any:
    """A dataclass field that carries its help text, its group in ``--help``, how it is shown, whether it is made.

    ``bare`` is what the flag means where no value follows it.
    """
    metadata = {"help": text, "group": group, "short": short, "metavar": metavar, "made": made, "bare": bare}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """One run of the app. Every field but the first three is an option with a default."""

    bids_dir: Path
    out_dir: Path
    level: Level

    participant_label: tuple[str, ...] = option(
        (), "only these participants, with or without 'sub-'", "Which scans", metavar="LABEL"
    )
    session_label: tuple[str, ...] = option(
        (), "only these sessions, with or without 'ses-'", "Which scans", metavar="LABEL"
    )
    bids_filter_file: Path | None = option(
        None,
        'JSON file of entities that choose the images, e.g. {"t1w": {"acquisition": "mprage"}}',
        "Which scans",
        metavar="FILE",
    )
    bids_database_dir: Path | None = option(
        None,
        "folder of a saved index of the whole dataset, made when it is not there; not used with --participant-label",
        "Which scans",
        metavar="DIR",
        made=True,
    )
    skip_bids_validation: bool = option(False, "do not check the dataset with the BIDS validator first", "Which scans")
    derivatives: tuple[str, ...] = option(
        (),
        "reuse a brain mask or a preprocessed T1w of this derivative dataset (fMRIPrep, sMRIPrep, ...)",
        "Which scans",
        metavar="NAME=PATH",
    )

    models: tuple[str, ...] = option(
        ("roi", "local"), "models that give a brain age, by name", "What is computed", metavar="NAME"
    )
    models_dir: Path | None = option(None, "folder with further model bundles", "What is computed", metavar="DIR")
    template: str = option(
        "MNI152NLin2009aSym",
        "template space; others than the default come through TemplateFlow",
        "What is computed",
        metavar="NAME",
    )
    random_seed: int = option(0, "seed of everything that draws random numbers", "What is computed", metavar="N")
    force: bool = option(False, "redo scans that are complete", "What is computed")

    minimal_outputs: bool = option(
        False,
        "keep tables, figures, reports and maps of brain age; leave out the images and transforms behind them",
        "What is computed",
    )

    phenotype: Path | None = option(
        None,
        "TSV of further columns by participant_id (and session_id) for the group level",
        "Group level",
        metavar="FILE",
    )
    controls: str | None = option(
        None,
        "query that chooses the people on whom the bias correction is fitted, e.g. \"diagnosis == 'CN'\" "
        "(default: everyone)",
        "Group level",
        metavar="QUERY",
    )
    atlas: Path | None = option(
        None,
        "label image (NAME.nii.gz with NAME.tsv: index, name) for regions of local brain age",
        "Group level",
        metavar="FILE",
    )
    atlas_space: str | None = option(None, "template space of --atlas", "Group level", metavar="NAME")
    genmind: str | None = option(
        None,
        "score regional volumes against synthetic controls matched to each person, drawn by this model: the name or "
        "folder of a genmind bundle (auto, also without a value: the first that is found)",
        "Group level",
        metavar="NAME_OR_DIR",
        bare="auto",
    )
    genmind_controls: int = option(50, "synthetic controls a person, at least 3", "Group level", metavar="K")

    work_dir: Path | None = option(
        None,
        "folder for intermediate files (default: work in the current folder)",
        "How it runs",
        short="-w",
        metavar="DIR",
        made=True,
    )
    nprocs: int | None = option(None, "processes at once (default: all cores)", "How it runs", metavar="N")
    omp_nthreads: int | None = option(None, "threads a process (default: as many as fit)", "How it runs", metavar="N")
    mem_mb: int | None = option(
        None, "memory in MB that may be used (default: 90 %% of what is there)", "How it runs", metavar="MB"
    )
    device: Device = option("auto", "where networks run", "How it runs")
    nipype_plugin: str | None = option(
        None, "nipype plugin: MultiProc, Linear, SLURM, SGE, ... (default: MultiProc)", "How it runs", metavar="NAME"
    )
    plugin_file: Path | None = option(
        None, "YAML, JSON or TOML file with 'plugin' and 'plugin_args' for nipype", "How it runs", metavar="FILE"
    )
    stop_on_first_crash: bool = option(False, "stop at the first scan that fails", "How it runs")
    clean_workdir: bool = option(
        False, "remove the intermediate files of each scan as soon as it is complete", "How it runs"
    )
    dry_run: bool = option(False, "say what would run, and stop", "How it runs")
    write_graph: bool = option(False, "draw the workflow into OUT_DIR/logs", "How it runs")
    config: Path | None = option(
        None, "TOML file with the same options (the command line wins)", "How it runs", metavar="FILE"
    )
    verbose: bool = option(False, "log more, and show tracebacks", "How it runs", short="-v")


def fields() -> list[dataclasses.Field[Any]]:
    """The optional fields in their order, without the three positional ones."""
    return [f for f in dataclasses.fields(Options) if "help" in f.metadata]


def flag_name(name: str) -> str:
    """``work_dir`` -> ``--work-dir``."""
    return "--" + name.replace("_", "-")


def kind(f: dataclasses.Field[Any]) -> tuple[type, bool, tuple[str, ...]]:
    """Type of one value, whether there may be several, and the allowed choices of a field.

    Returns
    -------
    (value type, several, choices)
    """
    annotation = typing.get_type_hints(Options)[f.name]
    several = typing.get_origin(annotation) is tuple
    inner = [a for a in typing.get_args(annotation) if a not in (type(None), Ellipsis)]
    if typing.get_origin(annotation) is Literal:
        return str, False, tuple(inner)
    value = inner[0] if inner else annotation
    return value, several, ()


def parser(prog: str, version: str) -> argparse.ArgumentParser:
    """The command line of the app; what is not given is not in the namespace."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Brain age from T1-weighted MRI: a BIDS dataset goes in, BIDS derivatives come out.",
        epilog="Exit code: 0 all expected outputs are there, 1 some scan failed, 2 bad usage or an unusable dataset, "
        "130 or 143 stopped.",
    )
    made.add_argument("bids_dir", type=Path, help="the BIDS dataset; never written to")
    made.add_argument("out_dir", type=Path, help="where the derivatives go")
    made.add_argument("level", choices=typing.get_args(Level), help="first 'participant', then 'group'")
    groups: dict[str, Any] = {}
    for f in fields():
        group = groups.setdefault(f.metadata["group"], made.add_argument_group(f.metadata["group"]))
        value, several, choices = kind(f)
        names = [n for n in (f.metadata["short"], flag_name(f.name)) if n]
        how: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS, "help": _help(f)}
        if value is bool:
            group.add_argument(*names, action="store_true", **how)
        else:
            how |= {"choices": choices} if choices else {"metavar": f.metadata["metavar"]}
            how |= {"nargs": "?", "const": f.metadata["bare"]} if f.metadata["bare"] else {}
            how |= {"nargs": "+", "action": "extend"} if several else {}
            group.add_argument(*names, type=value, **how)
    made.add_argument("--version", action="version", version=f"{prog} {version}")
    return made


def _help(f: dataclasses.Field[Any]) -> str:
    shown = _default(f)
    return f.metadata["help"] + (f" (default: {shown})" if shown else "")


def _default(f: dataclasses.Field[Any]) -> str:
    """The default as written on a command line; empty where there is none."""
    if isinstance(f.default, tuple):
        return " ".join(map(str, f.default))
    return "" if f.default is None or f.default is False else str(f.default)


def words(values: Mapping[str, Any]) -> list[str]:
    """Options by name as words of a command line, in the order of the fields: the way back from :func:`parser`.

    Examples
    --------
    >>> words({"models": ("roi", "local"), "force": True, "nprocs": 2})
    ['--models', 'roi', 'local', '--force', '--nprocs', '2']
    """
    made: list[str] = []
    for f in fields():
        value = values.get(f.name)
        if value is None or value is False or value == ():
            continue
        given = [] if value is True else value if isinstance(value, list | tuple) else [value]
        made += [flag_name(f.name), *map(str, given)]
    return made


def dashed(argv: Sequence[str]) -> list[str]:
    """Words with flags as this app writes them: generic runners of BIDS Apps write ``--participant_label``.

    Examples
    --------
    >>> dashed(["--participant_label", "0_1", "--skip_bids_validation"])
    ['--participant-label', '0_1', '--skip-bids-validation']
    """
    parts = (word.partition("=") for word in argv)
    return [
        flag.replace("_", "-") + is_ + value if flag.startswith("--") else flag + is_ + value
        for flag, is_, value in parts
    ]


def read(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> dict[str, Any]:
    """What a command line gives, and what its ``--config`` file does; the command line wins."""
    given = vars(made.parse_args(dashed(sys.argv[1:] if argv is None else argv)))
    return {**(from_toml(given["config"]) if "config" in given else {}), **given}


def from_toml(path: Path) -> dict[str, Any]:
    """Read options from a TOML file; keys with ``-`` or ``_``, values of the types that the fields have.

    Raises
    ------
    UsageError
        Where the file cannot be read, names an unknown option, or gives a value of the wrong type.
    """
    import tomllib

    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not a readable TOML file ({error}); correct it") from None
    by_name = {f.name: f for f in fields() if f.name != "config"}
    values = {}
    for key, value in content.items():
        f = by_name.get(key.replace("-", "_"))
        if f is None:
            raise UsageError(f"{path}: unknown option {key!r}; known are {', '.join(sorted(by_name))}")
        values[f.name] = _convert(path, f, value)
    return values


def _convert(path: Path, f: dataclasses.Field[Any], value: Any) -> Any:
    """One TOML value to the type of its field."""
    wanted, several, choices = kind(f)
    items = value if several and isinstance(value, list) else [value]
    raw: type = str if wanted is Path else wanted
    wrong = [item for item in items if type(item) is not raw or (choices and item not in choices)]
    if wrong:
        expected = " or ".join(choices) if choices else raw.__name__
        raise UsageError(
            f"{path}: {f.name} = {wrong[0]!r} is not {'a list of ' if several else ''}{expected}; correct it"
        )
    converted = [wanted(item) for item in items]
    return tuple(converted) if several else converted[0]


def table() -> str:
    """The options as a Markdown table, for the docs."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for f in fields():
        value, several, choices = kind(f)
        word = f.metadata["metavar"] or "\\|".join(choices)
        word = f"[{word}]" if f.metadata["bare"] else word
        metavar = "" if value is bool else f" {word}" + (" ..." if several else "")
        names = ", ".join(n for n in (f.metadata["short"], flag_name(f.name)) if n)
        shown = _default(f)
        text = f.metadata["help"].replace("%%", "%")
        rows.append(f"| `{names}{metavar}` | {f'`{shown}`' if shown else ''} | {text} |")
    return "\n".join(rows) + "\n"


def checked(given: Mapping[str, Any]) -> Options:
    """Options by name as :class:`Options`, unless they can be known to be wrong before anything is read.

    Raises
    ------
    UsageError
        Where a value cannot be used, a file that is named is not there, or the folders contradict each other.
    """
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    options = Options(**values)
    _check(options)
    return options


def _check(options: Options) -> None:
    """What can be known to be wrong before anything is read."""
    for name in ("nprocs", "omp_nthreads", "mem_mb"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"{flag_name(name)} {value}: must be at least 1")
    if options.random_seed < 0:
        raise UsageError(f"--random-seed {options.random_seed}: must be at least 0")
    for name in ("bids_filter_file", "phenotype", "atlas", "plugin_file"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            raise UsageError(f"{flag_name(name)} {path}: there is no such file")
    if options.genmind_controls < 3:
        raise UsageError(f"--genmind-controls {options.genmind_controls}: must be at least 3, for a score")
    if (options.atlas is None) != (options.atlas_space is None):
        raise UsageError(
            "--atlas and --atlas-space: one is given without the other; give the file and its template space"
        )
    if not options.models:
        raise UsageError("--models: names none; give one, e.g. roi")
    if options.models_dir is not None and not options.models_dir.is_dir():
        raise UsageError(f"--models-dir {options.models_dir}: there is no such folder")
    _check_folders(options)


def is_text(name: str) -> bool:
    """Whether a name that came from the system can be written in UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_folders(options: Options) -> None:
    """The dataset is there, and nothing but its derivatives would be written into it."""
    if not options.bids_dir.is_dir():
        raise UsageError(f"{options.bids_dir}: there is no such folder; give the BIDS dataset first")
    bids, out = options.bids_dir.resolve(), options.out_dir.resolve()
    work = (options.work_dir or WORK).resolve()
    for path in (bids, out, work):
        if not is_text(str(path)):
            raise UsageError(f"{str(path)!a}: is not in UTF-8, which no table or page could name; rename it")
    if options.level == "participant" and set(",[]") & set(str(work)):
        raise UsageError(
            f"{work}: ANTs cannot work in a folder with a comma or brackets in its path; give another with -w"
        )
    if bids == out:
        raise UsageError(
            f"{options.out_dir}: output and input are the same folder; "
            f"give another, e.g. {bids}/derivatives/bids-brainage"
        )
    if out in bids.parents:
        raise UsageError(f"{options.out_dir}: the dataset lies inside the output folder; give another output folder")
    if bids in out.parents and bids / "derivatives" not in (out, *out.parents):
        raise UsageError(
            f"{options.out_dir}: lies inside the dataset, which is never written to except for its derivatives; "
            f"give another, e.g. {bids}/derivatives/bids-brainage"
        )
    index = options.bids_database_dir
    if index is not None and bids in (index.resolve(), *index.resolve().parents):
        raise UsageError(
            f"--bids-database-dir {index}: lies inside the dataset, which is never written to; give another"
        )
    work = (options.work_dir or WORK).resolve()
    if options.level == "participant" and bids in (work, *work.parents):
        raise UsageError(
            f"{work}: the work folder lies inside the dataset, which is never written to; give another with -w"
        )
