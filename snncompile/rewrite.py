"""What a pass is, and how a list of passes is run over a program.

A pass says in `Pass.requires` what it refuses, and rewrites the step in `Pass.apply`. Calling it
does both, clears what became dead, infers shapes anew and verifies the program. Programs are
rewritten in place: `copy_program` first to keep one, and `own_root` before parameters change.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NoReturn, TypeAlias

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from snncompile.errors import InvalidProgramError, PassRefusedError
from snncompile.ir.effects import has_effect
from snncompile.ir.names import place
from snncompile.ir.program import Program
from snncompile.ir.text import text
from snncompile.ir.values import refresh
from snncompile.ir.verifier import verify_program, verify_structure

Keeps: TypeAlias = Literal["outputs", "spikes", "interface"]
"""What a pass keeps: "outputs" is the same function and gradients; "spikes" the same forward with
a gradient rule of its own; "interface" shapes, dtypes and parameters of a function to train."""


class NodeRefusedError(PassRefusedError):
    """A refusal that knows its node, so that whoever runs the pass can mark it.

    Attributes:
        node: The node of the program that the pass refuses.
    """

    def __init__(self, message: str, node: fx.Node) -> None:
        super().__init__(message)
        self.node = node


@dataclass(frozen=True)
class Pass(ABC):
    """One rewrite of a program; a subclass is a frozen dataclass whose fields are its options.

    Attributes:
        name: Its name in kebab-case, also that of its file and of its tests.
        keeps: What it promises about the rewritten program.
        keywords: Keyword arguments that a rewritten network may take and the model does not.
    """

    name: ClassVar[str]
    keeps: ClassVar[Keeps]
    keywords: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def requires(self, program: Program) -> None:
        """Refuse, by `refuse`, what the pass cannot rewrite correctly; change nothing."""

    @abstractmethod
    def apply(self, program: Program) -> int:
        """Rewrite the program in place; returns the number of rewritten nodes."""

    def __call__(self, program: Program) -> int:
        """Check, rewrite, clear, infer shapes and verify.

        Args:
            program: The program, rewritten in place.

        Returns:
            The number of rewritten nodes; 0 when there was nothing to do.

        Raises:
            PassRefusedError: The pass does not apply; the program is as it was.
            InvalidProgramError: The pass broke a rule of the IR.
        """
        self.requires(program)
        rewritten = self.apply(program)
        verify_structure(program)
        program.step.eliminate_dead_code(lambda node: has_effect(program, node))
        refresh(program)
        verify_program(program)
        return rewritten

    def refuse(self, node: fx.Node, problem: str, *, fix: str) -> NoReturn:
        """Refuse a program because of a node.

        Args:
            node: The node.
            problem: What about it, to follow its name: "is in training mode".
            fix: The way out, a clause that begins with a capital letter.

        Raises:
            PassRefusedError: ``fuse-batchnorm: %norm (module norm) is in training mode. Call ...``
        """
        raise NodeRefusedError(f"{self.name}: {place(node)} {problem}. {fix}.", node)


def run_passes(program: Program, passes: Sequence[Pass]) -> None:
    """Run passes one after the other, in place.

    Args:
        program: The program; copy it first to have it whole after an error.
        passes: The passes, in order.

    Raises:
        PassRefusedError: A pass does not apply. Its notes say which pass of how many it was and
            hold the program's text as that pass met it, with the node underlined.
        InvalidProgramError: A pass broke a rule of the IR; noted likewise.
    """
    for number, item in enumerate(passes, start=1):
        try:
            item(program)
        except (PassRefusedError, InvalidProgramError) as error:
            error.add_note(f"in pass {number} of {len(passes)}: {item.name}")
            if isinstance(error, NodeRefusedError):
                error.add_note(text(program, mark=error.node))
            raise


def copy_program(program: Program) -> Program:
    """A program to rewrite while the original stays: own graphs and tables, the same root."""
    return replace(
        program,
        step=copy.deepcopy(program.step),
        prologue=copy.deepcopy(program.prologue),
        epilogue=copy.deepcopy(program.epilogue),
        single_step=dict(program.single_step),
        constants=dict(program.constants),
        notes=list(program.notes),
    )


def own_root(program: Program) -> None:
    """Give the program a copy of its modules, so that a pass may change their parameters.

    The user's model is then no longer trained by training the program; state-dict keys and the
    sharing of parameters among modules stay. Hidden states that still hang on a graph of
    autograd are copied without it.
    """
    leaves = (
        leaf for module in program.root.modules() for leaf in pytree.tree_leaves(vars(module))
    )
    detached = {
        id(leaf): leaf.detach().clone()
        for leaf in leaves
        if isinstance(leaf, Tensor) and not leaf.is_leaf
    }
    program.root = copy.deepcopy(program.root, detached)
