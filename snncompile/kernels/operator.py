"""torch operators that ordinary tensors reach without a detour.

On its way through torch's dispatcher a call of an operator written in Python takes longer than a
small kernel, most of it to look for what is rarely there: tensors of other classes, modes,
transforms, a compiler that traces. Where there is nothing of the kind, an operator of this module
calls its function, under an autograd node of its own. Everywhere else it is what
`torch.library.custom_op` makes of it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias, cast, get_origin, get_type_hints

import torch
from torch import Tensor, nn

Sizes: TypeAlias = tuple[int | None, ...]
"""For every argument, how many elements its list has; None where it is none."""

_PLAIN = (Tensor, nn.Parameter)


class Operator:
    """What `operator` makes of a function."""

    def __init__(self, name: str, run: Callable[..., Any]) -> None:
        namespace, _, own = name.partition("::")
        listed = get_origin(get_type_hints(run)["return"]) is list
        self._run = run
        self._custom: Any = torch.library.custom_op(name, run, mutates_args=())
        self._dispatched: Any = getattr(getattr(torch.ops, namespace), own).default
        self._node: type[_Node] = type(own, (_Node,), {"run": staticmethod(run), "listed": listed})

    def register_fake(self, fake: Callable[..., Any]) -> None:
        """Register what it makes of tensors without values; a decorator, like torch's own."""
        self._custom.register_fake(fake)

    def register_autograd(
        self, differentiate: Callable[..., Any], keep: Callable[..., None] | None = None
    ) -> None:
        """Register its derivative.

        Args:
            differentiate: From the context and the gradients of its results, in a list if those
                are, it returns the gradient of every argument. Of an operator that takes no lists
                ``ctx.needs_input_grad`` says which are needed.
            keep: ``keep(ctx, inputs, output)`` keeps what that takes.
        """
        self._custom.register_autograd(differentiate, setup_context=keep)
        self._node.differentiate = staticmethod(differentiate)
        self._node.keep = None if keep is None else staticmethod(keep)

    def __call__(self, *inputs: Any) -> Any:  # noqa: ANN401
        """Compute."""
        if torch.compiler.is_compiling() or _is_watched():
            return self._dispatched(*inputs)
        leaves = list(_leaves(inputs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not all(type(tensor) in _PLAIN for tensor in tensors):
            return self._dispatched(*inputs)
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
            return self._run(*inputs)
        sizes = tuple(len(value) if _is_list(value) else None for value in inputs)
        found = cast("Any", self._node).apply(*leaves, sizes)
        return list(found) if self._node.listed else found


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an operator of a function, as a decorator.

    The function takes tensors, lists of them, numbers and None, changes none of them, and returns
    new tensors.

    Args:
        name: Its name in torch.ops, with the namespace: "snncompile::neuron_scan".
    """
    return lambda run: Operator(name, run)


class _Node(torch.autograd.Function):
    """A call in autograd's graph; every operator has a class of its own.

    Attributes:
        run: The operator's function; so are the next two.
        keep: See `Operator.register_autograd`.
        differentiate: Likewise.
        listed: Whether it returns a list.
    """

    run: ClassVar[Callable[..., Any]]
    keep: ClassVar[Callable[..., None] | None] = None
    differentiate: ClassVar[Callable[..., Any]]
    listed: ClassVar[bool]

    @classmethod
    def forward(cls, ctx: Any, *given: Any) -> Any:  # noqa: ANN401
        """Run; what is given are leaves of the inputs, and their sizes."""
        *leaves, ctx.sizes = given
        inputs = tuple(_grouped(leaves, ctx.sizes))
        output = cls.run(*inputs)
        if cls.keep is not None:
            cls.keep(ctx, inputs, output)
        return tuple(output) if cls.listed else output

    @classmethod
    def backward(cls, ctx: Any, *gradients: Any) -> tuple[Any, ...]:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        """Differentiate."""
        found = cls.differentiate(ctx, *((list(gradients),) if cls.listed else gradients))
        spread = (
            [None] * size if size is not None and value is None else value
            for value, size in zip(found, ctx.sizes, strict=True)
        )
        return *_leaves(spread), None


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    """Arguments, and in place of lists their elements."""
    for value in values:
        if _is_list(value):
            yield from value
        else:
            yield value


def _grouped(leaves: Sequence[Any], sizes: Sizes) -> Iterator[Any]:
    """What `_leaves` took apart."""
    waiting = iter(leaves)
    for size in sizes:
        yield next(waiting) if size is None else [next(waiting) for _ in range(size)]


def _is_watched() -> bool:
    """Whether something may want to see operators run: a mode, a transform, a tracer, a profile."""
    internals: Any = cast("Any", torch)._C
    return (
        internals._len_torch_dispatch_stack() > 0
        or internals._len_torch_function_stack() > 0
        or internals._functorch.maybe_current_level() is not None
        or internals._get_tracing_state() is not None
        or internals._autograd._profiler_enabled()
    )
