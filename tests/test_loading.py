import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from snncompile.loading import Network
from tests.command_line import LOOPED, MULTI_STEP, NETWORKS, printed, refused, run

# Naming models ------------------------------------------------------------------------------------


def test_a_model_may_be_an_instance_or_in_a_package() -> None:
    by_file = printed("inspect", f"{NETWORKS}:instance", *LOOPED[1:])
    by_module = printed("inspect", "tests.example_networks:looped", *LOOPED[1:])

    assert by_file == by_module == printed("inspect", *LOOPED)


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_nets.py").write_text("WIDTH = 5\n")
    (tmp_path / "nets.py").write_text(
        "from torch import nn\nfrom neighbour_of_nets import WIDTH\n"
        "def build():\n    return nn.Sequential(nn.Linear(6, WIDTH))\n"
    )
    paths = list(sys.path)

    found = printed("inspect", f"{tmp_path / 'nets.py'}:build", "--input", "6")

    assert found["layers"][0]["kind"] == "Linear(6, 5)"
    assert sys.path == paths


def test_what_a_model_prints_is_kept_off_stdout() -> None:
    result = run("inspect", f"{NETWORKS}:chatty", *LOOPED[1:], "--json")

    assert json.loads(result.stdout)
    assert "building the network" in result.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nets", "'nets' does not name a model; write package.module:callable or path/file.py:"),
        (":build", "':build' does not name a model"),
        ("no_such_file.py:build", "there is no file no_such_file.py"),
        (
            "no_such_package.nets:build",
            "importing no_such_package.nets failed: ModuleNotFoundError: No module named",
        ),
        (f"{NETWORKS}:lopped", "has no 'lopped'; it has Fire, Looped, BatchFirst and 10 more"),
        (f"{NETWORKS}:number", "is of type int, not a torch.nn.Module"),
        (f"{NETWORKS}:three", "is of type int, not a torch.nn.Module"),
        (f"{NETWORKS}:broken", "RuntimeError: there is no pretrained file"),
    ],
)
def test_a_name_that_leads_to_no_model_is_refused(model: str, message: str) -> None:
    assert message in refused("inspect", model, "--input", "6")


def test_a_failure_in_the_models_file_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("first = 1\nsecond = first / 0\n")

    message = refused("inspect", f"{tmp_path / 'nets.py'}:build", "--input", "6")

    assert "nets.py failed at nets.py:2: ZeroDivisionError: division by zero" in message


# Inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["1x", "28X28", "0x3", "3,4", "one"])
def test_a_bad_shape_is_refused(shape: str) -> None:
    message = refused("inspect", f"{NETWORKS}:looped", "--input", shape)

    assert message.startswith(f"error: '{shape}' is no input: give the shape of one sample")


def test_a_model_without_input_is_refused() -> None:
    assert "as in --input 1x28x28" in refused("inspect", f"{NETWORKS}:looped")


def test_a_sequence_layout_without_steps_is_refused() -> None:
    message = refused("inspect", *LOOPED[:3], "--layout", "sequence")

    assert message == "error: --layout sequence needs --time-steps\n"


def test_an_array_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")

    missing = refused("inspect", f"{NETWORKS}:looped", "--input", "missing.npy")
    unreadable = refused("inspect", f"{NETWORKS}:looped", "--input", str(tmp_path / "text.npy"))

    assert "cannot read missing.npy as an array" in missing
    assert "text.npy as an array" in unreadable


def test_a_batch_with_an_array_is_refused() -> None:
    message = refused("inspect", f"{NETWORKS}:looped", "--input", "some.npy", "--batch", "4")

    assert message == "error: --batch does not go with some.npy: a file is used as it is\n"


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_model_of_one_step_does_not_take_its_batch_first(command: str) -> None:
    network = (f"{NETWORKS}:one_step", "--input", "6", "--time-steps", "5")

    message = refused(command, *network, "--layout", "batch-first")

    assert "the model is one step and does not read the 5 steps" in message


def test_an_input_of_another_width_is_refused_with_the_models_line() -> None:
    message = refused("inspect", f"{NETWORKS}:looped", "--input", "7", "--time-steps", "8")

    assert "Looped failed at example_networks.py" in message


# Weights ------------------------------------------------------------------------------------------


def weights_of(network: str) -> Mapping[str, torch.Tensor]:
    model = Network(f"{NETWORKS}:{network}").load()
    return {name: torch.zeros_like(value) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_are_loaded(tmp_path: Path, wrapped: bool) -> None:
    state = weights_of("multi_step")
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "net.pt")

    report = printed("verify", *MULTI_STEP, "--state-dict", str(tmp_path / "net.pt"))

    assert [neuron["rate"] for neuron in report["neurons"]] == [0, 0]


def test_missing_weights_are_refused() -> None:
    message = refused("inspect", *LOOPED, "--state-dict", "missing.pt")

    assert message.startswith("error: cannot load weights from missing.pt")


def test_a_file_of_anything_else_than_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.pt")

    text = refused("inspect", *LOOPED, "--state-dict", str(tmp_path / "text.pt"))
    numbers = refused("inspect", *LOOPED, "--state-dict", str(tmp_path / "list.pt"))

    assert "cannot load weights from" in text
    assert "list.pt holds a list, not a state dict" in numbers


def test_weights_of_another_model_are_refused_with_their_names(tmp_path: Path) -> None:
    torch.save(weights_of("one_step"), tmp_path / "other.pt")

    message = refused("inspect", *LOOPED, "--state-dict", str(tmp_path / "other.pt"))

    assert "missing first.weight, first.bias, norm.weight and" in message
    assert "unexpected 0.weight, 0.bias, 2.weight and 1 more" in message


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    state = dict(weights_of("looped"))
    state["first.weight"] = torch.zeros(5, 5)
    torch.save(state, tmp_path / "other.pt")

    message = refused("inspect", *LOOPED, "--state-dict", str(tmp_path / "other.pt"))

    assert "size mismatch for first.weight" in message
