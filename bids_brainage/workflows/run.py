"""The participant level: dataset -> what is to do -> workflow -> which outputs exist -> exit code."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from bids_brainage import __version__
from bids_brainage.bids import derivative, inputs, outputs
from bids_brainage.bids.reuse import parse_derivatives
from bids_brainage.core.device import usable
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import make_writable, read_json, refresh, sha256_of
from bids_brainage.core.types import Scan
from bids_brainage.options import WORK, Options
from bids_brainage.workflows.fingerprint import fingerprint, read
from bids_brainage.workflows.job import WORKFLOW, Job, Tools, missing
from bids_brainage.workflows.pages import write_reports
from bids_brainage.workflows.scratch import clean

DATA = Path(__file__).parents[1] / "data"
LOG = logging.getLogger("bids_brainage")
WITHOUT_ATLAS = {"t1w_native", "t1w_preproc", "brain_mask", "t1w_mni_affine", "sex"}
"""Artefacts that the atlas has no part in."""


def run_participant(options: Options, home: Path | None) -> int:
    """Run the participant level; returns the exit code (0 all there, 1 some scan failed)."""
    device = "cpu" if options.dry_run else usable(options.device)
    tools = find_tools(options, home)
    dataset = find(options)
    broken = [f"{path}: {reason}" for path, reason in dataset.broken]
    if options.dry_run:
        for path, _ in dataset.broken:
            print(f"{path.name.partition('.')[0].removesuffix('_T1w')}\tcannot be read\t{path}")
    jobs = plan_jobs(dataset.scans, options, tools)
    todo = [job for job in jobs if job.why]
    LOG.info("%d T1w images of %d participants; %d to do", len(jobs), len({j.scan.subject for j in jobs}), len(todo))
    for job in todo:
        LOG.info("%s: %s", job.scan.stem, job.why)
    if options.dry_run:
        return dry_run(jobs, broken)
    if todo:
        describe_outputs(options, tools)
        reasons = execute(todo, options, tools, device)
        broken += [failure(job, reasons[job.scan.stem]) for job in todo if missing(job, options)]
    if options.clean_workdir:
        clean(jobs, options, place_of_work(options))
    broken += write_reports(jobs, options)
    return close(jobs, broken, options)


def describe_outputs(options: Options, tools: Tools) -> None:
    """Write what describes the derivatives as a whole, the names of the regions among it."""
    labels = {"desc-aseg_dseg.tsv": DATA / "aseg.tsv"}
    labels |= {"desc-muse_dseg.tsv": DATA / "muse_rois.tsv"} if "muse_volumes" in tools.needs else {}
    derivatives = parse_derivatives(options.derivatives)
    derivative.write_dataset_files(
        options.out_dir, options.bids_dir, __version__, derivatives=derivatives, tables=labels, container=container()
    )


def container() -> dict[str, str] | None:
    """Which container runs, as ``bids_brainage/data`` of an image says."""
    told = DATA / "container.json"
    found: dict[str, str] | None = read_json(told) if told.is_file() else None
    return found


def find_tools(options: Options, home: Path | None) -> Tools:
    """Find and check every bundle before anything runs."""
    from bids_brainage.models import registry

    places = registry.search_path(options.models_dir, home)
    synthstrip = registry.find("synthstrip", places) if "synthstrip" in registry.folders(places) else None
    models = tuple(registry.find(name, places) for name in dict.fromkeys(options.models))
    other = [b.name for b in models if registry.role(b) != "brain_age"]
    if other:
        raise UsageError(f"--models {' '.join(other)}: gives no brain age; `brainage models list` shows those that do")
    elsewhere = [b for b in models if b.card.get("template", options.template) != options.template]
    if elsewhere:
        space = elsewhere[0].card["template"]
        raise UsageError(
            f"--template {options.template}: model {elsewhere[0].name} was trained in {space}; "
            "use that one, or other --models"
        )
    tables_alone = [b.name for b in models if b.card.get("arguments", {}).get("converts_2mm") is False]
    if tables_alone:
        raise UsageError(
            f"--models {' '.join(tables_alone)}: cannot take the app's volumes, which are of 2 mm; it serves `brainage "
            "predict` on tables of 1 mm, or train it with --same-heads"
        )
    segment, atlas, normative = (registry.find(name, places) for name in ("segment", "muse-atlas", "normative"))
    known = atlas.card["training"].get("segmentation", segment.digest)
    tools = Tools(models, segment, atlas, normative, synthstrip)
    if known != segment.digest and tools.needs - WITHOUT_ATLAS:
        raise UsageError(
            f"{atlas.folder}: was calibrated for another segmentation network than {segment.folder}; give the two that "
            "belong together, or make an atlas by `brainage train atlas --segment`"
        )
    return tools


def find(options: Options) -> inputs.Dataset:
    """The scans of the dataset, after validation unless it is skipped."""
    if not options.skip_bids_validation:
        from bids_brainage.bids.validate import validate

        for line in validate(options.bids_dir):
            LOG.warning("%s", line)
    dataset = inputs.find_scans(
        options.bids_dir,
        participant_label=options.participant_label,
        session_label=options.session_label,
        bids_filter=read_json(options.bids_filter_file) if options.bids_filter_file else None,
        database_dir=options.bids_database_dir,
        derivatives=parse_derivatives(options.derivatives),
    )
    for subject, reason in dataset.skipped:
        LOG.warning("skipped %s: %s", subject, reason)
    for what, note in dataset.notes:
        LOG.warning("%s: %s", what, note)
    asked = options.participant_label or options.session_label
    if not dataset.scans and not dataset.broken and not asked:
        raise UsageError(
            f"{options.bids_dir}: holds no T1w image that was asked for; check the dataset and the filters"
        )
    return dataset


def plan_jobs(scans: Iterable[Scan], options: Options, tools: Tools) -> list[Job]:
    """For each scan: which artefacts, under which fingerprint, and why it must run ('' where it is complete).

    A scan is read only where its own files decide, and are not known by their stamps.
    """
    from bids_brainage.image.template import template_digest
    from bids_brainage.workflows.participant import made_by, plan
    from bids_brainage.workflows.scan_maps import promised

    digest = template_digest(options.template)
    jobs = []
    for scan in scans:
        artefacts = (
            *made_by(plan(tools.needs, scan.preproc is not None)),
            *(name for bundle in tools.models for name in promised(bundle, scan.age)),
            "figures",
            "contributions",
            "quality",
            "brainage",
            "brainage_json",
        )
        artefacts = outputs.results(artefacts) if options.minimal_outputs else artefacts
        mark = fingerprint(scan, options, tools.models, tools.behind, digest)
        job = Job(scan, mark, "", artefacts)
        place = (options.out_dir, options.template)
        job.why = "asked for by --force" if options.force else outputs.reason_to_run(scan, artefacts, *place, mark)
        jobs.append(job)
    return jobs


def failure(job: Job, reason: str) -> str:
    """One line that begins with the user's file, not with a working copy of it."""
    named, _, rest = reason.partition(": ")
    path = job.scan.preproc or job.scan.path
    if named in (str(path), str(job.scan.mask)):
        return reason
    return f"{path}: {rest if WORKFLOW in named and rest else reason}"


