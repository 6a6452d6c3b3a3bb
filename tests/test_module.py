"""The transformed network as a torch module: it is used, trained and saved like the model."""

# pyright: basic

import copy
import io
import pickle

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from snncompile.errors import InputError
from snncompile.module import Transformed
from snncompile.nn import LIF
from snncompile.passes.fuse_batchnorm import FuseBatchNorm
from snncompile.runtime.schedule import ScheduleName
from tests.capture.networks import BatchFirst, HandWritten, NumbersFirst, Residual
from tests.models import CASES, Case

BY_NAME = {case.name: case for case in CASES}
TRAINED_ALIKE = 1e-9
"""After 20 steps in float64: gradients differ by rounding only, the optimizer amplifies it little."""


def test_parameters_buffers_and_keys_are_the_models_own() -> None:
    model = Residual()
    fast = Transformed(model, (), "auto", None)

    fast(torch.rand(4, 2, 1, 6, 6))

    assert list(fast.state_dict()) == list(model.state_dict())
    assert all(a is b for a, b in zip(fast.parameters(), model.parameters(), strict=True))
    assert all(a is b for a, b in zip(fast.buffers(), model.buffers(), strict=True))
    assert fast.original is model


def test_results_keep_their_structure() -> None:
    torch.manual_seed(0)
    model = BatchFirst()
    fast = Transformed(model, (), "layers", None)
    x = torch.rand(3, 5, 6)

    wanted, found = model(x), fast(x)

    assert list(found) == list(wanted)
    assert found["kind"] == "recurrent"
    assert torch.equal(found["spikes"], wanted["spikes"])
    assert torch.equal(fast(x=x)["last"], wanted["last"])


@pytest.mark.parametrize("schedule", ["steps", "layers"])
@pytest.mark.parametrize(
    "case", [BY_NAME["snntorch-two-layers"], BY_NAME["MNISTNet"]], ids=lambda case: case.name
)
def test_training_through_it_trains_the_model(case: Case, schedule: ScheduleName) -> None:
    direct = case.model(train=True, dtype=torch.float64)
    through = case.model(train=True, dtype=torch.float64)
    through.load_state_dict(direct.state_dict())
    fast = Transformed(through, (), schedule, None)

    for network in (direct, fast):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        torch.manual_seed(3)
        for step in range(20):
            x = case.input(dtype=torch.float64) * (0.5 + step / 20)
            result = network(x)
            result = result[1] if isinstance(result, tuple) else result
            optimizer.zero_grad()
            result.square().mean().backward()
            optimizer.step()
            functional.reset_net(network) if network is direct else fast.reset()

    for name, value in direct.state_dict().items():
        other = through.state_dict()[name]
        assert torch.allclose(value, other, rtol=0, atol=TRAINED_ALIKE), name
    assert through.state_dict().keys() == direct.state_dict().keys()


def test_hidden_state_survives_calls_until_it_is_reset() -> None:
    case = BY_NAME["MNISTNet"]
    model = case.model()
    fast = Transformed(model, (), "layers", None)
    x = case.input()
    functional.reset_net(model)

    with torch.no_grad():
        wanted = [model(x), model(x)]
        found = [fast(x), fast(x)]
        fast.reset()
        again = fast(x)

    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert not torch.equal(found[1], found[0])
    assert torch.equal(again, found[0])


def test_the_librarys_own_reset_clears_it_too() -> None:
    case = BY_NAME["MNISTNet"]
    fast = Transformed(case.model(), (), "layers", None)
    x = case.input()

    with torch.no_grad():
        first = fast(x)
        functional.reset_net(fast)
        second = fast(x)

    assert torch.equal(first, second)


def test_train_and_eval_reach_the_model_and_capture_each_mode_once() -> None:
    model = Residual()
    fast = Transformed(model, (), "steps", None)
    x = torch.rand(4, 2, 1, 6, 6)

    for _ in range(2):
        fast.eval()
        assert not model.training
        assert not model.stem[1].training
        assert torch.equal(fast(x), model(x))
        fast.train()
        assert model.stem[1].training
        fast(x)

    assert len(fast._compiled) == 2


