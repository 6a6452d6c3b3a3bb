"""Neurons and networks on a GPU, against eager torch, SpikingJelly and snnTorch.

    python benchmarks/gpu.py --out results.jsonl            # everything, under ten minutes
    python benchmarks/gpu.py --cases lif mem --quick
    python benchmarks/gpu.py --interpret                    # no GPU: tiny sizes, no meaningful time

Cases:
    limits  copy rate, matrix products in float32, TF32 and bfloat16
    lif     a LIF neuron over [T, M] alone: forward, forward and backward, fraction of the copy rate
    onm     Linear(N, N) and LIF, batch 16, T = 500, random input, sum of spikes as the loss
    mem     three layers of 512, batch 64: time and peak memory as T grows

SpikingJelly reads once, when it is imported, which of its kernels to use: there is a process for
each of them, with snncompile's kernels in the same process to compare with. Contenders take turns;
times are medians of CUDA's events, memory is what torch's allocator held at most. Every line of the
output is a JSON object; what fails says so in "error".
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_contenders import CONTENDERS, Layers
from gpu_measurement import interleaved, machine, peak_memory
from torch import Tensor, nn

Record = dict[str, Any]

SPIKINGJELLYS = ("triton", "cuda", "torch")
VARIABLE = "SJ_LIF_CUDA_IMPLEMENTATION"
BYTES_OF_A_STEP = 24
"""What the kernels must move for one neuron and step: three float32 each way."""


class Setting(NamedTuple):
    """How much is measured.

    Attributes:
        device: Where.
        rounds: How often.
        copied: Elements of the tensors that the copy rate is measured with.
        scans: (T, M) of the case lif.
        widths: N of the case onm.
        steps: T of the case onm.
        lengths: T of the case mem.
        hidden: Neurons of a layer of the case mem.
    """

    device: torch.device
    rounds: int
    copied: int
    scans: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    steps: int
    lengths: tuple[int, ...]
    hidden: int


def setting(*, quick: bool, interpret: bool) -> Setting:
    """The sizes of a run."""
    if interpret:
        return Setting(torch.device("cpu"), 1, 4096, ((5, 33),), (8,), 4, (3,), 8)
    device = torch.device("cuda")
    if quick:
        scans = ((500, 8192), (16, 1 << 22))
        return Setting(device, 3, 1 << 28, scans, (512,), 500, (16, 256), 512)
    scans = ((500, 8192), (500, 1 << 18), (1000, 1 << 18), (16, 1 << 22), (4, 1 << 24))
    return Setting(device, 9, 1 << 28, scans, (512, 4096, 16384), 500, (16, 64, 256, 1000), 512)


def limits(chosen: Setting, peers: Sequence[str]) -> Iterator[Record]:
    """The copy rate in GB/s, and matrix products in TFLOP/s."""
    yield {"case": "limits", "of": "copy", "GB/s": _copy_rate(chosen)}
    n = min(8192, int(chosen.copied**0.5))
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device=chosen.device, dtype=dtype) for _ in range(2))
        taken = interleaved({name: lambda a=a, b=b: a @ b}, chosen.rounds, chosen.device)
        yield {"case": "limits", "of": f"product {name}", "TFLOP/s": 2e-9 * n**3 / taken[name]}
    torch.backends.cuda.matmul.allow_tf32 = False


def _copy_rate(chosen: Setting) -> float:
    source, target = (torch.empty(chosen.copied, device=chosen.device) for _ in range(2))
    taken = interleaved({"copy": lambda: target.copy_(source)}, chosen.rounds, chosen.device)
    return 8e-6 * chosen.copied / taken["copy"]


def lif(chosen: Setting, peers: Sequence[str]) -> Iterator[Record]:
    """A neuron alone; the kernels' share of the copy rate too."""
    rate = _copy_rate(chosen)
    for steps, width in chosen.scans:
        x = torch.randn(steps, width, device=chosen.device) + 0.5
        for record in _compared(peers, lambda: [nn.Identity()], x, chosen):
            if "step_ms" in record:
                moved = 1e-6 * BYTES_OF_A_STEP * steps * width
                record["of_copy"] = moved / record["step_ms"] / rate
            yield {"case": "lif", "T": steps, "M": width, **record}


def onm(chosen: Setting, peers: Sequence[str]) -> Iterator[Record]:
    """One layer of N neurons that read N inputs."""
    for width in chosen.widths:
        x = torch.rand(chosen.steps, 16, width, device=chosen.device)
        layer = _linear(width, width, chosen)
        for record in _compared(peers, lambda layer=layer: [layer], x, chosen):
            yield {"case": "onm", "T": chosen.steps, "N": width, **record}


