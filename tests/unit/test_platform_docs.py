"""docs/platforms.md says what the commands say."""

import argparse
import re
from pathlib import Path

import pytest

from bids_brainage.toolbox import docker, slurm, slurm_jobs

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")


def slurm_flags():
    parser = argparse.ArgumentParser()
    slurm.add_parser(parser.add_subparsers())
    (made,) = parser._subparsers._group_actions[0].choices.values()
    return [word for action in made._actions for word in action.option_strings if word not in ("-h", "--help")]


@pytest.mark.parametrize("flag", slurm_flags())
def test_every_flag_of_the_array_is_explained(flag):
    assert f"`{flag}" in DOCS or f" {flag} " in DOCS or f" {flag}`" in DOCS


def test_the_image_is_the_one_that_the_wrapper_runs():
    assert docker.IMAGE in DOCS
    assert set(re.findall(r"ghcr\.io/[^:\s]+", DOCS)) == {docker.IMAGE.partition(":")[0]}


def test_the_limits_are_those_that_the_scripts_ask_for():
    memory, minutes = slurm_jobs.limits(slurm_jobs.Needs(1, None, None, 1, gpu=False))
    assert f"{memory[:-1]} GB and {minutes} minutes for a task of one scan" in DOCS


def test_the_files_it_names_are_there():
    for name in re.findall(r"\]\(\.\./([^)]+)\)", DOCS):
        assert (ROOT / name).is_file(), name
