"""The README's headline table says what the measurements say."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def benchmark(name: str) -> ModuleType:
    """A script of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_table_of_the_measured_numbers() -> None:
    headline = benchmark("headline_table")

    shown = headline.between_markers((ROOT / "README.md").read_text(encoding="utf-8"))

    assert shown == headline.table(headline.rows())
