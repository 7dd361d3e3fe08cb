"""README and docs: every block runs, in order, in one folder a page, on small data and small models; and every link,
path, command, option, recipe and recipe key that the pages name is there.

The text of a block is run as it stands. Around it, recipes are made small, rendered data sets short, and the published
weights are a small model on a server on loopback.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
import torch
import typer
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from avtool.cli import app
from avtool.config import recipes
from avtool.config.shipped import list_recipes
from avtool.data.catalog import Request, Source, synth
from avtool.loading import Model
from avtool.model.build import build_model
from avtool.model.published import to_published
from avtool.published import PUBLISHED
from avtool.registry import DATASETS, FUSIONS, TASKS, resolve
from avtool.tasks.localize.maps import EVERY
from tests.clips import clip
from tests.hub import TOKEN, Hub, isolate
from tests.unit.test_other_programs import cav_mae, vit
from tests.unit.test_pull import SETTINGS, saved, serving

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ONLY_PARSED = {
    "pip install .": "installs from the network",
    "pip install '.[dev]' && pytest": "installs from the network; this is pytest",
    "pip install 'avtool[parquet]'": "installs from the network",
    "avtool convert-data data/prepared/vggsound --to parquet --out data/parquet/vggsound": (
        "needs pyarrow; tests/unit/test_readers.py runs it"
    ),
    "pip install 'avtool[serve]'": "installs from the network",
    "avtool serve --model runs/localize": "needs gradio; tests/e2e/test_serve_in_browser.py runs it",
    "avtool demo": "tests/e2e/test_demo_twice.py runs it",
    "avtool bench fusion": "minutes at full size; tests/unit/test_bench.py runs all of them small",
    "avtool bench step": "as bench fusion",
    "avtool bench step --size tiny --json": "as bench fusion",
    "avtool bench data": "as bench fusion",
    "python docs/compare_seeds.py data/prepared/synth out/seeds": "hours",
    "python docs/compare_folds.py data/prepared/animals out/folds --pretrain-steps 300": "hours",
    "python docs/compare_fusion.py out/fusion": "two hours",
    "python docs/pairwise.py out/pairwise": "a quarter of an hour",
    "avtool prepare vggsound downloads/vggsound --part $SLURM_ARRAY_TASK_ID/64": "64 parts; data.md runs two",
    "#!/bin/bash": "a job for Slurm",
}
"""What is not run, a line of a block or a whole script by its first line, and why. Its options are checked all the
same."""
SMALL = (
    "max_steps=2",
    "train.batch_size=2",
    "train.accumulate=1",
    "train.eval_clips=0",
    "data.workers=0",
    "model.image_size=[64,64]",
    "model.audio_size=[64,96]",
    "model.dim=128",
    "model.depth=1",
    "model.heads=2",
    "model.fusion.tokens=[4,2,2]",
    "model.decoder={dim: 16, depth: 1, heads: 2}",
)
CLIPS = 24
"""Rendered clips at most."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks of a page."""
    return BLOCK.findall(TEXT[page])


def lines_of(script: str) -> list[str]:
    """The commands of a shell block: without comments, long ones on one line."""
    joined = re.sub(r"\\\n\s*", "", script)
    return [line for line in (re.sub(r"\s+# .*", "", line) for line in joined.splitlines()) if line.strip()]


def shell_lines(page: str) -> list[str]:
    """What ONLY_PARSED may name of a page: the lines of its shell blocks, and the first one of each script."""
    found = []
    for language, text in blocks(page):
        if language == "sh":
            found += [text.splitlines()[0]] if text.startswith("#!") else lines_of(text)
    return found


