"""Load recipes: extend, override, validate, print. What is wrong is named with file, line and nearest key."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from avtool.config.schema import Recipe
from avtool.config.shipped import find_recipe, recipe_names, recipes_folder
from avtool.config.types import keys
from avtool.config.values import Key, explain, parse_setting, yaml_problem
from avtool.errors import RecipeError

Origins = dict[Key, str]
"""Where each key was given: "file:line", or the argument itself."""
DEEPEST = 8
RENAMED: dict[Key, tuple[str, dict[str, str]]] = {
    ("classify", "blank"): ("modality_dropout", {}),
    ("classify", "smoothing"): ("label_smoothing", {}),
    ("classify", "odds_bias"): ("prior_bias", {}),
    ("localize", "way"): ("encoding", {"two-pass": "unimodal"}),
    ("localize", "score"): ("pooling", {"soft": "logsumexp"}),
    ("optim", "pretrained_ramp"): ("backbone_warmup", {}),
}
"""What keys, and values of them, are called now: read in a run's own recipe, and an error elsewhere."""


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or path, with ``key=value`` overrides laid over it, validated.

    Raises RecipeError where the recipe is unknown, is no YAML, or a key or value of it is wrong.
    """
    path = find_recipe(name_or_path)
    values, origins = _read_with_parent(path)
    if (path.parent / "run.json").is_file():  # what a run was made with, maybe by an earlier version
        _rename(values)
    for argument in overrides:
        dotted, value = parse_setting(argument)
        for name in reversed(dotted.split(".")):
            value = {name: value}
        _merge(values, value)
        origins.update((key, f"argument {argument!r}") for key in _paths(value))
    _rename(values, origins)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        wrong = explain(error, values, recipe_keys())
        above = (wrong.key[:length] for length in range(len(wrong.key), 0, -1))
        where = next((origins[key] for key in above if key in origins), path)
        raise RecipeError(f"{where}: {wrong.message}", hint=wrong.hint) from None
    recipe.asked.update((key, where) for key, where in origins.items() if not _shipped(where))
    return recipe


def _shipped(where: str) -> bool:
    """Whether a key was given there ("file:line", or an argument) by a shipped recipe."""
    return Path(where.rpartition(":")[0]).resolve().parent == recipes_folder().resolve()


def _rename(values: dict[str, Any], origins: Origins | None = None) -> None:
    """Give old keys and values their new names, in place; RecipeError with the new name where there are ``origins``."""
    for (section, old), (new, other_values) in RENAMED.items():
        inside = values.get(section)
        if not isinstance(inside, dict) or old not in inside:
            continue
        value = inside.pop(old)
        inside[new] = other_values.get(value, value) if isinstance(value, str) else value
        if origins is not None:
            shown = yaml.safe_dump(inside[new], default_flow_style=True).splitlines()[0]
            raise RecipeError(
                f"{origins.get((section, old), 'recipe')}: {section}.{old} is called {section}.{new} now",
                hint=f"{section}.{new}={shown}",
            )


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that load_recipe reads back to the same."""
    return yaml.dump(recipe.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Lists in one line."""


_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def recipe_keys() -> dict[str, str]:
    """Every key a recipe may have, dotted, with what it means."""
    return dict(keys(Recipe))


def _read_with_parent(path: Path) -> tuple[dict[str, Any], Origins]:
    values, origins = _read(path)
    if "extends" not in values:
        return values, origins
    parent = values.pop("extends")
    where = origins.pop(("extends",))
    if not isinstance(parent, str):
        raise RecipeError(f"{where}: extends names one recipe, not {parent!r}", hint="extends: dense")
    file = _parent_file(parent, path, where)
    if file.samefile(path):
        raise RecipeError(
            f"{where}: {parent} extends itself", hint=f"extend a shipped recipe: {', '.join(recipe_names())}"
        )
    base, base_origins = _read(file)
    if "extends" in base:
        raise _second_parent(str(base["extends"]), file, path, where)
    _merge(base, values)
    return base, base_origins | origins


def _second_parent(grandparent: str, parent: Path, path: Path, where: str) -> RecipeError:
    """The error of a parent that has a parent: a chain, which can be cut short, or a loop, which leads nowhere."""
    if _parent_file(grandparent, parent, str(parent)).samefile(path):
        return RecipeError(
            f"{where}: {path.name} and {parent.name} extend each other",
            hint=f"remove extends from {parent}, and give it every key that has no default",
        )
    return RecipeError(
        f"{where}: {parent.name} itself extends {grandparent}; a recipe has at most one parent",
        hint=f"extend {grandparent} here, with what {parent.name} changes; or avtool recipes show {parent} > "
        f"whole.yaml, and extend that",
    )


def _parent_file(parent: str, path: Path, where: str) -> Path:
    try:
        return find_recipe(parent, beside=path.parent)
    except RecipeError as error:
        raise RecipeError(f"{where}: extends: {error.message}", hint=error.hint) from None


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Lay ``over`` on ``base``: sections are merged, all else is replaced."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _read(path: Path) -> tuple[dict[str, Any], Origins]:
    """The YAML mapping in a file and the line of each of its keys."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not text in UTF-8", hint="a recipe is a YAML file") from None
    origins: Origins = {}
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(
                f"{path}: a recipe is a mapping of keys to values", hint="avtool recipes show tiny"
            )
        return _mapping(loader, node, str(path), (), origins), origins
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = path if mark is None else f"{path}:{mark.line + 1}"
        raise RecipeError(
            f"{where}: {yaml_problem(error)}", hint="check indentation, colons and quotes there"
        ) from None
    finally:
        loader.dispose()


def _mapping(
    loader: yaml.SafeLoader, node: yaml.MappingNode, file: str, at: Key, origins: Origins
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if len(at) > DEEPEST:
        raise RecipeError(
            f"{file}:{node.start_mark.line + 1}: nested too deep", hint="avtool recipes show tiny"
        )
    for key_node, value_node in node.value:
        name = str(loader.construct_object(key_node, deep=True))
        where = f"{file}:{key_node.start_mark.line + 1}"
        if name in values:
            raise RecipeError(
                f"{where}: {'.'.join((*at, name))} stands here a second time, after {origins[(*at, name)]}",
                hint="remove one of the two",
            )
        origins[(*at, name)] = where
        if isinstance(value_node, yaml.MappingNode):
            values[name] = _mapping(loader, value_node, file, (*at, name), origins)
        else:
            values[name] = loader.construct_object(value_node, deep=True)
    return values


def _paths(values: dict[str, Any], at: Key = ()) -> Iterator[Key]:
    for name, value in values.items():
        yield (*at, str(name))
        if isinstance(value, dict):
            yield from _paths(value, (*at, str(name)))
