"""What the values of an output over time become: a stack, the last one, a sum, a mean, a max."""

import torch
from onnx import helper
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from snncompile.export.dimensions import Dimensions
from snncompile.export.graph import GraphWriter, Value
from snncompile.export.timeline import Timeline
from snncompile.ir.program import Output
from snncompile.ir.values import fake_input


def reduced(timeline: Timeline, dimensions: Dimensions, output: Output, node: fx.Node) -> Value:
    """Reduce the sequence of an output's values.

    Args:
        timeline: Knows the sequence.
        dimensions: How sizes are declared.
        output: How it is reduced.
        node: The node of the step that computes it.

    Returns:
        The reduced value, with the fake tensor of its shape.
    """
    sequence, graph = timeline.sequence_of(node), timeline.graph
    graph.scope = output.name
    like = _like(sequence.tensor, output, timeline.emitter.program.time)
    if output.reduce == "running_sum" and timeline.unrolled is not None:
        return Value(_written_out(graph, sequence, timeline.unrolled), like)
    if output.reduce == "running_sum":
        return Value(_added_up(graph, sequence, dimensions), like)
    return Value(_reduced(graph, sequence, output, timeline.steps), like)


def _reduced(graph: GraphWriter, sequence: Value, output: Output, steps: str) -> str:
    name, dtype = sequence.name, sequence.tensor.dtype
    if output.reduce == "stack":
        return _moved(graph, name, output.axis % (sequence.tensor.dim() + 1), sequence.tensor.dim())
    if output.reduce == "last":
        return graph.op("Gather", name, graph.constant(-1, torch.int64), axis=0)
    if output.reduce == "max":
        return graph.reduce("ReduceMax", name, [0])
    total = graph.reduce("ReduceSum", name, [0])
    if output.reduce == "sum":
        return total
    count = graph.op("Squeeze", graph.cast(steps, torch.int64, dtype), graph.ints(0))
    return graph.op("Div", total, count)


def _moved(graph: GraphWriter, name: str, axis: int, rank: int) -> str:
    """The sequence with its time axis in another place."""
    if axis == 0:
        return name
    order = [*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]
    return graph.op("Transpose", name, perm=order)


def _added_up(graph: GraphWriter, sequence: Value, dimensions: Dimensions) -> str:
    """The sum, added step by step from zero, in the order of a loop over time."""
    dtype, names = sequence.tensor.dtype, graph.names
    shape = graph.op("Shape", sequence.name, start=1)
    zero = graph.op("Expand", graph.constant(0, dtype), shape)
    body = graph.nested()
    total, now = (names.take(f"{graph.scope}.{word}") for word in ("total", "now"))
    added = body.op("Add", total, now)
    infos = [dimensions.step(name, sequence.tensor) for name in (total, now, added)]
    step = helper.make_graph(body.nodes, f"{graph.scope}.step", infos[:2], infos[2:])
    return graph.op("Scan", zero, sequence.name, body=step, num_scan_inputs=1)


def _written_out(graph: GraphWriter, sequence: Value, steps: int) -> str:
    """The same sum without a Scan; the first addition, to zero, changes nothing."""
    indices = (graph.constant(step, torch.int64) for step in range(steps))
    values = [graph.op("Gather", sequence.name, index, axis=0) for index in indices]
    total = values[0]
    for value in values[1:]:
        total = graph.op("Add", total, value)
    return total


def _like(like: Tensor, output: Output, time: int | None) -> Tensor:
    """The fake tensor of a reduced output; an open number of steps is a symbol of its own."""
    if output.reduce != "stack" or not isinstance(like, FakeTensor):
        return like
    steps = time or fake_input(like.fake_mode, torch.zeros(5), (0,)).shape[0]
    with like.fake_mode:
        sizes = list(like.shape)
        sizes.insert(output.axis % (len(sizes) + 1), steps)
        return like.new_empty(sizes)