COMMANDS = typer.main.get_command(app)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that ``words`` after ``avtool`` name, and what follows its name."""
    command, rest = COMMANDS, list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    return command, rest


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}


def check_parses(words: list[str]) -> None:
    """What the command line says of ``words`` before it runs anything."""
    command, rest = command_of(words)
    command.make_context("avtool", rest)


class Folder:
    """Where a page's blocks run, one after the other."""

    def __init__(self, variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.variables, self.monkeypatch = variables, monkeypatch

    def sh(self, text: str) -> None:
        if text.startswith("#!"):
            assert text.splitlines()[0] in ONLY_PARSED, text
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
            (line,) = (line for line in lines_of(text) if "torchrun" in line)
            words = shlex.split(os.path.expandvars(line.removesuffix("&").partition("srun ")[2]))
            check_parses(self.under_torchrun(words[1:]))
            return
        for line in lines_of(text):
            words = shlex.split(os.path.expandvars(line))
            self.run(words, only_parse=line in ONLY_PARSED)

    def run(self, words: list[str], *, only_parse: bool) -> None:
        match words:
            case ["avtool", *arguments] if only_parse:
                check_parses(arguments)
            case ["avtool", *arguments, ">", file]:
                Path(file).write_text(self.avtool(arguments))
            case ["avtool", *arguments]:
                self.avtool(arguments)
            case ["torchrun", *arguments]:
                self.avtool(self.under_torchrun(arguments))
            case ["export", pair]:
                self.monkeypatch.setenv(*pair.split("=", 1))
            case ["python", script, *arguments] if only_parse:
                source = (ROOT / script).read_text(encoding="utf-8")
                for option in (word for word in arguments if word.startswith("--")):
                    assert f'"{option}"' in source, f"{script} has no {option}"
            case ["pip", "install", *_] if only_parse:
                pass
            case _:
                pytest.fail(f"{shlex.join(words)} is run by nothing here: list it in ONLY_PARSED")

    @staticmethod
    def under_torchrun(arguments: list[str]) -> list[str]:
        """The words after ``avtool`` of a line for torchrun, whose own options are checked."""
        parsed = get_args_parser().parse_args(arguments)
        assert parsed.module and parsed.training_script == "avtool"
        return parsed.training_script_args

    @staticmethod
    def avtool(arguments: list[str]) -> str:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"avtool {shlex.join(arguments)}\n{done.output}\n{done.exception!r}"
        return done.stdout

    def python(self, text: str) -> None:
        exec(compile(text, "block", "exec"), self.variables)  # what the page says


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take as given: clips, a picture and its sound, a checkpoint, and VGGSound as it is published."""
    home = tmp_path_factory.mktemp("given")
    clip(home / "clip.mp4", size=(90, 120), seed=7)
    clip(home / "other.mp4", seed=8)
    cv2.imwrite(str(home / "photo.jpg"), np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    soundfile.write(home / "sound.wav", np.random.default_rng(0).normal(0, 0.1, 32000), 16000)
    source, rows = home / "data" / "vggsound", []
    for number in range(10):
        label, split = ("dog barking", "sea waves")[number % 2], "test" if number > 7 else "train"
        place = source / "clips" / label.replace(" ", "_") / f"clip{number:07d}_000030_000040.mp4"
        clip(place, seed=number)
        rows.append((f"clip{number:07d}", 30, label, split))
    (source / "annotations").mkdir()
    with (source / "annotations" / "vggsound.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    model = build_model("autoencoder", SETTINGS)
    model.reset_parameters()
    state = to_published(model.state_dict(), fusion="factorized")
    (home / "checkpoint.pth").write_bytes(saved({"state_dict": state}))
    learned = {"cls_token": torch.ones(1, 1, 64), "pos_embed": torch.ones(1, 197, 64)}
    torch.save({"teacher": vit().state_dict() | learned}, home / "dino.pth")
    torch.save(cav_mae(), home / "cav-mae.pth")
    return home


@pytest.fixture(scope="session")
def prepared(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGGSound, prepared."""
    out = tmp_path_factory.mktemp("prepared") / "vggsound"
    Folder.avtool(["prepare", "vggsound", str(files / "data" / "vggsound"), "--out", str(out)])
    return out


@pytest.fixture
def home(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``files``, and nothing of the caller's environment."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    for name in [name for name in os.environ if name.startswith("AVTOOL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AVTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every recipe, data set to render and published model small, wherever it is named."""
    load, read = recipes.load_recipe, synth.DATASET.read

    def load_small(name: str, overrides: tuple[str, ...] = ()) -> Any:
        recipe = load(name, overrides)
        start = ("init.image=none", "init.audio=none") if recipe.task == "pretrain" else ()
        found = load(name, [*overrides, *SMALL, *start])
        for key in found.asked.keys() - recipe.asked.keys():  # as if the recipe itself were small
            del found.asked[key]
        return found

    def read_few(source: Path, request: Request) -> Source:
        return read(source, replace(request, clips=min(request.clips, CLIPS)))

    monkeypatch.setattr(recipes, "load_recipe", load_small)
    monkeypatch.setitem(DATASETS._loaded, "synth", replace(synth.DATASET, read=read_few))
    monkeypatch.setitem(FUSIONS._places, "mean", torch.nn.Module)  # a page registers it: gone afterwards
    raw = {"vggsound.csv": (files / "data" / "vggsound" / "annotations" / "vggsound.csv").read_bytes()}
    server, content = Hub("Loie/VGGSound", raw), (files / "checkpoint.pth").read_bytes()
    isolate(monkeypatch, server, tmp_path / "hub")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    name = "deepavfusion-vggsound"
    published = replace(PUBLISHED[name], base=server.url, size=len(content), sha256=None)
    monkeypatch.setitem(PUBLISHED, name, published)
    server.files[published.path] = content
    with serving(server):
        yield


@pytest.mark.parametrize("page", TEXT)
def test_blocks_run_in_order(page: str, home: Path, small, request, monkeypatch) -> None:
    if page in ("cluster.md", "weights.md"):  # they begin where data.md ends
        shutil.copytree(request.getfixturevalue("prepared"), home / "data" / "prepared" / "vggsound")
    rows, columns = SETTINGS["image_size"]
    image = torch.zeros(2, 3, rows, columns, dtype=torch.uint8)
    audio = 0.1 * torch.randn(2, SETTINGS["audio_size"][1] * 250, generator=torch.Generator().manual_seed(0))
    if "import onnxruntime" in TEXT[page]:
        pytest.importorskip("onnxruntime")
    folder = Folder({"image": image, "audio": audio}, monkeypatch)
    end = 0
    for found in BLOCK.finditer(TEXT[page]):
        language, text = found.groups()
        match language:
            case "sh":
                folder.sh(text)
            case "python":
                folder.python(text)
            case "toml":  # the guests' own, which test_guests.py installs
                written = ConfigParser()
                written.read(
                    Path(__file__).parents[1] / "guests" / "loudness-1.0.dist-info" / "entry_points.txt"
                )
                groups = tomllib.loads(text)["project"]["entry-points"]
                assert groups == {name: dict(written[name]) for name in written.sections()}
            case "yaml" | "csv":  # a file, which the words before the block name
                names = re.findall(rf"`([\w-]+\.{language})`", TEXT[page][end : found.start()])
                Path(names[-1]).write_text(text, encoding="utf-8")
            case _:
                pytest.fail(f"{page}: a block of {language or 'no language'} is run by nothing here")
        end = found.end()


def test_only_what_is_there_is_excused() -> None:
    stale = {*ONLY_PARSED} - {line for page in TEXT for line in shell_lines(page)}
    assert not stale
    assert all(ONLY_PARSED.values())


def test_the_first_page_is_short() -> None:
    assert len(TEXT["README.md"].encode()) <= 6000


def test_what_a_newcomer_reads_first_is_short() -> None:
    page = (ROOT / "docs/extending.md").read_text()
    part = page.partition("## Where to start reading")[2].partition("A training step")[0]
    files = re.findall(r"`(avtool/[^`]+)`", part)
    assert len(files) > 15
    assert sum(len((ROOT / name).read_text().splitlines()) for name in files) < 3000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    prose = BLOCK.sub("", TEXT[page.name])
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for path in re.findall(r"`((?:avtool|tests|docs|recipes|\.ci)/[\w./-]*)`", prose):
        there = ROOT / path
        if "NAME" in path:
            assert ROOT.joinpath(path.partition("NAME")[0]).is_dir(), path
        elif not path.startswith(".ci/") or (ROOT / ".ci").exists():  # a source distribution has none
            assert there.exists(), path
    for module in re.findall(r"`(avtool(?:\.[a-z_]+)+)`", prose):
        folder = ROOT.joinpath(*module.split("."))
        inside = folder.parent.with_suffix(".py"), folder.parent / "__init__.py"
        named = any(file.is_file() and f"def {folder.name}" in file.read_text() for file in inside)
        named = named or any(file.is_file() and f'"{folder.name}"' in file.read_text() for file in inside)
        assert folder.is_dir() or folder.with_suffix(".py").is_file() or named, module
    for name, path in re.findall(
        r"`(\w+)`(?: there)? (?:in|of) `(avtool/[\w/]+\.py)`", " ".join(prose.split())
    ):
        assert "NAME" in path or re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), (
            f"{name} in {path}"
        )


TORCHRUN = {option for action in get_args_parser()._actions for option in action.option_strings}


@pytest.mark.parametrize("page", TEXT)
def test_commands_options_and_recipes_exist(page: str) -> None:
    prose = " ".join(BLOCK.sub("", TEXT[page]).split())
    every = [options_of(command_of([*words])[0]) for words in all_commands()]
    known = recipes.recipe_keys()
    sections = {key.split(".")[0] for key in known if "." in key}
    of_a_model = {"safetensors", *dir(Model), *Model.__annotations__}  # a file, or what Python's model has
    codes = [*re.findall(r"`([^`]+)`", prose), *shell_lines(page)]
    for code in codes:
        words = [word.strip("'\"") for word in code.split()]
        own = words[words.index("avtool") + 1 :] if "avtool" in words else None
        if own and own[0] != "COMMAND":
            command, _ = command_of(own)
            assert own[0].startswith("-") or command is not COMMANDS, code
            assert {word for word in own if word.startswith("--") and word != "--"} <= options_of(command), (
                code
            )
        elif not own and words[0].startswith("--") and words != ["--"]:
            assert any(words[0] in options for options in every) or words[0] in TORCHRUN, code
        for flag, name in pairwise(words):
            if flag == "--recipe" and name != "NAME" and not name.endswith(".yaml"):
                assert name in {recipe.name for recipe in list_recipes()}, code
        for word in words:
            section, _, key = re.split(r"[=(]", word)[0].partition(".")
            if section in sections and key not in ("", "py", *of_a_model):
                assert f"{section}.{key}" in known, code


def all_commands() -> list[list[str]]:
    """The words of every command."""
    return [
        [name, *below]
        for name, command in COMMANDS.commands.items()
        for below in ([[name] for name in command.commands] if hasattr(command, "commands") else [[]])
    ]


def cells(page: str, column: int = 0) -> set[str]:
    """Every name in code, in one column of a page's tables."""
    rows = [line.split("|")[1:-1] for line in TEXT[page].splitlines() if line.startswith("|")]
    return {name for row in rows if len(row) > column for name in re.findall(r"`([^`]+)`", row[column])}


def test_tables_leave_nothing_out() -> None:
    shown = " ".join(cells("README.md"))
    for words in all_commands():
        assert all(re.search(rf"\b{word}\b", shown) for word in words), (
            f"README has no avtool {' '.join(words)}"
        )
    data = cells("data.md")
    assert {*DATASETS} <= data
    assert {part for dataset in DATASETS.values() for part in dataset.subsets} <= cells("data.md", 1)
    tasks = cells("tasks.md") | cells("tasks.md", 1) | cells("tasks.md", 2)
    evaluations = [resolve(task.evaluation) for task in TASKS.values() if task.evaluation]
    assert {name for evaluation in evaluations for name in evaluation.protocols} <= tasks
    assert all(
        list(task.protocols) == list(resolve(task.evaluation).protocols if task.evaluation else ())
        for task in TASKS.values()
    )
    assert {name for name, task in TASKS.items() if task.training or task.evaluation} <= tasks
    assert {recipe.name for recipe in list_recipes()} <= tasks
    assert {*FUSIONS} <= tasks
    assert {*EVERY} <= tasks
    assert {*PUBLISHED} <= cells("weights.md")
