"""Decides what a call of a module is in the trace: lowered, one call, or what its forward does."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from snncompile.capture.lowering import LoweringRecorder
from snncompile.capture.modules import is_layer
from snncompile.errors import CaptureError
from snncompile.frontends import frontend_of
from snncompile.frontends.lowering import Frontend, WholeSequences


@contextmanager
def modules_recorded(recorder: LoweringRecorder) -> Generator[None]:
    """Route every module call through the recorder while the context lasts.

    Args:
        recorder: Writes the trace.
    """
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        def run() -> Any:  # noqa: ANN401
            return original(module, *args, **kwargs)

        return _call(recorder, module, args, kwargs, run) if recorder.recording else run()

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def _call(
    recorder: LoweringRecorder,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run: Callable[[], Any],
) -> Any:  # noqa: ANN401
    frontend = frontend_of(module)
    name = recorder.names.get(id(module))
    refusal = frontend.refusal(module) if frontend is not None else None
    if refusal:
        raise CaptureError(f"module '{name or ''}': {refusal}")
    if frontend is not None and frontend.covers(module):
        with recorder.inside(module):
            return frontend.lower(module, recorder, *args, **kwargs)
    if frontend is not None and _stands_for_layer(recorder, module, frontend):
        return recorder.call_module(module, args, kwargs, run)
    if isinstance(frontend, WholeSequences) and frontend.whole(module):
        result = recorder.call_module(module, args, kwargs, lambda: torch.empty_like(args[0]))
        recorder.whole.add(recorder.node(result).name)
        return result
    if is_layer(module) and name != "":
        return recorder.call_module(module, args, kwargs, run)
    with recorder.inside(module):
        return run()


def _stands_for_layer(recorder: LoweringRecorder, module: nn.Module, frontend: Frontend) -> bool:
    """Whether a module is a library's spelling of a layer of torch; if so the recorder notes it."""
    layer = frontend.stateless(module)
    name = recorder.names.get(id(module))
    if layer is None:
        return False
    if name is not None:
        recorder.single_step[name] = layer
        if frontend.takes_sequences(module):
            recorder.sequence_layers.add(name)
    return True
