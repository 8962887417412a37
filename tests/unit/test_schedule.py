"""The simulated schedule of many scans."""

from dataclasses import replace

import pytest

from benchmarks.schedule import DAY, HOUR, Cluster, simulate
from bids_brainage.toolbox.slurm_jobs import measured

SCAN, START = measured()["scan"][0], measured()["start"][0]
EVEN = Cluster(nodes=2, slots=4, finding=0, spread=0, node_spread=0, bad=0, between_failures=1e6 * DAY)


def test_without_chance_it_is_arithmetic():
    found = simulate(EVEN, 240, 10)
    assert found.hours == pytest.approx(3 * (START + 10 * SCAN) / HOUR)
    assert found.busy == pytest.approx(1)
    assert found.core_hours == pytest.approx((24 * START + 240 * SCAN) / HOUR)
    assert (found.requeued, found.failed, found.scratch, found.left) == (0, 0, 8, 0)


def test_one_task_more_than_slots_costs_another_round():
    assert simulate(EVEN, 90, 10).hours == pytest.approx(2 * simulate(EVEN, 80, 10).hours)


def test_nodes_that_fail_cost_time_and_no_scan():
    failing = replace(EVEN, between_failures=2 * HOUR, repair=HOUR)
    even, found = simulate(EVEN, 2000, 50), simulate(failing, 2000, 50)
    assert found.requeued > 0
    assert found.hours > even.hours
    assert found.core_hours > even.core_hours
    assert found.left == 0


def test_a_scan_that_fails_keeps_its_own_work_and_no_other_s():
    bad = replace(EVEN, bad=0.01)
    many, few = simulate(bad, 2000, 100), simulate(bad, 2000, 10)
    assert many.failed == few.failed == many.left == few.left > 0
    assert few.left <= few.scratch <= few.left + 8
    assert simulate(replace(EVEN, bad=1), 200, 10).left == 200


def test_a_scan_at_which_its_node_fails_keeps_its_work_until_it_is_done():
    failing = replace(EVEN, between_failures=2 * HOUR, repair=HOUR)
    found = simulate(failing, 2000, 50)
    assert 8 < found.scratch <= 8 + found.requeued
    assert simulate(replace(EVEN, task_cores=4), 240, 10).scratch == 4 * 8


def test_memory_or_cores_decide_how_many_tasks_a_node_runs():
    assert Cluster(nodes=1, gib=128).at_once == 21
    assert Cluster(nodes=1, gib=1024).at_once == 32


def test_a_gpu_does_one_scan_at_a_time():
    gpu = replace(EVEN, task_cores=16)
    assert simulate(replace(gpu, gpu_seconds=2), 800, 100).hours == pytest.approx(simulate(gpu, 800, 100).hours)
    slow = simulate(replace(gpu, gpu_seconds=40), 800, 100)
    assert slow.hours == pytest.approx((START + 100 * 40) / HOUR)


def test_the_seed_decides():
    plain = Cluster(nodes=2)
    assert simulate(plain, 500, 10, seed=1) == simulate(plain, 500, 10, seed=1)
    assert simulate(plain, 500, 10, seed=1) != simulate(plain, 500, 10, seed=2)
