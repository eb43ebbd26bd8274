"""How attributes of Ultralytics are replaced, and put back."""

import contextlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class Patch(NamedTuple):
    """One attribute of Ultralytics and what stands in for it while the plugin is registered."""

    owner: str  # module, or "module:class"
    attribute: str
    replacement: str  # "module:object"; a wrapper is called with the original
    why: str
    wrapper: bool = False
    reexports: tuple[str, ...] = ()  # modules that import the attribute by name


class Unsupported(RuntimeError):
    """This Ultralytics lacks a symbol that the plugin replaces or builds on; the message names it."""


_applied: dict[Patch, tuple[Any, Any]] = {}  # patch -> (original, replacement)


def apply(patches: Iterable[Patch]) -> list[Patch]:
    """Put the replacements of `patches` in place, and return those that were not there yet.

    Raises:
        Unsupported: this Ultralytics lacks a symbol; nothing of `patches` was applied.
    """
    found = {}
    for patch in patches:
        try:
            found[patch] = getattr(pkgutil.resolve_name(patch.owner), patch.attribute)
        except (ImportError, AttributeError) as e:
            raise Unsupported(f"{patch.owner}.{patch.attribute}") from e
    ready = {}
    for patch, current in found.items():
        if current is _applied.get(patch, (None, None))[1]:
            continue
        try:
            replacement = pkgutil.resolve_name(patch.replacement)
            ready[patch] = current, replacement(current) if patch.wrapper else replacement
        except ImportError as e:  # of what the plugin builds on
            if (e.name or "").startswith("yolov12_plugin"):
                raise
            raise Unsupported(f"{e.name} as it was ({e})") from e
    for patch, (current, replacement) in ready.items():
        _swap(patch, current, replacement)
    _applied.update(ready)
    return list(ready)


def restore() -> None:
    """Put back the very objects that were replaced."""
    for patch, (original, replacement) in reversed(_applied.items()):
        _swap(patch, replacement, original)
    _applied.clear()


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Ultralytics as it is without the plugin."""
    patches = list(_applied)
    restore()
    try:
        yield
    finally:
        apply(patches)


def is_in_place(patch: Patch) -> bool:
    """Whether the plugin's replacement is what Ultralytics has there now."""
    if patch not in _applied:
        return False
    return getattr(pkgutil.resolve_name(patch.owner), patch.attribute, None) is _applied[patch][1]


def replaced_classes(patches: Iterable[Patch]) -> dict[str, Any]:
    """What the plugin's classes stand in for now: the names in Ultralytics, and the objects found there."""
    return {
        f"{patch.owner}.{patch.attribute}": _applied[patch][0]
        for patch in patches
        if patch in _applied and not patch.wrapper
    }


def _swap(patch: Patch, old: Any, new: Any) -> None:
    # While Ultralytics is being imported a re-export is not there yet: it will pick up the replacement by itself.
    for place in (pkgutil.resolve_name(patch.owner), *map(sys.modules.get, patch.reexports)):
        if getattr(place, patch.attribute, None) is old:
            setattr(place, patch.attribute, new)
