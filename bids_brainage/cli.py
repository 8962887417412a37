"""The BIDS App: argv -> Options -> participant | group."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_brainage import __version__
from bids_brainage.core.errors import BrainAgeError, UsageError, in_a_line
from bids_brainage.options import Options, flag_name, parser, read

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143
LOG = logging.getLogger("bids_brainage")


def parse(argv: Sequence[str] | None = None) -> Options:
    """Command line and ``--config`` file to :class:`Options`; the command line wins.

    Raises
    ------
    UsageError
        Where a value cannot be used, a file that is named is not there, or the folders contradict each other.
    """
    return checked(read(parser("bids-brainage", __version__), argv))


def checked(given: Mapping[str, Any]) -> Options:
    """Options by name as :class:`Options`, unless they can be known to be wrong before anything is read.

    Raises
    ------
    UsageError
        As of :func:`parse`.
    """
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    options = Options(**values)
    _check(options)
    return options


def _check(options: Options) -> None:
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
    if options.models_dir is not None and not options.models_dir.is_dir():
        raise UsageError(f"--models-dir {options.models_dir}: there is no such folder")
    _check_folders(options)


def _check_folders(options: Options) -> None:
    """The dataset is there, and nothing but its derivatives would be written into it."""
    if not options.bids_dir.is_dir():
        raise UsageError(f"{options.bids_dir}: there is no such folder; give the BIDS dataset first")
    bids, out = options.bids_dir.resolve(), options.out_dir.resolve()
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
    work = (options.work_dir or Path("work")).resolve()
    if options.level == "participant" and bids in (work, *work.parents):
        raise UsageError(
            f"{work}: the work folder lies inside the dataset, which is never written to; give another with -w"
        )


def prepare_environment(options: Options) -> None:
    """Fix the threads of the numerical libraries and keep them from calling home, before they are imported."""
    threads = str(options.omp_nthreads or 1)
    os.environ["OMP_NUM_THREADS"] = os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = threads
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # small products only: more threads cost
    os.environ["NO_ET"] = os.environ["NIPYPE_NO_ET"] = "1"
    os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "off")
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.setdefault("LOGNAME", str(os.getuid()) if hasattr(os, "getuid") else "user")  # names cluster jobs
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def models_home() -> Path | None:
    """Where installed bundles lie, from ``BIDS_BRAINAGE_HOME``."""
    home = os.environ.get("BIDS_BRAINAGE_HOME")
    return Path(home).resolve() if home else None


def cache_dir() -> Path:
    """Where transforms between templates are kept: below ``BIDS_BRAINAGE_HOME``, else in the user's cache folder."""
    home = models_home()
    if home is not None:
        return home / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "bids-brainage"  # noqa: PTH111


def start_log(verbose: bool) -> None:
    """One handler on standard error for the app's own lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    LOG.handlers[:] = [handler]
    LOG.setLevel(logging.DEBUG if verbose else logging.INFO)
    LOG.propagate = False


def run(options: Options) -> int:
    """Run one level; returns the exit code."""
    if options.level == "group":
        from bids_brainage.models.registry import search_path
        from bids_brainage.workflows.group import run_group
        from bids_brainage.workflows.local import AtlasChoice
        from bids_brainage.workflows.matched import GenmindChoice

        if options.bids_filter_file:
            LOG.warning("--bids-filter-file: chooses scans at the participant level; here every result counts")
        places = search_path(options.models_dir, models_home())
        result = run_group(
            options.out_dir,
            options.bids_dir,
            phenotype=options.phenotype,
            controls=options.controls,
            seed=options.random_seed,
            participant_label=options.participant_label,
            session_label=options.session_label,
            atlas=AtlasChoice(options.atlas, options.atlas_space, cache_dir())
            if options.atlas and options.atlas_space
            else None,
            genmind=GenmindChoice(options.genmind, places, options.genmind_controls) if options.genmind else None,
        )
        return result.exit_code
    from bids_brainage.workflows.run import run_participant

    return run_participant(options, models_home())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``bids-brainage``."""
    verbose = "-v" in (argv or sys.argv) or "--verbose" in (argv or sys.argv)
    start_log(verbose)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        options = resolved(parse(argv))
        prepare_environment(options)
        return run(options)
    except BrainAgeError as error:
        LOG.error("%s", error, exc_info=verbose)
        return EXIT_USAGE
    except OSError as error:
        LOG.error("%s", in_a_line(error), exc_info=verbose)
        return EXIT_USAGE
    except KeyboardInterrupt as stop:
        LOG.error("stopped; what is complete stays, and the next run goes on from there")
        return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED


class Terminated(KeyboardInterrupt):
    """The system asked the app to end: a time limit, ``scancel``, ``docker stop``."""


def _terminated(*_: object) -> None:
    raise Terminated


def resolved(options: Options) -> Options:
    """Fill in what depends on the machine: processes, threads, absolute folders."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    nprocs = options.nprocs or cores or 1
    return dataclasses.replace(
        options,
        nprocs=nprocs,
        omp_nthreads=min(options.omp_nthreads, nprocs) if options.omp_nthreads else None,
        bids_dir=options.bids_dir.resolve(),
        out_dir=options.out_dir.resolve(),
        work_dir=options.work_dir.resolve() if options.work_dir else None,
        models_dir=options.models_dir.resolve() if options.models_dir else None,
    )


if __name__ == "__main__":
    sys.exit(main())
