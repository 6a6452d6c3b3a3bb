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


def test_functions_fit_a_glance() -> None:
    functions = [
        (f"{name}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for name, text in sources().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert [f"{name}: {n} lines" for name, n in functions if n > LONGEST_FUNCTION] == []
    assert functions
