"""THE MAP of the participant level: one stage a line, in order. Stages are wired by name.

An argument of a stage is an artefact that an earlier stage returned under that name, or a setting of the scan.
What the chosen models need decides which stages run: nothing else is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_brainage.workflows.node import locate, node, parameters, results


@dataclass(frozen=True)
class StageSpec:
    """One stage: where its function is, what it may use, and its sentence of the methods text."""

    name: str
    function: str
    mem_gb: float
    threaded: bool
    sentence: str
    free: bool = False  # cheap, and expected of any such app: runs wherever its inputs are made anyhow

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments of the function."""
        return tuple(parameters(locate(self.function)))

    @property
    def gives(self) -> tuple[str, ...]:
        """Artefacts that it makes; ``flags`` and ``measures`` go by ``<name>_flags`` and ``<name>_measures``."""
        own = ("flags", "measures")
        return tuple(f"{self.name}_{field}" if field in own else field for field in results(locate(self.function)))


STAGES = (
    StageSpec("conform", "bids_brainage.image.conform:conform", 1.5, False,
              "Each T1w image was reoriented to RAS and checked."),
    StageSpec("brain", "bids_brainage.image.brain:segment", 2.5, True,
              "Brain extraction and tissue posteriors came from a U-Net trained on images synthesised from label maps "
              "(after SynthSeg, Billot et al. 2023, and SynthStrip, Hoopes et al. 2022)."),
    StageSpec("n4", "bids_brainage.image.n4:correct_bias", 2.0, True,
              "Intensity non-uniformity was corrected with N4 (Tustison et al. 2010; ANTs)."),
    StageSpec("register", "bids_brainage.image.register:register", 2.0, True,
              "The brain was registered to {template} by affine and SyN transforms (Avants et al. 2008; ANTs)."),
    StageSpec("linear", "bids_brainage.image.linear:place", 2.0, False,
              "The brain was also placed on the template's 1 mm grid by the affine transform alone."),
    StageSpec("volumes", "bids_brainage.image.volumes:volumes", 2.0, False,
              "Volumes of the 145 MUSE regions (Doshi et al. 2016) came from the posteriors and a registered atlas, "
              "which also gave the final brain mask."),
    StageSpec("tissue", "bids_brainage.image.tissue:tissues", 2.0, True,
              "Grey matter, white matter and cerebrospinal fluid probabilities came from posteriors, atlas and "
              "intensity.", free=True),
    StageSpec("modulate", "bids_brainage.image.modulate:modulate", 2.0, False,
              "Grey and white matter maps were modulated by the Jacobian determinant of the nonlinear warp, at 1.5 mm, "
              "and smoothed (4 mm FWHM)."),
)  # fmt: skip
PREPROCESSED = {"t1w_preproc": "t1w_ordered"}
WHERE = {artefact: stage for stage in STAGES for artefact in stage.gives}


def plan(needs: Iterable[str], preprocessed: bool = False) -> tuple[StageSpec, ...]:
    """The stages, in order, that make what the models need, and no others.

    A scan that comes preprocessed (bias field corrected by another tool) needs conforming, and no N4.
    """
    wanted, chosen = list(needs), set()
    while wanted:
        artefact = wanted.pop()
        stage = WHERE.get(PREPROCESSED.get(artefact, artefact) if preprocessed else artefact)
        if stage is not None and stage.name not in chosen:
            chosen.add(stage.name)
            wanted.extend(stage.arguments)
    given = {*made_by(stage for stage in STAGES if stage.name in chosen), *(PREPROCESSED if preprocessed else ())}
    chosen |= {stage.name for stage in STAGES if stage.free and set(stage.arguments) & set(WHERE) <= given}
    return tuple(stage for stage in STAGES if stage.name in chosen)


def made_by(stages: Iterable[StageSpec]) -> tuple[str, ...]:
    """All artefacts of a plan, in order."""
    return tuple(artefact for stage in stages for artefact in stage.gives)


def scan_workflow(name: str, stages: tuple[StageSpec, ...], settings: Mapping[str, Any], threads: int) -> Workflow:
    """Wire the stages of one scan, then ``figure``, ``predict`` and ``publish``.

    Parameters
    ----------
    name : str
        The scan's stem, letters, digits and underscores.
    settings
        Values by argument name for all that no stage makes.
    threads
        Threads that a threaded stage may use.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = " ".join(stage.sentence.format(**settings) for stage in stages)
    sources: dict[str, tuple[pe.Node, str]] = {}
    for stage in stages:
        arguments = stage.arguments
        constants = {a: settings[a] for a in arguments if a not in sources and settings.get(a) is not None}
        made = node(
            stage.function,
            stage.name,
            mem_gb=stage.mem_gb,
            n_procs=threads if stage.threaded else 1,
            constants=constants,
        )
        _connect(workflow, made, {a: sources[a] for a in arguments if a in sources})
        fields = results(locate(stage.function))
        sources |= {artefact: (made, field) for artefact, field in zip(stage.gives, fields, strict=True)}
        if settings["preprocessed"]:
            sources |= {a: sources[same] for a, same in PREPROCESSED.items() if same in sources}
    for last in ("figures", "predict", "publish"):
        _closing(workflow, last, sources, settings)
    return workflow


CLOSING_GB = 1.5
CLOSING = {
    "figures": (
        "bids_brainage.reports.figures:figures",
        ("t1w_native", "t1w_preproc", "brain_mask", "brain_mask_fused", "dseg", "t1w_mni"),
    ),
    "predict": ("bids_brainage.workflows.predict:predict", None),
    "publish": ("bids_brainage.workflows.publish:publish", None),
}


def _closing(
    workflow: Workflow, name: str, sources: dict[str, tuple[pe.Node, str]], settings: Mapping[str, Any]
) -> None:
    """One of the nodes that take whatever artefacts there are."""
    function, limited = CLOSING[name]
    taken = {a: source for a, source in sources.items() if limited is None or a in limited}
    constants = {a: settings[a] for a in parameters(locate(function)) if settings.get(a) is not None}
    use: dict[str, Any] = {"mem_gb": CLOSING_GB, "n_procs": 1}
    if name == "predict" and settings.get("predict_gb", 0) > CLOSING_GB:  # a network over a whole volume
        use = {"mem_gb": settings["predict_gb"], "n_procs": settings.get("threads", 1)}
    made = node(function, name, artefacts=tuple(taken), constants=constants, **use)
    made.interface._always_run = name == "publish"
    _connect(workflow, made, taken)
    sources |= {field: (made, field) for field in results(locate(function))}


def _connect(workflow: Workflow, target: pe.Node, taken: Mapping[str, tuple[pe.Node, str]]) -> None:
    workflow.add_nodes([target])
    for argument, (source, field) in taken.items():
        workflow.connect(source, field, target, argument)
