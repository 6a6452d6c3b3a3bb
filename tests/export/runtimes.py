# pyright: basic
"""Runs programs in torch and exported files in two ONNX runtimes, for comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, fx, nn

from snncompile.ir.program import Program
from snncompile.ir.values import StepInterpreter
from tests.programs import Step

Arrays = dict[str, np.ndarray]


def spikes(*shape: int, seed: int = 0) -> Tensor:
    """Zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, shape, generator=generator).float()


def states(program: Program, batch: int) -> list[Tensor]:
    """Dyadic states of a batch, none of them zero everywhere."""
    shapes = [[batch if size == "N" else int(size) for size in s.shape] for s in program.states]
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(-8, 8, shape, generator=generator) / 8.0 for shape in shapes]


def run_torch(
    program: Program, x: Sequence[Tensor], initial: Sequence[Tensor]
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Outputs and states of every step; every input is a sequence."""
    interpreter = StepInterpreter(program)
    outputs, after, state = [], [], list(initial)
    with torch.no_grad():
        for step in range(len(x[0])):
            made, state = interpreter.run(*(value[step] for value in x), *state)
            outputs.append(list(made))
            after.append(list(state))
    return outputs, after


_LEVELS = {
    "plain": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "optimized": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def session(
    path: Path, runtime: str, optimized_path: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session in onnxruntime on one thread, which may write down the graph that it runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = _LEVELS[runtime]
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class File:
    """An exported file in onnxruntime at a level of optimization, or in ONNX's own evaluator."""

    def __init__(self, path: Path, runtime: str = "optimized") -> None:
        self.model = model = onnx.load(path)
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.metadata = {prop.key: prop.value for prop in model.metadata_props}
        if runtime == "evaluator":
            self._runner = ReferenceEvaluator(model)
        else:
            self._runner = session(path, runtime)

    def __call__(self, *tensors: Tensor) -> list[np.ndarray]:
        """All outputs, in order."""
        feed = {n: t.numpy() for n, t in zip(self.inputs, tensors, strict=True)}
        return list(self._runner.run(None, feed))


def run_steps(file: File, x: Tensor, held: list[Tensor]) -> tuple[list[np.ndarray], list[Tensor]]:
    """The first output of every step of a step file, and the final states."""
    outputs = []
    for x_t in x:
        first, *rest = file(x_t, *held)
        outputs.append(first)
        held = [torch.from_numpy(value) for value in rest]
    return outputs, held


def of_function(function: nn.Module, *shapes: tuple[int, ...]) -> Program:
    """A program whose step is a traced module, without states; inputs are [N, *shape]."""
    traced = fx.symbolic_trace(function)
    step = Step(traced)
    places = list(traced.graph.find_nodes(op="placeholder"))
    copied = {p: step.input(p.name, *s) for p, s in zip(places, shapes, strict=True)}
    result = step.graph.graph_copy(traced.graph, copied)
    outputs: Any = result if isinstance(result, (tuple, list)) else (result,)
    return step.program(*outputs)
