"""The shipped recipes: where they lie and what their head comments say. Imports no YAML and no schema."""

import difflib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from avtool.errors import RecipeError

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Head:
    """What a recipe's head comment says of it."""

    name: str
    purpose: str = ""
    command: str = ""
    hardware: str = ""
    time: str = ""
    score: str = ""


def recipes_folder(package: Path = PACKAGE) -> Path:
    """The folder of shipped recipes: inside the installed package, or beside it in a checkout."""
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise RecipeError(
        f"no recipes beside {package}", hint="install avtool again: pip install --force-reinstall ."
    )


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in recipes_folder().glob("*.yaml"))


def list_recipes() -> list[Head]:
    """The heads of the shipped recipes, by name."""
    return [read_head(recipes_folder() / f"{name}.yaml") for name in recipe_names()]


def read_head(path: Path) -> Head:
    """The ``# key: value`` lines at the top of a recipe, up to the first line that is no comment; a line that is set
    farther in goes on with the one before."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    found = re.findall(r"^# (\w+):(.*(?:\n#  .*)*)", head, re.MULTILINE)
    said = {key: " ".join(value.replace("\n#", " ").split()) for key, value in found}
    return Head(
        path.stem, **{key: said[key] for key in said if key in Head.__dataclass_fields__ and key != "name"}
    )


def find_recipe(name_or_path: str, *, beside: Path | None = None) -> Path:
    """The file of a recipe: a shipped name, or a path to a YAML file (seen from the folder ``beside``)."""
    path = Path(name_or_path) if beside is None else beside / name_or_path
    if path.suffix in {".yaml", ".yml"} or len(Path(name_or_path).parts) > 1:
        if path.is_file():
            return path
        raise RecipeError(f"no recipe file {path}", hint=f"shipped recipes: {', '.join(recipe_names())}")
    shipped = recipes_folder() / f"{name_or_path}.yaml"
    if shipped.is_file():
        return shipped
    near = difflib.get_close_matches(name_or_path, recipe_names(), n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"shipped recipes: {', '.join(recipe_names())}"
    raise RecipeError(f"unknown recipe {name_or_path!r}", hint=hint)
