"""The targets of the compiler's performance, and where in the results each is measured."""

from collections.abc import Iterable
from dataclasses import dataclass

from ratios import (
    OURS,
    SELECTING,
    STEPPING,
    Found,
    Value,
    compile_seconds,
    doubling,
    faster,
    least,
    of_fastest,
    online,
    online_growth,
    online_share,
    ratio,
    scan,
    together,
    worst,
)

JELLY, COMPILED = "SpikingJelly multi-step", "torch.compile time-batched"
CHUNKED = "SpikingJelly memopt 8 chunks"


@dataclass(frozen=True)
class Target:
    """A row of the summary.

    Attributes:
        row: Of the specification.
        what: The case.
        bound: For one thread and for two.
        value: By the number of threads; None where it was not measured.
        most: The bound is an upper one.
        unit: Behind the number.
    """

    row: str
    what: str
    bound: tuple[float, float]
    value: Value
    most: bool = False
    unit: str = "x"

    def short(self, found: Found, threads: int) -> float:
        """By which share the bound is missed; 0 where it is met."""
        bound = self.bound[threads - 1]
        missed = found.value / bound - 1 if self.most else 1 - found.value / bound
        return max(0.0, missed)


def _mlp(steps: int) -> dict[str, str]:
    return {"network": "mlp", "T": str(steps)}


def _layer(width: int) -> dict[str, str]:
    return {"network": "layer", "width": str(width)}


def _both(bound: float) -> tuple[float, float]:
    return bound, bound


NEAR = "channels-last"
SHORT, LONG = range(4, 17), range(100, 1001)


def _conv(
    least_: tuple[float, float, float], ways: str, name: str, network: str = "conv"
) -> Iterable[Target]:
    peers = ((JELLY,), (f"{JELLY} {NEAR}",), (COMPILED, f"{COMPILED} {NEAR}"))
    for among, bound in zip(peers, least_, strict=True):
        value = faster("conv", among, {"network": network, "T": "4"}, ways)
        yield Target("P5", f"{name}, against {among[0]}", _both(bound), value)


def _frugal(row: str, peer: str, steps: int, bounds: tuple[float, float]) -> Iterable[Target]:
    for part, words in enumerate(("less memory than", "faster at once than")):
        value = together(peer, steps, bounds, part)
        yield Target(row, f"perceptron, T = {steps}, {words} {peer}", _both(bounds[part]), value)


def _perceptron() -> Iterable[Target]:
    for steps, bound in ((4, 1.7), (16, 2.5), (64, 3.0), (256, 3.0)):
        value = faster("mlp", (JELLY,), _mlp(steps))
        yield Target("P4", f"perceptron, T = {steps}, against {JELLY}", _both(bound), value)
    for steps in (4, 16):
        value = faster("mlp", (COMPILED,), _mlp(steps))
        yield Target("P4", f"perceptron, T = {steps}, against torch.compile", _both(1.4), value)
    for steps in (64, 256):
        value = faster("mlp", STEPPING, _mlp(steps))
        yield Target("P4", f"perceptron, T = {steps}, against libraries that step", _both(5), value)


def targets() -> Iterable[Target]:
    """Every row, in order."""
    yield from _neurons()
    yield from _layers()
    yield from _perceptron()
    yield from _conv((2.0, 1.6, 1.15), OURS, "convolutions")
    events = (f"{OURS} event-driven", "convolutions with strides, event-driven", "conv strided")
    yield from _conv((2.6, 2.0, 1.4), *events)
    yield from _frugal("P6", JELLY, 256, (10, 1.8))
    yield from _frugal("P6", JELLY, 1000, (25, 2))
    yield from _frugal("P7", CHUNKED, 256, (4, 3))
    yield from _saved()
    yield from _online()
    yield from _backward()
    yield from _events()
    yield from _compiled()
    yield from _deployed()


def _neurons() -> Iterable[Target]:
    yield Target(
        "P1", "LIF scan forward, of the copy rate", _both(0.85), scan("forward of copy", LONG)
    )
    yield Target(
        "P1", "LIF scan backward, of the copy rate", _both(0.85), scan("backward of copy", LONG)
    )
    yield Target(
        "P2", "neuron layer, T >= 100, against the eager loop", _both(10), scan("training x", LONG)
    )
    yield Target(
        "P2",
        "neuron layer, T = 4 to 16, against the eager loop",
        _both(5),
        scan("training x", SHORT),
    )


