"""The ways to train one network that the online-learning benchmarks compare."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

import snncompile
from snncompile.module import Transformed
from snncompile.passes import SAF
from snncompile.runtime.schedule import ScheduleName


class Contender(ABC):
    """A model, its optimizer and a rule.

    Attributes:
        name: For the tables.
        model: What is trained.
    """

    def __init__(self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.name = name
        self.model = model
        self.optimizer = optimizer

    @abstractmethod
    def forward(self, x: Tensor) -> None:
        """The forward pass of one training step, without its backward pass."""

    @abstractmethod
    def train(self, x: Tensor, labels: Tensor) -> None:
        """One minibatch: x is [T, N, ...], labels [N]; gradients are zeroed in place."""

    def update(self) -> None:
        """Step the optimizer and zero the gradients, which keep their memory."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


def loss_of_step(logits: Tensor, labels: Tensor, steps: int) -> Tensor:
    """Cross entropy of one step's logits, [N, classes], as a share of the sequence's."""
    return nn.functional.cross_entropy(logits, labels) / steps


def loss_of_sequence(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of `loss_of_step` over [T, N, classes]."""
    steps = len(logits)
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat(steps))


class StepByStep(Contender):
    """A loss and a backward pass at every step.

    Args:
        name: For the tables.
        model: What is trained.
        optimizer: Its optimizer.
        online: Update after every step; otherwise once, after the last.
    """

    def __init__(
        self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, *, online: bool
    ) -> None:
        super().__init__(name, model, optimizer)
        self.online = online

    @abstractmethod
    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The logits of every step, from rest."""

    def forward(self, x: Tensor) -> None:
        """See the class above."""
        for _ in self.outputs(x):
            pass

    def train(self, x: Tensor, labels: Tensor) -> None:
        """See the class above."""
        for logits in self.outputs(x):
            loss_of_step(logits, labels, len(x)).backward()
            if self.online:
                self.update()
        if not self.online:
            self.update()


class Ottt(StepByStep):
    """SpikingJelly's modules: OTTT_O with updates at every step, OTTT_A with one a sequence."""

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """See the class above."""
        functional.reset_net(self.model)
        for x_t in x:
            yield self.model(x_t)


class SafSteps(StepByStep):
    """`fast.steps(x)`: one step's outputs at a time."""

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """See the class above."""
        self.model.reset()
        yield from self.model.steps(x)


class SafSequence(Contender):
    """`loss(fast(x), labels).backward()`, one update a sequence."""

    def forward(self, x: Tensor) -> None:
        """See the class above."""
        self.model.reset()
        self.model(x)

    def train(self, x: Tensor, labels: Tensor) -> None:
        """See the class above."""
        self.model.reset()
        self.loss(self.model(x), labels).backward()
        self.update()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of all logits, [T, N, classes]."""
        return loss_of_sequence(logits, labels)


class SafFinal(SafSequence):
    """The same with one loss, of the logits' mean over time: SAF-F has one gradient a sequence."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of all logits, [T, N, classes]."""
        return nn.functional.cross_entropy(logits.mean(0), labels)


class Bptt(Contender):
    """SpikingJelly's multi-step modules and autograd through time."""

    def forward(self, x: Tensor) -> None:
        """See the class above."""
        functional.reset_net(self.model)
        self.model(x)

    def train(self, x: Tensor, labels: Tensor) -> None:
        """See the class above."""
        functional.reset_net(self.model)
        loss_of_sequence(self.model(x), labels).backward()
        self.update()


def saf(plain: nn.Module, schedule: ScheduleName, *later: str, **options: str) -> Transformed:
    """The plain network through the pass, and later ones; it shares the network's parameters."""
    return snncompile.transform(plain, [SAF(**options), *later], schedule=schedule)
