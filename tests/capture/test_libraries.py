# pyright: basic
"""Models of the libraries, in every way they meet time: captured equal to what they compute."""

from collections.abc import Callable
from typing import Any

import norse.torch as norse
import pytest
import snntorch
import torch
from snntorch import utils
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from snncompile.api import capture, transform, verify
from snncompile.verify.report import Report


def _scaled(model: nn.Module, factor: float) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight.data *= factor
    return model


def _lif(**options: Any) -> neuron.LIFNode:
    return neuron.LIFNode(surrogate_function=surrogate.ATan(), **options)


def _jelly(mode: str, *modules: nn.Module) -> nn.Sequential:
    model = nn.Sequential(*modules)
    _scaled(model, 4)
    functional.set_step_mode(model, mode)
    return model


def equal(model: nn.Module, x: Tensor, *, time_steps: int | None = None) -> Report:
    """The model's transformed self is bit-equal under both schedules; neurons fire."""
    for schedule in ("steps", "layers"):
        fast = transform(model, [], time_steps=time_steps, schedule=schedule)
        report = verify(model, fast, x)
        assert report.ok, str(report)
        assert all(output.equal for output in report.outputs), str(report)
        assert any(0.02 < n.rate < 0.98 for n in report.neurons), str(report)
    return report


def _with_dropout() -> nn.Module:
    return _jelly("m", layer.Linear(6, 16), _lif(), layer.Dropout(0.5), layer.Linear(16, 4), _lif())


def _in_containers() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    return _jelly(
        "m",
        layer.SeqToANNContainer(nn.Conv2d(1, 3, 3), norm),
        _lif(step_mode="m"),
        layer.SeqToANNContainer(nn.AvgPool2d(2), nn.Flatten()),
        layer.SeqToANNContainer(nn.Linear(12, 5)),
        _lif(step_mode="m"),
    )


def _standardised() -> nn.Module:
    model = _jelly(
        "m", layer.WSConv2d(1, 4, 3), _lif(), layer.Flatten(), layer.Linear(64, 4), _lif()
    )
    model[0].get_parameter("gain").data *= 8
    return model


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (_with_dropout, (5, 3, 6)),
        (_in_containers, (5, 3, 1, 6, 6)),
        (_standardised, (5, 3, 1, 6, 6)),
    ],
)
def test_spikingjelly_over_whole_sequences(
    make: Callable[[], nn.Module], shape: tuple[int, ...], train: bool
) -> None:
    torch.manual_seed(0)

    equal(make().train(train), 2 * torch.rand(shape))


@pytest.mark.parametrize("static", [False, True])
def test_spikingjelly_one_step_at_a_time(static: bool) -> None:
    torch.manual_seed(0)
    model = _jelly("s", layer.Conv2d(1, 4, 3), _lif(v_reset=None), layer.Flatten(),
                   layer.Linear(64, 5), neuron.ParametricLIFNode())  # fmt: skip
    x = torch.rand(3, 1, 6, 6) if static else torch.rand(5, 3, 1, 6, 6)

    equal(model, 2 * x, time_steps=5)


class _Loops(nn.Module):
    """Resets itself, feeds one image to single-step neurons, averages; a neuron fires twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _jelly("s", layer.Linear(6, 8), _lif())
        self.back, self.out = nn.Linear(8, 8), neuron.IFNode(v_reset=None)

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self)
        total: Any = 0.0
        for _ in range(6):
            total = total + self.out(self.back(self.out(self.net(x))))
        rate: Tensor = total / 6
        return rate


def test_a_loop_of_single_steps_with_a_neuron_called_twice() -> None:
    torch.manual_seed(0)
    report = equal(_scaled(_Loops(), 3), 2 * torch.rand(3, 6))

    assert len(report.neurons) == 3


class _Encoded(nn.Module):
    """Encodes an image once, repeats it over time, classifies the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 8)
        self.net = _jelly("m", _lif(), layer.Linear(8, 8), _lif())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x_seq = self.encode(x).unsqueeze(0).repeat(4, 1, 1)
        scores: Tensor = self.head(self.net(x_seq).mean(0))
        return scores


def test_a_list_of_equal_images_is_a_static_input() -> None:
    class Listed(_Encoded):
        def forward(self, x: Tensor) -> Tensor:
            listed = torch.stack([self.encode(x)] * 4)
            out: Tensor = self.head(self.net(listed).mean(0))
            return out

    torch.manual_seed(0)
    model = _scaled(Listed(), 3)

    equal(model, 2 * torch.rand(3, 6))
    assert [spec.kind for spec in capture(model, torch.rand(3, 6)).inputs] == ["static"]


def test_an_encoder_runs_before_the_steps_and_a_head_after_them() -> None:
    torch.manual_seed(0)
    model = _scaled(_Encoded(), 3)

    equal(model, 2 * torch.rand(3, 6))
    program = capture(model, torch.rand(3, 6))

    assert program.time == 4
    assert program.prologue is not None
    assert [output.reduce for output in program.outputs] == ["mean"]


