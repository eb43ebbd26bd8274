"""Options of the blocks: what each may be, and how a model YAML gives them in its `a2c2f:` section."""

import ast
import functools
import inspect
import logging
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any, ParamSpec

from yolov12_plugin.errors import choices, either
from yolov12_plugin.names import nearest

LOGGER = logging.getLogger("yolov12_plugin")
P = ParamSpec("P")


def _is_switch(value: Any) -> bool:
    return value in (True, False)


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(*values: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in values, " or ".join(values)


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "area": (_is_count, "an integer of at least 1"),
    "residual": (
        lambda value: isinstance(value, bool) or _is_number(value),
        "true, false or the initial value of the scaling",
    ),
    "mlp_ratio": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "e": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "g": (_is_count, "an integer of at least 1"),
    "shortcut": (_is_switch, "true or false"),
    "qkv_fused": (_is_switch, "true or false"),
    "pe_kernel": (lambda value: _is_count(value) and value % 2 == 1, "an odd integer of at least 1"),
    "pe_bias": (_is_switch, "true or false"),
    "vertical": (_is_switch, "true or false"),
    "aggregation": _one_of("r-elan", "elan"),
    "projection": _one_of("conv", "linear"),
    "norm": _one_of("bn", "ln"),
    "pos_embed": _one_of("none", "absolute", "relative"),
}


def check(**options: Any) -> None:
    """Raise a ValueError that names the first option whose value cannot be."""
    for key, value in options.items():
        allowed, must_be = RULES[key]
        if not allowed(value):
            raise ValueError(f"{key}={value!r} must be {must_be}")


# What is read of a model YAML, at its top level: by the plugin, then by Ultralytics.
SECTIONS = ("a2c2f", "nc", "scales", "scale", "backbone", "head", "activation", "channels", "depth_multiple", "end2end",
            "inplace", "kpt_shape", "reg_max", "text_model", "width_multiple", "yaml_file")  # fmt: skip


taken: ContextVar[set[str] | None] = ContextVar("taken", default=None)  # the rows whose options reached a block


class Row(int):
    """The `area` argument of a YAML row, which carries the row's options through Ultralytics' parser."""

    where: str
    options: dict[str, Any]


