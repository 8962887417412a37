"""One scan's job, and the bundles that a run uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bids_brainage.bids import outputs
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.types import Scan
from bids_brainage.options import Options

WORKFLOW = "bids_brainage_wf"


@dataclass(frozen=True)
class Tools:
    """Bundles that a run uses: models that give an age, and those behind the stages."""

    models: tuple[Bundle, ...]
    segment: Bundle
    atlas: Bundle
    normative: Bundle
    synthstrip: Bundle | None

    @property
    def behind(self) -> tuple[Bundle, ...]:
        """All but the brain-age models."""
        return tuple(b for b in (self.segment, self.atlas, self.normative, self.synthstrip) if b is not None)

    @property
    def needs(self) -> set[str]:
        """Artefacts that the models need."""
        return {artefact for b in self.models for artefact in b.card["needs"]}


@dataclass
class Job:
    """One scan: what it should become, and why it is to be run, if it is.

    ``fingerprint`` holds the checksums of the scan's files, and ``stamps`` by what they are known, once it runs.
    """

    scan: Scan
    fingerprint: dict[str, str]
    why: str
    artefacts: tuple[str, ...] = ()
    stamps: dict[str, str] = field(default_factory=dict)


def missing(job: Job, options: Options) -> list[Path]:
    """Expected outputs that are not there."""
    return outputs.missing(job.scan, job.artefacts, options.out_dir, options.template)


def settings_of(job: Job, options: Options, tools: Tools, device: str, threads: int) -> dict[str, Any]:
    """Values by argument name for the stages of one scan."""
    scan = job.scan
    return {
        "t1w": scan.preproc or scan.path,
        "preprocessed": scan.preproc is not None,
        "given_mask": scan.mask,
        "bundle": tools.segment.folder,
        "bundles": tuple(b.folder for b in tools.models),
        "synthstrip": tools.synthstrip.folder if tools.synthstrip else None,
        "atlas": tools.atlas.folder,
        "normative": tools.normative.folder,
        "predict_gb": max([1.5, *(float(b.card.get("memory_gb", 0)) for b in tools.models)]),
        "template": options.template,
        "device": device,
        "threads": threads,
        "seed": options.random_seed,
        "scan": scan,
        "minimal": options.minimal_outputs,
        "out_dir": options.out_dir,
        "fingerprint": job.fingerprint,
        "stamps": job.stamps,
    }
