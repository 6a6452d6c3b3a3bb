"""The text of any program is the same however often, and of whichever copy, it is printed."""

# pyright: basic

from hypothesis import HealthCheck, given, settings

from snncompile.ir.program import Program
from snncompile.ir.text import text
from snncompile.ir.verifier import verify_program
from snncompile.rewrite import copy_program
from tests.random_programs import programs


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(programs())
def test_the_text_form_is_stable(program: Program) -> None:
    verify_program(program)
    printed = text(program)

    copied = copy_program(program)
    for node in copied.step.nodes:
        if node.op.startswith("call"):
            node._rename(f"renamed_{node.name}")

    assert text(program) == printed
    assert text(copied) == printed
    assert all(f'"{state.label}"' in printed or state.label in printed for state in program.states)
