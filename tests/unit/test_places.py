"""Where things are looked for: variables of the environment, and whose fault it is where they are wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from avtool import places
from avtool.errors import AvtoolError, CheckpointError, UsageError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and an empty working folder beside it."""
    for name in ("AVTOOL_DATA", "AVTOOL_CACHE", "AVTOOL_MODEL", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def model_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    return folder


def test_a_tilde_is_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AVTOOL_DATA", "AVTOOL_CACHE", "AVTOOL_MODEL"):
        monkeypatch.setenv(name, f"~/{name}")
    assert places.prepared_folder("synth") == home / "AVTOOL_DATA" / "prepared" / "synth"
    assert places.pulled_models() == home / "AVTOOL_CACHE" / "models"
    model = model_at(home / "AVTOOL_MODEL")
    assert places.find_model(None) == (model, "$AVTOOL_MODEL")


def test_an_empty_variable_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AVTOOL_DATA", "AVTOOL_CACHE", "AVTOOL_MODEL", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert places.data_root() == Path("data")
    assert places.cache_root() == home / ".cache" / "avtool"
    with pytest.raises(UsageError, match=r"no model given, \$AVTOOL_MODEL is not set"):
        places.find_model(None)


@pytest.mark.parametrize(
    ("name", "find"), [("AVTOOL_DATA", places.data_root), ("AVTOOL_CACHE", places.cache_root)]
)
def test_a_file_in_place_of_a_folder_is_laid_at_the_variable(
    name: str, find, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv(name, "~/file")
    with pytest.raises(UsageError) as caught:
        find()
    assert caught.value.message == f"${name} is {home / 'file'}, a file: a folder is needed"
    assert f"unset {name}" in caught.value.hint
    monkeypatch.setenv(name, "~nobody-of-that-name/x")
    with pytest.raises(UsageError, match=rf"\${name} is ~nobody-of-that-name/x, and there is no such home"):
        find()


@pytest.mark.parametrize(
    ("value", "words"),
    [("nowhere", "no model at nowhere"), ("file", "file is a file"), ("empty", "empty holds no checkpoint")],
)
def test_a_wrong_model_is_laid_at_the_variable(
    value: str, words: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    Path("empty").mkdir()
    monkeypatch.setenv("AVTOOL_MODEL", value)
    with pytest.raises(CheckpointError) as caught:
        places.find_model(None)
    assert caught.value.message.startswith(f"$AVTOOL_MODEL: {words}")
    assert "AVTOOL_MODEL" in caught.value.hint and "--model" in caught.value.hint
    with pytest.raises(AvtoolError) as named:
        places.find_model(Path(value))
    assert named.value.message.startswith(words)


def test_the_demos_localizer_is_a_run_like_those_under_runs(home: Path, monkeypatch) -> None:
    """The one written last is taken, and where it came from is said."""
    assert places.usual_model() is None
    demo = model_at(places.checkpoint_folder(Path("avtool-demo/localizer"), 500))
    model_at(places.checkpoint_folder(Path("avtool-demo/pretrained"), 250))
    assert places.find_model(None) == (demo, "the demo in ./avtool-demo")
    own = model_at(places.checkpoint_folder(Path("runs/mine"), 3))
    os.utime(demo, (1, 1))
    assert places.find_model(None) == (own, "the newest run under ./runs")
    os.utime(own, (0, 0))
    assert places.find_model(None) == (demo, "the demo in ./avtool-demo")
    monkeypatch.setenv("AVTOOL_MODEL", "runs/mine")
    assert places.find_model(None) == (own, "$AVTOOL_MODEL")


def test_a_checkpoint_has_its_run_by_its_place() -> None:
    run = Path("runs/mine")
    assert places.run_of(places.checkpoint_folder(run, 3)) == places.run_of(run / places.BEST) == run
    assert places.run_of(Path("models/deepavfusion")) is None


def test_best_weights_that_are_not_whole_are_not_passed_over(home: Path) -> None:
    """A run's newest checkpoint is another model than its best."""
    newest = model_at(places.checkpoint_folder(Path("run"), 3))
    assert places.resolve_checkpoint(Path("run")) == newest
    best = model_at(Path("run") / places.BEST)
    assert places.resolve_checkpoint(Path("run")) == best
    (best / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"run/best lacks model\.safetensors") as caught:
        places.resolve_checkpoint(Path("run"))
    assert "run/checkpoints" in caught.value.hint
    assert places.resolve_checkpoint(newest) == newest
