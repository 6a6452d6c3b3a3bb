"""Shapes and dtypes of a program's nodes, found by running its step on fake tensors."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.fx.node import Argument, Target
from torch.nn.utils.stateless import _reparametrize_module  # pyright: ignore[reportPrivateUsage]

from snncompile.ir.program import Program, State, output_of

BATCH_HINT = 7
"""The batch size that symbolic shapes stand for; odd, so that no layer's width equals it."""


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""The layers of `Program.whole` that one step can stand in for; others have no single step."""


class StepInterpreter(fx.Interpreter):
    """Runs a program's step node by node, on real or on fake tensors."""

    def __init__(self, program: Program, graph: fx.Graph | None = None) -> None:
        super().__init__(program.root, graph=graph or program.step)
        self.program = program

    def call_module(
        self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401
        """Call the module, through its single-step class where its forward takes sequences."""
        module = self.program.root.get_submodule(str(target))
        layer = self.program.single_step.get(str(target))
        return layer.forward(module, *args, **kwargs) if layer else module(*args, **kwargs)

    def get_attr(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Resolve on the program's constants first, then on its root."""
        if str(target) in self.program.constants:
            return self.program.constants[str(target)]
        return super().get_attr(target, args, kwargs)


class _Recorder(StepInterpreter):
    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        if n.name in self.program.whole and not isinstance(self.program.module(n), _BATCH_NORMS):
            return n.meta["val"]
        value = super().run_node(n)
        if n.op != "output":
            n.meta["val"] = value
        return value


def fake_mode() -> FakeTensorMode:
    """A mode for fake tensors with symbolic shapes, that accepts the model's real parameters."""
    return FakeTensorMode(shape_env=ShapeEnv(duck_shape=False), allow_non_fake_inputs=True)


def fake_input(mode: FakeTensorMode, tensor: Tensor, dynamic: tuple[int, ...] = (0,)) -> FakeTensor:
    """A fake tensor like `tensor`, whose `dynamic` dimensions have symbolic sizes."""
    from torch._dynamo.source import ConstantSource  # noqa: PLC0415

    kinds = {True: DimDynamic.DYNAMIC, False: DimDynamic.STATIC}
    sizes = [kinds[i in dynamic] for i in range(tensor.dim())]
    context: StatelessSymbolicContext[..., Any] = StatelessSymbolicContext(dynamic_sizes=sizes)
    source = ConstantSource(f"input{id(tensor)}")
    return mode.from_tensor(tensor.detach(), symbolic_context=context, source=source)


def infer(program: Program, inputs: tuple[Tensor, ...]) -> None:
    """Write ``meta["val"]`` of every node of the step, given fake inputs and states.

    Args:
        program: The program; its nodes are annotated in place.
        inputs: One fake tensor a placeholder, inputs first, then states.
    """
    mode = next(value.fake_mode for value in inputs if isinstance(value, FakeTensor))
    with fake_parameters(program.root, mode), mode, torch.no_grad():
        _Recorder(program).run(*inputs)


@contextmanager
def fake_parameters(root: nn.Module, mode: FakeTensorMode) -> Generator[dict[str, Tensor]]:
    """Give a model fake parameters and buffers for a while, so that no run changes the real ones.

    Args:
        root: The model.
        mode: The mode whose fake tensors its inputs are.

    Yields:
        The fake tensors by qualified name; tied parameters share one.
    """
    named = [*root.named_parameters(), *root.named_buffers()]
    fakes = {id(tensor): mode.from_tensor(tensor, static_shapes=True) for _, tensor in named}
    replaced: dict[str, Tensor] = {name: fakes[id(tensor)] for name, tensor in named}
    averaging = [m for m in root.modules() if isinstance(m, _BATCH_NORMS) and m.momentum is None]
    with _reparametrize_module(root, replaced, tie_weights=True, stack_weights=True):
        try:
            for module in averaging:  # its momentum is read off a counter, whose value fakes lack
                module.momentum = 1.0
            yield replaced
        finally:
            for module in averaging:
                module.momentum = None


def refresh(program: Program) -> None:
    """Write ``meta["val"]`` anew after a rewrite, from the placeholders' own values.

    A state that the rewrite added has the shape it declares, the batch and the dtype of the inputs.
    """
    placeholders = program.placeholders()
    known: list[Tensor] = [node.meta["val"] for node in placeholders if "val" in node.meta]
    for state in program.states:
        node = program.placeholder(state.name)
        if "val" not in node.meta:
            node.meta["val"] = _declared(state, known)
    infer(program, tuple(node.meta["val"] for node in placeholders))


def _declared(state: State, known: list[Tensor]) -> Tensor:
    """A fake tensor of the shape that a state declares, with the batch of the known ones."""
    batches = [size for value in known for size in value.shape if isinstance(size, torch.SymInt)]
    batch = batches[0] if batches else known[0].shape[0]
    shape = [size if isinstance(size, int) else batch for size in state.shape]
    floating = [value for value in known if value.is_floating_point()]
    with next(value.fake_mode for value in known if isinstance(value, FakeTensor)):
        return torch.zeros(shape, dtype=floating[0].dtype)


def output_values(program: Program) -> tuple[Tensor, ...]:
    """The fake tensors of the step's outputs."""
    return tuple(node.meta["val"] for node in output_of(program.step)[0])
