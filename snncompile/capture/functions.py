"""Keeps a user's torch.autograd.Function whole while a model is recorded."""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from snncompile.capture.canonical import Call
from snncompile.capture.recorder import Recorder


@contextmanager
def functions_recorded(recorder: Recorder) -> Iterator[None]:
    """Record a torch.autograd.Function as one call, so that its gradient is kept.

    People bind ``spike = Function.apply`` when a module is imported, so replacing the attribute
    would come too late; its code object is exchanged instead while the recording lasts.
    """
    apply: types.FunctionType = vars(torch.autograd.Function)["apply"].__func__
    original = types.FunctionType(
        apply.__code__, apply.__globals__, apply.__name__, apply.__defaults__, apply.__closure__
    )

    def recorded(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        if recorder._paused:
            return original(cls, *args, **kwargs)
        with recorder.paused():
            result = original(cls, *args, **kwargs)
        recorder.emit(Call("call_function", cls.apply, args, kwargs), result)
        return result

    class Replacement:
        def apply(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, N805
            if False:  # pragma: no cover
                __class__  # noqa: B018  # the original closes over it, so this code must too
            return cls._snncompile_recorded(cls, args, kwargs)  # type: ignore[attr-defined]

    torch.autograd.Function._snncompile_recorded = staticmethod(recorded)  # type: ignore[attr-defined]
    code, apply.__code__ = apply.__code__, Replacement.apply.__code__
    try:
        yield
    finally:
        apply.__code__ = code
        del torch.autograd.Function._snncompile_recorded  # type: ignore[attr-defined]
