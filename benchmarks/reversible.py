"""The reversible neuron: time of training, memory, accuracy on digits.

    time      A training step with the streamlined backward pass against the same network with the
              usual backward pass of reversible layers, and SpikingJelly's LIF network.
    memory    What autograd keeps for one node, and the peak of a training step, against T.
    accuracy  Digits learned by the reversible network and by the LIF network it came from.

benchmarks/README.md says what is measured. `python benchmarks/reversible.py time --help`.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from unittest import mock

import torch
from measurement import interleaved, machine, peak_memory, saved_bytes
from online_accuracy import digits
from reversible_networks import lif, mlp, vgg
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

import snncompile
from snncompile.ir.grids import Grid
from snncompile.ir.neurons import Hard, Relax, reversible_lif
from snncompile.ir.reversible import reverse
from snncompile.ir.surrogates import Surrogate
from snncompile.passes.reversible import Reversible
from snncompile.runtime import reversible as streamlined
from snncompile.runtime import scan

Run = Callable[[Tensor], Tensor]
BATCH, RATE = 64, 2e-3


class Usual(streamlined.Streamlined):
    """The usual backward pass: a step back, forward again with a graph, then autograd."""

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        """The gradients by currents and first membrane."""
        coupling: streamlined.Coupling = ctx.coupling
        branch, alpha, beta, _ = coupling
        output, packed, *_ = ctx.saved_tensors
        given, of_membrane = grad_outputs
        membrane = streamlined.unpacked(packed, output.dtype, branch.grid)
        gradient = torch.empty_like(output)
        for t in reversed(range(len(output))):
            current, membrane = reverse(output[t], membrane, branch, alpha=alpha, beta=beta)
            with torch.enable_grad():
                leaves = current.requires_grad_(), membrane.requires_grad_()
                step = reversible_lif(*leaves, **branch._asdict(), alpha=alpha, beta=beta)
            gradient[t], of_membrane = torch.autograd.grad(step, leaves, (given[t], of_membrane))
            membrane = membrane.detach()
        return gradient, of_membrane, None


def usual_over_time(
    current: Tensor, states: tuple[Tensor, ...], settings: streamlined.Settings
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Stands in for `reversible_over_time`."""
    coupling = streamlined.coupling_of(settings)
    if coupling is None:
        return None
    output, after = Usual.apply(current, states[0], coupling)
    return output, (after,)


TIMED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp-128": (partial(mlp, (128, 128, 128, 128, 10)), (32, 64, 128)),
    "mlp-512": (partial(mlp, (512, 512, 512, 512, 10)), (32, 64, 512)),
    "vgg-16": (partial(vgg, (16, 16, None, 32, 32, None), 32, 3), (8, 16, 3, 32, 32)),
    "vgg-64": (partial(vgg, (64, 64, None, 128, 128, None), 32, 3), (4, 8, 3, 32, 32)),
}
"""Networks, and the shape of their input, [T, N, ...]."""

LEARNED: dict[str, Callable[[], nn.Module]] = {
    "mlp": partial(mlp, (64, 128, 128, 10)),
    "conv": partial(vgg, (16, None, 32, None), 8, 1),
}


# Time --------------------------------------------------------------------------------------------


def time_of(name: str, options: argparse.Namespace) -> list[object]:
    """Medians in ms of CPU time of a training step; what the streamlined backward pass saves."""
    make, shape = TIMED[name]
    model, x = make(), torch.randn(shape)
    fast = snncompile.transform(model, [Reversible()], schedule="layers")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def train(network: nn.Module, reset: Callable[[], None]) -> None:
        optimizer.zero_grad()
        network(x).mean(0).square().mean().backward()
        optimizer.step()
        reset()

    def usually() -> None:
        with mock.patch.dict(scan.OVER_TIME, {reversible_lif: usual_over_time}):
            train(fast, fast.reset)

    works = {
        "streamlined": lambda: train(fast, fast.reset),
        "usual": usually,
        "spikingjelly": lambda: train(model, lambda: functional.reset_net(model)),
    }
    for work in works.values():
        work()
    taken = interleaved(works, options.repeats)
    saved = 1 - taken["streamlined"].process / taken["usual"].process
    return [name, *shape[:2], *(f"{1000 * taken[w].process:.1f}" for w in works), f"{saved:.1%}"]


# Memory ------------------------------------------------------------------------------------------


def bytes_kept(run: Run, x: Tensor) -> int:
    """What autograd keeps beyond input and output of the node, which its neighbours keep."""
    return saved_bytes(lambda: run(x.requires_grad_()), (x,))


