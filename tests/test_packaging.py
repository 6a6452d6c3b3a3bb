import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_listed_packages_are_the_folders_of_the_package() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = [*(ROOT / "snncompile").glob("**/__init__.py"), ROOT / "snncompile/passes/__init__.py"]

    folders = {str(file.parent.relative_to(ROOT)).replace("/", ".") for file in files}

    assert sorted(build["packages"]) == sorted(folders)


def test_the_link_for_type_checkers_leads_to_the_passes() -> None:
    assert str((ROOT / "snncompile" / "passes").readlink()) == "../passes"


def test_passes_have_one_name_even_where_the_folder_is_on_the_path() -> None:
    command = [sys.executable, "-c", "import passes"]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "ImportError: import snncompile.passes, not passes: one module must have one name"
    )


def test_a_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("snncompile", "passes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"

    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, check=True
    )

    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"snncompile", "snncompile-0.1.0.dist-info"}
    assert {"snncompile/py.typed", "snncompile/passes/fuse_batchnorm.py"} <= set(names)


def test_importing_it_does_not_import_the_compiler_of_torch() -> None:
    code = "import sys, snncompile, snncompile.module; print('torch._dynamo' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
