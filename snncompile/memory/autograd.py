"""What autograd keeps of a step, node by node: found by running it on fake tensors.

A neuron runs as a fused scan, which keeps one number for every state, and one more where a setting
is learned; everything else is asked.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from snncompile.ir.program import Program, is_neuron
from snncompile.ir.values import StepInterpreter, fake_parameters
from snncompile.memory.units import captured_batch, known_bytes

Kept: TypeAlias = Mapping[int, float]
"""Bytes by storage: what two nodes keep of one tensor counts once."""


def kept_by_autograd(program: Program) -> dict[str, Kept]:
    """Bytes that autograd keeps of each node of the step, for one step of one sample.

    Args:
        program: The program.

    Returns:
        By the node's name; parameters, buffers, inputs and states do not count.
    """
    placeholders = [node.meta["val"] for node in program.placeholders()]
    mode = next(value.fake_mode for value in placeholders if isinstance(value, FakeTensor))
    with fake_parameters(program.root, mode) as own, mode, torch.enable_grad():
        given = [value.detach() for value in placeholders]
        run = _Asking(program, {_storage(tensor) for tensor in (*own.values(), *given)})
        run.run(*given)
    return run.kept


class _Asking(StepInterpreter):
    def __init__(self, program: Program, given: set[int]) -> None:
        super().__init__(program)
        self.given = given
        self.kept: dict[str, Kept] = {}
        self.alive: list[Tensor] = []
        self.batch = captured_batch(program)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        found: dict[int, float] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = _storage(tensor)
            if storage not in self.given:
                found[storage] = known_bytes(tensor) / self.batch
                self.alive.append(tensor)
            return tensor

        if n.name in self.program.whole and not _steps(self.program, n):
            return n.meta["val"]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = super().run_node(n)
        if n.op.startswith("call_"):
            self.kept[n.name] = self._of_neuron(n) if is_neuron(n) else found
        return value

    def _of_neuron(self, neuron: fx.Node) -> Kept:
        states = sum(isinstance(argument, fx.Node) for argument in neuron.args) - 1
        learned = len(neuron.all_input_nodes) > states + 1
        size = known_bytes(neuron.meta["val"][0]) / self.batch
        return {-1 - i - 8 * len(self.kept): size for i in range(max(1, states) + learned)}


def _steps(program: Program, node: fx.Node) -> bool:
    """Whether a module that reads whole sequences can run on one step, as a BatchNorm can."""
    return isinstance(program.module(node), torch.nn.modules.batchnorm._NormBase)  # pyright: ignore[reportPrivateUsage]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # pyright: ignore[reportPrivateUsage]
