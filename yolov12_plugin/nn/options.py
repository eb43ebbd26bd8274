"""The `a2c2f:` section of a model YAML: keyword options of every A2C2f block, single or by scale."""

import contextlib
import difflib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass
class _Section:
    source: str
    options: dict[str, Any]
    layers: Iterator[tuple[int, dict[str, Any]]]  # index and own options of each A2C2f layer, in building order


_section: ContextVar[_Section | None] = ContextVar("a2c2f", default=None)


def from_yaml(init: Callable) -> Callable:
    """Let the options of the model YAML being parsed override the arguments of a constructor.

    Raises:
        ValueError: what the constructor raised, with the YAML and the layer in front.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        section = _section.get()
        if section is None:
            return init(self, *args, **kwargs)
        layer, own = next(section.layers)
        try:
            bound = signature.bind(self, *args, **kwargs)
            bound.arguments.update(own | section.options)
            return init(*bound.args, **bound.kwargs)
        except (TypeError, ValueError) as e:
            raise ValueError(f"{section.source}, layer {layer} (A2C2f): {e}") from e

    return __init__


@contextlib.contextmanager
def a2c2f_section(d: dict[str, Any], block: type) -> Iterator[dict[str, Any]]:
    """Hold the options of model dictionary `d` for the blocks built inside the context, and yield `d` for the parser.

    The section wins over a row's own arguments, and these win over what Ultralytics' parser appends to the rows of
    scales L and X. A value that maps scales to values is picked by the model's scale; a scale that it leaves out keeps
    the default.

    Raises:
        ValueError: unknown option, or unknown scale in a mapping.
    """
    positional = [name for name in inspect.signature(block).parameters if name not in ("c1", "n")]
    names = positional[2:]  # the width and whether to attend belong to the row
    section = d.get("a2c2f") or {}
    source = d.get("yaml_file") or "model YAML"
    rows = [*d["backbone"], *d["head"]]
    layers = [i for i, row in enumerate(rows) if row[2] == block.__name__]
    where = f"{source}, a2c2f (layers {', '.join(map(str, layers))})"
    if not isinstance(section, dict):
        raise ValueError(f"{where}: {section!r} must be a mapping of options: {', '.join(names)}")

    scales = d.get("scales") or {}
    scale = d.get("scale") or next(iter(scales), "")
    options = {}
    for key, value in section.items():
        if key not in names:
            nearest = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise ValueError(f"{where}: unknown option {key}={value!r}; {hint}options are {', '.join(names)}")
        if isinstance(value, dict):
            if unknown := [s for s in value if s not in scales]:
                raise ValueError(
                    f"{where}: {key} has no scale {unknown[0]!r}; scales are {', '.join(scales) or 'none'}"
                )
            if scale not in value:
                continue
            value = value[scale]
        options[key] = value

    # Arguments past (c2, a2, area) would be followed by the ones that the parser appends: they travel by name instead.
    defaults = [None, True, 1]
    own: list[dict[str, Any]] = []
    trimmed: dict[str, list] = {"backbone": [], "head": []}
    for part, kept in trimmed.items():
        for row in d[part]:
            if row[2] == block.__name__:
                args = list(row[3])
                own.append(dict(zip(positional[3:], args[3:])))
                row = [*row[:3], [*args[:3], *defaults[len(args) :]]]
            kept.append(row)

    token = _section.set(_Section(source, options, iter(zip(layers, own))))
    try:
        yield {**d, **trimmed}
    finally:
        _section.reset(token)
