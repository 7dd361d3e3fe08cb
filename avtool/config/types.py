"""Types of values in recipes, and what every section of a recipe is."""

from typing import Annotated, Any, Literal

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