def test_moving_and_casting_move_the_model() -> None:
    torch.manual_seed(0)
    model = HandWritten()
    fast = Transformed(model, (), "layers", None)
    fast(torch.rand(4, 2, 6))

    fast.double()
    x = 2 * torch.rand(4, 2, 6, dtype=torch.float64)

    assert model.layer.weight.dtype == torch.float64
    assert all(torch.equal(a, b) for a, b in zip(fast(x), model(x), strict=True))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_independent_and_whole(how: str) -> None:
    torch.manual_seed(0)
    model = HandWritten()
    fast = Transformed(model, (), "layers", None)
    x = 2 * torch.rand(4, 2, 6)
    wanted = fast(x)[0]

    copied = _copied(fast, how)
    with torch.no_grad():
        model.layer.weight.zero_()

    assert torch.equal(copied(x)[0], wanted)
    assert copied.original is not model
    assert all(
        a is b for a, b in zip(copied.parameters(), copied.original.parameters(), strict=True)
    )


def _copied(module: Transformed, how: str) -> Transformed:
    if how == "deepcopy":
        return copy.deepcopy(module)
    if how == "pickle":
        unpickled: Transformed = pickle.loads(pickle.dumps(module))
        return unpickled
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: Transformed = torch.load(file, weights_only=False)
    return loaded


def test_a_pass_that_changes_parameters_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    nn.init.constant_(model.stem[1].get_buffer("running_mean"), 0.25)
    before = copy.deepcopy(model.state_dict())
    fused = Transformed(model, (FuseBatchNorm(),), "layers", None)
    x = torch.rand(4, 2, 1, 6, 6)

    torch.testing.assert_close(fused(x), model(x), rtol=1e-5, atol=1e-5)

    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any("BatchNorm" in type(m).__name__ for m in fused.modules())


def test_other_sizes_are_captured_anew_and_wrong_ones_refused() -> None:
    fast = Transformed(NumbersFirst(3), (), "steps", None)

    assert fast(torch.rand(2, 6)).shape == (2, 8)
    assert fast(torch.rand(7, 6)).shape == (7, 8)
    assert len(fast._compiled) == 1
    with pytest.raises(Exception, match="NumbersFirst failed"):
        fast(torch.rand(2, 5))


def test_the_program_before_any_capture_is_an_error_with_a_way_out() -> None:
    with pytest.raises(InputError, match="example_inputs"):
        _ = Transformed(HandWritten(), (), "steps", None).program


def test_a_sequence_that_is_too_short_is_refused() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(x.shape[1:])
            for t in range(4):
                total = 0.5 * total + x[t]
            return total

    fast = Transformed(Fixed(), (), "steps", None)
    fast(torch.rand(4, 2, 3))

    assert fast(torch.rand(6, 2, 3)).shape == (2, 3)
    with pytest.raises(InputError, match="4 time steps"):
        fast(torch.rand(3, 2, 3))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("schedule", ["steps", "layers"])
def test_torch_compile_takes_it_as_one_graph(schedule: ScheduleName) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()  # graphs of other tests count towards its limit
    fast = Transformed(HandWritten(), (), schedule, None)
    x = 2 * torch.rand(3, 2, 6)
    wanted = fast(x)

    compiled = torch.compile(fast, backend="eager", fullgraph=True)

    assert all(torch.equal(a, b) for a, b in zip(compiled(x), wanted, strict=True))


@pytest.mark.usefixtures("process_group")
def test_parameters_that_a_wrapper_does_not_know_are_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)).eval()
    x = torch.rand(3, 2, 6)
    wrapped = DistributedDataParallel(Transformed(model, (FuseBatchNorm(),), "layers", 3))

    with pytest.raises(InputError, match=r"0\.weight belongs to a copy"):
        wrapped(x)

    captured = Transformed(model, (FuseBatchNorm(),), "layers", 3)
    captured(x)
    assert DistributedDataParallel(captured)(x).shape == (3, 2, 8)


@pytest.mark.usefixtures("process_group")
def test_a_network_is_sharded_after_it_was_captured() -> None:
    x = torch.rand(3, 2, 6)
    fast = Transformed(HandWritten(), (), "layers", None)
    inner = nn.Linear(6, 8)
    late = Transformed(nn.Sequential(inner, LIF()), (), "layers", 3)
    early = Transformed(nn.Sequential(nn.Linear(6, 8), LIF()), (), "layers", 3)
    early(x)
    streamed = Transformed(nn.Linear(6, 8), (), "layers", 3)
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(inner, mesh=mesh)
    fully_shard(early.original, mesh=mesh)
    fully_shard(streamed, mesh=mesh)

    with pytest.raises(InputError, match="Transform it first"):
        late(x)
    with pytest.raises(InputError, match="not to the model itself"):
        early(x)
    with pytest.raises(InputError, match="can only be called"):
        streamed.steps(x)
    assert fast(x)[0].shape == (3, 2, 8)
