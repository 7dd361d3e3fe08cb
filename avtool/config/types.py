"""Types of values in recipes, and what every section of a recipe or of a model's config.json is."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


def _number(value: Any) -> Any:
    """YAML reads 1e-4 (no point in it) as text: make such text the number it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _whole(value: Any) -> Any:
    number = _number(value) if isinstance(value, str) else value
    return int(number) if isinstance(number, float) and number.is_integer() else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
ShareBelow1 = Annotated[Number, Field(ge=0, lt=1)]
PartialShare = Annotated[Number, Field(gt=0, lt=1)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**63)]
Size = Annotated[tuple[Whole, Whole], BeforeValidator(_tuple)]
Pair = Annotated[tuple[Number, Number], BeforeValidator(_tuple)]
Betas = Annotated[tuple[ShareBelow1, ShareBelow1], BeforeValidator(_tuple)]
Tokens = Annotated[tuple[Count, Count, Count], BeforeValidator(_tuple)]
Fold = Annotated[tuple[Whole, Whole], BeforeValidator(_tuple)]
Layers = Literal["all", "none"] | Annotated[tuple[Count, ...], BeforeValidator(_tuple)]
Text = Annotated[str, Field(min_length=1)]


def fault(key: str, message: str) -> PydanticCustomError:
    """An error of values that do not go together, laid at ``key``, relative to the section that raises it."""
    return PydanticCustomError("fault", "{message}", {"key": key, "message": message})


class Section(BaseModel):
    """A part of a recipe: no unknown keys, no silent conversions, never changed after it was read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def of(cls, section: BaseModel) -> Self:
        """This section out of one that has its keys, and others."""
        return cls.model_validate({name: getattr(section, name) for name in cls.model_fields})


class Classes(Section):
    """What config.json says of a head for classes."""

    classes: Whole
    """how many there are"""


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a key holds, also where it may be absent; None where its value is a plain one."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def keys(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key that ``section`` may have, dotted, with what it means."""
    for name, field in section.model_fields.items():
        yield prefix + name, field.description or ""
        if inner := section_in(field.annotation):
            yield from keys(inner, f"{prefix}{name}.")


def argument(*names: str) -> str:
    """The keyword argument that a key in sections is: decoder, dim is ``decoder_dim``, and fusion, kind ``fusion``."""
    return "_".join(names[:-1] if len(names) > 1 and names[-1] == "kind" else names)


def flat(section: Section, *above: str) -> dict[str, Any]:
    """A section as keyword arguments; ``above``: the sections that it lies in."""
    return {argument(*above, *key): value for key, value in leaves(section.model_dump()).items()}


def leaves(values: Mapping[str, Any], *above: str) -> dict[tuple[str, ...], Any]:
    """Nested ``values`` by their whole keys."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in values.items():
        found |= leaves(value, *above, name) if isinstance(value, Mapping) else {(*above, name): value}
    return found


def nested(section: type[Section], arguments: dict[str, Any], *above: str) -> dict[str, Any]:
    """The inverse of ``flat``: what ``section`` has of the ``arguments``, which are taken out of them."""
    found = {}
    for name, field in section.model_fields.items():
        if inner := section_in(field.annotation):
            found[name] = nested(inner, arguments, *above, name)
        elif (key := argument(*above, name)) in arguments:
            found[name] = arguments.pop(key)
    return found
