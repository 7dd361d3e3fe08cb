"""The libraries that avtool stands on: which versions were tried, and what is said where one does not load."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from avtool.errors import UsageError

TRIED = {
    "torch": ("2.11", "2.15"),
    "torchvision": ("0.26", "0.29"),
    "torchaudio": ("2.11", "2.11"),
    "timm": ("1.0.22", "1.0"),
    "huggingface_hub": ("0.30", "2.4"),
    "numpy": ("1.26", "2.5"),
    "av": ("17.1", "19.0"),
    "opencv-python-headless": ("4.10.0.84", "5.0"),
    "soundfile": ("0.12.1", "0.14"),
    "pillow": ("10", "13"),
    "pydantic": ("2.7", "2.14"),
    "PyYAML": ("6.0.1", "6.0"),
    "safetensors": ("0.4.5", "0.8"),
    "matplotlib": ("3.8", "3.11"),
    "jinja2": ("3.1", "3.1"),
    "threadpoolctl": ("3.5", "3.8"),
    "filelock": ("3.24", "4.3"),
    "typer": ("0.29", "0.29"),
    "rich": ("13.8", "15.0"),
}
"""Package: the oldest and the newest version that the tests were run with. pyproject.toml asks for the oldest."""
MODULES = {name: name for name in TRIED if name != "pillow"}  # which matplotlib brings
MODULES |= {"opencv-python-headless": "cv2", "PyYAML": "yaml"}
"""Package: the module it brings."""
ONLY_FOR = {
    "torchaudio": "nothing is missing: its mel filters are computed without it, to the same values",
    "torchvision": "evaluate --object-prior, init.image=timm:NAME and bench data need it, the rest does not",
    "timm": "init.image=timm:NAME needs it, the rest does not",
    "huggingface_hub": "avtool fetch and init.image=timm:NAME need it, the rest does not",
}
"""What needs a package that does not load beside every build of torch: torchaudio 2.11.0 wants the CUDA of the build
that it was made for (torch 2.11 to 2.14), torchvision the build of its own minor version; timm imports torchvision."""
BROKEN = (ImportError, OSError, RuntimeError, AttributeError)
"""What the import of a package with a broken binary raises."""


def problem_of(module: str) -> str:
    """Why ``module`` cannot be imported, in one line; "" where it can."""
    try:
        importlib.import_module(module)
    except BROKEN as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def need(module: str, *, purpose: str, hint: str = "") -> ModuleType:
    """Import ``module``. UsageError where it does not load, as torchvision beside a CPU build of torch; ``hint``: the
    way out of an optional package that is missing."""
    if problem := problem_of(module):
        package = module.partition(".")[0]
        raise UsageError(
            f"{purpose} needs {package}, which does not load here: {problem[:200]}",
            hint=hint
            or "avtool doctor shows what does not load; install builds that were made for this torch",
        )
    return importlib.import_module(module)


def need_extra(package: str, *, extra: str, purpose: str, otherwise: str = "", load: bool = False) -> None:
    """UsageError where ``package``, which comes with the ``extra`` of avtool, is not installed: ``purpose`` needs it,
    ``otherwise`` is the way without it. A folder of that name, such as wandb makes, is none. ``load``: also where it
    does not load; else nothing is imported."""
    hint = f"pip install 'avtool[{extra}]'" + (f", or {otherwise}" if otherwise else "")
    if load:
        need(package, purpose=purpose, hint=hint)
    elif (found := find_spec(package)) is None or found.origin is None:
        raise UsageError(f"{purpose} needs {package}, which is not installed", hint=hint)
