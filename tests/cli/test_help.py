"""Help: light to show, narrow enough, and ends in commands to copy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from avtool.bench.model import SIZES
from avtool.cli import app
from avtool.cli.finetune import FINETUNED
from avtool.devices import PRECISIONS
from avtool.export import ENCODER, ONNX, PT2, WHOLE
from avtool.registry import FUSIONS
from avtool.tasks.localize.maps import EVERY
from tests.cli.conftest import Avtool

COMMANDS = [
    [],
    ["prepare"],
    ["pretrain"],
    ["finetune"],
    ["evaluate"],
    ["score"],
    ["classify"],
    ["localize"],
    ["separate"],
    ["segment"],
    ["embed"],
    ["plot"],
    ["report"],
    ["pull"],
    ["push"],
    ["convert"],
    ["export"],
    ["serve"],
    ["inspect"],
    ["bench"],
    ["bench", "fusion"],
    ["bench", "step"],
    ["bench", "data"],
    ["demo"],
    ["doctor"],
    ["recipes"],
    ["recipes", "ls"],
    ["recipes", "show"],
    ["recipes", "cp"],
    ["recipes", "validate"],
]
HEAVY = (
    "torch",
    "torchvision",
    "torchaudio",
    "timm",
    "pydantic",
    "yaml",
    "av",
    "cv2",
    "numpy",
    "matplotlib",
    "jinja2",
    "click",
    "avtool.config.schema",
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_ends_in_examples(command: list[str], avtool: Avtool) -> None:
    done = avtool(*command, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    end = done.stdout[done.stdout.index("Examples:") :]
    examples, following = end.split("Next:")
    assert 2 <= examples.count("\n    avtool ") <= 4
    assert following.strip().startswith("avtool ")


@pytest.mark.parametrize(
    ("args", "allowed"),
    [
        (["--help"], []),
        (["--version"], []),
        (["recipes", "ls"], ["pydantic"]),  # Typer itself converts values with it
        (["pretrain", "--help"], ["pydantic"]),
        (["finetune", "--help"], ["pydantic"]),
        (["evaluate", "--help"], ["pydantic"]),
        (["classify", "--help"], ["pydantic"]),
        (["localize", "--help"], ["pydantic"]),
        (["report", "--help"], ["pydantic"]),
        (["pull", "--list"], ["pydantic"]),
        (["convert", "--help"], ["pydantic"]),
        (["inspect", "--help"], ["pydantic"]),
        (["bench", "data", "--help"], ["pydantic"]),
    ],
    ids=str,
)
def test_help_and_lists_import_nothing_heavy(args: list[str], allowed: list[str]) -> None:
    code = (
        "import sys\n"
        "from avtool.cli import main\n"
        f"sys.argv[1:] = {args!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('heavy:', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()[1:]) <= set(allowed)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("avtool pret", "pretrain"),
        ("avtool pretrain --rec", "--recipe"),
        ("avtool pretrain --recipe tok", "token"),
        ("avtool recipes show den", "dense"),
        ("avtool prepare vggs", "vggsound vggss vggsound-music"),
        ("avtool fetch av", "avsbench"),
        ("avtool finetune se", "separate segment"),
        ("avtool evaluate run --task re", "retrieve"),
        ("avtool evaluate run --protocol top1,t", "top1,top5"),
        ("avtool evaluate run --task segment --protocol negative-audio,", " ".join(
            f"negative-audio,{name}" for name in ("avs-tpavi", "avs-jf", "avs-published", "avs-semantic"))),
    ],
)  # fmt: skip
def test_the_shell_completes_names_and_imports_nothing_heavy(typed: str, shown: str) -> None:
    code = (
        "import sys\n"
        "from avtool.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules and name != 'pydantic'], file=sys.stderr)"
    )
    asked = {"_AVTOOL_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    asked["COMP_CWORD"] = str(len(typed.split(" ")) - 1)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **asked}
    )
    assert (done.stdout.split(), done.stderr.strip()) == (shown.split(), "")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("localize", EVERY),
        ("finetune", FINETUNED),
        ("bench fusion", [*FUSIONS, *PRECISIONS, *SIZES]),
        ("bench step", [*FUSIONS, *PRECISIONS, *SIZES]),
        ("export", [ENCODER, *WHOLE, PT2, ONNX]),
    ],
)
def test_help_names_all_that_can_be_chosen(command: str, names: Sequence[str]) -> None:
    """Help is shown without importing the tables."""
    said = CliRunner().invoke(app, [*command.split(), "--help"]).stdout
    assert [name for name in names if name not in said] == []


def test_matplotlib_waits_until_something_is_drawn() -> None:
    code = (
        "import sys, avtool.engine, avtool.evaluate, avtool.predict, avtool.inspect, avtool.pages\n"
        "import avtool.report.curves, avtool.report.pictures\n"
        "assert 'torch' in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_says_how_to_name_clips_that_begin_with_a_dash(avtool: Avtool) -> None:
    assert "begin with - go after -- or are written ./-x.mp4" in avtool("localize", "--help").stdout


def test_version(avtool: Avtool) -> None:
    from avtool import __version__

    assert avtool("--version").stdout == f"avtool {__version__}\n"
