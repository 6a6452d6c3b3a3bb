# pyright: basic

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch

from snncompile import Deployed, cli
from snncompile.ir.program import Program
from snncompile.passes import BY_NAME, PASSES
from snncompile.rewrite import Keeps, Pass
from tests.command_line import LOOPED, MULTI_STEP, NETWORKS, printed, refused, run

FUSE = ("--pass", "fuse-batchnorm")
FUSED_FORWARD = (*FUSE, "--no-gradients")
"""The parameters of a BatchNorm that was folded away have no gradient to compare."""


# inspect ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [LOOPED, MULTI_STEP], ids=["looped", "multi-step"])
def test_inspect_prints_the_program_and_a_table(network: tuple[str, ...]) -> None:
    result = run("inspect", *network)

    assert result.exit_code == 0
    assert result.stdout.startswith("program steps=sequence")
    assert "state bytes per sample" in " ".join(result.stdout.split())


def test_inspect_counts_parameters_shapes_and_state() -> None:
    layers = {row["kind"]: row for row in printed("inspect", *LOOPED)["layers"]}

    assert layers["Linear(6, 12)"]["parameters"] == 6 * 12 + 12
    assert layers["Linear(6, 12)"]["state_bytes"] == 0
    assert layers["Linear(12, 3)"]["shape"] == "[N, 3]"
    assert layers["lif"]["state_bytes"] == 12 * 4


def test_a_learnable_leak_is_its_neurons_parameter() -> None:
    rows = {row["name"]: row for row in printed("inspect", *MULTI_STEP)["layers"]}

    assert rows["5"] == {
        "name": "5",
        "kind": "lif",
        "parameters": 1,
        "shape": "[N, 3]",
        "state_bytes": 12,
    }
    assert rows["2"]["state_bytes"] == 4 * 8 * 8 * 4


@pytest.mark.parametrize(
    ("layout", "first_line"),
    [("sequence", "program steps=sequence"), ("static", "program steps=5")],
)
def test_a_model_of_one_step_is_run_as_the_layout_says(layout: str, first_line: str) -> None:
    network = (f"{NETWORKS}:one_step", "--input", "6", "--time-steps", "5", "--layout", layout)

    assert printed("inspect", *network)["text"].startswith(first_line)


def test_a_batch_first_sequence_is_read_along_its_second_axis() -> None:
    network = (f"{NETWORKS}:batch_first", "--input", "6", "--time-steps", "5")

    listing = printed("inspect", *network, "--layout", "batch-first", "--batch", "3")["text"]

    assert listing.startswith("program steps=sequence")


def test_an_array_is_used_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", np.ones((8, 2, 6), dtype=np.float32))

    listing = printed("inspect", f"{NETWORKS}:looped", "--input", str(tmp_path / "digits.npy"))

    assert listing["text"] == printed("inspect", *LOOPED)["text"]


def test_train_captures_the_model_in_training_mode() -> None:
    evaluated = run("transform", *LOOPED, *FUSE)
    trained = run("transform", *LOOPED, *FUSE, "--train")

    assert evaluated.exit_code == 0
    assert trained.exit_code == 2
    assert "is in training mode" in trained.stderr


# transform ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [LOOPED, MULTI_STEP], ids=["looped", "multi-step"])
def test_transform_prints_before_and_after(network: tuple[str, ...]) -> None:
    texts = printed("transform", *network, *FUSE)

    assert "BatchNorm" in texts["before"]
    assert "BatchNorm" not in texts["after"]


