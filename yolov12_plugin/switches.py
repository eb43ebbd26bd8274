"""Choices of a user for a process, for a `with` block, or by the environment."""

import functools
import logging
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, ClassVar

from yolov12_plugin.autoload import OFF, setting

LOGGER = logging.getLogger("ultralytics")  # says its lines where and when Ultralytics says its own


def is_on(variable: str) -> bool:
    """Whether a variable of the environment switches something on: set, and none of off, 0, false, no."""
    return setting(variable).lower() not in ("", *OFF)


@functools.cache
def say_once(message: str) -> None:
    """Say what a switch does when it first takes effect in a process."""
    LOGGER.info(message)


class Switch:
    """A choice: constructed it holds for the process from here on, in a `with` statement for that block alone.

    A block is its thread's (its context's) own: threads that it starts see the choice of the process. One object may be
    entered any number of times, also in several threads.
    """

    default: ClassVar[Any]  # where nothing was chosen
    entered: "ClassVar[ContextVar[tuple[Switch, ...]]]"
    chosen: "ClassVar[list[Switch]]"  # for the process, the last one holds

    def __init_subclass__(cls) -> None:
        cls.entered, cls.chosen = ContextVar(cls.__name__, default=()), []

    def __init__(self, value: Any):
        self.value = value
        self.chosen.append(self)

    @classmethod
    def block(cls, value: Any) -> "Switch":
        """A choice for a `with` statement alone, which the process never sees."""
        self = cls.__new__(cls)
        self.value = value
        return self

    def __enter__(self) -> None:
        with suppress(ValueError):
            self.chosen.remove(self)  # it was meant for the block
        self.entered.set((*self.entered.get(), self))

    def __exit__(self, *exc: object) -> None:
        inside = list(self.entered.get())
        if self in inside:  # not so where a generator began its block in another context
            del inside[len(inside) - 1 - inside[::-1].index(self)]
            self.entered.set(tuple(inside))

    @classmethod
    def current(cls) -> Any:
        """The choice that holds here."""
        choices = cls.entered.get() or cls.chosen
        return choices[-1].value if choices else cls.default