def _reversible(x: Tensor) -> Tensor:
    settings = {
        "charge": Relax(2.0), "threshold": 1.0, "reset": Hard(),
        "surrogate": Surrogate("atan", (2.0,)), "grid": Grid(8, 1.0),
    }  # fmt: skip
    outputs, _ = scan.scan(
        reversible_lif, x, (torch.zeros_like(x[0]),), tuple(settings.items()), (0,)
    )
    assert outputs[0] is not None
    return outputs[0]


NODES: dict[str, Callable[[], Run]] = {
    "SpikingJelly LIFNode": lif,
    "... detach_reset": partial(neuron.LIFNode, detach_reset=True, step_mode="m"),
    "... soft reset": partial(neuron.LIFNode, v_reset=None, step_mode="m"),
    "reversible": lambda: _reversible,
}


def memory_of(steps: int) -> Iterable[list[object]]:
    """Bytes for one neuron, and the peak of a training step of mlp-512 in MiB."""
    own = bytes_kept(_reversible, torch.randn(steps, 8, 64)) / (8 * 64)
    for name, make in NODES.items():
        kept = bytes_kept(make(), torch.randn(steps, 8, 64)) / (8 * 64)
        yield [name, steps, f"{kept:.1f}", f"{kept / own:.1f}"]


def peaks_of(name: str, steps: int) -> Iterable[list[object]]:
    """The peak of a training step in MiB, and its ratio to the reversible network's."""
    make, (_, batch, *rest) = TIMED[name]
    model, x = make(), torch.randn(steps, batch, *rest)
    fast = snncompile.transform(model, [Reversible()], schedule="layers")

    def train(network: nn.Module) -> None:
        network(x).mean(0).square().mean().backward()
        fast.reset()
        functional.reset_net(model)

    peaks = []
    for network in (model, fast):
        train(network)
        peaks.append(peak_memory(partial(train, network)))
    yield [
        f"peak of {name}, SpikingJelly",
        steps,
        f"{peaks[0]:.1f} MiB",
        f"{peaks[0] / peaks[1]:.1f}",
    ]
    yield [f"peak of {name}, reversible", steps, f"{peaks[1]:.1f} MiB", "1.0"]


# Accuracy ----------------------------------------------------------------------------------------


def accuracy_of(name: str, kind: str, seed: int, options: argparse.Namespace) -> float:
    """Percent of the test digits, after training from the seed."""
    torch.manual_seed(seed)
    data, model = digits(), LEARNED[name]()
    passes = [Reversible()] if kind == "reversible" else []
    network = snncompile.transform(model, passes, schedule="layers")
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    for _ in range(options.epochs):
        for chosen in torch.randperm(len(data.labels)).split(BATCH):
            logits = network(_sequence(data.images[chosen], name, options.steps)).mean(0)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, data.labels[chosen]).backward()
            optimizer.step()
            network.reset()
    network.eval()
    with torch.no_grad():
        logits = network(_sequence(data.test_images, name, options.steps)).mean(0)
    return 100 * (logits.argmax(1) == data.test_labels).double().mean().item()


def _sequence(images: Tensor, name: str, steps: int) -> Tensor:
    frames = images.flatten(1) if name == "mlp" else images
    return frames.expand(steps, *frames.shape)


def accuracies(name: str, kind: str, options: argparse.Namespace) -> list[object]:
    """Mean, deviation and extremes over the seeds."""
    scores = [accuracy_of(name, kind, seed, options) for seed in range(options.seeds)]
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    found = (statistics.mean(scores), spread, min(scores), max(scores))
    return [name, kind, *(f"{value:.2f}" for value in found)]


def rows(options: argparse.Namespace) -> Iterable[list[object]]:
    """The table that was asked for, header first."""
    if options.what == "time":
        yield ["network", "T", "N", "streamlined", "usual", "spikingjelly", "saved"]
        yield from (time_of(name, options) for name in options.network or TIMED)
    elif options.what == "memory":
        yield ["what", "T", "bytes of a neuron", "ratio to reversible"]
        for steps in (16, 64, 256):
            yield from memory_of(steps)
            yield from peaks_of("mlp-512", steps)
    else:
        yield ["network", "neuron", "mean", "deviation", "lowest", "highest"]
        for name in options.network or LEARNED:
            yield from (accuracies(name, kind, options) for kind in ("lif", "reversible"))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("time", "memory", "accuracy"))
    parser.add_argument("--network", nargs="+", choices=(*TIMED, *LEARNED))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=6, help="T of accuracy")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Measure and print as CSV."""
    options = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    print(f"# {machine()}; {options.threads} threads")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for row in rows(options):
        writer.writerow(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