def dry_run(jobs: Sequence[Job], broken: Sequence[str]) -> int:
    """Print what would run, and log what cannot."""
    for reason in broken:
        LOG.error("%s", reason)
    for job in jobs:
        print(f"{job.scan.stem}\t{job.why or 'complete'}\t{job.scan.path}")
    return 0


def execute(todo: Sequence[Job], options: Options, tools: Tools, device: str) -> dict[str, str]:
    """Run the workflow of all scans that are to do; returns by scan stem why it failed if it did."""
    reasons = {job.scan.stem: why for job in todo if (why := outputs.unwritable(job.scan, options.out_dir))}
    todo = [job for job in todo if job.scan.stem not in reasons]
    if not todo:
        return reasons
    nprocs = options.nprocs or 1
    threads = options.omp_nthreads or max(1, nprocs // len(todo))
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = str(threads)
    from bids_brainage.workflows import engine

    work = work_dir(options)
    for job in todo:
        sums, job.stamps = read(job.scan)
        job.fingerprint = sums | job.fingerprint
    workflow = engine.build(todo, options, tools, device, threads, work)
    plugin = engine.plugin_of(workflow, todo, options, work)
    outputs.begin((job.scan for job in todo), options.out_dir)
    if options.write_graph:
        engine.draw(workflow, options.out_dir / "logs")
    refresh(options.out_dir / "logs" / "CITATION.md", engine.boilerplate(workflow))
    return reasons | engine.run(workflow, plugin, todo, options, work)


def place_of_work(options: Options) -> Path:
    """The folder for intermediate files, below the one that was asked for, else below ``work`` in the current folder.

    Each pair of dataset and output folder has its own, so that two datasets may share a work folder; the number of the
    output folder tells them apart in containers, where all have the same names.
    """
    out = options.out_dir
    number = out.stat().st_ino if out.is_dir() else 0
    own = sha256_of([str(options.bids_dir), str(out), number])[:8]
    return (options.work_dir or Path.cwd() / WORK) / own


def work_dir(options: Options) -> Path:
    """The folder for intermediate files, made and writable."""
    work = place_of_work(options)
    try:
        make_writable(work)
    except OSError as error:
        raise UsageError(f"{work}: cannot be the work folder ({error.strerror}); give another with -w") from None
    return work


def close(jobs: Sequence[Job], broken: Sequence[str], options: Options) -> int:
    """Exit code and last line, from which expected outputs exist."""
    done = [job for job in jobs if not missing(job, options)]
    for reason in broken:
        LOG.error("%s", reason)
    failed = len(jobs) - len(done) + max(0, len(broken) - (len(jobs) - len(done)))
    if failed:
        LOG.error(
            "%d of %d scans are complete in %s; %d failed, see above",
            len(done),
            len(done) + failed,
            options.out_dir,
            failed,
        )
        return 1
    LOG.info("all %d scans are complete in %s", len(done), options.out_dir)
    return 0
