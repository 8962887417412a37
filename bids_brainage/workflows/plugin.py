"""MultiProc that survives a killed worker: the scan fails with a reason, the others go on."""

from __future__ import annotations

import logging
import multiprocessing
import re
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from networkx import weakly_connected_components
from nipype.pipeline.plugins.linear import LinearPlugin
from nipype.utils.misc import str2bool
from niworkflows.engine.plugin import MultiProcPlugin, run_node

from bids_brainage.core import errors
from bids_brainage.workflows.node import stopped

LOG = logging.getLogger("bids_brainage")
KILLED = "the worker process was killed, most often for want of memory; raise --mem-mb or lower --nprocs"


def last_words(traceback: str) -> str:
    """The error at the end of a traceback, as one line."""
    line = traceback.strip().rpartition("\n")[2].strip()
    system = re.search(r"\[Errno (\d+)\] ([^:]+)(?:: '(.*)')?$", line)
    if system:
        return errors.in_a_line(OSError(int(system[1]), system[2], system[3]))
    return re.sub(rf"^{re.escape(errors.__name__)}\.\w+: ", "", line)


def start_worker(verbose: bool) -> None:
    """Quieten Nipype and nibabel in a process, the first or a worker: their own log lines are for ``-v``."""
    for name in ("nipype", "nipype.workflow", "nipype.interface", "nipype.utils", "nibabel.global"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.CRITICAL + 1)


def _in_worker(verbose: bool) -> None:
    """Start a worker of a pool; Ctrl-C is for the main process, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start_worker(verbose)


class Linear(LinearPlugin):
    """Nipype's serial plugin, one scan after the other: the stock one does each stage of all scans before the next."""

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run all nodes; the first error is raised when all scans had their turn, or at once where asked for."""
        errors = []
        stopped.clear()
        for scan in weakly_connected_components(graph):
            try:
                super().run(graph.subgraph(scan), config, updatehash=updatehash)
            except Exception as error:
                if stopped:
                    raise stopped[0] from None
                if str2bool(config["execution"]["stop_on_first_crash"]):
                    raise
                errors.append(error)
        if errors:
            raise errors[0]


class MultiProc(MultiProcPlugin):
    """Nipype's scheduler over a pool that is made anew when a worker dies.

    The stock plugins wait for ever for a node whose process was killed. A dead worker breaks the whole pool, so each
    node that it took along is tried once more, alone in a pool of its own: only the guilty one fails.

    Attributes
    ----------
    failed : dict of str to str
        Why, by full name of each node that failed.
    """

    pool: ProcessPoolExecutor

    def __init__(self, plugin_args: dict[str, Any]) -> None:
        self.failed: dict[str, str] = {}
        self._stopped = False
        self._context = multiprocessing.get_context(plugin_args.get("mp_context"))
        self._initializer = partial(_in_worker, bool(plugin_args.get("verbose")))
        super().__init__(pool=self._new_pool(plugin_args["n_procs"]), plugin_args=plugin_args)

    def _generate_dependency_list(self, graph: Any) -> None:
        super()._generate_dependency_list(graph)
        scans = [node.fullname.rpartition(".")[0] for node in self.procs]
        turn = {scan: number for number, scan in enumerate(dict.fromkeys(scans))}
        self._turn = [turn[scan] for scan in scans]

    def _sort_jobs(self, jobids: Any, scheduler: str = "tsort") -> list[int]:
        """The scans that came first first: a run that is stopped has finished most of those that it began."""
        return sorted(super()._sort_jobs(jobids, scheduler=scheduler), key=self._turn.__getitem__)

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run all nodes; when stopped, end the workers with what they are at, for they would outlive the app."""
        try:
            super().run(graph, config, updatehash=updatehash)
        except KeyboardInterrupt:
            self._stopped = True
            self.pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.kill()
            raise

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        try:
            future = self.pool.submit(run_node, node, updatehash, self._taskid)
        except BrokenProcessPool:
            self.pool = self._new_pool(self.processors)
            future = self.pool.submit(run_node, node, updatehash, self._taskid)
        self._task_obj[self._taskid] = future
        future.add_done_callback(partial(self._done, self._taskid, node))
        return int(self._taskid)

    def _new_pool(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(max_workers=workers, mp_context=self._context, initializer=self._initializer)

    def _report_crash(self, node: Any, result: dict[str, Any] | None = None) -> str:
        """Note why a node failed; the others go on also where there is no room for Nipype's own report of it."""
        if result:
            self.failed[node.fullname] = last_words("".join(result["traceback"]))
        try:
            return str(super()._report_crash(node, result))
        except OSError as error:
            LOG.debug("no crash report of %s: %s", node.fullname, error)
            return ""

    def _done(self, taskid: int, node: Any, future: Future[dict[str, Any]]) -> None:
        """Take the result; ``node`` is None on the second try."""
        if self._stopped or future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._taskresult[taskid] = future.result()
        elif isinstance(error, BrokenProcessPool) and node is not None:
            alone = self._new_pool(1)
            alone.submit(run_node, node, False, taskid).add_done_callback(partial(self._done, taskid, None))
            alone.shutdown(wait=False)
        else:
            reason = KILLED if isinstance(error, BrokenProcessPool) else f"{type(error).__name__}: {error}"
            self._taskresult[taskid] = {"result": None, "traceback": [reason], "taskid": taskid}