@pytest.mark.parametrize("schedule", ["steps", "layers"])
@pytest.mark.parametrize("kind", ["PSN", "MaskedPSN", "SlidingPSN"])
def test_a_parallel_neuron_reads_the_whole_sequence(kind: str, schedule: Any) -> None:
    torch.manual_seed(0)
    parallel = {
        "PSN": lambda: neuron.PSN(T=5),
        "MaskedPSN": lambda: neuron.MaskedPSN(k=2, T=5, lambda_init=0.5, step_mode="m"),
        "SlidingPSN": lambda: neuron.SlidingPSN(k=2, step_mode="m"),
    }[kind]()
    model = _jelly("m", layer.Linear(6, 8), parallel, layer.Linear(8, 4), _lif())
    model[1].get_parameter("bias").data.fill_(-0.1)

    report = verify(model, transform(model, [], schedule=schedule), 3 * torch.rand(5, 3, 6))

    assert report.ok, str(report)
    assert 0.02 < report.neurons[-1].rate < 0.98


def test_online_neurons_in_training_return_their_trace() -> None:
    torch.manual_seed(0)
    model = _jelly("s", layer.Linear(6, 8), neuron.OTTTLIFNode()).train()

    report = verify(model, transform(model, [], time_steps=5), 2 * torch.rand(5, 3, 6))

    assert report.ok, str(report)
    assert len(report.outputs) == 2


class _Hidden(nn.Module):
    """snnTorch with hidden states that its own forward resets."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _scaled(
            nn.Sequential(
                nn.Linear(6, 8),
                snntorch.Synaptic(alpha=0.5, beta=0.75, init_hidden=True),
                nn.Linear(8, 4),
                snntorch.Leaky(0.75, init_hidden=True, output=True, reset_mechanism="zero"),
            ),
            4,
        )

    def forward(self, x: Tensor) -> Tensor:
        utils.reset(self.net)
        return torch.stack([self.net(x)[1] for _ in range(8)])


def test_snntorch_hidden_states_reset_inside_forward() -> None:
    torch.manual_seed(0)

    equal(_Hidden(), 2 * torch.rand(3, 6))


def test_a_capture_resets_no_neuron_of_another_model() -> None:
    other = snntorch.Leaky(0.9, init_hidden=True)
    other(torch.rand(4, 7))
    held = other.mem

    capture(_Hidden(), torch.rand(3, 6))

    assert other.mem is held


class _Recurrent(nn.Module):
    """snnTorch's recurrent neurons, the loop in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 8)
        self.lif = snntorch.RLeaky(beta=0.5, linear_features=8)
        self.back = nn.Linear(8, 4)
        self.syn = snntorch.RSynaptic(alpha=0.5, beta=0.5, all_to_all=False, V=0.5)
        _scaled(self, 3)

    def forward(self, x: Tensor) -> Tensor:
        spikes, membrane = self.lif.init_rleaky()
        out, current, voltage = self.syn.init_rsynaptic()
        recorded = []
        for x_t in x:
            spikes, membrane = self.lif(self.into(x_t), spikes, membrane)
            out, current, voltage = self.syn(self.back(spikes), out, current, voltage)
            recorded.append(out)
        total: Any = sum(recorded)
        counts: Tensor = total
        return counts


def test_snntorch_recurrent_neurons() -> None:
    torch.manual_seed(0)

    equal(_Recurrent(), 2 * torch.rand(7, 3, 6))


def test_norse_over_whole_sequences_and_its_final_state() -> None:
    torch.manual_seed(0)
    model = norse.SequentialState(
        norse.Lift(nn.Conv2d(1, 4, 3)), norse.LIF(), nn.Flatten(2), nn.Linear(64, 5), norse.LI()
    )
    _scaled(model, 30)

    report = verify(model, transform(model, [], schedule="layers"), torch.rand(7, 3, 1, 6, 6))

    assert report.ok, str(report)
    assert len(report.outputs) == 5


def test_norse_cells_whose_caller_hands_the_state_on() -> None:
    torch.manual_seed(0)
    model = norse.SequentialState(
        nn.Linear(6, 8), norse.LSNNCell(), nn.Linear(8, 5), norse.LIFBoxCell()
    )
    _scaled(model, 60)

    equal(model, torch.rand(9, 3, 6), time_steps=9)


def test_norse_may_start_from_a_state_that_is_passed() -> None:
    torch.manual_seed(0)
    model = norse.LIF()
    x = 30 * torch.rand(5, 3, 6)
    state = norse.LIFFeedForwardState(v=torch.rand(3, 6), i=torch.rand(3, 6))

    found = transform(model, [], schedule="layers")(x, state)[0]

    assert torch.equal(found, model(x, state)[0])
    assert 0.02 < float(found.mean()) < 0.98
