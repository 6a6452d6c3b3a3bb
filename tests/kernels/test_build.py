"""Compiled kernels are kept between processes, whatever happens to the files."""

# pyright: basic

import ctypes
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from snncompile.kernels import build

SOURCE = "int answer(void) { return 42; }"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SNNCOMPILE_CACHE", str(tmp_path / "cache"))
    build.cache_directory.cache_clear()
    yield tmp_path / "cache"
    build.cache_directory.cache_clear()


def test_a_library_is_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.library(SOURCE).answer() == 42
    monkeypatch.setattr(build, "_build", None)

    assert build.library(SOURCE).answer() == 42
    assert len(list(cache.iterdir())) == 1


def test_only_its_user_reads_the_cache(cache: Path) -> None:
    build.library(SOURCE)

    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_is_built_again(cache: Path, damage: bytes | None) -> None:
    build.library(SOURCE)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:-5] if damage is None else damage)

    assert build.library(SOURCE).answer() == 42
    assert build._is_whole(file)


def test_another_source_is_another_library(cache: Path) -> None:
    build.library(SOURCE)

    assert build.library(SOURCE.replace("42", "43")).answer() == 43


def test_a_source_that_does_not_compile_says_so(cache: Path) -> None:
    with pytest.raises(build.BuildError, match="error"):
        build.library("int answer(void) { return }")

    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the directory should be")

    assert build.library(SOURCE).answer() == 42


def test_two_processes_build_at_once(cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build.library, args=(SOURCE,)) for _ in range(2)]

    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    (file,) = cache.iterdir()
    assert ctypes.CDLL(str(file)).answer() == 42
