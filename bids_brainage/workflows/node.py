"""A typed function becomes a Nipype node: arguments by annotation, results by the fields of its NamedTuple.

A stage is ``def stage(a: Path, n: int, *, out: Path) -> Result`` where ``Result`` is a NamedTuple. It may take
``**artefacts: Path`` for files known only when the workflow is built. The cache key of a node is the content of
its inputs (folders and the template included, ``threads`` not) and the source of this package.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from nipype.interfaces.base import BaseInterfaceInputSpec, DynamicTraitedSpec, SimpleInterface, isdefined, traits
from nipype.interfaces.io import add_traits
from nipype.pipeline import engine as pe

from bids_brainage.core.errors import in_a_line
from bids_brainage.core.files import sha256, sha256_of
from bids_brainage.core.source import package_source

REASON = "reason.txt"
ARTEFACT = object()
TEMPLATE, THREADS = "template", "threads"
stopped: list[KeyboardInterrupt] = []
"""What stopped a stage in this process: Nipype takes it for an error of the stage and goes on with the next."""


def locate(stage: str) -> Callable[..., Any]:
    """``"package.module:function"`` -> the function."""
    module, _, name = stage.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def parameters(stage: Callable[..., Any]) -> dict[str, Any]:
    """Argument names and their annotations, without ``out`` and ``**artefacts``."""
    hints = typing.get_type_hints(stage)
    keep = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        p.name: hints[p.name]
        for p in inspect.signature(stage).parameters.values()
        if p.kind in keep and p.name != "out"
    }


def results(stage: Callable[..., Any]) -> tuple[str, ...]:
    """Names of what a stage returns."""
    fields: tuple[str, ...] = typing.get_type_hints(stage)["return"]._fields
    return fields


def convert(value: Any, annotation: Any) -> Any:
    """A trait's value to what the annotation says; paths travel as strings, tuples may come back as lists.

    An artefact whose name is not among the arguments is a path where it is text, else a value such as flags.
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        chosen = [a for a in inner if a is not type(None)]
        return None if value is None else convert(value, chosen[0])
    if annotation is ARTEFACT:
        return Path(value) if isinstance(value, str) else value
    if annotation is Path:
        return Path(value)
    if origin is tuple:
        return tuple(convert(item, inner[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: convert(item, inner[1]) for key, item in value.items()}
    return value


def plain(value: Any) -> Any:
    """The way back: paths to strings, in containers too; every other value keeps its type."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def folders(value: Any) -> list[str]:
    """Folders in a value, which Nipype would hash by name alone."""
    items = value if isinstance(value, tuple | list) else [value]
    return [item for item in items if isinstance(item, str) and item and Path(item).is_dir()]


@cache
def _template_behind(name: str) -> str:
    """Digest of the template's files, which a name alone would not tell from those of another release."""
    from bids_brainage.image.template import template_digest

    return template_digest(name)


class _StageInput(DynamicTraitedSpec, BaseInterfaceInputSpec):
    stage = traits.Str(mandatory=True, desc="module:function")
    key = traits.Str(desc="sha256 of the package's source, of the folders among the inputs and of the template")


class Stage(SimpleInterface):
    """Runs one stage function; constants are given at construction, artefacts are connected later."""

    input_spec = _StageInput
    output_spec = DynamicTraitedSpec

    def __init__(self, stage: str, artefacts: tuple[str, ...] = (), **constants: Any):
        super().__init__(stage=stage)
        function = locate(stage)
        self._arguments = (*parameters(function), *artefacts)
        self._outputs_named = results(function)
        add_traits(self.inputs, [name for name in self._arguments if name != THREADS], traits.Any)
        if THREADS in self._arguments:
            self.inputs.add_trait(THREADS, traits.Any(nohash=True))
        values = {name: plain(value) for name, value in constants.items() if value is not None}
        behind = [sha256(Path(folder)) for value in values.values() for folder in folders(value)]
        if TEMPLATE in self._arguments:
            default = inspect.signature(function).parameters[TEMPLATE].default
            behind.append(_template_behind(values.get(TEMPLATE, default)))
        self.inputs.key = sha256_of([package_source(), *behind])
        self.inputs.trait_set(**values)

    def _outputs(self) -> Any:
        return add_traits(super()._outputs(), list(self._outputs_named))

    def _run_interface(self, runtime: Any) -> Any:
        if stopped:
            raise stopped[0]
        function = locate(self.inputs.stage)
        annotations = parameters(function)
        given = {name: getattr(self.inputs, name) for name in self._arguments if isdefined(getattr(self.inputs, name))}
        out = Path(runtime.cwd)
        (out / REASON).unlink(missing_ok=True)
        try:
            values = {name: convert(value, annotations.get(name, ARTEFACT)) for name, value in given.items()}
            result = function(**values, out=out)
        except KeyboardInterrupt as stop:
            stopped.append(stop)
            raise
        except Exception as error:
            with suppress(OSError):  # no space left for it either: the scheduler tells
                (out / REASON).write_text(in_a_line(error), encoding="utf-8")
            raise
        self._results.update({name: plain(value) for name, value in result._asdict().items()})
        return runtime


class Node(pe.Node):
    """A node whose result counts as there only with all files that it names: work folders are moved and purged."""

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        """Whether a result of these inputs is there, and whole."""
        cached, updated = super().is_cached(rm_outdated)
        if cached and updated and not self._is_whole():
            return False, False
        return cached, updated

    def _is_whole(self) -> bool:
        try:
            values = self.result.outputs.get().values()
        except (AttributeError, OSError):
            return False
        found = [text for value in values for text in _texts(value)]
        return all(Path(text).exists() for text in found if text.startswith("/"))


def _texts(value: Any) -> list[str]:
    """All text in a value, in containers too."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [text for item in items for text in _texts(item)]


def node(
    stage: str,
    name: str,
    *,
    mem_gb: float,
    n_procs: int = 1,
    use_gpu: bool = False,
    artefacts: tuple[str, ...] = (),
    constants: Mapping[str, Any] | None = None,
) -> pe.Node:
    """A Nipype node that runs ``stage`` (``"module:function"``) with its constants set."""
    interface = Stage(stage, artefacts, **(constants or {}))
    made = Node(interface, name=name, mem_gb=mem_gb, n_procs=n_procs)
    if use_gpu:
        made.inputs.trait_set(use_gpu=True)
    return made
