"""Errors: one line on stderr, a way out, the right exit code, a traceback only when asked for."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from avtool.checkpoint import save_checkpoint
from avtool.commands import command
from avtool.errors import DataError, RecipeError
from avtool.model.build import build_model
from tests import clips
from tests.cli.conftest import Avtool
from tests.models import described


def raising(error: BaseException) -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            DataError("no clips in x.csv", hint="avtool prepare synth"),
            1,
            "error: no clips in x.csv\nhint: avtool prepare synth\n",
        ),
        (RecipeError("unknown key a"), 2, "error: unknown key a\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (
            OSError(errno.ENOSPC, "full", "out.png"),
            1,
            "error: no space left on the disk while writing out.png (",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            1,
            "error: a process that loads data has died: DataLoader worker (pid 7) is killed by signal: Killed\nhint: ",
        ),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2"),
            1,
            "error: another process of this job has ended\nhint: ",
        ),
        (ZeroDivisionError("of\nmine"), 1, "error: ZeroDivisionError: of mine\n"),
    ],
    ids=["failed", "usage", "interrupted", "disk", "worker", "peer", "defect"],
)
def test_errors_end_in_a_line_and_their_exit_code(error: BaseException, code: int, said: str) -> None:
    done = CliRunner().invoke(raising(error), [])
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr


def test_the_signal_that_ended_a_loading_process_is_said_where_torch_knows_it_only_as_a_cause() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    said = CliRunner().invoke(raising(error), []).stderr
    assert "has died: DataLoader worker (pid 7) is killed by signal: Killed\n" in said
    error.__cause__ = TimeoutError()
    assert "(pid(s) 7) exited unexpectedly\n" in CliRunner().invoke(raising(error), []).stderr


def test_debug_shows_the_traceback_too() -> None:
    done = CliRunner().invoke(raising(DataError("no clips")), ["--debug"])
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: no clips\n")


@pytest.mark.parametrize(
    ("value", "code"), [("cpu", 0), ("cuda:1", 0), ("auto", 0), ("gpu", 2), ("cuda:", 2)]
)
def test_devices(value: str, code: int) -> None:
    app = typer.Typer()

    @app.command()
    @command("device")
    def show(*, device: str) -> None:
        typer.echo(device)

    assert CliRunner().invoke(app, ["--device", value]).exit_code == code


@pytest.mark.parametrize(
    ("args", "code", "message", "hint"),
    [
        (["recipes", "show", "tinny"], 2, "unknown recipe 'tinny'", "did you mean tiny"),
        (
            ["recipes", "validate", "tiny", "optim.lr=1"],
            2,
            "argument 'optim.lr=1': unknown key optim.lr",
            "optim.base_lr",
        ),
        (
            ["recipes", "show", "tiny", "seed=1", "--raw"],
            2,
            "--raw shows the file as it is",
            "avtool recipes show tiny",
        ),
        (
            ["pretrain", "--recipe", "tiny"],
            1,
            "no prepared data at data/prepared/synth",
            "avtool prepare synth\n",
        ),
        (
            ["pretrain", "--recipe", "dense"],
            1,
            "no prepared data at data/prepared/vggsound",
            "avtool prepare vggsound\n",
        ),
        (
            ["finetune", "classify", "--recipe", "tiny", "--from", "run"],
            2,
            "recipe tiny is of task pretrain, not classify",
            "avtool recipes ls",
        ),
        (
            ["finetune", "classify", "--out", "nowhere", "--resume"],
            2,
            "there is no run at nowhere to go on with",
            "--recipe",
        ),
        (["localize", "x.mp4", "--device", "cuda:99"], 2, "device cuda:99 is not there", "--device cpu"),
        (["demo", "--device", "cuda:99"], 2, "device cuda:99 is not there", "--device cpu"),
        (
            ["recipes", "cp", "tiny", "."],
            2,
            ". is a folder, a file is needed",
            "avtool recipes cp tiny tiny.yaml",
        ),
        (["pretrain", "--recipe", "tiny", f"seed={2**63}"], 2, "seed", "seed of everything drawn at random"),
        (["prepare", "vggsound", "--clips", "3"], 2, "--clips and --seed go with synth", "leave them out"),
        (["pull", "deepavfusion-vggsoud"], 2, "no published weights", "did you mean deepavfusion-vggsound?"),
        (
            ["localize", "x.mp4", "--out", "/proc/x.png"],
            2,
            "nothing can be written in /proc",
            "another --out",
        ),
        (["prepare", "synth", "--out", "/proc/x"], 2, "nothing can be written in /proc", "another --out"),
        (["localize", f"{'x' * 300}.mp4"], 1, "is longer than the file system takes", "a shorter one"),
    ],
    ids=[
        "recipe",
        "key",
        "raw",
        "data",
        "data-full",
        "other-task",
        "resume-nothing",
        "device-before-clip",
        "device-before-rendering",
        "folder",
        "seed",
        "synth-only",
        "weights",
        "out",
        "prepare-out",
        "name",
    ],
)
def test_bad_input_is_named_with_a_way_out(
    args: list[str], code: int, message: str, hint: str, avtool: Avtool, tmp_path: Path
) -> None:
    done = avtool(*args)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr.splitlines()[0]
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [
        ["bogus"],
        ["localize", "--bogus", "x.mp4"],
        ["pretrain"],
        ["localize"],
        ["evaluate", "x", "--data", "d", "--windows", "101"],
    ],
    ids=" ".join,
)
def test_unknown_commands_and_options_are_wrong_usage(args: list[str], avtool: Avtool) -> None:
    done = avtool(*args)
    assert done.returncode == 2
    assert "avtool" in done.stderr


@pytest.mark.parametrize("command", ["localize", "inspect"])
def test_a_clip_read_as_an_option_is_answered_with_how_to_write_it(command: str, avtool: Avtool) -> None:
    done = avtool(command, "-dash.mp4")
    assert done.returncode == 2 and done.stdout == ""
    assert "write ./-dash.mp4, or put -- before it" in " ".join(done.stderr.split())
    assert "--devise" in avtool(command, "--devise", "x.mp4").stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not UTF-8")
def test_names_that_are_not_utf_8(avtool: Avtool, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    clips.clip(folder / "x.mp4", 2.0)
    settings = {"image_size": [32, 32], "audio_size": [32, 32], "dim": 32, "depth": 2, "heads": 2}
    model = build_model("autoencoder", settings)
    model.reset_parameters()
    config = described("autoencoder", settings)
    save_checkpoint(folder / "model", model=model, config=config)
    out = folder / "map.png"
    arguments = [str(path) for path in (folder / "x.mp4", "--model", folder / "model", "--out", out)]
    done = avtool("localize", *arguments, errors="surrogateescape")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n" and out.is_file()
    for path in (folder / "x.mp4", folder / "model"):
        done = avtool("inspect", str(path), "--json", errors="strict")
        assert json.loads(done.stdout)["path"] == str(path), done.stderr


def test_a_pipe_is_no_clip(avtool: Avtool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mp4")
    done = avtool("localize", "x.mp4")
    assert done.returncode == 1
    assert done.stderr.startswith("error: x.mp4 is a pipe, a file is needed\nhint: ")


def test_a_wrong_choice_is_answered_with_the_choices(avtool: Avtool) -> None:
    done = avtool("localize", "x.mp4", "--map", "foo")
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("--map foo", "attention", "difference", "cosine"))


@pytest.mark.parametrize(
    ("option", "name"), [("--out", "map.png"), ("--raw", "map.npy")], ids=["picture", "raw"]
)
def test_an_output_that_exists_is_refused_by_the_name_of_its_option(
    option: str, name: str, avtool: Avtool, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    done = avtool("localize", "x.mp4", option, name)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {name} exists\nhint: choose another {option}, or add --force to replace it\n"
    )
