"""What a part chose by measurement when it ran first, so that it runs again in the same way."""

from contextlib import AbstractContextManager
from contextvars import ContextVar, Token

_current: "ContextVar[Choices | None]" = ContextVar("choices", default=None)


class Choices(AbstractContextManager[None]):
    """The choices of one part, noted while it runs first and repeated whenever it runs again."""

    def __init__(self) -> None:
        self._made: list[bool] = []
        self._left: list[bool] | None = None
        self._tokens: list[Token[Choices | None]] = []
        self._ran = False

    def __enter__(self) -> None:
        self._left = self._made[::-1] if self._ran else None
        self._ran = True
        self._tokens.append(_current.set(self))

    def __exit__(self, *error: object) -> None:
        _current.reset(self._tokens.pop())

    def noted(self, choice: bool) -> None:
        """Note a choice of the first run."""
        if self._left is None:
            self._made.append(choice)

    def repeated(self) -> bool | None:
        """The choice to repeat; None in the first run."""
        return None if self._left is None else self._left.pop()


def choices() -> Choices | None:
    """Those of the part that runs now; None outside of parts that run again."""
    return _current.get()
