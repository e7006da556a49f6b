"""Turn pydantic's report of a bad config into one line, in the terms of the YAML that people write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import takewhile
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from asr.config.stage import Stage
from asr.errors import nearest

Loc = tuple[int | str, ...]

#: the expected value, by pydantic's type of error
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text (in quotes, where YAML reads it as something else)",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
}
#: the words for a bound, and its key in the error's context
_BOUNDS = {
    "greater_than_equal": ("of at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("of at most", "le"),
    "less_than": ("below", "lt"),
}
_LISTS = ("tuple_type", "list_type", "too_long", "too_short", "missing")


def first_error(kind: type[Stage], error: ValidationError) -> tuple[str, str]:
    """Return the dotted key of the first error to correct, and a line: the place, what was expected, what was got.

    Unknown keys come first: they are often the reason for wrong values beside them.
    """
    found: dict[Loc, list[ErrorDetails]] = {}
    for one in error.errors(include_url=False):
        found.setdefault(_place(kind, one), []).append(one)

    unknown = [loc for loc, errors in found.items() if errors[0]["type"] == "extra_forbidden"]
    loc = (unknown or list(found))[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return _dotted(loc), _line(kind, loc, found[loc]) + more


def unknown_key(kind: type[Stage], loc: Sequence[int | str]) -> str:
    """Say that a key is unknown, with the nearest one: of its neighbours first, then of the whole config."""
    *parents, leaf = map(str, loc)
    where = f"{'.'.join(parents)}: " if parents else ""
    stage = _stage_at(kind, parents)
    own = list(stage.model_fields) if stage else []
    hint = nearest(leaf, own)

    if not hint:
        elsewhere = {key.rpartition(".")[2]: key for key in reversed(all_keys(kind))}
        hint = nearest(leaf, elsewhere)
        if hint:
            near = hint.split("'")[1]
            hint = hint.replace(f"'{near}'", f"'{elsewhere[near]}'")

    hint = hint.replace("; ", ", ") or f" (keys here: {', '.join(own)})"
    return f"{where}unknown key '{leaf}'{hint}"


def all_keys(kind: type[Stage], prefix: str = "") -> list[str]:
    """Return the dotted names of all keys of a config, stages before their fields."""
    keys = []
    for name, info in kind.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, Stage):
            keys.extend(all_keys(info.annotation, prefix + name + "."))
    return keys


def as_yaml(value: Any) -> str:
    """Write a value as YAML, on one line.

    >>> as_yaml([True, None, "a", 0.5]), as_yaml("1"), as_yaml({"a": (1, 2)})
    ("[true, null, 'a', 0.5]", "'1'", '{a: [1, 2]}')
    """
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, Stage):
        return as_yaml(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {as_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    if isinstance(value, date):
        return value.isoformat()

    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=True)
    return text.removesuffix("...\n").strip()


def type_in_yaml(value: Any) -> str:
    """Describe the type of a value.

    >>> type_in_yaml([1]), type_in_yaml(True), type_in_yaml(None), type_in_yaml("on")
    ('a list', 'true', 'null', 'text')
    """
    if value is None or isinstance(value, bool):
        return as_yaml(value)
    kinds = ((str, "text"), (Mapping, "a mapping"), (Sequence, "a list"), (int | float, "a number"), (date, "a date"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "something else")


def _line(kind: type[Stage], loc: Loc, errors: list[ErrorDetails]) -> str:
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return unknown_key(kind, loc)

    got = f", got {_short(first['input'])}"
    where = f"{_dotted(loc)}: " if loc else ""

    # For a value that may be a word or a number (or a switch), pydantic reports an error for each of the two.
    bound = next((one for one in errors if one["type"] in _BOUNDS), None)
    word = next((one for one in errors if one["type"] == "literal_error"), None)
    if bound is not None:
        words, key = _BOUNDS[bound["type"]]
        other = f"{_words(word)}, or " if word is not None else ""
        return f"{where}expected {other}a number {words} {bound['ctx'][key]:g}{got}"
    if word is not None:
        other = ", or a number" if len(errors) > 1 else ""
        if any(one["type"].startswith("bool") for one in errors):
            other = ", true or false"
        given = word["input"]
        near = nearest(given, _known(word)) if isinstance(given, str) else ""
        return f"{where}expected {_words(word)}{other}{got}{near}"

    if first["type"] == "missing" and first["loc"][-1] == loc[-1]:
        return f"{where}is missing"
    if first["type"] in _LISTS:
        return f"{where}expected {_list(kind, loc, first)}{got}"
    if first["type"] in _EXPECTED:
        return f"{where}expected {_EXPECTED[first['type']]}{got}"
    if first["type"] == "invalid_key":
        parent = f"{_dotted(loc[:-1])}: " if loc[:-1] else ""
        return f"{parent}a key is a word, got {as_yaml(first['input'])}"

    # a check of a stage; for lists, its message has the values already
    reason = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict | list) else got
    return f"{where}{reason[:1].lower()}{reason[1:]}{shown}"


def _list(kind: type[Stage], loc: Loc, error: ErrorDetails) -> str:
    """Describe a list of the right length, with the field's default as an example."""
    limit = error.get("ctx", {}).get("max_length")
    stage = _stage_at(kind, list(map(str, loc[:-1]))) if loc else None
    info = stage.model_fields.get(str(loc[-1])) if stage else None
    if info is None:  # an entry of a list
        return "a list of two numbers" if error["type"] in ("tuple_type", "missing") else f"a list of {limit}"
    if error["type"] == "too_long" and Ellipsis in get_args(info.annotation):
        return f"at most {limit} in the list"

    default = info.default
    if isinstance(default, tuple) and default and isinstance(default[0], Stage):
        key = next(iter(type(default[0]).model_fields))
        return f"a list of mappings, as {as_yaml([{key: getattr(default[0], key)}])}"

    example = "" if default in (PydanticUndefined, None, ()) else f", as {_short(default)}"
    return f"a list{example}"


