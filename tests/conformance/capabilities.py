"""The one table: every capability, in the order in which the documentation shows them.

A capability is a function without arguments in a module of this package. Its docstring is its row; it asserts what is
right rather than that nothing was raised; and what it returns (tensors, numbers, names) must be the same on both sides.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True)
class Capability:
    group: str
    run: Callable[[], Any]
    needs: tuple[str, ...]  # packages that nothing else here installs
    alone: bool  # in a process of its own: threads, forks, state of the interpreter
    tolerance: float  # of its values across the sides, relative to the largest
    seconds: int  # after which it counts as hung

    @property
    def name(self) -> str:
        return f"{self.run.__module__.rpartition('.')[2]}.{self.run.__name__}"

    @property
    def compares(self) -> bool:
        """Whether it has values that must be the same on both sides, beside what it asserts."""
        tree = ast.parse(inspect.getsource(self.run))
        return any(isinstance(node, ast.Return) and node.value for node in ast.walk(tree))

    @property
    def shows(self) -> str:
        return (self.run.__doc__ or "").strip()

    @property
    def missing(self) -> list[str]:
        return [package for package in self.needs if find_spec(package) is None]


TABLE: dict[str, Capability] = {}


def group(title: str) -> Callable[..., Any]:
    """The decorator of a module's capabilities, with or without options."""

    def capability(function=None, *, needs=(), alone=False, tolerance=1e-4, seconds=120):
        if function is None:
            return lambda f: capability(f, needs=needs, alone=alone, tolerance=tolerance, seconds=seconds)
        row = Capability(title, function, tuple(needs), alone, tolerance, seconds)
        assert row.name not in TABLE and row.shows, row.name
        TABLE[row.name] = row
        return function

    return capability


MODULES = {  # and what its capabilities do, beside running in processes
    "layout": (),
    "odd": (),
    "submodules": (),
    "gradients": (),
    "fused": (),
    "graphs": (),
    "networks": (),
    "compilers": ("compile",),
    "exports": ("export",),
    "training": ("train",),
    "processes": (),
    "packages": (),
}


def load(modules: Iterable[str] = tuple(MODULES)) -> dict[str, Capability]:
    """The table, or what some modules add to it; importing them takes PyTorch and Ultralytics."""
    for module in modules:
        importlib.import_module(f"{__package__}.{module}")
    return TABLE
