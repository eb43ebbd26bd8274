"""Choices of a user for a process, for a `with` block, or by the environment."""

from contextvars import ContextVar, Token
from typing import Any, ClassVar

from yolov12_plugin.autoload import OFF, setting


def is_on(variable: str) -> bool:
    """Whether a variable of the environment switches something on: set, and none of off, 0, false, no."""
    return setting(variable).lower() not in ("", *OFF)


class Switch:
    """A choice: constructed it holds for the process from here on, in a `with` statement for that block alone.

    A block is its thread's (its context's) own: threads that it starts see the choice of the process.
    """

    default: ClassVar[Any]  # where nothing was chosen
    here: ClassVar[ContextVar[Any]]
    chosen: "ClassVar[list[Switch]]"  # for the process, the last one holds

    def __init_subclass__(cls) -> None:
        cls.here, cls.chosen = ContextVar(cls.__name__), []

    def __init__(self, value: Any):
        self.value = value
        self.tokens: list[Token[Any]] = []
        self.chosen.append(self)

    def __enter__(self) -> None:
        if self in self.chosen:  # it was meant for the block
            self.chosen.remove(self)
        self.tokens.append(self.here.set(self.value))

    def __exit__(self, *exc: object) -> None:
        self.here.reset(self.tokens.pop())

    @classmethod
    def current(cls) -> Any:
        """The choice that holds here."""
        value = cls.here.get(None)
        if value is not None:
            return value
        return cls.chosen[-1].value if cls.chosen else cls.default
