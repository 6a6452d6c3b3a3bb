"""The networks that the memory benchmarks train, in every library from the same parameters.

Neurons leak by half a step, reset to zero without a gradient through the reset, and fire at 1:
SpikingJelly's and Norse's as they are, snnTorch's, whose input is not halved, at 2.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import norse.torch as norse
import snntorch
import torch
from snntorch import surrogate as slopes
from spikingjelly.activation_based import functional, layer, memopt, neuron, surrogate
from torch import Tensor, nn

import snncompile
from snncompile.passes.channels_last import ChannelsLast
from snncompile.passes.event_driven import EventDriven
from snncompile.passes.recompute import Recompute
from snncompile.rewrite import Pass
from snncompile.runtime.schedule import ScheduleName

LINEAR_GAIN, NORM_BIAS = 6.0, 0.5
"""With these, every layer fires at birth."""


class Block(nn.Sequential):
    """A synapse, perhaps its normalisation, its neuron and a pooling; a read-out alone."""


class Contender(NamedTuple):
    """A network that takes [T, N, ...], and what takes its states back to rest."""

    model: nn.Module
    reset: Callable[[], Any]


class Network(NamedTuple):
    """A network without a library.

    Attributes:
        widths: Of the layers; channels of convolutions, where None is a max pooling.
        shape: Of one sample of one step.
    """

    widths: tuple[int | None, ...]
    shape: tuple[int, ...]

    def blocks(self, layers: Any, neurons: Callable[[], nn.Module]) -> list[Block]:  # noqa: ANN401
        """Its blocks, of a library's layers and neurons."""
        into, size = self.shape[0], self.shape[-1] if len(self.shape) > 1 else 0
        found: list[Block] = []
        for out in self.widths:
            if out is None:
                found[-1].append(layers.MaxPool2d(2))
                size //= 2
                continue
            if size:
                synapse = layers.Conv2d(into, out, 3, padding=1, bias=False)
                found.append(Block(synapse, layers.BatchNorm2d(out), neurons()))
            else:
                found.append(Block(layers.Linear(into, out), neurons()))
            into = out
        if size:
            return [*found, Block(layers.Flatten(), layers.Linear(into * size**2, 10))]
        return [*found, Block(layers.Linear(into, 10))]

    def input(self, steps: int, batch: int) -> Tensor:
        """Spikes for a perceptron, analog frames for convolutions, [T, N, ...]."""
        torch.manual_seed(1)
        x = torch.rand(steps, batch, *self.shape)
        return x if len(self.shape) > 1 else (x < 0.2).float()  # noqa: PLR2004


MLP = Network((512, 512, 512), (512,))
CONV = Network((64, None, 128, None, 256, None), (3, 32, 32))
VGG11 = Network((64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512, None), (3, 32, 32))


class Looped(nn.Sequential):
    """Blocks whose neurons take their state and return the next one, in a loop over time."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """The logits of every step, [T, N, 10]."""
        modules = [module for block in self for module in block]
        states: dict[nn.Module, Any] = {}
        logits: list[Tensor] = []
        for value in input:
            for module in modules:
                if isinstance(module, (snntorch.Leaky, norse.LIFBoxCell)):
                    held = states.get(module, self.rest(module, value))
                    value, states[module] = module(value, held)  # noqa: PLW2901
                else:
                    value = module(value)  # noqa: PLW2901
            logits.append(value)
        return torch.stack(logits)

    def rest(self, module: nn.Module, current: Tensor) -> Tensor | None:
        """A neuron's first state; Norse's makes its own."""
        return torch.zeros_like(current) if isinstance(module, snntorch.Leaky) else None


# Contenders --------------------------------------------------------------------------------------


def jelly(network: Network) -> Contender:
    """SpikingJelly over whole sequences."""
    torch.manual_seed(0)
    model = nn.Sequential(*network.blocks(layer, _jelly_neuron))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(NORM_BIAS)
            elif isinstance(module, nn.Linear):
                module.weight.mul_(LINEAR_GAIN)
    functional.set_step_mode(model, "m")
    return Contender(model, partial(functional.reset_net, model))


def near(contender: Contender) -> Contender:
    """With parameters whose channels are innermost in memory; convolutions then follow."""
    return contender._replace(model=contender.model.to(memory_format=torch.channels_last))


def _jelly_neuron() -> nn.Module:
    return neuron.LIFNode(detach_reset=True, surrogate_function=surrogate.ATan())


def memory_mode(network: Network, x: Tensor) -> Contender:
    """SpikingJelly's memopt, every block a checkpoint with spikes as bits.

    That is level 1; the levels beyond measure the memory of a CUDA device and refuse a CPU.
    """
    model, reset = jelly(network)
    memopt.optimize_memory(model, Block, lambda m: m(x), level=1, checkpoint_budget="memory")
    reset()
    return Contender(model, reset)


def chunked_memory_mode(network: Network, chunks: int) -> Contender:
    """The same in chunks of time, by hand: what the level for time would find."""
    model, reset = jelly(network)
    for i, block in enumerate(model):
        bits = memopt.BitSpikeCompressor()
        model[i] = memopt.checkpoint_module(block, compressor=bits, chunks=chunks)
    return Contender(model, reset)


def looped(network: Network, neurons: Callable[[], nn.Module]) -> Contender:
    """Layers of torch and a library's neurons, step by step."""
    model = Looped(*network.blocks(nn, neurons))
    model.load_state_dict(jelly(network).model.state_dict(), strict=False)
    held = [module for module in model.modules() if isinstance(module, snntorch.Leaky)]
    return Contender(model, lambda: [module.reset_mem() for module in held])


def _snntorch_neuron() -> nn.Module:
    return snntorch.Leaky(0.5, threshold=2.0, spike_grad=slopes.atan(), reset_mechanism="zero")


def _norse_neuron() -> nn.Module:
    return norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0)))


def ours(network: Network, schedule: ScheduleName | int, passes: Sequence[Pass] = ()) -> Contender:
    """The network of `jelly`, transformed."""
    fast = snncompile.transform(jelly(network).model, list(passes), schedule=schedule)
    return Contender(fast, fast.reset)


Make = Callable[[Network, Tensor], Contender]

LIBRARIES: dict[str, Make] = {
    "SpikingJelly": lambda network, _: jelly(network),
    "SpikingJelly, channels-last": lambda network, _: near(jelly(network)),
    "SpikingJelly memopt": memory_mode,
    "SpikingJelly memopt, 8 chunks": lambda network, _: chunked_memory_mode(network, 8),
    "snnTorch": lambda network, _: looped(network, _snntorch_neuron),
    "Norse": lambda network, _: looped(network, _norse_neuron),
}
OURS: dict[str, Make] = {
    "plain, layers": lambda network, _: ours(network, "layers"),
    "plain, auto": lambda network, _: ours(network, "auto"),
    "recompute, layers": lambda network, _: ours(network, "layers", [Recompute()]),
    "plain, channels-last": lambda network, _: near(ours(network, "layers", [ChannelsLast()])),
    "recompute, channels-last": lambda network, _: near(
        ours(network, "layers", [ChannelsLast(), Recompute()])
    ),
    "event-driven, recompute": lambda network, _: near(
        ours(network, "layers", [EventDriven(), ChannelsLast(), Recompute()])
    ),
    "recompute, auto": lambda network, _: ours(network, "auto", [Recompute()]),
    "recompute, tile 16": lambda network, _: ours(network, 16, [Recompute()]),
}
