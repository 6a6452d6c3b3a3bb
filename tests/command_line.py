"""Runs the command line in this process, for tests."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from snncompile.cli import app

NETWORKS = Path(__file__).with_name("example_networks.py")
LOOPED = (f"{NETWORKS}:looped", "--input", "6", "--time-steps", "8")
MULTI_STEP = (f"{NETWORKS}:multi_step", "--input", "1x8x8", "--time-steps", "4")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def printed(*arguments: str) -> dict[str, Any]:
    """What a command prints with --json; nothing else may be on stdout."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(*arguments: str) -> str:
    """The message on stderr of a command that must not succeed."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr
