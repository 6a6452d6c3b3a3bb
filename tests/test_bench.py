"""`bench` measures what agrees, and leaves everything as it was."""

# pyright: basic

import copy
import json
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import snncompile
from snncompile.bench.measure import Job, interleaved, kept_bytes, peak_bytes
from snncompile.errors import InputError
from snncompile.module import Transformed
from snncompile.nn import LIF
from snncompile.passes import BY_NAME
from tests.capture.networks import HandWritten
from tests.command_line import LOOPED, MULTI_STEP, NETWORKS, printed, refused, run
from tests.example_networks import looped
from tests.test_cli import Louder

FLOATS = 4


def pair() -> tuple[nn.Module, Transformed, Tensor]:
    model, x = HandWritten(), 2 * torch.rand(6, 3, 6)
    return model, snncompile.transform(model, [], example_inputs=x, schedule="layers"), x


def test_it_is_verified_and_measured() -> None:
    model, fast, x = pair()

    found = snncompile.bench(model, fast, x, threads=[1, 2], repeats=2)

    assert found.report.ok
    assert [(d.what, d.threads) for d in found.durations] == [
        ("forward", 1), ("training step", 1), ("forward", 2), ("training step", 2),
    ]  # fmt: skip
    times = [time for d in found.durations for time in (d.model, d.transformed)]
    assert all(time.wall > 0 for time in times)
    assert [m.what for m in found.memory] == ["kept for backward", "peak"]
    assert all(min(m.model, m.transformed) > 0 for m in found.memory)


def test_nothing_is_left_behind() -> None:
    model, fast, x = pair()
    fast(x)[0].sum().backward()
    gradients = [p.grad for p in model.parameters()]
    before = [copy.deepcopy(gradients), copy.deepcopy(model.state_dict()), torch.get_rng_state()]
    threads = torch.get_num_threads()

    snncompile.bench(model, fast, x, threads=[2], repeats=1)

    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    after = [gradients, model.state_dict(), torch.get_rng_state()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert torch.get_num_threads() == threads


def test_what_differs_is_not_measured() -> None:
    model, x = looped(), torch.rand(6, 3, 6)
    fast = snncompile.transform(model, Louder(), example_inputs=x)

    found = snncompile.bench(model, fast, x, repeats=1)

    assert not found.measured
    assert not found.report.ok
    assert "not measured" in str(found)


def test_a_network_without_parameters_has_no_training_step() -> None:
    model = LIF()
    x = torch.rand(4, 2, 3)
    fast = snncompile.transform(model, [], example_inputs=x, time_steps=4)

    found = snncompile.bench(model, fast, x, repeats=1)

    assert [d.what for d in found.durations] == ["forward"]
    assert found.memory == ()


def test_impossible_measurements_are_refused() -> None:
    model, fast, x = pair()

    with pytest.raises(InputError, match="at least 1 thread"):
        snncompile.bench(model, fast, x, threads=[0])
    with pytest.raises(InputError, match="at least 1 thread and 1 repeat"):
        snncompile.bench(model, fast, x, repeats=0)
    with pytest.raises(InputError, match="on meta"):
        snncompile.bench(model, fast, x.to("meta"))
    with pytest.raises(TypeError, match="transform returns"):
        snncompile.bench(model, model, x)


# What is measured ---------------------------------------------------------------------------------


def test_memory_kept_for_backward_is_counted_once_and_without_parameters() -> None:
    x, weight = torch.rand(100, 10), torch.rand(10, 20, requires_grad=True)

    def forward() -> Tensor:
        hidden = (x @ weight).sigmoid()
        return hidden * hidden[:, :1] + hidden.view(20, 100).T.contiguous().sin()

    kept = kept_bytes(forward, [x, weight])

    hidden = 100 * 20 * FLOATS
    assert kept == 2 * hidden, "the hidden values, and those that sin read in another order"


def test_memory_that_is_freed_before_the_backward_pass_does_not_count() -> None:
    weight = torch.rand(1000, requires_grad=True)

    def forward() -> Tensor:
        for _ in range(3):
            weight.exp().sum().backward()  # type: ignore[no-untyped-call]
        return weight.exp()

    assert kept_bytes(forward, [weight]) == 1000 * FLOATS


def test_the_peak_is_what_is_alive_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            torch.ones(250_000).add(1)

    assert peak_bytes(Job(work, lambda: None)) == pytest.approx(2 * 250_000 * FLOATS, rel=1e-3)


def test_jobs_are_called_in_turn_after_a_first_call() -> None:
    order: list[str] = []
    jobs = {name: Job(partial(order.append, name), partial(order.append, ".")) for name in "ab"}

    interleaved(jobs, 2)

    assert "".join(order) == ".a.b.a.b.b.a"


# The command --------------------------------------------------------------------------------------

QUICK = ("--repeats", "1", "--threads", "1")


@pytest.mark.parametrize("network", [LOOPED, MULTI_STEP], ids=["looped", "multi-step"])
def test_bench_prints_what_it_measured(network: tuple[str, ...]) -> None:
    lines = run("bench", *network, *QUICK, "--schedule", "layers").stdout.splitlines()

    assert lines[0].startswith("ok: ")
    assert [line[:14].strip() for line in lines[1:]] == [
        "medians of 1 c", "forward, 1 thr", "training step,", "kept for backw", "peak",
    ]  # fmt: skip
    assert all(line.endswith(("faster", "less")) for line in lines[2:])


def test_bench_prints_json() -> None:
    network = (f"{NETWORKS}:one_step", "--input", "6", "--time-steps", "5", "--batch", "3")

    found = printed("bench", *network, "--repeats", "2", "--threads", "1", "--threads", "2")

    assert found["verified"]["ok"] is True
    assert [(d["what"], d["threads"]) for d in found["durations"]][1:3] == [
        ("training step", 1), ("forward", 2),
    ]  # fmt: skip
    first = found["durations"][0]
    assert first["speedup"] == pytest.approx(first["model"]["wall"] / first["transformed"]["wall"])
    assert found["memory"][0]["model"] > 0


def test_bench_exits_with_1_when_outputs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BY_NAME, "louder", Louder)

    result = run("bench", *LOOPED, *QUICK, "--pass", "louder")
    as_json = run("bench", *LOOPED, *QUICK, "--pass", "louder", "--json")

    assert result.exit_code == as_json.exit_code == 1
    assert result.stdout.startswith("differs: ")
    assert json.loads(as_json.stdout)["durations"] == []


def test_bench_refuses_an_unknown_pass() -> None:
    assert "there is no pass 'fast'" in refused("bench", *LOOPED, "--pass", "fast")
