# pyright: basic
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snncompile.export import export_program
from snncompile.ir.program import Program
from tests import random_programs
from tests.export.runtimes import File, run_torch, states

STEPS, BATCH = 4, 3
ROUNDING = 1e-6
"""Relative: a sum over time of membranes that have more bits than float32."""


@given(random_programs.programs(), st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_random_programs_export_to_the_bits_of_the_loop(program: Program, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = {
        spec.name: torch.randint(-4, 8, (BATCH, random_programs.WIDTH), generator=generator) / 4.0
        if spec.kind == "static"
        else torch.randint(-4, 8, (STEPS, BATCH, random_programs.WIDTH), generator=generator) / 4.0
        for spec in program.inputs
    }
    sequences = [v.expand(STEPS, *v.shape) if v.dim() == 2 else v for v in values.values()]
    held = [torch.zeros_like(state) for state in states(program, BATCH)]

    with TemporaryDirectory() as folder:
        check = tuple(values.values())
        for form in ("step", "sequence"):
            export_program(program, Path(folder, f"{form}.onnx"), form=form, check=check)
        whole = File(Path(folder, "sequence.onnx"))(*check, *held)
        step, state, made = File(Path(folder, "step.onnx")), held, []
        for t in range(STEPS):
            results = step(*(v[t] for v in sequences), *state)
            made.append(results[: len(program.outputs)])
            state = [torch.from_numpy(value) for value in results[len(program.outputs) :]]

    outputs, after = run_torch(program, sequences, held)
    for i in range(len(program.outputs)):
        wanted = torch.stack([values[i] for values in outputs])
        assert np.array_equal(np.stack([values[i] for values in made]), wanted.numpy())
        if program.outputs[i].reduce == "stack":
            assert np.array_equal(whole[i], wanted.numpy())
        else:
            last = program.outputs[i].reduce == "last"
            reduced = wanted[-1] if last else wanted.sum(0)
            assert np.allclose(whole[i], reduced.numpy(), rtol=0 if last else ROUNDING)
    for by_step, by_file, final in zip(
        state, whole[len(program.outputs) :], after[-1], strict=True
    ):
        assert torch.equal(by_step, final)
        assert np.array_equal(by_file, final.numpy())
