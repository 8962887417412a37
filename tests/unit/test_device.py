"""A GPU is tried before any work, and one process at a time computes on it."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from bids_brainage.core import device
from bids_brainage.core.errors import BrainAgeError, UsageError

STAND_IN = "GPU-0f1e"
HOLDER = """
import logging, sys, time
from pathlib import Path
from bids_brainage.core.device import locked
logging.basicConfig(level=logging.WARNING, format="%(message)s")
folder, name, seconds, patience = sys.argv[1:]
with locked(name, Path(folder), float(patience)):
    print("in", time.monotonic(), flush=True)
    time.sleep(float(seconds))
    print("out", time.monotonic(), flush=True)
"""
absent = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def holder(folder, seconds, *, name=STAND_IN, patience=0.0):
    command = [sys.executable, "-c", HOLDER, str(folder), name, str(seconds), str(patience)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def times(process):
    """When it came in and went out, and what it said."""
    said, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    return [float(line.split()[1]) for line in said.splitlines()], log.splitlines()


def test_two_processes_compute_one_after_the_other_and_one_says_once_that_it_waits(tmp_path):
    found = [times(one) for one in [holder(tmp_path, 1.5) for _ in range(2)]]
    (first, _), (second, _) = sorted(found)
    assert first[1] <= second[0]
    assert sorted(len(log) for _, log in found) == [0, 1]
    (line,) = next(log for _, log in found if log)
    assert line.startswith(f"waiting for another process on GPU {STAND_IN} ({tmp_path}")


def test_a_short_wait_is_not_worth_a_word(tmp_path):
    found = [times(one) for one in [holder(tmp_path, 0.3, patience=30) for _ in range(2)]]
    (first, _), (second, _) = sorted(found)
    assert first[1] <= second[0]
    assert [log for _, log in found] == [[], []]


def test_two_gpus_do_not_wait_for_each_other(tmp_path):
    with device.locked("GPU-a", tmp_path):
        assert times(holder(tmp_path, 0, name="GPU-b"))[1] == []


def test_a_killed_holder_lets_the_next_one_in(tmp_path):
    with holder(tmp_path, 600) as one:
        assert one.stdout.readline().startswith("in")
        start, other = time.monotonic(), holder(tmp_path, 0)
        assert other.stderr.readline().startswith("waiting")
        os.kill(one.pid, signal.SIGKILL)
    entered, _ = times(other)
    assert entered[0] - start < 30


def test_an_error_inside_releases(tmp_path):
    with pytest.raises(ZeroDivisionError), device.locked(STAND_IN, tmp_path):
        raise ZeroDivisionError
    assert times(holder(tmp_path, 0))[1] == []


def test_a_folder_that_allows_no_lock_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BrainAgeError, match="set TMPDIR to a folder") as told,
        device.locked(STAND_IN, tmp_path / "file"),
    ):
        pytest.fail("no lock, and yet inside")
    assert str(told.value).startswith(f"{tmp_path / 'file'}")
    assert "\n" not in str(told.value)


def test_the_cpu_takes_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with device.exclusive("cpu"), device.exclusive("cpu"):
        assert list(tmp_path.iterdir()) == []
    assert device.shared_folder().parent == tmp_path


def test_a_pass_on_a_gpu_is_locked_under_its_uuid_and_gives_memory_back(tmp_path, monkeypatch):
    class Properties:
        uuid = STAND_IN

    freed = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(True))
    with device.exclusive("cuda:0"):
        waiting = holder(device.shared_folder(), 0)
        assert waiting.stderr.readline().startswith("waiting")
        assert not freed
    assert freed == [True]
    times(waiting)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CUDA", "cuda:-1", ""])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(UsageError, match="is no device; give cpu, cuda or cuda:N"):
        device.usable(name)


@absent
@pytest.mark.parametrize("name", ["cuda", "cuda:3"])
def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(name, caplog):
    with pytest.raises(UsageError, match=f"--device {name}: no usable GPU .*; use --device cpu$"):
        device.usable(name)
    assert (device.usable("auto"), device.usable("cpu")) == ("cpu", "cpu")
    assert caplog.records == []


@absent
@pytest.mark.slow
def test_a_gpu_that_is_there_but_cannot_compute_is_refused(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"--device cuda:1: .*the last one is cuda:0"):
        device.usable("cuda:1")
    with pytest.raises(UsageError, match=r"--device cuda: no usable GPU was found \(.*(compiled|driver)") as told:
        device.usable("cuda")
    assert "\n" not in str(told.value)
    assert device.usable("auto") == "cpu"
    assert [record.message[:24] for record in caplog.records] == ["the GPU cannot be used ("]


def test_what_computes_is_usable():
    assert device.failing_alone("cpu") == ""
