"""Sees every application of a torch.autograd.Function, however early its `apply` was bound."""

import types
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

from snncompile.capture.canonical import Call
from snncompile.capture.recorder import Recorder

Apply: TypeAlias = Callable[..., Any]
Handler: TypeAlias = Callable[[Apply, type[torch.autograd.Function], Any, Any], Any]
"""Takes the real `apply`, the Function's class, its arguments and keyword arguments."""


@contextmanager
def functions_intercepted(handler: Handler) -> Generator[None]:
    """Route every ``Function.apply`` through a handler while the context lasts.

    People bind ``spike = Function.apply`` when a module is imported, so replacing the attribute
    would come too late; its code object is exchanged instead.

    Args:
        handler: Called in place of `apply`; returns what the application returns.
    """
    apply: types.FunctionType = vars(torch.autograd.Function)["apply"].__func__
    original = types.FunctionType(
        apply.__code__, apply.__globals__, apply.__name__, apply.__defaults__, apply.__closure__
    )

    class Replacement:
        def apply(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, N805  # pyright: ignore[reportSelfClsParameterName]
            if False:  # the original closes over __class__, so this code must too
                __class__  # type: ignore[name-defined]  # noqa: B018
            return cls._snncompile_handler(cls, args, kwargs)  # type: ignore[attr-defined]

    def handle(cls: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        return handler(original, cls, args, kwargs)

    before = vars(torch.autograd.Function).get("_snncompile_handler")
    torch.autograd.Function._snncompile_handler = staticmethod(handle)  # type: ignore[attr-defined]
    code, apply.__code__ = apply.__code__, Replacement.apply.__code__
    try:
        yield
    finally:
        apply.__code__ = code
        if before is None:
            del torch.autograd.Function._snncompile_handler  # type: ignore[attr-defined]
        else:
            torch.autograd.Function._snncompile_handler = before  # type: ignore[attr-defined]


def recorded_whole(recorder: Recorder) -> Handler:
    """A handler that records each application as one call, so that its gradient is kept."""

    def handler(original: Apply, cls: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        if not recorder.recording:
            return original(cls, *args, **kwargs)
        with recorder.paused():
            result = original(cls, *args, **kwargs)
        recorder.emit(Call("call_function", cls.apply, args, kwargs), result)
        return result

    return handler
