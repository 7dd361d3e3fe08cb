"""Values as they are typed: ``key=value`` arguments, and what is wrong with a value, in words."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from avtool.errors import RecipeError

Key = tuple[str, ...]


class Wrong(NamedTuple):
    """What is wrong with a key: in words, and what it should be; and whether there is no such key."""

    key: Key
    message: str
    hint: str
    unknown: bool = False


def parse_setting(argument: str, *, example: str = "optim.base_lr=1e-4") -> tuple[str, Any]:
    """The dotted key and the value, read as YAML, of an argument ``key=value``. RecipeError where it is none."""
    dotted, equals, text = argument.partition("=")
    dotted = dotted.strip()
    if not equals or not all(dotted.split(".")):
        raise RecipeError(
            f"argument {argument!r} is not of the form key=value", hint=f"for example {example}"
        )
    try:
        return dotted, yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(
            f"argument {argument!r}: {yaml_problem(error)}", hint="quote it: 'key=[1, 2]'"
        ) from None


def parse_settings(arguments: Iterable[str], **how: Any) -> dict[str, Any]:
    """The same of several arguments. RecipeError for a key that is given twice."""
    found: dict[str, tuple[str, Any]] = {}
    for argument in arguments:
        key, value = parse_setting(argument, **how)
        if key in found:
            what = f"{key} is given twice: {found[key][0]} and {argument}"
            raise RecipeError(what, hint="leave one of them out")
        found[key] = argument, value
    return {key: value for key, (_, value) in found.items()}


def yaml_problem(error: Exception) -> str:
    """Why a text is no YAML."""
    return f"not valid YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"


def explain(
    error: ValidationError, values: Any, known: Mapping[str, str], *, called: Callable[[str], str] = str
) -> Wrong:
    """The first thing that is wrong with ``values``: which key, what is wrong with it and what is expected.

    ``known``: every key with its meaning; ``called``: what a key is called where it was given.
    """
    errors = error.errors(include_url=False)
    first = next((other for other in errors if other["type"] == "extra_forbidden"), errors[0])
    key: Key = tuple(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        name = called(".".join(key))
        return Wrong(key, f"unknown key {name}", nearest(name, dict.fromkeys(map(called, known))), True)
    if first["type"] == "fault":
        key += tuple(first["ctx"]["key"].split("."))
    key = _known_part(key, known)
    dotted = ".".join(key)
    name, hint = called(dotted), f"{called(dotted)}: {known[dotted]}"
    if first["type"] == "missing" and key == first["loc"]:
        return Wrong(key, f"{name} is missing", hint)
    if first["type"] == "fault":
        return Wrong(key, f"{name}: {first['ctx']['message']}", hint)
    value = reduce(getitem, key, values)
    branches = [other for other in errors if _known_part(tuple(map(str, other["loc"])), known) == key]
    if isinstance(value, list | tuple):  # the words that would do as well are not what was meant
        branches = [other for other in branches if other["type"] != "literal_error"] or branches
    said, *others = dict.fromkeys(_in_words(other, value) for other in branches)
    wrong = ", or ".join([said, *(other.removeprefix("it should be ") for other in others)])
    shown = "empty" if value is None else f"{value!r:.60}"
    return Wrong(key, f"{name} is {shown}: {wrong}", hint)


def _known_part(key: Key, known: Mapping[str, str]) -> Key:
    """``key`` without what lies below it: places in a list, branches of a union; () where nothing of it is known."""
    while key and ".".join(key) not in known:
        key = key[:-1]
    return key


_WANTED = {
    "tuple_type": "a list in brackets",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text, and not empty",
    "model_type": "a section with keys of its own",
}
"""What a value should be, by pydantic's name of the error."""


def _in_words(error: ErrorDetails, value: Any) -> str:
    """What is wrong with ``value``, or with the item of it that the error is about."""
    if error["type"] == "missing":
        return "it has too few values"
    if error["type"] == "too_long":
        return f"it has {error['ctx']['actual_length']} values, {error['ctx']['max_length']} are wanted"
    what = repr(error["input"]) if isinstance(value, list) and error["input"] is not value else "it"
    if error["type"] in _WANTED:
        return f"{what} should be {_WANTED[error['type']]}"
    return error["msg"].removeprefix("Value error, ").replace("Input", what)


FAR = 0.6
"""Names less alike than this are no slip of the fingers."""


def nearest(dotted: str, known: Collection[str]) -> str:
    """The key most like ``dotted``, in whatever section it is; where none is much like it, what its section has."""
    section, _, name = dotted.rpartition(".")

    def alike(key: str) -> float:
        its_name = key.rpartition(".")[2]
        return max(_ratio(name, its_name), 0.8 * (name in its_name.split("_")))

    siblings = [key for key in known if key.rpartition(".")[0] == section]
    near = [key for key in known if alike(key) >= FAR]
    found = max(near or siblings, key=lambda key: alike(key) + _ratio(dotted, key))
    if near:
        return f"did you mean {found}?"
    names = ", ".join(key.rpartition(".")[2] for key in siblings)
    return f"did you mean {found}? {section} has {names}" if section else f"there are {names}"


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()
