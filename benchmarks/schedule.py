"""A schedule of many scans, simulated: ``python benchmarks/schedule.py [--scans N] [--gpu-seconds S ...]``.

Tasks of ``brainage slurm`` wait in one queue for slots on nodes. Costs of a scan and of a start are those of
``bids_brainage/data/resources.tsv``; how they scatter, how often nodes and scans fail and how long a node is away are
assumptions, the fields of :class:`Cluster`. A task whose node fails is queued again and does what is not complete, as
the app does. GPU seconds of a scan are not measured: rows for GPUs come only for those that are given.
"""

from __future__ import annotations

import argparse
import heapq
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.toolbox.slurm_jobs import MEMORY_MARGIN, measured

HOUR = 3600.0
DAY = 24 * HOUR
GPU_SAVES = 3.8  # core seconds of the networks in the brain stage (benchmarks/README.md: 1.9 s with 2 threads)


@dataclass(frozen=True)
class Cluster:
    """What runs, and what is assumed. Seconds, GiB.

    ``finding`` are the seconds that a task takes to find its scans, beyond the measured start.
    """

    nodes: int
    cores: int = 32
    gib: float = 128
    slots: int = 0  # tasks a node; 0: as many as cores and memory allow
    task_cores: int = 1
    gpu_seconds: float = 0
    cpu_saved: float = 0
    finding: float = 30
    spread: float = 0.3  # SD of the logarithm of the seconds of a scan
    node_spread: float = 0.1  # SD of the logarithm of a node's speed
    bad: float = 0.01  # share of scans that fail, and take as long as the others
    between_failures: float = 60 * DAY  # of one node
    repair: float = 4 * HOUR

    @property
    def at_once(self) -> int:
        """Tasks that a node runs at the same time."""
        asked = math.ceil(MEMORY_MARGIN * measured()["scan"][1] * self.task_cores)
        return self.slots or min(self.cores // self.task_cores, int(self.gib // asked))


class Task(NamedTuple):
    """Scans ``first`` up to ``last``, of which ``done`` are over and ``begun`` more were begun, from ``ready`` s on."""

    ready: float
    first: int
    last: int
    done: int = 0
    begun: int = 0


class Schedule(NamedTuple):
    """What became of it: hours to the end, share of the slots' time in use, and so on.

    ``scratch`` is the largest number of scans whose intermediate files lay there at once, with ``--clean-workdir``;
    ``left`` the number of those that stay at the end: of the scans that failed.
    """

    hours: float
    busy: float
    core_hours: float
    requeued: int
    failed: int
    scratch: int
    left: int


def scan_seconds(cluster: Cluster, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Seconds that each scan holds its slot, shape (n,): lognormal with the measured mean.

    A task with several cores or a GPU does as many scans at once as it has cores; the GPU does one at a time.
    """
    mean = measured()["scan"][0] - cluster.cpu_saved
    cpu = mean * rng.lognormal(-(cluster.spread**2) / 2, cluster.spread, n)
    return np.maximum(cpu / cluster.task_cores, cluster.gpu_seconds)


def failure_times(cluster: Cluster, horizon: float, seed: int) -> list[NDArray[np.float64]]:
    """For each node when it fails, seconds, in order; exponential, and never while it is away."""
    count = int(horizon / cluster.between_failures * 3) + 20
    each = [np.random.default_rng((seed, 1, node)) for node in range(cluster.nodes)]
    gaps = np.stack([rng.exponential(cluster.between_failures, count) for rng in each])
    return list(np.cumsum(gaps, axis=1) + cluster.repair * np.arange(count))


def simulate(cluster: Cluster, scans: int, per_task: int, seed: int = 0) -> Schedule:
    """Run all tasks; each slot that is free takes the next of the queue. An idle slot does not notice a failure."""
    rng = np.random.default_rng(seed)
    seconds, bad = scan_seconds(cluster, scans, rng), rng.random(scans) < cluster.bad
    speed = rng.lognormal(0, cluster.node_spread, cluster.nodes)
    start = measured()["start"][0] + cluster.finding
    slots = [(0.0, node) for node in range(cluster.nodes) for _ in range(cluster.at_once)]
    serial = (seconds.sum() + start * scans / per_task) / len(slots)
    failures = failure_times(cluster, 10 * serial + 30 * DAY, seed)
    queue = [Task(0.0, i, min(i + per_task, scans)) for i in range(0, scans, per_task)]
    end = used = 0.0
    requeued, changes = 0, list[tuple[float, int]]()
    while queue:
        free, node = heapq.heappop(slots)
        task = heapq.heappop(queue)
        began = max(free, task.ready)
        ends = began + speed[node] * (start + np.cumsum(seconds[task.first + task.done : task.last]))
        breaks = float(failures[node][np.searchsorted(failures[node], began)])
        done = int(np.searchsorted(ends, breaks, side="right"))
        starts, gone = scratch(cluster.task_cores, began, ends, bad[task.first + task.done : task.last], breaks)
        changes += [(when, 1) for when in starts[task.begun :]] + [(when, -1) for when in gone]
        if done < len(ends):
            heapq.heappush(queue, Task(breaks, task.first, task.last, task.done + done, len(starts) - done))
            requeued, finish, free = requeued + 1, breaks, breaks + cluster.repair
        else:
            finish = free = float(ends[-1])
        used, end = used + finish - began, max(end, finish)
        heapq.heappush(slots, (free, node))
    return _summed(changes, end, used, len(slots), cluster, requeued, int(bad.sum()))


def scratch(
    cores: int, began: float, ends: NDArray[np.float64], bad: NDArray[np.bool_], breaks: float
) -> tuple[list[float], list[float]]:
    """When intermediate files of scans came, and when they went, in one try of a task, seconds.

    A task works at as many scans as it has cores. The files of a scan go when it is complete; where it fails, or the
    node ``breaks``, they stay.
    """
    starts = np.concatenate([np.full(min(cores, len(ends)), began), ends[:-cores]])
    return starts[starts < breaks].tolist(), ends[(ends <= breaks) & ~bad].tolist()


def _summed(
    changes: list[tuple[float, int]], end: float, used: float, slots: int, cluster: Cluster, requeued: int, failed: int
) -> Schedule:
    """The figures of a schedule; ``changes``: when how many scans came to, or left, the work folder."""
    when, change = (np.array(column) for column in zip(*changes, strict=True))
    there = np.cumsum(change[np.lexsort((change, when))])
    core_hours = used * cluster.task_cores / HOUR
    return Schedule(
        end / HOUR, used / (slots * end), core_hours, requeued, failed, int(there.max(initial=0)), int(there[-1])
    )


def scenarios(gpu_seconds: list[float]) -> dict[str, tuple[Cluster, int]]:
    """Clusters and scans a task, by name."""
    plain = Cluster(nodes=31)  # 992 cores
    full = replace(plain, slots=32)
    made = {
        "memory as asked for, 100 a task": (plain, 100),
        "`--mem 4G`, 100 a task": (full, 100),
        "`--mem 4G`, 10 a task": (full, 10),
        "`--mem 4G`, 10 a task, every node fails once a day": (replace(full, between_failures=DAY), 10),
        "`--mem 4G`, 100 a task, every node fails once a day": (replace(full, between_failures=DAY), 100),
    }
    gpus = Cluster(nodes=2, cores=64, gib=512, slots=4, task_cores=16, cpu_saved=GPU_SAVES)
    for seconds in gpu_seconds:
        made[f"8 GPUs, 16 cores each, {seconds:g} s of GPU a scan (given)"] = (replace(gpus, gpu_seconds=seconds), 100)
    return made


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description="A schedule of many scans on a cluster, simulated.")
    parser.add_argument("--scans", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu-seconds", type=float, nargs="+", default=[], help="GPU seconds a scan; not measured")
    args = parser.parse_args()
    print("| schedule | tasks at once | hours | slots in use | core hours | requeued | failed | scratch | left |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (cluster, per_task) in scenarios(args.gpu_seconds).items():
        found = simulate(cluster, args.scans, per_task, args.seed)
        counts = (found.requeued, found.failed, found.scratch, found.left)
        print(
            f"| {name} | {cluster.nodes * cluster.at_once} | {found.hours:.1f} | {100 * found.busy:.0f} % "
            f"| {found.core_hours:,.0f} | " + " | ".join(f"{count:,}" for count in counts) + " |"
        )


if __name__ == "__main__":
    main()
