"""What a pass is, and how a list of passes is run over a program.

A pass says in `Pass.requires` what it refuses, and rewrites the step in `Pass.apply`. Calling it
does both, clears what became dead, infers shapes anew and verifies the program. Programs are
rewritten in place: `copy_program` first to keep one, and `own_root` before parameters change.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NoReturn, TypeAlias

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snncompile.errors import InvalidProgramError, PassRefusedError
from snncompile.ir.effects import has_effect
from snncompile.ir.names import place
from snncompile.ir.program import Program, State, output_of
from snncompile.ir.text import text
from snncompile.ir.values import refresh
from snncompile.ir.verifier import verify_program, verify_structure
from snncompile.memory.segments import least_memory

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
        if program.recompute is not None:
            program.recompute = replace(program.recompute, segments=least_memory(program))
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


def run_passes(
    program: Program, passes: Sequence[Pass], earlier: Mapping[int, nn.Module] | None = None
) -> None:
    """Run passes one after the other, in place.

    Args:
        program: The program; copy it first to have it whole after an error.
        passes: The passes, in order.
        earlier: By a number of passes, the root that these made of the same model before: it is
            taken up, with all that was trained in it meanwhile.

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
        if earlier and number in earlier:
            _take_up(program, earlier[number])


def _take_up(program: Program, root: nn.Module) -> None:
    """Use a root of an earlier program, if it has the same parameters."""
    if list(root.state_dict()) == list(program.root.state_dict()):
        program.root = root


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


def extend_root(program: Program, name: str, module: nn.Module) -> str:
    """Give the program a root with one more module, all else being the model's own.

    The user's model is still trained by training the program, but does not have the new module.

    Args:
        program: The program.
        name: What the module is to be called.
        module: The module.

    Returns:
        Its name, lengthened where the model uses that name itself.
    """
    old = program.root
    while hasattr(old, name):
        name += "_"
    root = object.__new__(type(old))
    root.__dict__ = {**old.__dict__, "_modules": {**old.__dict__["_modules"], name: module}}
    program.root = root
    return name


def add_state(program: Program, state: State, value: Tensor) -> fx.Node:
    """Add a state that keeps its value until `set_next` says otherwise.

    Args:
        program: The program.
        state: The state; no placeholder has its name.
        value: A fake tensor like it.

    Returns:
        Its placeholder.
    """
    with program.step.inserting_after(program.placeholders()[-1]):
        node = program.step.placeholder(state.name)
    node.meta["val"] = value
    program.states = (*program.states, state)
    outputs, following = output_of(program.step)
    program.step.output_node().args = ((outputs, (*following, node)),)
    return node


def set_next(program: Program, name: str, value: fx.Node) -> None:
    """Let a node compute the next value of the state of that name."""
    outputs, following = output_of(program.step)
    names = [state.name for state in program.states]
    changed = [value if key == name else old for key, old in zip(names, following, strict=True)]
    program.step.output_node().args = ((outputs, tuple(changed)),)


def drop_state(program: Program, name: str) -> None:
    """Remove the state of that name, which no node may read any more."""
    outputs, following = output_of(program.step)
    kept = [(s, v) for s, v in zip(program.states, following, strict=True) if s.name != name]
    program.step.output_node().args = ((outputs, tuple(value for _, value in kept)),)
    program.step.erase_node(program.placeholder(name))
    program.states = tuple(state for state, _ in kept)