def from_yaml(init: Callable[P, None]) -> Callable[P, None]:
    """Let a constructor take the options that a `Row` carries, over whatever the parser passes by position.

    Of what the parser appends, a residual is left out where the channels in and out differ.

    Raises:
        ValueError: what the constructor raised, with the YAML and the layer in front.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(*args: P.args, **kwargs: P.kwargs) -> None:
        bound = signature.bind(*args, **kwargs)
        row = bound.arguments.get("area")
        if not isinstance(row, Row):
            return init(*args, **kwargs)
        if (rows := taken.get()) is not None:
            rows.add(row.where)
        given = bound.arguments
        if given["c1"] != given["c2"]:
            given.pop("residual", None)  # the parser's, at scales L and X: there is none across other channels
        given.update(row.options)
        try:
            return init(*bound.args, **bound.kwargs)
        except (TypeError, ValueError) as e:
            raise ValueError(f"{row.where}: {e}") from e

    return __init__


def read_section(d: dict[str, Any], block: type) -> dict[str, Any]:
    """Model dictionary `d` with the options of its `a2c2f:` section, if any, in its rows of `block`.

    The section wins over a row's own arguments, and these win over what Ultralytics' parser appends to the rows of
    scales L and X. A value that maps scales to values is picked by the model's scale; a scale that it leaves out has no
    such option.

    Raises:
        ValueError: unknown option, unknown scale in a mapping, or a row with too many arguments.
    """
    parameters = inspect.signature(block).parameters.values()
    arguments = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("c1", "n")]
    names = [p.name for p in parameters if p.name in RULES]
    source = d.get("yaml_file") or "model YAML"
    layers = [i for i, row in enumerate([*d["backbone"], *d["head"]]) if row[2] == block.__name__]
    where = f"{source}, a2c2f (layers {', '.join(map(str, layers))})"
    section = d.get("a2c2f")
    if section is None:
        section = {}
    if not isinstance(section, dict):
        raise ValueError(f"{where}: {section!r} must be a mapping of options: {', '.join(names)}")

    scales, scale = d.get("scales") or {}, scale_of(d)
    if layers and scales and scale not in scales:
        raise ValueError(f"{source} has no scale {scale!r}; {choices(scale, scales, 'scales')}")
    options = {}
    for key, value in section.items():
        if key not in names:
            raise ValueError(f"{where}: unknown option {key}={value!r}; {choices(key, names, 'options')}")
        if isinstance(value, dict):
            if unknown := [s for s in value if s not in scales]:
                raise ValueError(f"{where}: {key} has no scale {unknown[0]!r}; {choices(unknown[0], scales, 'scales')}")
            if scale not in value:
                continue
            value = value[scale]
        options[key] = _literal(value)

    read = {part: list(d[part]) for part in ("backbone", "head")}
    layer = -1
    for rows in read.values():
        for i, (source_layer, repeats, name, args) in enumerate(rows):
            layer += 1
            if name != block.__name__ or any(isinstance(arg, Row) for arg in args):
                continue
            if len(args) > len(arguments):
                raise ValueError(f"{source}, layer {layer} ({name}): {len(args)} arguments, at most {len(arguments)}")
            own = dict(zip(arguments, args))
            # Past (c2, a2, area) the parser appends arguments of its own: those of the row travel by name instead.
            carried = {"area": 1} | {key: _literal(own[key]) for key in arguments[2:] if key in own} | options
            row = Row(carried["area"] if isinstance(carried["area"], Integral) else 0)  # the parser prints it
            row.where, row.options = f"{source}, layer {layer} ({name})", carried
            rows[i] = [source_layer, repeats, name, [own.get("c2"), own.get("a2", True), row]]
    return {**d, **read}


def warn_of_misspelt_sections(d: dict[str, Any], block: type) -> None:
    """Warn of what a YAML with rows of `block` holds under a key that nothing reads, and that is close to one read."""
    if all(row[2] != block.__name__ for part in ("backbone", "head") for row in d.get(part) or ()):
        return
    for key in d:
        if key not in SECTIONS and (near := nearest(str(key), SECTIONS)):
            _warn_of_section(str(d.get("yaml_file") or "model YAML"), str(key), either(near))


@functools.cache  # a training builds its model more than once
def _warn_of_section(source: str, key: str, near: str) -> None:
    LOGGER.warning("yolov12-plugin: %s: nothing reads its key %r; did you mean %s?", source, key, near)


@contextmanager
def all_taken(d: dict[str, Any]) -> Iterator[None]:
    """Build the blocks of `d` within, as `read_section` made it.

    Raises:
        ValueError: the options of a row got lost on the way, so that the block is another than the YAML's.
    """
    rows = [arg for part in ("backbone", "head") for row in d[part] for arg in row[3] if isinstance(arg, Row)]
    token = taken.set(set())
    try:
        yield
        if lost := [row.where for row in rows if row.where not in (taken.get() or ())]:
            raise ValueError(
                f"{lost[0]}: its options did not reach the block, as something else that changes Ultralytics' parser "
                "makes a row's arguments anew: leave that out"
            )
    finally:
        taken.reset(token)


def built(
    d: dict[str, Any], block: type, stock: bool = False, changing: Collection[int] = ()
) -> dict[int, dict[str, Any]]:
    """The options, all of them, with which each row of `block` is built: layer -> options.

    Args:
        d: model dictionary, with its scale.
        block: class whose rows count.
        stock: as Ultralytics' own parser builds them, which reads no section, and appends arguments to the rows of
            scales L and X whatever these hold already.
        changing: layers whose channels in and out differ.

    Raises:
        ValueError: as `read_section`.
    """
    parameters = inspect.signature(block).parameters
    defaults = {key: parameters[key].default for key in parameters if key in RULES}
    appended = (True, 1.2) if scale_of(d) in ("l", "x") else ()
    if not stock:
        d = read_section(d, block)
    layers = {}
    for i, (_, _, name, args) in enumerate([*d["backbone"], *d["head"]]):
        if name == block.__name__:
            own = dict(zip(list(defaults), [*map(_literal, args[2:]), *appended]))
            row = args[2] if len(args) > 2 else None
            if i in changing and not stock:
                own.pop("residual", None)  # as `from_yaml` leaves out what the parser appends
            layers[i] = {**defaults, **own, **(row.options if isinstance(row, Row) else {})}
    return layers


def scale_of(d: dict[str, Any]) -> str:
    """The scale that Ultralytics' parser takes: the model's own, or the first of the YAML."""
    return d.get("scale") or next(iter(d.get("scales") or {}), "")


def _literal(value: Any) -> Any:
    """What Ultralytics' parser makes of a string in a YAML: the literal that it spells, or the string."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value
