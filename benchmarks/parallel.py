"""LIF neurons over a sequence, forward and backward: blocks of time against loops and spike sweeps.

What is measured is in benchmarks/README.md. `python benchmarks/parallel.py --help`.
"""

import argparse
import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measurement import Work, interleaved, machine
from torch import Tensor

from snncompile.ir.certificates import Certificate
from snncompile.ir.charges import Decay
from snncompile.ir.neurons import lif
from snncompile.ir.resets import Subtract
from snncompile.ir.surrogates import Surrogate
from snncompile.runtime.blocks import blocks_for
from snncompile.runtime.parallel import lif_over_time
from snncompile.runtime.scan import NeuronScan, scan

BLOCK = 32
"""Steps of one triangular product in the linear scan of the spike sweeps."""

GAINS = {"low": 0.35, "middle": 0.8, "high": 2.0}
"""By what random currents are multiplied."""

Rows = list[dict[str, str]]


class Ways(dict[Any, int]):
    """Every call has been measured already, and this many blocks were fastest."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks

    def __contains__(self, key: object) -> bool:
        """Every key is known."""
        return True

    def __getitem__(self, key: Any) -> int:  # noqa: ANN401
        """The same for all."""
        return self.blocks


def leak(current: Tensor, decay: float) -> Tensor:
    """Sums of decay^(t - k) I[k], in products with triangular matrices; [T, M], BLOCK divides T."""
    since = torch.arange(BLOCK)
    between = since[:, None] - since[None, :]
    triangle = (decay ** between.clamp(min=0).to(current.dtype)) * (between >= 0)
    blocks = triangle @ torch.unflatten(current, 0, (-1, BLOCK))
    carried, fade = torch.zeros_like(current[0]), triangle[:, :1] * decay
    for block in blocks.unbind(0):
        block.addcmul_(fade, carried.unsqueeze(0))
        carried = block[-1]
    return blocks.flatten(0, 1)


def spike_sweeps(current: Tensor, decay: float) -> tuple[Tensor, int]:
    """S <- H(L(I - S) + S - 1) until nothing changes: spikes, and how many sweeps it took."""
    spikes = torch.zeros_like(current)
    for sweep in range(1, len(current) + 2):
        charged = leak(current - spikes, decay) + spikes
        following = (charged >= 1).to(current.dtype)
        if torch.equal(following, spikes):
            return spikes, sweep
        spikes = following
    raise RuntimeError("more sweeps than steps")


def compare(steps: int, width: int, decay: float, gain: str, repeats: int) -> Rows:
    """All forms on the same currents; forward alone, and with the backward pass."""
    current = torch.randn(steps, width) * GAINS[gain] * (1 - decay**2) ** 0.5 + 0.3 * (1 - decay)
    start, upstream = torch.zeros(width), torch.randn(steps, width)
    blocks = max(2, blocks_for(steps, start, decay))
    certificate = Certificate(ways=Ways(blocks))
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "kernel": _kernel(decay, start),
        "blocks": _form(decay, start, certificate),
        "loop without a graph": _form(decay, start, Certificate(ways=Ways(1))),
        "autograd's loop": _form(decay, start, None),
    }
    works: dict[str, Work] = {}
    for name, form in forms.items():
        works[f"{name}, forward"] = _forward(form, current)
        works[name] = _both(form, current, upstream)
    works["spike sweeps, forward"] = lambda: spike_sweeps(current, decay)
    exact = forms["autograd's loop"](current)
    swept, sweeps = spike_sweeps(current, decay)
    assert torch.equal(forms["blocks"](current), exact)
    for work in works.values():
        work()
    about = {"T": str(steps), "width": str(width), "decay": str(decay), "gain": gain}
    about |= {"rate": f"{exact.mean():.3f}"}
    notes = {"blocks": f"{blocks} blocks, {certificate.sweeps} sweeps"}
    notes["spike sweeps, forward"] = f"{sweeps} sweeps, {int((swept != exact).sum())} spikes moved"
    rows: Rows = []
    for name, taken in interleaved(works, repeats).items():
        row = {**about, "form": name, "process ms": f"{1e3 * taken.process:.2f}"}
        rows.append(row | {"note": notes.get(name, "")})
        print("  ".join(rows[-1].values()), flush=True)
    return rows


def _kernel(decay: float, start: Tensor) -> Callable[[Tensor], Tensor]:
    """The fused kernel; without a C compiler it is autograd's loop."""
    fused = NeuronScan(lif, tuple(_settings(decay).items()))
    return lambda current: fused(current, (start,), (), (0,))[0][0]


def _settings(decay: float) -> dict[str, Any]:
    surrogate = Surrogate("atan", (2.0,))
    charge, reset = Decay(decay), Subtract()
    return {"charge": charge, "threshold": 1.0, "reset": reset, "surrogate": surrogate}


def _form(
    decay: float, start: Tensor, certificate: Certificate | None
) -> Callable[[Tensor], Tensor]:
    settings = _settings(decay)
    if certificate is None:
        return lambda current: scan(lif, current, (start,), tuple(settings.items()), (0,))[0][0]
    own = tuple({**settings, "certificate": certificate}.items())
    return lambda current: lif_over_time(current, (start,), own)[0]


def _forward(form: Callable[[Tensor], Tensor], current: Tensor) -> Work:
    def work() -> None:
        with torch.no_grad():
            form(current)

    return work


def _both(form: Callable[[Tensor], Tensor], current: Tensor, upstream: Tensor) -> Work:
    leaf = current.clone().requires_grad_()

    def work() -> None:
        torch.autograd.grad(form(leaf), leaf, upstream)

    return work


def plot(rows: Rows, path: Path) -> None:
    """Time against T, one panel a width and decay, at the middle rate."""
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = [row for row in rows if row["gain"] == "middle" and "forward" in row["form"]]
    panels = list(dict.fromkeys((row["width"], row["decay"]) for row in shown))
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.2), sharey=True)
    for axis, panel in zip(axes, panels, strict=True):
        own = [row for row in shown if (row["width"], row["decay"]) == panel]
        for form in dict.fromkeys(row["form"] for row in own):
            line = [row for row in own if row["form"] == form]
            times = [float(row["process ms"]) for row in line]
            axis.loglog([int(row["T"]) for row in line], times, "o-", label=form)
        axis.set_xscale("log", base=2)
        axis.set(title=f"{panel[0]} neurons, decay {panel[1]}", xlabel="T")
    axes[0].set_ylabel("CPU ms")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Run over lengths, widths, decays and rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=(128, 512, 2048))
    parser.add_argument("--widths", nargs="+", type=int, default=(128, 1024, 16384))
    parser.add_argument("--decays", nargs="+", type=float, default=(0.5, 0.9))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="needs matplotlib")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    print(f"{machine()}, {chosen.threads} threads")
    rows: Rows = []
    run = partial(compare, repeats=chosen.repeats)
    for width in chosen.widths:
        for decay in chosen.decays:
            for steps in chosen.lengths:
                rows += run(steps, width, decay, "middle")
            for gain in ("low", "high"):
                rows += run(512, width, decay, gain)
    if chosen.out:
        with chosen.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if chosen.plot:
        plot(rows, chosen.plot)


if __name__ == "__main__":
    main()
