"""Watches the neurons of a user's model while it runs."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn

from snncompile.capture.functions import functions_intercepted
from snncompile.frontends import frontend_of
from snncompile.ir.program import Program, is_spiking, origin


class Emitted(NamedTuple):
    """What one neuron did in one call, or in all its steps.

    Attributes:
        spikes: Its output.
        membrane: Its membrane afterwards (after the last step of a call over a sequence), where
            the library keeps one.
    """

    spikes: Tensor
    membrane: Tensor | None


@dataclass
class Observed:
    """What the neurons of a model did, call by call.

    Attributes:
        modules: By module name: the calls of a library's neuron.
        functions: By class: the applications of a user's own torch.autograd.Function.
    """

    modules: dict[str, list[Emitted]] = field(default_factory=dict[str, list[Emitted]])
    functions: dict[object, list[Emitted]] = field(default_factory=dict[object, list[Emitted]])

    def of(self, node: fx.Node) -> list[Emitted]:
        """The calls of all neurons that share a node's module or Function."""
        module = self.modules.get(origin(node))
        return module if module is not None else self.functions.get(function_of(node), [])


def function_of(node: fx.Node) -> object | None:
    """The user's autograd.Function that a neuron fires through, if it is one."""
    surrogate = node.kwargs.get("surrogate")
    return getattr(surrogate, "function", None)


def watched(program: Program) -> list[fx.Node]:
    """The neurons of a program whose outputs a model's own neurons can be compared with."""
    return [n for n in program.neurons() if is_spiking(n) or _name(n) == "integrator"]


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", "")


@contextmanager
def observed(model: nn.Module) -> Generator[Observed]:
    """Record what every neuron of the model emits while the context lasts.

    Args:
        model: The model that is run inside.

    Yields:
        What was seen so far; it fills up call by call.
    """
    seen = Observed()

    def applied(original: Callable[..., Any], cls: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        result = original(cls, *args, **kwargs)
        if isinstance(result, Tensor):
            seen.functions.setdefault(cls, []).append(Emitted(result.detach(), None))
        return result

    with ExitStack() as stack:
        named: Iterator[tuple[str, nn.Module]] = cast("Any", model).named_modules()
        for name, module in named:
            frontend = frontend_of(module)
            if frontend is not None and frontend.covers(module):
                hook = _hook(seen.modules.setdefault(name, []))
                stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(functions_intercepted(applied))
        yield seen


def _hook(calls: list[Emitted]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        frontend = frontend_of(module)
        spikes = frontend.spikes(module, output) if frontend else None
        if frontend is not None and spikes is not None:
            membrane = frontend.membrane(module, output)
            held = None if membrane is None else membrane.detach().clone()
            calls.append(Emitted(spikes.detach(), held))

    return hook


def over_time(program: Program, seen: Observed) -> dict[str, Emitted]:
    """What every neuron node that the model ran as well did over all steps.

    A module or Function that is used several times in a step has emitted its outputs in that
    order in every step.

    Args:
        program: The program captured from the model.
        seen: What the model's neurons did.

    Returns:
        By the name of a node: spikes [T, N, ...]; membranes [T, N, ...], or [1, N, ...] after the
        last step where one call covered all steps.
    """
    shared: dict[int, list[fx.Node]] = {}
    for node in watched(program):
        shared.setdefault(id(seen.of(node)), []).append(node)
    found: dict[str, Emitted] = {}
    for nodes in shared.values():
        for position, node in enumerate(nodes):
            calls = seen.of(node)[position :: len(nodes)]
            if calls:
                found[node.name] = _all_steps(calls, multi_step=program.multi_step)
    return found


def _all_steps(calls: list[Emitted], *, multi_step: bool) -> Emitted:
    held = [call.membrane for call in calls if call.membrane is not None]
    membranes = torch.stack(held) if len(held) == len(calls) else None
    if multi_step:
        return Emitted(calls[0].spikes, membranes)
    return Emitted(torch.stack([call.spikes for call in calls]), membranes)


def reset(model: nn.Module) -> None:
    """Clear the hidden states of every covered module, as its library would."""
    for module in model.modules():
        frontend = frontend_of(module)
        if frontend is not None and frontend.covers(module):
            frontend.reset(module)
