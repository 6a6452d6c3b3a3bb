"""A transformed network as an ordinary torch module.

It has the parameters, buffers and submodules of the model it came from (the very same objects,
under the same names), and computes what the rewritten program says, under the chosen schedule.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.capture import capture
from snncompile.compiled import Compiled, ready
from snncompile.distributed import refuse_parts, refuse_sharded, refuse_unknown_parameters
from snncompile.errors import InputError
from snncompile.ir.program import Program
from snncompile.kernels.tracing import untraced
from snncompile.memory.report import KeptBySegment
from snncompile.rewrite import Pass, run_passes
from snncompile.runtime.schedule import Recording, ScheduleName

_SHARED = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")

_OUTSIDE = (
    "snncompile captures a model outside of torch.compile: give transform example_inputs, or call "
    "the network once in this mode and with such inputs before"
)


class Transformed(nn.Module):
    """What `snncompile.transform` returns: the model's signature, parameters and state dict.

    Training it trains the original and the other way round. Its programs are captured per mode
    (train or eval) and per kind of input, at the first call that needs one.

    Attributes:
        original: The model it came from, unchanged.
        passes: The passes applied, in order.
        schedule: "steps", "layers", "auto" or a number of steps per tile.
    """

    original: nn.Module

    def __init__(
        self,
        model: nn.Module,
        passes: tuple[Pass, ...],
        schedule: ScheduleName | int,
        time_steps: int | None,
    ) -> None:
        super().__init__()
        self.__dict__["original"] = model
        self.passes = passes
        self.schedule: ScheduleName | int = schedule
        self.time_steps = time_steps
        self.training = model.training
        self._compiled: list[Compiled] = []
        self._hidden: dict[str, Tensor] = {}
        self._earlier: dict[int, nn.Module] = {}
        self._weights: dict[str, Any] | None = None
        self._share(model)

    def _share(self, root: nn.Module) -> None:
        for name in _SHARED:
            self.__dict__[name] = root.__dict__[name]

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """What the model's forward returns for these arguments, computed by the program."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        return self._find(args, kwargs, leaves, spec).run(leaves, self._hidden)

    def record(self, recording: Recording, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Like a call; fills `recording` with what every neuron received and emitted."""
        refuse_parts(self)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        return self._find(args, kwargs, leaves, spec).run(leaves, self._hidden, recording)

    def kept(self, *args: Any, **kwargs: Any) -> tuple[KeptBySegment, ...]:  # noqa: ANN401
        """What a training step with these arguments keeps for its backward pass, and why.

        Args:
            *args: The arguments of one call.
            **kwargs: Its keyword arguments.

        Returns:
            One entry for every part of the network, estimated from its shapes.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        return self._find(args, kwargs, leaves, spec).kept(leaves)

    def steps(self, *args: Any, **kwargs: Any) -> Iterator[Any]:  # noqa: ANN401
        """Run one time step at a time, for online learning and for streams.

        Weights may change between steps. Where a program's gradient stays within a step, as that
        of the pass `saf` does, a step's result has a graph of its own, freed by its backward.

        Args:
            *args: The arguments of one call.
            **kwargs: Its keyword arguments.

        Returns:
            An iterator over what every step gives in place of the result: its own values where
            the model stacks, sums or averages over time.

        Raises:
            InputError: The network learns after its last step only, or it is sharded.
        """
        refuse_parts(self)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        found = self._find(args, kwargs, leaves, spec)
        if found.program.gradient == "last-step":
            raise InputError("this network learns after its last step only; call it, not steps()")
        return found.steps(leaves, self._hidden)

    def program_for(self, *args: Any, **kwargs: Any) -> Program:  # noqa: ANN401
        """The program that a call with these arguments runs, captured if it has to be."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        return self._find(args, kwargs, leaves, spec).program

    @property
    def program(self) -> Program:
        """The program captured last.

        Raises:
            InputError: Nothing was captured yet: give `transform` example inputs or call the
                module once.
        """
        if not self._compiled:
            raise InputError(
                "nothing was captured yet; give transform example_inputs or call the module once"
            )
        return self._compiled[-1].program

    def reset(self) -> None:
        """Clear the state that survives calls, as the library's own reset does."""
        self._hidden.clear()

    def _find(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: list[Any],
        spec: pytree.TreeSpec,
    ) -> Compiled:
        mode = tuple(module.training for module in self.original.modules())
        for position in range(len(self._compiled) - 1, -1, -1):
            if self._compiled[position].fits(mode, spec, leaves):
                if torch.compiler.is_compiling():
                    return self._compiled[position]
                self._compiled.append(self._compiled.pop(position))
                return self._compiled[-1]
        return self._compile(args, kwargs, mode)

    @partial(untraced, reason=_OUTSIDE)
    def _compile(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], mode: tuple[bool, ...]
    ) -> Compiled:
        refuse_sharded(self.original)
        added = {keyword for item in self.passes for keyword in item.keywords}
        own = {name: value for name, value in kwargs.items() if name not in added}
        program = capture(self.original, args, own, time_steps=self.time_steps)
        run_passes(program, self.passes, self._earlier)
        if program.root is not self.original:
            self._earlier[len(self.passes)] = program.root
        made = ready(program, self.schedule, mode, pytree.tree_leaves((args, kwargs)))
        self._compiled.append(made)
        self._share(program.root)
        if self._weights is not None and program.root is not self.original:
            self.load_state_dict(self._weights)
        self._weights = None
        refuse_unknown_parameters(self)
        return made

    def continue_from(self, other: "Transformed") -> None:
        """Go on from what another network learned; its passes are the first of this one's.

        Args:
            other: A network of the same model, whose parameters this one shares as far as its own
                passes leave them.
        """
        self._earlier = dict(other._earlier)  # pyright: ignore[reportPrivateUsage]
        if other._compiled:
            self._earlier[len(other.passes)] = other.program.root

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode, of the original too."""
        super().train(mode)
        self.original.training = mode
        for compiled in self._compiled:
            compiled.program.root.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._hidden = {label: fn(value) for label, value in self._hidden.items()}
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Programs are captured again after unpickling; weights of an own root are kept."""
        state = self.__dict__.copy()
        own_root = any(c.program.root is not self.original for c in self._compiled)
        state["_weights"] = dict(self.state_dict()) if own_root else self._weights
        state["_compiled"] = []
        for name in _SHARED:
            state[name] = self.original.__dict__[name]
        return state

    def extra_repr(self) -> str:
        """The passes and the schedule."""
        names = ", ".join(item.name for item in self.passes) or "no passes"
        return f"{type(self.original).__name__}, {names}, schedule={self.schedule!r}"
