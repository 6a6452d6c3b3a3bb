# pyright: basic
"""Compares an ONNX model with torch: every spike, every output, every state.

Two correct programs may add the same numbers in another order, and a membrane within rounding of
its threshold may then fall on the other side. So the comparison follows the network: as long as
the inputs of a neuron are equal up to rounding, a spike that differs is a moved spike, and it is
counted; what follows from it in that sample is not judged any more. Anything else that differs is
an error.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
import torch
from torch import Tensor, fx

from snncompile.errors import ExportError
from snncompile.export.draft import Draft
from snncompile.export.reference import Run
from snncompile.export.report import Agreement, Form
from snncompile.export.tracing import is_function
from snncompile.ir.names import place
from snncompile.ir.neurons import reversible_lif
from snncompile.ir.program import Program, is_spiking
from snncompile.ir.surrogates import fire

ROUNDING = 1e-4
"""How far apart two float32 sums of the same numbers may be, relative to the largest value: sums of
thousands of terms of both signs lose some three of seven digits."""

_COMPARISONS = frozenset(
    getattr(space, name) for space in (torch, operator) for name in ("gt", "ge", "lt", "le")
)


@dataclass(frozen=True)
class Threshold:
    """Where a step decides by a threshold.

    Attributes:
        node: What decides.
        compared: What it decides on.
        decision: What comes of it.
        real: Decisions are part of real numbers, in which rounding is no other decision.
    """

    node: fx.Node
    compared: tuple[fx.Node, ...]
    decision: fx.Node
    real: bool = False


def thresholds(program: Program) -> list[Threshold]:
    """The neurons and comparisons of a step, in execution order."""
    found: list[Threshold] = []
    for node in program.step.nodes:
        compared = tuple(n for n in node.all_input_nodes if isinstance(n.meta["val"], Tensor))
        real = node.target is reversible_lif
        if real or is_spiking(node):
            spikes = [u for u in node.users if u.target is operator.getitem and u.args[1] == 0]
            current = tuple(n for n in compared if n.op != "get_attr" and n is node.args[0])
            found += [Threshold(node, current, user, real) for user in spikes[:1]]
        elif node.target in _COMPARISONS or node.target is fire or is_function(node.target):
            found.append(Threshold(node, compared, node))
    return found


def probes(found: Sequence[Threshold]) -> tuple[fx.Node, ...]:
    """The nodes whose values the comparison needs."""
    nodes = (node for t in found for node in (*t.compared, t.decision))
    return tuple(dict.fromkeys(nodes))


@dataclass
class Comparison:
    """Compares one run of a probed model with torch's run.

    Attributes:
        program: What was exported.
        reference: What torch computed.
        form: Of the model.
    """

    program: Program
    reference: Run
    form: Form
    _moved: int = 0
    _spikes: int = 0
    _difference: float = 0.0
    _alive: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=bool))

    def check(self, call: Sequence[Tensor], draft: Draft, probed: bytes, final: bytes) -> Agreement:
        """Run both models.

        Args:
            call: The tensors of one call.
            draft: The interface of the probed model.
            probed: The model with a further output for every probe, serialized.
            final: The model that will be written.

        Raises:
            ExportError: Something differs that rounding does not explain.
        """
        found = thresholds(self.program)
        self._alive = np.ones(self._batch(), dtype=bool)
        values = self._run(probed, call, draft, optimized=True)
        for step, watched in enumerate(self.reference.watched):
            seen = {n: values[f"probe{i}"][step] for i, n in enumerate(probes(found))}
            for threshold in found:
                self._threshold(threshold, watched, seen, step)
        self._results(draft, values)
        self._same(
            self._run(final, call, draft, optimized=False),
            self._run(probed, call, draft, optimized=False),
        )
        steps = len(self.reference.step_inputs)
        return Agreement(steps, self._spikes, self._moved, self._difference)

    def _batch(self) -> int:
        tensors = [*self.reference.initial, *self.reference.step_inputs[0]]
        return max((t.shape[0] for t in tensors if t.dim()), default=1)

    def _threshold(
        self,
        threshold: Threshold,
        watched: Mapping[fx.Node, Tensor],
        seen: Mapping[fx.Node, np.ndarray],
        step: int,
    ) -> None:
        for node in threshold.compared:
            wanted, got = watched[node].numpy(), seen[node]
            rows = self._rows(wanted)
            gap = _gap(wanted[rows], got[rows])
            if not gap <= ROUNDING * _scale(wanted[rows]):
                raise ExportError(
                    f"export: what reaches {place(threshold.node)} at step {step} differs by "
                    f"{gap:.3g} between torch and onnxruntime, more than rounding explains; "
                    "please report the layer in front of it"
                )
        wanted, got = watched[threshold.decision].numpy(), seen[threshold.decision]
        self._spikes += wanted.size
        differs = wanted != got
        if threshold.real:
            differs = ~(np.abs(wanted - got) <= ROUNDING * _scale(wanted))
        if differs.any():
            rows = self._rows(wanted)
            self._moved += int(differs[rows].sum())
            self._lose(differs, rows)

    def _rows(self, value: np.ndarray) -> np.ndarray | slice:
        """The samples without moved spikes; all or none for a value without a batch."""
        if value.ndim and value.shape[0] == len(self._alive):
            return self._alive
        return slice(None) if self._alive.all() else slice(0)

    def _lose(self, differs: np.ndarray, rows: np.ndarray | slice) -> None:
        if isinstance(rows, slice):
            self._alive[:] = False
        else:
            self._alive &= ~differs.reshape(len(differs), -1).any(1)

    def _results(self, draft: Draft, values: Mapping[str, np.ndarray]) -> None:
        wanted = self._expected()
        names = [info.name for _, info in draft.outputs]
        for name, expected in zip(names, wanted, strict=False):
            axis = _batch_axis(draft, name) + (self.form == "step")
            rows = self._samples(expected, axis)
            gap = _gap(expected.numpy()[rows], values[name][rows])
            if not gap <= ROUNDING * _scale(expected.numpy()[rows]):
                raise ExportError(
                    f"export: output '{name}' differs by {gap:.3g} between torch and onnxruntime, "
                    "more than rounding explains; please report the layers of the model"
                )
            self._difference = max(self._difference, gap)

    def _samples(self, value: Tensor, axis: int) -> tuple[np.ndarray | slice, ...]:
        known = 0 <= axis < value.dim() and value.shape[axis] == len(self._alive)
        if known:
            return (*(slice(None),) * axis, self._alive)
        return (slice(None) if self._alive.all() else slice(0),)

    def _expected(self) -> list[Tensor]:
        run = self.reference
        if self.form != "step":
            return [*run.results, *run.step_states[-1]]
        over_time = [*zip(*run.step_outputs, strict=True), *zip(*run.step_states, strict=True)]
        return [torch.stack(list(values)) for values in over_time]

    def _same(self, final: Mapping[str, np.ndarray], probed: Mapping[str, np.ndarray]) -> None:
        for name, value in final.items():
            if not np.array_equal(value, probed[name], equal_nan=True):
                raise ExportError(
                    f"export: output '{name}' of the file differs from that of the checked graph; "
                    "please report this as a fault of the exporter"
                )

    def _run(
        self, model: bytes, call: Sequence[Tensor], draft: Draft, *, optimized: bool
    ) -> dict[str, np.ndarray]:
        """All outputs; those of the step form stacked over the steps."""
        session = _session(model, optimized=optimized)
        initial = [state.numpy() for state in self.reference.initial]
        if self.form != "step":
            states = self._state_feed(draft, initial)
            names = [info.name for info in draft.inputs]
            tensors = zip((n for n in names if n not in states), call, strict=True)
            return _outputs(session, {**{n: t.numpy() for n, t in tensors}, **states})
        steps: list[dict[str, np.ndarray]] = []
        state = dict(zip((before for before, _ in draft.states), initial, strict=True))
        names = [info.name for info in draft.inputs]
        for inputs in self.reference.step_inputs:
            feed = {n: t.numpy() for n, t in zip(names, inputs, strict=False)}
            steps.append(_outputs(session, {**feed, **state}))
            state = {before: steps[-1][after] for before, after in draft.states}
        return {name: np.stack([step[name] for step in steps]) for name in steps[0]}

    def _state_feed(self, draft: Draft, initial: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        pairs = zip(self.program.states, draft.states, initial, strict=True)
        return {
            before: value
            for state, (before, _), value in pairs
            if not isinstance(state.initial, str)
        }


def _session(model: bytes, *, optimized: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but this one
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"export: onnxruntime {onnxruntime.__version__} does not load the graph ({reason}); "
            "try another opset, or a newer onnxruntime"
        ) from error


def _outputs(
    session: onnxruntime.InferenceSession, feed: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    taken = {node.name for node in session.get_inputs()}
    names = [node.name for node in session.get_outputs()]
    given = {name: np.ascontiguousarray(v) for name, v in feed.items() if name in taken}
    results = session.run(names, given)
    return {name: np.asarray(value) for name, value in zip(names, results, strict=True)}


def _gap(wanted: np.ndarray, got: np.ndarray) -> float:
    if wanted.shape != got.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    same = (wanted == got) | ((wanted != wanted) & (got != got))  # noqa: PLR0124
    gaps = np.where(same, 0.0, np.abs(wanted.astype(np.float64) - got.astype(np.float64)))
    return float(gaps.max())


def _scale(values: np.ndarray) -> float:
    return max(1.0, float(np.abs(values.astype(np.float64)).max())) if values.size else 1.0


def _batch_axis(draft: Draft, name: str) -> int:
    """Where an output has the batch; negative if nowhere."""
    info = next(i for _, i in draft.outputs if i.name == name)
    sizes = [dimension.dim_param for dimension in info.type.tensor_type.shape.dim]
    return sizes.index("N") if "N" in sizes else -len(sizes) - 1
