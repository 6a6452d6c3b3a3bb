"""sinabs' LIF in the layer of neuron_layer.py, with 512 neurons: P3.

    make sinabs

sinabs 3.1.3 needs an older nir than snnTorch, so it has an environment of its own and is timed in a
process of its own, not in turns with the others. Decay 1/2, threshold 1, one spike a step, a
subtracting reset; its surrogate is its own.
"""

import argparse
import math

import sinabs
import torch
from measurement import Work, interleaved, machine, peak_memory
from records import RESULTS, Row, merged, read, write
from torch import Tensor, nn


class Layer(nn.Module):
    """A Linear and sinabs' LIF, [T, N, inputs] to [T, N, neurons]."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.synapse = nn.Linear(into, width)
        self.lif = sinabs.layers.LIF(
            tau_mem=1 / math.log(2), spike_fn=sinabs.activation.SingleSpike, norm_input=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """From rest; sinabs wants the batch first."""
        self.lif.reset_states()
        return self.lif(self.synapse(x).transpose(0, 1)).transpose(0, 1)


def measured(threads: int, work: Work) -> Row:
    """One row for neuron_layer.csv."""
    torch.set_num_threads(threads)
    work()
    taken = interleaved({"sinabs": work}, 3)["sinabs"]
    row = {"network": "layer", "T": "500", "batch": "16", "width": "512", "contender": "sinabs"}
    row |= {"threads": str(threads), "denormals": "flushed"}
    return row | {"process ms": f"{1e3 * taken.process:.2f}", "wall ms": f"{1e3 * taken.wall:.2f}"}


def main() -> None:
    """Measure and put the rows into neuron_layer.csv."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print(f"# {machine()}; sinabs {sinabs.__version__}")
    torch.set_flush_denormal(True)
    layer, x = Layer(512, 512), torch.rand(500, 16, 512)
    upstream = torch.randn(500, 16, 512)

    def train() -> None:
        layer.zero_grad()
        layer(x).backward(upstream)

    torch.set_num_threads(1)
    peak = peak_memory(train)
    rows = [measured(threads, train) | {"peak MiB": f"{peak:.2f}"} for threads in options.threads]
    for row in rows:
        print("  ".join(row.values()))
    write(merged(read("neuron_layer"), rows, beside=True), RESULTS / "neuron_layer.csv")


if __name__ == "__main__":
    main()
