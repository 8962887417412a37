"""MultiProc that survives a killed worker: the scan fails with a reason, the others go on."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from niworkflows.engine.plugin import MultiProcPlugin, run_node

KILLED = "the worker process was killed, most often for want of memory; raise --mem-mb or lower --nprocs"


def start_worker(verbose: bool) -> None:
    """Quieten Nipype in a process, the first or a worker: its own log lines are for ``-v``."""
    for name in ("nipype", "nipype.workflow", "nipype.interface", "nipype.utils"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.CRITICAL)


class MultiProc(MultiProcPlugin):
    """Nipype's scheduler over a pool that is made anew when a worker dies.

    The stock plugins wait for ever for a node whose process was killed. A dead worker breaks the whole pool, so each
    node that it took along is tried once more, alone in a pool of its own: only the guilty one fails.
    """

    pool: ProcessPoolExecutor

    def __init__(self, plugin_args: dict[str, Any]) -> None:
        self._context = multiprocessing.get_context(plugin_args.get("mp_context"))
        self._initializer = partial(start_worker, bool(plugin_args.get("verbose")))
        super().__init__(pool=self._new_pool(plugin_args["n_procs"]), plugin_args=plugin_args)

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

    def _done(self, taskid: int, node: Any, future: Future[dict[str, Any]]) -> None:
        """Take the result; ``node`` is None on the second try."""
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
