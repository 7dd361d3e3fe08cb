"""avtool: prepare, pretrain, fine-tune, evaluate and run early-fusion audio-visual transformers.

``avtool.load(DIR).encode(image, audio)`` runs a model from one's own program, ``avtool.localize(CLIP)`` and its like do
what the commands do; nothing heavy is imported before that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avtool.errors import AvtoolError
    from avtool.loading import Model, load
    from avtool.model.encoder import Tokens
    from avtool.tasks.classify.predict import classify
    from avtool.tasks.embed.predict import embed
    from avtool.tasks.localize.predict import localize
    from avtool.tasks.segment.predict import segment
    from avtool.tasks.separate.predict import separate

__version__ = "0.1.0"
__all__ = ["AvtoolError", "Model", "Tokens", "classify", "embed", "load", "localize", "segment", "separate"]
_HOMES = {
    "AvtoolError": "avtool.errors",
    "Model": "avtool.loading",
    "Tokens": "avtool.model.encoder",
    "load": "avtool.loading",
    **{
        name: f"avtool.tasks.{name}.predict"
        for name in ("classify", "embed", "localize", "segment", "separate")
    },
}
"""Public name: the module that has it, imported when the name is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
