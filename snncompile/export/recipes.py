"""The table of everything that has an ONNX recipe, and how a node of a graph finds its own."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from snncompile.errors import ExportError
from snncompile.export.activations import ACTIVATION_LAYERS, ACTIVATIONS
from snncompile.export.arithmetic import ARITHMETIC, Recipe, Result
from snncompile.export.graph import GraphWriter
from snncompile.export.normalization import NORMALIZATION, NORMALIZATION_LAYERS
from snncompile.export.pooling import POOLING, POOLING_LAYERS
from snncompile.export.reductions import REDUCTIONS
from snncompile.export.shapes import SHAPES
from snncompile.export.synapses import SYNAPSE_LAYERS, SYNAPSES
from snncompile.ir.program import Program

FUNCTIONS: Mapping[Callable[..., Any] | str, Recipe] = {
    **ARITHMETIC,
    **ACTIVATIONS,
    **SHAPES,
    **REDUCTIONS,
    **SYNAPSES,
    **POOLING,
    **NORMALIZATION,
}
"""Recipes by function, or by the name of a tensor's method that torch has no function for."""

LAYS_OUT_WEIGHTS = frozenset((*SYNAPSES, *NORMALIZATION))
"""Functions whose recipes write their weights themselves, in the layout they need."""

LAYERS: Mapping[type[nn.Module], Recipe] = {
    **SYNAPSE_LAYERS,
    **POOLING_LAYERS,
    **NORMALIZATION_LAYERS,
    **ACTIVATION_LAYERS,
}
"""Recipes by torch.nn class; a subclass counts as its base when it keeps the base's forward."""


def recipe_of_layer(program: Program, node: fx.Node) -> Recipe:
    """The recipe of a call_module node.

    Raises:
        ExportError: There is none.
    """
    module = program.module(node)
    declared = program.single_step.get(str(node.target))
    kind = declared or type(module)
    for base in kind.__mro__:
        if base in LAYERS and (declared or type(module).forward is _forward(base)):
            return LAYERS[base]
    names = ", ".join(sorted(known.__name__ for known in LAYERS))
    raise ExportError(
        f"{type(module).__name__} has no ONNX recipe; there are ones for {names}: use one of them, "
        "or write the layer with torch functions"
    )


def _forward(kind: type[nn.Module]) -> object:
    return kind.forward


def recipe_of_call(node: fx.Node) -> Recipe:
    """The recipe of a call_function or call_method node.

    Raises:
        ExportError: There is none.
    """
    found = FUNCTIONS.get(node.target)
    if found is None and isinstance(node.target, str):
        found = FUNCTIONS.get(getattr(torch, node.target, node.target))
    if found is None:
        raise ExportError(
            f"{_spelling(node.target)} has no ONNX recipe; there are ones for {_supported()}"
        )
    return found


def apply(
    recipe: Recipe, graph: GraphWriter, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Result:
    """Run a recipe; whether torch would write in place does not matter to a graph.

    Raises:
        ExportError: It does not know one of the arguments.
    """
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    try:
        inspect.signature(recipe).bind(graph, *args, **kwargs)
    except TypeError as error:
        raise ExportError(
            f"an argument has no ONNX recipe ({error}); leave it at its default"
        ) from error
    return recipe(graph, *args, **kwargs)


def _spelling(target: object) -> str:
    return str(getattr(target, "__name__", target))


def _supported() -> str:
    return ", ".join(sorted({_spelling(target) for target in FUNCTIONS}))
