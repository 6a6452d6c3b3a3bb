import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 300
LONGEST_FUNCTION = 40


def sources() -> list[Path]:
    return [
        path
        for folder in ("snncompile", "passes")
        for path in sorted((ROOT / folder).glob("**/*.py"))
        if "passes" not in path.relative_to(ROOT).parts[1:]
    ]


def test_files_fit_one_idea() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources()}

    assert [f"{path}: {n} lines" for path, n in lengths.items() if n > LONGEST_FILE] == []


def test_functions_fit_a_glance() -> None:
    functions = [
        (f"{path}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert [f"{name}: {n} lines" for name, n in functions if n > LONGEST_FUNCTION] == []
    assert functions
