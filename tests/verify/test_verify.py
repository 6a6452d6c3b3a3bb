"""`verify` finds what differs, says where first, and says nothing when nothing does."""

# pyright: basic

import copy
import json
from typing import Any, cast

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snncompile.module import Transformed
from snncompile.passes.fuse_batchnorm import FuseBatchNorm
from snncompile.verify import verify
from tests.capture.networks import HandWritten, Residual


def _one_step() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Linear(6, 8),
        neuron.LIFNode(surrogate_function=surrogate.ATan()),
        layer.Linear(8, 4),
        neuron.IFNode(surrogate_function=surrogate.ATan(), v_reset=None),
    )
    for module in model:
        if isinstance(module, nn.Linear):
            module.weight.data *= 4
    return model


def _sabotaged(transformed: Transformed, args: tuple[Any, ...], **settings: Any) -> None:
    """Change settings of the first neuron of the captured program."""
    program = transformed.program_for(*args)
    node = next(program.neurons())
    node.kwargs = {**node.kwargs, **settings}


def test_an_equal_network_is_reported_equal() -> None:
    torch.manual_seed(0)
    model = HandWritten()

    report = verify(model, Transformed(model, (), "layers", None), 2 * torch.rand(6, 3, 6))

    assert report.ok
    assert report.neurons[0].spikes == 6 * 3 * 8
    assert 0.05 < report.neurons[0].rate < 0.95
    assert "bit-equal" in str(report)
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True


def test_the_first_moved_spike_is_found_with_its_distance() -> None:
    torch.manual_seed(0)
    model = HandWritten()
    x = 2 * torch.rand(6, 3, 6)
    fast = Transformed(model, (), "steps", None)
    _sabotaged(fast, (x,), threshold=1.25)

    report = verify(model, fast, x)

    first = report.first_divergence
    assert not report.ok
    assert not report.explained
    assert first is not None
    assert first.first is not None
    assert len(first.first) == 3
    assert first.distance is not None
    assert 0 < first.distance <= 0.25
    assert "spikes moved, first in" in str(report)


def test_wrong_gradients_are_found_though_spikes_agree() -> None:
    torch.manual_seed(0)
    model = _one_step()
    x = 2 * torch.rand(5, 3, 6)
    fast = Transformed(model, (), "steps", 5)
    program = fast.program_for(x)
    node = next(program.neurons())
    settings: dict[str, Any] = dict(node.kwargs)
    node.kwargs = {**settings, "surrogate": settings["surrogate"]._replace(parameters=(7.0,))}

    report = verify(model, fast, x)

    assert report.moved == 0
    assert not report.ok
    assert "gradients" in str(report)


@pytest.mark.parametrize("static", [False, True])
def test_a_model_of_one_step_is_run_as_its_caller_would(static: bool) -> None:
    model = _one_step()
    x = 2 * torch.rand(3, 6) if static else 2 * torch.rand(5, 3, 6)

    report = verify(model, Transformed(model, (), "layers", 5), x)

    assert report.ok, str(report)
    assert report.neurons[0].spikes == 5 * 3 * 8
    assert report.neurons[0].membrane == 0.0
    assert 0.05 < report.neurons[0].rate < 0.95


def test_a_folded_network_is_compared_by_outputs_and_input_gradients() -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    nn.init.constant_(model.stem[1].get_buffer("running_var"), 0.25)

    report = verify(
        model, Transformed(model, (FuseBatchNorm(),), "steps", None), torch.rand(4, 2, 1, 6, 6)
    )

    assert report.ok, str(report)
    assert [gradient.name for gradient in report.gradients] == ["input 0"]


def test_verifying_leaves_the_model_as_it_was() -> None:
    model = _one_step().train()
    functional.reset_net(model)
    x = 2 * torch.rand(5, 3, 6)
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()

    verify(model, Transformed(model, (), "layers", 5), x)

    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model[1].v == 0.0


def test_dropout_draws_the_same_masks_on_both_sides() -> None:
    class Dropped(HandWritten):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(nn.functional.dropout(x, 0.5, training=self.training))

    torch.manual_seed(0)
    model = Dropped().train()

    report = verify(model, Transformed(model, (), "steps", None), 4 * torch.rand(6, 3, 6))

    assert report.ok, str(report)


def test_only_a_transformed_module_can_be_verified() -> None:
    with pytest.raises(TypeError, match="transform returns, not Linear"):
        verify(nn.Linear(2, 2), nn.Linear(2, 2), torch.rand(1, 2))


# Wrapped networks ---------------------------------------------------------------------------------


def _compiled(network: nn.Module, backend: Any = "eager") -> nn.Module:
    return cast("nn.Module", torch.compile(network, backend=backend))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_networks_are_compared_as_they_run() -> None:
    def doubled(graph: torch.fx.GraphModule, examples: Any) -> Any:
        return lambda *args: [2 * value for value in graph(*args)]

    torch.compiler.reset()
    model, x = HandWritten(), 2 * torch.rand(6, 3, 6)
    fast = Transformed(model, (), "layers", None)
    fast(x)

    right = verify(_compiled(model), _compiled(fast), x)
    wrong = verify(model, _compiled(fast, doubled), x)

    assert right.ok
    assert right.neurons[0].spikes == 6 * 3 * 8
    assert right.gradients
    assert not wrong.ok
    assert wrong.moved == 0
    torch.compiler.reset()


@pytest.mark.usefixtures("process_group")
def test_distributed_networks_are_looked_through() -> None:
    model, x = HandWritten(), 2 * torch.rand(6, 3, 6)
    fast = Transformed(model, (), "layers", None)
    fast(x)

    wrapped = DistributedDataParallel(fast)
    report = verify(model, wrapped, x)
    wrapped(x)[0].sum().backward()

    assert report.ok
    assert report.gradients
    assert model.layer.weight.grad is not None
