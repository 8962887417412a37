"""Nipype's part of a run: build the workflow of all scans, run it under a plugin, read why a scan failed."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype.pipeline import plugins
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_brainage import __version__
from bids_brainage.core.errors import UsageError, in_a_line
from bids_brainage.core.files import read_json, write_text
from bids_brainage.options import Options
from bids_brainage.workflows.job import WORKFLOW, Job, Tools, settings_of
from bids_brainage.workflows.node import REASON
from bids_brainage.workflows.participant import plan, scan_workflow
from bids_brainage.workflows.plugin import KILLED, Linear, MultiProc, last_words, start_worker
from bids_brainage.workflows.progress import Progress
from bids_brainage.workflows.scratch import clean, folder_of, node_name

NOT_RUN = "was not run, because another scan failed (--stop-on-first-crash)"
MULTIPROC = ("MultiProc", "LegacyMultiProc")
OWN = (*MULTIPROC, "Linear")
LOG = logging.getLogger("bids_brainage")
Plugin = tuple[Any, dict[str, Any]]
PRELOADED = ["torch", "ants", "nibabel", "bids_brainage.workflows.participant"]


def build(todo: Sequence[Job], options: Options, tools: Tools, device: str, threads: int, work: Path) -> Workflow:
    """One workflow that holds the workflow of each scan."""
    start_worker(options.verbose)
    workflow = Workflow(name=WORKFLOW, base_dir=str(work))
    for job in todo:
        stages = plan(tools.needs, job.scan.preproc is not None)
        settings = settings_of(job, options, tools, device, threads)
        workflow.add_nodes([scan_workflow(node_name(job), stages, settings, threads)])
    workflow.config["execution"] = {
        "hash_method": "content",
        "stop_on_first_crash": str(options.stop_on_first_crash),
        "crashdump_dir": str(options.out_dir / "logs"),
        "crashfile_format": "txt",
        "poll_sleep_duration": "0.1" if plugin_name(options) in OWN else "2",  # others ask a queue each time
        "check_version": "false",
        "create_report": "false",  # of the whole work folder, which other processes may share
        "remove_unnecessary_outputs": "false",
    }
    return workflow


def boilerplate(workflow: Workflow) -> str:
    """The methods text of what ran."""
    first = next(iter(workflow._graph.nodes))
    return (
        f"# Methods\n\nResults come from bids-brainage {__version__}, built on Nipype (Gorgolewski et al. 2011) and "
        f"ANTs (antspyx). {first.visit_desc() or first.__desc__}\n\n"
        "Brain ages are not corrected for the dependence of the gap on age; use age as a covariate in any test, and "
        "report raw accuracy (Butler et al. 2021; de Lange & Cole 2020).\n"
    )


def draw(workflow: Workflow, logs: Path) -> None:
    """Write the stages of the first scan and what flows between them as a DOT file."""
    graph = next(iter(workflow._graph.nodes))._graph
    flows = (
        f'  {source.name} -> {target.name} [label="{", ".join(field for field, _ in content["connect"])}"];'
        for source, target, content in graph.edges(data=True)
    )
    nodes = (f"  {node.name};" for node in graph.nodes)
    write_text(logs / "workflow.dot", "\n".join(["digraph scan {", *nodes, *flows, "}"]) + "\n")


def plugin_name(options: Options) -> str:
    """Name of the Nipype plugin: the flag's, then the file's, else MultiProc."""
    given = read_plugin_file(options.plugin_file) if options.plugin_file else {}
    return str(options.nipype_plugin or given.get("plugin", "MultiProc"))


def plugin_of(workflow: Workflow, todo: Sequence[Job], options: Options, work: Path) -> Plugin:
    """The Nipype plugin and its arguments: the file's, then the flags', else MultiProc over the machine.

    Raises
    ------
    UsageError
        Where there is no such plugin, or its arguments are none.
    """
    given = read_plugin_file(options.plugin_file) if options.plugin_file else {}
    name = plugin_name(options)
    if not hasattr(plugins, f"{name}Plugin"):
        raise UsageError(f"{options.plugin_file or '--nipype-plugin'}: Nipype has no plugin {name!r}; correct it")
    progress = Progress(len(workflow._create_flat_graph()), cleaner(todo, options, work))
    arguments: dict[str, Any] = {"status_callback": progress, **(given.get("plugin_args") or {})}
    if name in MULTIPROC:
        arguments.setdefault("n_procs", options.nprocs)
        arguments.setdefault("mp_context", "forkserver")
        arguments.setdefault("raise_insufficient", False)
        arguments["verbose"] = options.verbose
        if options.mem_mb:
            arguments["memory_gb"] = options.mem_mb / 1024
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    own = {"Linear": Linear, **dict.fromkeys(MULTIPROC, MultiProc)}.get(name)
    try:
        return (own(plugin_args=arguments) if own else name), arguments
    except (TypeError, ValueError) as error:
        raise UsageError(f"{options.plugin_file}: plugin_args cannot be used ({error}); correct them") from None


def read_plugin_file(path: Path) -> dict[str, Any]:
    """``plugin`` and ``plugin_args`` from a YAML, JSON or TOML file."""
    import tomllib

    import yaml

    readers = {".json": read_json, ".toml": lambda p: tomllib.loads(p.read_text(encoding="utf-8"))}
    read = readers.get(path.suffix, lambda p: yaml.safe_load(p.read_text(encoding="utf-8")))
    try:
        content = read(path)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())}); correct it") from None
    if not isinstance(content, dict) or not set(content) <= {"plugin", "plugin_args"}:
        raise UsageError(f"{path}: must hold 'plugin' and 'plugin_args' and nothing else")
    if not isinstance(content.get("plugin_args") or {}, dict):
        raise UsageError(f"{path}: plugin_args must be names with values; correct it")
    return content


def run(workflow: Workflow, how: Plugin, todo: Sequence[Job], options: Options, work: Path) -> dict[str, str]:
    """Run by a plugin of :func:`plugin_of`; returns for each scan, by its stem, why it failed if it did."""
    plugin, arguments = how
    nodes = len(workflow._create_flat_graph())
    LOG.info("%d scans, %d stages; intermediate files in %s", len(todo), nodes, work)
    ended = ""
    for job in todo:  # what an earlier run said is no reason of this one
        for path in folder_of(job, work).glob(f"*/{REASON}"):
            path.unlink(missing_ok=True)
    try:
        workflow.run(plugin=plugin, plugin_args=arguments)
    except Exception as error:
        LOG.debug("nipype: %s", error, exc_info=options.verbose)
        cause = error.__cause__ or error
        if isinstance(cause, OSError):
            cause.filename = cause.filename or str(work)  # writing to a full disk names no file
        ended = in_a_line(cause) if isinstance(cause, OSError) else last_words(str(cause))
    failed: dict[str, str] = getattr(plugin, "failed", {})
    reasons = {job.scan.stem: reason_of(job, work, failed) for job in todo}
    if options.stop_on_first_crash or ended.endswith(tuple(filter(None, reasons.values()))):
        ended = ""  # the word of one scan is not that of the others
    otherwise = NOT_RUN if options.stop_on_first_crash else ended or KILLED
    return {stem: reason or otherwise for stem, reason in reasons.items()}


def cleaner(todo: Sequence[Job], options: Options, work: Path) -> Callable[[str], object]:
    """What is done when a scan is published: its intermediate files go, where that was asked for.

    Plugins that run stages elsewhere may still look into a stage's folder: there they go at the end of the run.
    """
    jobs = {node_name(job): job for job in todo}
    early = options.clean_workdir and plugin_name(options) in OWN
    return lambda scan: clean([jobs[scan]] if early else [], options, work)


def reason_of(job: Job, work: Path, failed: Mapping[str, str]) -> str:
    """Why a scan failed: the word of its stage, else what ``failed`` says of its nodes; empty where neither does."""
    name = node_name(job)
    said = [path.read_text(encoding="utf-8") for path in sorted(folder_of(job, work).glob(f"*/{REASON}"))]
    said += [reason for node, reason in failed.items() if node.startswith(f"{WORKFLOW}.{name}.")]
    return next(filter(None, said), "")