def mem(chosen: Setting, peers: Sequence[str]) -> Iterator[Record]:
    """Three layers, longer and longer."""
    layers = [_linear(chosen.hidden, chosen.hidden, chosen) for _ in range(3)]
    for steps in chosen.lengths:
        x = torch.rand(steps, 64, chosen.hidden, device=chosen.device)
        for record in _compared(peers, lambda: layers, x, chosen):
            yield {"case": "mem", "T": steps, "N": chosen.hidden, **record}


CASES: Mapping[str, Callable[[Setting, Sequence[str]], Iterator[Record]]] = {
    "limits": limits, "lif": lif, "onm": onm, "mem": mem,
}  # fmt: skip


def _linear(inputs: int, outputs: int, chosen: Setting) -> nn.Module:
    layer = nn.Linear(inputs, outputs, device=chosen.device)
    with torch.no_grad():
        layer.weight.mul_(2)
    return layer


def _compared(
    peers: Sequence[str], synapses: Callable[[], list[nn.Module]], x: Tensor, chosen: Setting
) -> list[Record]:
    """Every contender's record: its spikes against eager's, times, memory."""
    example, x = x[:3].clone(), x.requires_grad_()
    reference = CONTENDERS["eager"](synapses(), example)(x.detach()).detach()
    records: dict[str, Record] = {}
    forward: dict[str, Callable[[], object]] = {}
    step: dict[str, Callable[[], object]] = {}
    for name in peers:
        records[name] = {"contender": name}
        try:
            layers = CONTENDERS[name](synapses(), example)
            moved = (layers(x.detach()).detach() != reference).float().mean()
            records[name]["spikes_moved"] = float(moved)
            once, training = _works(layers, x)
            training()
            records[name]["peak_MiB"] = peak_memory(training, chosen.device)
            forward[name], step[name] = once, training
        except Exception as error:  # a peer that fails is a result, too
            records[name]["error"] = f"{type(error).__name__}: {error}"
    for label, works in (("forward_ms", forward), ("step_ms", step)):
        for name, taken in interleaved(works, chosen.rounds, chosen.device).items():
            records[name][label] = taken
    return list(records.values())


def _works(layers: Layers, x: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward, and forward and backward."""
    return torch.no_grad()(lambda: layers(x)), lambda: torch.autograd.grad(layers(x).sum(), x)


def measure(options: argparse.Namespace) -> Iterator[Record]:
    """What one process measures."""
    chosen = setting(quick=options.quick, interpret=options.interpret)
    first = options.process == SPIKINGJELLYS[0]
    peers = [peer for peer in options.peers if first or peer in ("kernels", "spikingjelly")]
    about = {"spikingjelly": options.process, **machine(chosen.device)}
    for name in options.cases:
        if first or name != "limits":
            for record in CASES[name](chosen, peers):
                yield {**record, **about}


def interpreted(options: argparse.Namespace) -> Iterator[str]:
    """Measure here, in Triton's interpreter."""
    os.environ.update(TRITON_INTERPRET="1", SNNCOMPILE_KERNELS="triton")
    options.process = SPIKINGJELLYS[0]
    return (json.dumps(record) for record in measure(options))


def by_processes() -> Iterator[str]:
    """Start one process for each of SpikingJelly's kernels; hand on what they print."""
    for kind in SPIKINGJELLYS:
        command = [sys.executable, *sys.argv, "--process", kind]
        environment = {**os.environ, VARIABLE: kind}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603
            yield from (line.rstrip() for line in child.stdout or ())


def main() -> None:
    """Read the options; measure, in this process if it is one that was started to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peers", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument(
        "--interpret", action="store_true", help="on the CPU, in Triton's interpreter"
    )
    parser.add_argument("--out", type=Path, help="a file for the lines")
    parser.add_argument("--process", choices=SPIKINGJELLYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = None if options.process else options.out
    if options.process:
        lines = (json.dumps(record) for record in measure(options))
    elif options.interpret:
        lines = interpreted(options)
    elif torch.cuda.is_available():
        lines = by_processes()
    else:
        sys.exit("there is no GPU here; --interpret runs a small version in Triton's interpreter")
    seen: list[str] = []
    for line in lines:
        print(line, flush=True)
        seen.append(line + "\n")
    if out:
        out.write_text("".join(seen), encoding="utf-8")


if __name__ == "__main__":
    main()
