import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 300
LONGEST_FUNCTION = 40


def sources() -> dict[str, str]:
    """The text of every file of the package; the link to passes is not followed."""
    files = [*ROOT.glob("snncompile/**/*.py"), *ROOT.glob("passes/*.py")]
    return {str(file.relative_to(ROOT)): file.read_text() for file in sorted(files)}


def test_files_fit_one_idea() -> None:
    lengths = {name: len(text.splitlines()) for name, text in sources().items()}

    assert [f"{name}: {n} lines" for name, n in lengths.items() if n > LONGEST_FILE] == []


Function = ast.FunctionDef | ast.AsyncFunctionDef


def length(node: Function) -> int:
    """Lines of a function, its docstring aside."""
    documented = ast.get_docstring(node) is not None
    first, last = node.body[0], node.end_lineno or node.lineno
    told = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return last - node.lineno + 1 - told


def test_functions_fit_a_glance() -> None:
    functions = [
        (f"{name}:{node.lineno} {node.name}", length(node))
        for name, text in sources().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, Function)
    ]

    assert [f"{name}: {n} lines" for name, n in functions if n > LONGEST_FUNCTION] == []
    assert functions
