"""Who waits for a GPU is served by the one who is at it, and is served right."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bids_brainage.core import passes
from bids_brainage.core.device import locked
from bids_brainage.core.passes import ANSWERED, ASKED, LOCK, Request, asked, combined, key_of, through, waiting
from bids_brainage.image.network import SegmentationNet, posteriors

GPU = "GPU-0f1e"
SHAPE = (16, 16, 32)
WORKER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from bids_brainage.core.device import locked
from bids_brainage.core.passes import combined
from bids_brainage.image.network import SegmentationNet, posteriors
torch.set_num_threads(1)
home, seed = Path(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
network = SegmentationNet(4, (2, 4, 4, 4, 4), 4).eval()
scan = torch.rand(1, 16, 16, 32, generator=torch.Generator().manual_seed(seed))
def run(scans):
    print(len(scans), flush=True)
    return posteriors(network, scans, half=False)
found = combined(run, scan, home / "asked", lambda: locked("GPU-0f1e", home))
save_file({"classes": found[0], "right": found[1]}, home / f"{seed}.safetensors")
"""


def worker(home, seed):
    command = [sys.executable, "-c", WORKER, str(home), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def until(happened, seconds=60):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def requests(home):
    return len(list((home / "asked").glob(f"*{ASKED}")))


def alone(seed):
    torch.manual_seed(0)
    network = SegmentationNet(4, (2, 4, 4, 4, 4), 4).eval()
    scan = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return posteriors(network, scan, half=False)


@contextmanager
def at_once():
    yield


def doubled(scans):
    return 2 * scans, scans.sum(dim=(1, 2))


def scans_of(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None, None].expand(-1, 2, 3).contiguous()


@contextmanager
def another(folder, scans):
    """A request of another process, as far as anyone can see: its lock is held."""
    with asked(folder, scans) as request:
        yield request


@pytest.mark.slow
def test_processes_that_wait_are_served_in_one_pass_and_get_what_each_gets_alone(tmp_path):
    with locked(GPU, tmp_path):
        workers = [worker(tmp_path, seed) for seed in (1, 2, 3)]
        until(lambda: requests(tmp_path) == 3)
    said = [one.communicate(timeout=60)[0].split() for one in workers]
    assert [one.returncode for one in workers] == [0, 0, 0]
    assert sorted(said) == [[], [], ["3"]]
    for seed in (1, 2, 3):
        found, expected = load_file(tmp_path / f"{seed}.safetensors"), alone(seed)
        torch.testing.assert_close(found["classes"], expected.classes, atol=2e-5, rtol=0)
        torch.testing.assert_close(found["right"], expected.right, atol=2e-5, rtol=0)
    assert list((tmp_path / "asked").iterdir()) == []


@pytest.mark.slow
def test_one_that_is_killed_while_it_waits_takes_nobody_along(tmp_path):
    with locked(GPU, tmp_path):
        killed, other = worker(tmp_path, 1), worker(tmp_path, 2)
        until(lambda: requests(tmp_path) == 2)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate(timeout=60)
    assert other.communicate(timeout=60)[0].split() == ["1"]
    assert (tmp_path / "2.safetensors").is_file()
    assert list((tmp_path / "asked").iterdir()) == []


def test_one_alone_is_computed_alone_and_leaves_nothing(tmp_path):
    found = combined(doubled, scans_of(1, 2), tmp_path / "asked", at_once)
    assert torch.equal(found[0], scans_of(2, 4))
    assert torch.equal(found[1], torch.tensor([6.0, 12.0]))
    assert list((tmp_path / "asked").iterdir()) == []


def test_those_who_wait_get_their_part(tmp_path):
    with another(tmp_path, scans_of(3, 4)) as first, another(tmp_path, scans_of(5)) as second:
        (found, _) = combined(doubled, scans_of(1), tmp_path, at_once)
        assert torch.equal(found, scans_of(2))
        assert torch.equal(first.answer()[0], scans_of(6, 8))
        assert torch.equal(second.answer()[1], torch.tensor([30.0]))
        assert first.scans() is None


def test_an_answer_is_taken_without_a_pass(tmp_path):
    def never(_):
        raise AssertionError("computed twice")

    @contextmanager
    def later():
        (name,) = (path.name.removesuffix(LOCK) for path in tmp_path.glob(f"*{LOCK}"))
        Request(tmp_path, name).respond(doubled(scans_of(7)))
        yield

    assert torch.equal(combined(never, scans_of(7), tmp_path, later)[0], scans_of(14))


def test_no_more_than_so_many_go_together(tmp_path):
    sizes = []

    def run(scans):
        sizes.append(len(scans))
        return doubled(scans)

    with another(tmp_path, scans_of(1, 1)) as one, another(tmp_path, scans_of(1, 1)) as two:
        combined(run, scans_of(1), tmp_path, at_once, most=4)
        assert sorted(request.answer() is None for request in (one, two)) == [False, True]
    combined(run, scans_of(1, 2, 3, 4, 5), tmp_path, at_once, most=4)
    assert sizes == [3, 5]


def test_where_all_together_fail_each_goes_alone(tmp_path):
    def small(scans):
        if len(scans) > 1:
            raise torch.OutOfMemoryError("too much")
        return doubled(scans)

    with another(tmp_path, scans_of(3)) as waits:
        assert torch.equal(combined(small, scans_of(1), tmp_path, at_once)[0], scans_of(2))
        assert waits.answer() is None
    with pytest.raises(torch.OutOfMemoryError):
        combined(small, scans_of(1, 2), tmp_path, at_once)
    assert list(tmp_path.iterdir()) == []


def test_what_dead_processes_left_goes(tmp_path):
    left = Request(tmp_path, "dead")
    left.path(LOCK).write_text("")
    save_file({"scans": scans_of(1)}, left.path(ASKED))
    (tmp_path / f".0123456789ab.dead{ANSWERED}").write_text("half")
    with another(tmp_path, scans_of(1)) as own:
        assert waiting(tmp_path, own, 8) == []
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_owner_goes(tmp_path):
    save_file({"0": scans_of(1)}, tmp_path / f"gone{ANSWERED}")
    save_file({"scans": scans_of(1)}, tmp_path / f"gone{ASKED}")
    with another(tmp_path, scans_of(1)) as own:
        assert waiting(tmp_path, own, 0) == []
    assert list(tmp_path.iterdir()) == []
    Request(tmp_path, "gone").respond([scans_of(1)])
    assert list(tmp_path.iterdir()) == []


def test_what_is_being_computed_is_asked_no_longer(tmp_path):
    def run(scans):
        assert not list(tmp_path.glob(f"*{ASKED}"))
        return doubled(scans)

    assert torch.equal(combined(run, scans_of(1), tmp_path, at_once)[0], scans_of(2))


@pytest.mark.parametrize("error", [SafetensorError, OSError, RuntimeError])
def test_an_answer_that_cannot_be_left_costs_the_others_alone(tmp_path, monkeypatch, error):
    def full(*_):
        raise error("no space left")

    with another(tmp_path, scans_of(3)) as waits, asked(tmp_path, scans_of(1)) as own:
        monkeypatch.setattr(passes, "save_file", full)
        waits.respond(doubled(scans_of(3)))
        assert waits.answer() is None
        monkeypatch.setattr(passes, "load_file", full)
        assert waiting(tmp_path, own, 8) == []


def test_on_a_gpu_scans_wait_under_its_uuid_for_their_turn(tmp_path, monkeypatch):
    class There:
        device = "cuda:1"

    class Network(torch.nn.Linear):
        def parameters(self, recurse=True):
            return iter([There()])

    turns = []

    @contextmanager
    def turn(device):
        turns.append(device)
        yield

    monkeypatch.setattr(passes, "exclusive", turn)
    monkeypatch.setattr(passes, "identity", lambda device: f"GPU of {device}")
    monkeypatch.setattr(passes, "shared_folder", lambda: tmp_path)
    network, scans = Network(1, 1), scans_of(1, 2)
    folder = tmp_path / f"passes-{key_of(network, scans, 'GPU of cuda:1', 'half')}"
    with another(folder, scans_of(5)) as waits:
        found = through(doubled, scans, network, "half")
        assert torch.equal(waits.answer()[0], scans_of(10))
    assert torch.equal(found[0], scans_of(2, 4))
    assert turns == ["cuda:1"]


def test_one_who_has_not_asked_yet_is_left_alone(tmp_path):
    with FileLock(tmp_path / f"soon{LOCK}"), another(tmp_path, scans_of(1)) as own:
        assert waiting(tmp_path, own, 8) == []
        assert (tmp_path / f"soon{LOCK}").is_file()


@pytest.mark.parametrize("damaged", [ASKED, ANSWERED])
def test_damaged_files_are_as_if_not_there(tmp_path, damaged):
    with another(tmp_path, scans_of(1)) as request:
        request.path(damaged).write_bytes(b"none of it")
        assert (request.scans() if damaged == ASKED else request.answer()) is None


def test_a_folder_that_takes_no_requests_costs_the_company_alone(tmp_path):
    (tmp_path / "file").write_text("")
    assert torch.equal(combined(doubled, scans_of(1), tmp_path / "file", at_once)[0], scans_of(2))


def test_answers_are_not_taken_from_a_folder_of_another_user(tmp_path, monkeypatch):
    folder = tmp_path / "shared" / "asked"
    with asked(folder, scans_of(1)) as request:
        assert request is not None
    assert {one.stat().st_mode & 0o777 for one in (folder, folder.parent)} == {0o700}
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with asked(folder, scans_of(1)) as request:
        assert request is None


def test_on_the_cpu_scans_go_one_after_the_other():
    sizes, network = [], torch.nn.Linear(1, 1)

    def run(scans):
        sizes.append(len(scans))
        return doubled(scans)

    found = through(run, scans_of(1, 2, 3), network)
    assert sizes == [1, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(found, doubled(scans_of(1, 2, 3)), strict=True))


def test_only_what_is_the_same_goes_together(monkeypatch):
    torch.manual_seed(0)
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    again = torch.nn.Linear(2, 2)
    again.load_state_dict(one.state_dict())
    scan, key = scans_of(1), key_of(one, scans_of(1), "half")
    assert key == key_of(again, scans_of(5, 6), "half")
    changed = {key_of(other, scan, "half"), key_of(one, scan, "whole"), key_of(one, scan[:, :1], "half")}
    changed.add(key_of(one, scan.double(), "half"))
    monkeypatch.setattr(passes, "__version__", "0")
    changed.add(key_of(one, scan, "half"))
    assert len(changed | {key}) == 6


def test_the_posterior_of_a_scan_is_that_of_the_pass():
    torch.manual_seed(0)
    network = SegmentationNet(4, (2, 4, 4, 4, 4), 4).eval()
    scans = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (2, *SHAPE)).astype(np.float32))
    found = through(lambda seen: posteriors(network, seen, half=False), scans, network)
    torch.testing.assert_close(found[0][1], posteriors(network, scans[1:], half=False).classes[0])
