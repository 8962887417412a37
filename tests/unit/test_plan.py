"""Only the stages that the chosen models need are run."""

import pytest

from bids_brainage.workflows.participant import STAGES, WHERE, plan


def names(needs, **kwargs):
    return [stage.name for stage in plan(needs, **kwargs)]


def test_a_model_of_the_native_scan_needs_no_registration():
    assert names({"t1w_native", "sex"}) == ["conform"]


def test_a_stripped_scan_needs_the_mask_and_nothing_more():
    assert names({"t1w_native", "brain_mask"}) == ["conform", "brain"]


def test_volumes_need_no_modulated_maps():
    chosen = names({"muse_volumes", "sex"})
    assert "modulate" not in chosen
    assert chosen.index("register") < chosen.index("volumes")


def test_tissues_come_along_where_their_inputs_are_made_anyhow():
    assert "tissue" in names({"muse_volumes"})
    assert "tissue" not in names({"brain_mask"})


def test_modulated_maps_come_from_tissues_by_network_and_atlas():
    chosen = names({"gm_modulated", "wm_modulated"})
    assert chosen[-3:] == ["volumes", "tissue", "modulate"]


def test_a_preprocessed_scan_needs_no_bias_correction():
    assert names({"t1w_preproc"}, preprocessed=True) == ["conform", "brain"]  # which may exchange dark and bright
    assert "n4" not in names({"muse_volumes"}, preprocessed=True)
    assert "n4" in names({"muse_volumes"})


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_every_argument_is_an_artefact_of_an_earlier_stage_or_a_setting(stage):
    settings = {"t1w", "given_mask", "bundle", "synthstrip", "atlas", "template", "device", "threads", "seed"}
    earlier = {a for s in STAGES[: STAGES.index(stage)] for a in s.gives}
    assert set(stage.arguments) <= earlier | settings
    assert all(WHERE[a] is stage for a in stage.gives)


def test_the_volumes_are_told_what_the_segmentation_flagged():
    """A name that no stage gave would be left at its default without a word."""
    assert WHERE["stripped"].name == "brain"
    assert "stripped" in WHERE["muse_volumes"].arguments