def test_transform_saves_both_texts(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"

    result = run("transform", *LOOPED, *FUSE, "--save", str(folder))

    before, after = ((folder / name).read_text() for name in ("before.txt", "after.txt"))
    assert result.stdout == f"before:\n{before}\nafter:\n{after}"
    assert sorted(path.name for path in folder.iterdir()) == ["after.txt", "before.txt"]


# verify -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [LOOPED, MULTI_STEP], ids=["looped", "multi-step"])
@pytest.mark.parametrize("passes", [(), FUSED_FORWARD], ids=["captured", "fused"])
def test_verify_finds_no_difference(network: tuple[str, ...], passes: tuple[str, ...]) -> None:
    report = printed("verify", *network, *passes)

    assert report["ok"] is True
    assert report["moved"] == 0


def test_verify_compares_neurons_that_fire() -> None:
    neurons = printed("verify", *MULTI_STEP, *FUSED_FORWARD)["neurons"]

    assert [neuron["name"] for neuron in neurons] == ["2", "5"]
    assert all(0 < neuron["rate"] < 1 for neuron in neurons)


def test_verify_prints_the_report() -> None:
    result = run("verify", *MULTI_STEP, "--schedule", "2")

    assert result.exit_code == 0
    assert result.stdout.startswith("ok: ")
    assert "gradients of" in result.stdout


def test_verify_tells_which_neurons_never_fired(tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", np.zeros((4, 2, 1, 8, 8), dtype=np.float32))

    result = run("verify", MULTI_STEP[0], "--input", str(tmp_path / "dark.npy"))

    assert "note: never fired on this input: " in result.stderr


class Louder(Pass):
    """Doubles what the read-out returns, and wrongly says that it keeps it."""

    name: ClassVar[str] = "louder"
    keeps: ClassVar[Keeps] = "outputs"

    def requires(self, program: Program) -> None:
        pass

    def apply(self, program: Program) -> int:
        node = program.step.output_node()
        (output,), states = node.args[0]  # type: ignore[misc, str-unpack]
        with program.step.inserting_before(node):
            doubled = program.step.call_function(torch.mul, (output, 2.0))
        node.args = (((doubled,), states),)
        return 1


def test_verify_exits_with_1_when_outputs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BY_NAME, "louder", Louder)

    result = run("verify", *LOOPED, "--pass", "louder")
    as_json = run("verify", *LOOPED, "--pass", "louder", "--json")

    assert result.exit_code == as_json.exit_code == 1
    assert result.stdout.startswith("differs: ")
    assert result.stdout.endswith("explained by rounding: no\n")
    assert json.loads(as_json.stdout)["explained"] is False


# export -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [LOOPED, MULTI_STEP], ids=["looped", "multi-step"])
@pytest.mark.parametrize("form", ["step", "sequence", "unrolled"])
def test_export_writes_a_checked_file(network: tuple[str, ...], form: str, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"

    result = run("export", *network, *FUSE, "-o", str(file), "--form", form)

    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip()
    onnx.checker.check_model(onnx.load(file))


def test_export_reports_as_json_and_fixes_the_batch(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"

    report = printed("export", *LOOPED, "-o", str(file), "--batch", "3", "--opset", "17")

    assert (report["opset"], report["agreement"]["moved"]) == (17, 0)
    model = onnx.load(file)
    assert 3 in [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    assert ("", 17) in [(item.domain, item.version) for item in model.opset_import]


def test_an_unwritable_output_is_refused() -> None:
    message = refused("export", *LOOPED, "-o", "/proc/nowhere/net.onnx")

    assert "/proc/nowhere" in message


def test_a_batch_that_is_no_number_is_refused(tmp_path: Path) -> None:
    message = refused("export", *LOOPED, "-o", str(tmp_path / "net.onnx"), "--batch", "many")

    assert message == "error: --batch is 'many'; give a number of samples, or dynamic\n"
    assert list(tmp_path.iterdir()) == []


def test_export_stores_binary_weights_and_reports_size_exactness_and_speed(tmp_path: Path) -> None:
    network = (f"{NETWORKS}:binary", "--input", "6", "--time-steps", "8")
    arguments = ("--weights", "binary", "--form", "step", "-o", str(tmp_path / "net.onnx"))

    report = printed("export", *network, *arguments)
    lines = run("export", *network, *arguments).stdout

    assert set(report["weights"]["layers"].values()) == {"binary"}
    assert (report["exactness"], report["agreement"]["moved"]) == ("exact", 0)
    assert report["speed"]["milliseconds"] > 0
    assert "layers: 2 binary; float32 would take" in lines
    assert "arithmetic: exact" in lines
    assert "ms a step, batch 1, 1 steps a call" in lines


def test_weights_that_are_not_binary_are_refused(tmp_path: Path) -> None:
    message = refused("export", *LOOPED, "--weights", "binary", "-o", str(tmp_path / "net.onnx"))

    assert "no layer has binary weights" in message
    assert list(tmp_path.iterdir()) == []


def test_a_state_dict_is_no_encoding(tmp_path: Path) -> None:
    result = run("export", *LOOPED, "--weights", "net.pt", "-o", str(tmp_path / "net.onnx"))

    assert result.exit_code == 2
    assert "float32" in result.stderr


# run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["step", "sequence", "unrolled"])
def test_run_runs_an_exported_file(form: str, tmp_path: Path) -> None:
    file, x = tmp_path / "net.onnx", np.random.default_rng(0).random((8, 2, 6), np.float32)
    np.save(tmp_path / "x.npy", x)
    run("export", *LOOPED, "-o", str(file), "--form", form)

    report = printed("run", str(file), str(tmp_path / "x.npy"))
    saved = run("run", str(file), str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npz"))

    wanted = Deployed(file).run(x)
    assert np.array_equal(np.array(report["outputs"]["out0"], np.float32), wanted)
    assert np.array_equal(np.load(tmp_path / "y.npz")["out0"], wanted)
    assert "[8, 2, 3]" in saved.stdout
    assert wanted.any()


def test_run_refuses_what_is_no_exported_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no network")
    np.save(tmp_path / "x.npy", np.zeros((8, 2, 6)))

    broken = refused("run", str(tmp_path / "net.onnx"), str(tmp_path / "x.npy"))
    missing = refused("run", str(tmp_path / "absent.onnx"), str(tmp_path / "x.npy"))
    run("export", *LOOPED, "-o", str(tmp_path / "net.onnx"))
    no_array = refused("run", str(tmp_path / "net.onnx"), str(tmp_path / "net.onnx"))

    assert "does not load" in broken
    assert "there is no file" in missing
    assert "as an array" in no_array


# passes -------------------------------------------------------------------------------------------


def test_passes_lists_every_pass_with_what_it_keeps() -> None:
    listed = printed("passes")["passes"]

    assert [(item["name"], item["keeps"]) for item in listed] == [(p.name, p.keeps) for p in PASSES]
    assert all(item["summary"] for item in listed)


def test_the_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "snncompile", "passes"]

    result = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "fuse-batchnorm" in result.stdout
    assert result.stderr == ""


# Passes and places --------------------------------------------------------------------------------


def test_an_unknown_pass_is_refused_with_the_closest() -> None:
    message = refused("transform", *LOOPED, "--pass", "fuse-batchnrom")

    assert "there is no pass 'fuse-batchnrom'. Did you mean 'fuse-batchnorm'?" in message


def test_an_unknown_schedule_is_refused() -> None:
    assert "schedule is 'fast'" in refused("transform", *LOOPED, "--schedule", "fast")


def test_texts_that_cannot_be_saved_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    message = refused("transform", *LOOPED, "--save", str(tmp_path / "file"))

    assert message.startswith(f"error: cannot write {tmp_path}/file/before.txt: ")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_refusal_shows_the_program_with_the_node_underlined() -> None:
    message = refused("transform", *LOOPED, *FUSE, "--train")

    assert "in pass 1 of 1: fuse-batchnorm" in message
    assert "^^^^" in message


def test_unexpected_exceptions_propagate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "layers_of", lambda _: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run("inspect", *LOOPED)


def test_help_tells_the_exit_codes() -> None:
    for command in (
        [],
        ["inspect"],
        ["transform"],
        ["verify"],
        ["bench"],
        ["export"],
        ["run"],
        ["passes"],
    ):
        assert "Exit codes: 0 ok; 1 the" in run(*command, "--help").stdout