def _place(kind: type[Stage], error: ErrorDetails) -> Loc:
    """Return the place of an error, without the names that pydantic gives to the types that a field may have."""
    loc: list[int | str] = []
    stage: type[Stage] | None = kind
    for part in error["loc"]:
        if stage is None and isinstance(part, str):
            continue
        loc.append(part)
        stage = _stage_at(kind, list(map(str, loc)))

    if error["type"] == "missing" and loc and isinstance(loc[-1], int):
        loc.pop()  # an entry that a list of a fixed length lacks: the list is wrong
    return tuple(loc)


def _stage_at(kind: type[Stage], loc: Sequence[str]) -> type[Stage] | None:
    for part in loc:
        if part.isdigit():
            continue
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, Stage)]
        if not inner:
            return None
        kind = inner[0]

    return kind


def _words(error: ErrorDetails) -> str:
    known = _known(error)
    return known[0] if len(known) == 1 else f"one of {', '.join(known)}"


def _known(error: ErrorDetails) -> list[str]:
    return [part.strip("'") for part in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]


def _dotted(loc: Loc) -> str:
    return ".".join(as_yaml(part) if not isinstance(part, str) else part for part in loc)


def _short(value: Any) -> str:
    text = as_yaml(_first_values(value, [60]))
    return text if len(text) <= 60 else f"{text[:59]}…"


def _first_values(value: Any, room: list[int]) -> Any:
    """Return a value with as many of the values in it as are shown: a damaged file may hold millions."""
    if isinstance(value, Mapping):
        items = takewhile(lambda _: room[0] > 0, value.items())
        return {key: _first_values(one, room) for key, one in items}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_first_values(one, room) for one in takewhile(lambda _: room[0] > 0, value)]
    room[0] -= 1
    return value