def _layers() -> Iterable[Target]:
    yield Target(
        "P3",
        f"Linear(512, 512) and LIF, T = 500, against {JELLY}",
        (2.5, 4.0),
        faster("neuron_layer", (JELLY,), _layer(512)),
    )
    yield Target(
        "P3",
        f"Linear(512, 4096) and LIF, against {JELLY}",
        _both(1.9),
        faster("neuron_layer", (JELLY,), _layer(4096)),
    )
    yield Target(
        "P3",
        "Linear(512, 512) and LIF, against libraries that step",
        _both(6),
        faster("neuron_layer", STEPPING, _layer(512)),
    )
    yield Target(
        "P3",
        "Linear(512, 512) and LIF, against Norse's LIF, sinabs",
        _both(30),
        faster("neuron_layer", SELECTING, _layer(512)),
    )


def _saved() -> Iterable[Target]:
    yield Target(
        "P8",
        "saved bytes per neuron and step, least memory",
        _both(0.5),
        least("mlp", "saved bytes", _mlp(256)),
        most=True,
        unit=" B",
    )
    yield Target(
        "P8",
        "saved bytes per neuron and step, fastest",
        _both(4.2),
        of_fastest("mlp", "saved bytes", _mlp(256)),
        most=True,
        unit=" B",
    )


def _online() -> Iterable[Target]:
    for steps, (ottt, bptt) in ((16, (8, 5)), (64, (14, 8))):
        for peer, bound in (("OTTT_A", ottt), ("BPTT", bptt)):
            value = online(f"online_{steps}", peer)
            yield Target("P9", f"SAF-F, T = {steps}, against {peer}", _both(bound), value)
    forward = online_share("online_16", "forward", "OTTT_A", "SAF-F, layers")
    yield Target(
        "P10", "SAF's forward operations, of OTTT's", _both(0.505), forward, most=True, unit=""
    )
    yield Target(
        "P10",
        "SAF-F's peak memory, T = 256 to T = 16",
        _both(1.1),
        online_growth("SAF-F, steps"),
        most=True,
        unit="",
    )
    peak = online_share("online_16", "memory", "OTTT_A", "SAF-F, steps")
    yield Target("P10", "SAF-F's peak memory, of OTTT's", _both(1), peak, most=True, unit="")


def _backward() -> Iterable[Target]:
    for way, bound in (("reversible", 1.25), ("recompute", 1.5)):
        pair = ({"contender": way}, {"contender": "kept"})
        value = ratio("backward_scan", "backward ms", {"threads": "1"}, *pair)
        yield Target(
            "P11",
            f"backward scan, {way}, to that with kept membranes",
            _both(bound),
            value,
            most=True,
        )
    for width, steps, what, bound in (
        (8192, 1000, "spikes", 5),
        (8192, 1000, "spike times", 18),
        (512, 1000, "spike times", 60),
    ):
        way = "kernel" if what == "spikes" else f"kernel, {what}"
        where = {"part": f"neuron, {width} wide", "T": str(steps), "threads": "1"}
        value = ratio(
            "single_spike", "process ms", where, {"contender": "loop"}, {"contender": way}
        )
        yield Target(
            "P12",
            f"single-spike neuron, {width} wide, {what}, against the loop",
            _both(bound),
            value,
        )


def _events() -> Iterable[Target]:
    for density, bound in ((0.02, 4), (0.05, 2.8), (0.1, 1.7)):
        where = {"layer": "linear", "density": f"{density:g}"}
        value = worst("event_synapses", "events", where)
        what = f"event-driven product at {density:.0%}, against the dense one, any size"
        yield Target("P13", what, _both(bound), value)
    value = worst("event_synapses", "chosen", {})
    yield Target("P13", "the product that is chosen, at any density", _both(0.95), value)


def _compiled() -> Iterable[Target]:
    for cache, bound in (("cold", 3), ("cached", 0.1)):
        yield Target(
            "P14",
            f"seconds to compile, {cache}",
            _both(bound),
            compile_seconds(cache),
            most=True,
            unit=" s",
        )
    where = {"contender": OURS, "cache": "cold", "network": "mlp"}
    longer = ratio("compile_time", "process s", where, {"T": "1000"}, {"T": "4"})
    yield Target(
        "P14", "seconds to compile, T = 1000 to T = 4", _both(1.2), longer, most=True, unit=""
    )
    for what in ("T", "batch", "depth"):
        yield Target("P15", f"time when {what} doubles", _both(2.2), doubling(what), most=True)


def _deployed() -> Iterable[Target]:
    for network in ("MLP 784-512-512-10", "VGG, 6.5 M"):
        for weights, bound in (("int8, x86-int8", 3), ("binary, x86-int8", 2.5)):
            pair = {"contender": "float32"}, {"contender": weights}
            value = ratio("latency", "process_us", {"network": network, "threads": "1"}, *pair)
            what = f"{network}, one step, {weights}, against float32"
            yield Target("P16", what, _both(bound), value)
