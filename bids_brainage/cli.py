"""The BIDS App: argv -> Options -> participant | group."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from bids_brainage import __version__
from bids_brainage.core.errors import BrainAgeError, in_a_line
from bids_brainage.options import Options, checked, parser, read

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
        if options.models != Options.models:
            LOG.warning("--models: chooses models at the participant level; here every result counts")
        if options.dry_run:
            return say_what_group_reads(options)
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


def say_what_group_reads(options: Options) -> int:
    """The group level of ``--dry-run``: which tables it would read; nothing is written."""
    from bids_brainage.workflows.collect import collect

    found = collect(options.out_dir, options.participant_label, options.session_label)
    for line in found.damaged:
        LOG.error("would be left out: %s", line)
    LOG.info("would use %d scans of %d people", found.scans["scan"].nunique(), found.scans["participant_id"].nunique())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``bids-brainage``."""
    verbose = "-v" in (argv or sys.argv) or "--verbose" in (argv or sys.argv)
    start_log(verbose)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        options = resolved(parse(argv))
        verbose = options.verbose
        start_log(verbose)
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
