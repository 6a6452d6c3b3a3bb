# pyright: basic
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, parser
from onnx.reference import ReferenceEvaluator

from snncompile.export.simplified import simplified

HARD = """
    rest = Constant<value_float = 0.0>()
    above = Sub(x, rest)
    distance = Sub(above, y)
    fired = GreaterOrEqual(distance, rest)
    spikes = Cast<to = 1>(fired)
    one = Constant<value_float = 1.0>()
    silent = Sub(one, spikes)
    kept = Mul(silent, x)
    lowered = Mul(spikes, y)
    result = Add(lowered, kept)
"""
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def body(lines: str) -> list[onnx.NodeProto]:
    head = '<opset_import: ["" : 18], domain: "snn"> f (x, y) => (spikes, result)'
    return list(parser.parse_function(f"{head} {{ {lines} }}").node)


def operations(nodes: list[onnx.NodeProto]) -> list[str]:
    return [node.op_type for node in nodes if node.op_type != "Constant"]


def run(nodes: list[onnx.NodeProto], *values: Any) -> list[np.ndarray]:
    taken = [helper.make_tensor_value_info(name, 1, ["K"]) for name in ("x", "y")]
    made = [helper.make_tensor_value_info(name, 1, ["K"]) for name in ("spikes", "result")]
    graph = helper.make_graph(nodes, "body", taken, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    feed = dict(zip("xy", (np.asarray(v, np.float32) for v in values), strict=True))
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feed)]


def test_a_reset_to_a_value_becomes_a_choice() -> None:
    shorter = simplified(body(HARD), ["spikes", "result"])

    assert operations(shorter) == ["GreaterOrEqual", "Cast", "Where"]


@settings(deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS, st.booleans()), min_size=1, max_size=20))
def test_finite_numbers_do_not_notice(pairs: list[tuple[float, float, bool]]) -> None:
    x = [first for first, _, _ in pairs]
    y = [first if tie else second for first, second, tie in pairs]

    with np.errstate(over="ignore"):
        before = run(body(HARD), x, y)
        after = run(simplified(body(HARD), ["spikes", "result"]), x, y)

    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        ("silent = Sub(one, spikes)", "silent = Sub(one, x)"),
        ("one = Constant<value_float = 1.0>()", "one = Constant<value_float = 2.0>()"),
        ("spikes = Cast<to = 1>(fired)", "spikes = Mul(x, y)"),
        ("result = Add(lowered, kept)", "result = Sub(lowered, kept)"),
    ],
)
def test_what_is_no_choice_by_a_spike_stays(change: tuple[str, str]) -> None:
    assert HARD.count(change[0]) == 1

    shorter = simplified(body(HARD.replace(*change)), ["spikes", "result"])

    assert "Where" not in operations(shorter)


def test_a_difference_that_is_read_elsewhere_is_still_made() -> None:
    nodes = body(HARD.replace("Add(lowered, kept)", "Add(lowered, distance)"))

    shorter = simplified(nodes, ["spikes", "result"])

    assert operations(shorter) == ["Sub", "GreaterOrEqual", "Cast", "Mul", "Add"]


def test_an_output_keeps_its_node() -> None:
    nodes = body("none = Constant<value_float = 0.0>() spikes = Neg(y) result = Sub(x, none)")

    shorter = simplified(nodes, ["spikes", "result"])

    assert operations(shorter) == ["Neg", "Sub"]
