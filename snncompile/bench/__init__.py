"""Is a transformed network faster, and smaller? Measures it against the model it came from."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.bench.measure import Job, interleaved, kept_bytes, peak_bytes
from snncompile.bench.report import Comparison, Duration, Memory
from snncompile.errors import InputError
from snncompile.module import Transformed
from snncompile.verify import preserved, transformed_within, verify
from snncompile.verify.caller import call
from snncompile.verify.observe import reset
from snncompile.verify.wrappers import unwrapped

__all__ = ["Comparison", "bench"]

REPEATS = 10


def bench(
    model: nn.Module,
    transformed: nn.Module,
    *inputs: Any,  # noqa: ANN401
    threads: Sequence[int] | None = None,
    repeats: int = REPEATS,
) -> Comparison:
    """Measure a model and its transformed self on the CPU, on the same inputs.

    They are verified first, and measured only if they agree or differ by rounding alone. Calls
    alternate between the two, their hidden states cleared before each. The passes of a training
    step end at the gradients of the parameters: no optimizer. Hidden states, gradients, statistics
    and the random generator are left as they were.

    Args:
        model: The model the user has.
        transformed: What `snncompile.transform` made of it.
        *inputs: The arguments of one call of either.
        threads: Numbers of threads to measure with; 1 and as many as torch uses now if not given.
        repeats: How often each call is timed.

    Returns:
        Times of a forward pass and of a training step, and the memory of the latter.

    Raises:
        InputError: A number of threads or repeats is not positive, or an input is not on the CPU.
    """
    counts = _counts(threads)
    _check(inputs, (*counts, repeats))
    report = verify(model, transformed, *inputs)
    if not report.explained:
        return Comparison(report)
    own = transformed_within(transformed)
    pair = {"model": _Subject(model, own, inputs, caller_loops=own.program.caller_loops)}
    pair["transformed"] = _Subject(transformed, own, inputs)
    with preserved(unwrapped(model), own, 0), _gradients_restored(model, own), _threads():
        durations = tuple(d for count in counts for d in _durations(pair, count, repeats))
        torch.set_num_threads(counts[0])
        memory = _memory(pair) if pair["transformed"].trains() else ()
    return Comparison(report, durations, memory, repeats)


@dataclass(frozen=True)
class _Subject:
    """One of the two, ready to be called."""

    network: nn.Module
    own: Transformed
    inputs: tuple[Any, ...]
    caller_loops: bool = False

    def forward(self) -> list[Tensor]:
        """The tensors of a call's result that a loss could be computed from."""
        if self.caller_loops:
            result = call(self.network, self.own.program, self.inputs)
        else:
            result = self.network(*self.inputs)
        return [leaf for leaf in pytree.tree_leaves(result) if _carries(leaf)]

    def inference(self) -> None:
        """A forward pass without gradients."""
        with torch.no_grad():
            self.forward()

    def training_step(self) -> None:
        """A forward and a backward pass; the loss is the sum of all outputs."""
        results = self.forward()
        torch.autograd.backward(results, [torch.ones_like(result) for result in results])

    def clear(self) -> None:
        """Before a call: no hidden state, no gradients."""
        reset(self.network)
        self.own.reset()
        self.network.zero_grad()

    def trains(self) -> bool:
        """Whether a result has a gradient at all."""
        self.clear()
        return bool(self.forward())


def _carries(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _durations(pair: dict[str, _Subject], threads: int, repeats: int) -> list[Duration]:
    torch.set_num_threads(threads)
    jobs = {n: Job(s.inference, s.clear) for n, s in pair.items()}
    found = [Duration("forward", threads, **interleaved(jobs, repeats))]
    if pair["transformed"].trains():
        jobs = {n: Job(s.training_step, s.clear) for n, s in pair.items()}
        found.append(Duration("training step", threads, **interleaved(jobs, repeats)))
    return found


def _memory(pair: dict[str, _Subject]) -> tuple[Memory, Memory]:
    kept: dict[str, int] = {}
    peak: dict[str, int] = {}
    for name, subject in pair.items():
        given = [leaf for leaf in pytree.tree_leaves(subject.inputs) if isinstance(leaf, Tensor)]
        present = [*subject.network.parameters(), *subject.network.buffers(), *given]
        subject.clear()
        kept[name] = kept_bytes(subject.forward, present)
        peak[name] = peak_bytes(Job(subject.training_step, subject.clear))
    return Memory("kept for backward", **kept), Memory("peak", **peak)


@contextmanager
def _gradients_restored(*networks: nn.Module) -> Generator[None]:
    parameters = [p for network in networks for p in network.parameters()]
    held = [parameter.grad for parameter in parameters]
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, held, strict=True):
            parameter.grad = gradient


@contextmanager
def _threads() -> Generator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _counts(threads: Sequence[int] | None) -> list[int]:
    """The numbers of threads to measure with, each once."""
    return list(dict.fromkeys(threads or (1, torch.get_num_threads())))


def _check(inputs: tuple[Any, ...], counts: tuple[int, ...]) -> None:
    if min(counts) < 1:
        raise InputError(f"bench takes at least 1 thread and 1 repeat, not {min(counts)}")
    for leaf in pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.device.type != "cpu":
            raise InputError(f"bench measures on the CPU, and an input is on {leaf.device}")
