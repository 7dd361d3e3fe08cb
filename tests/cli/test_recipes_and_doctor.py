"""avtool recipes and avtool doctor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avtool.cli import doctor
from avtool.config.recipes import load_recipe
from avtool.config.shipped import recipe_names
from tests.cli.conftest import Avtool
from tests.unit.test_places import model_at


def test_recipes_are_listed(avtool: Avtool) -> None:
    done = avtool("recipes", "ls")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert names == recipe_names() and {"dense", "factorized", "tiny", "token"} <= set(names)
    assert max(map(len, done.stdout.splitlines())) <= 80
    listed = json.loads(avtool("recipes", "ls", "--json").stdout)["recipes"]
    assert [recipe["name"] for recipe in listed] == names
    assert listed[names.index("tiny")]["command"] == "avtool pretrain --recipe tiny"


def test_a_recipe_is_shown_resolved_copied_and_validated(avtool: Avtool, tmp_path: Path) -> None:
    shown = avtool("recipes", "show", "token", "train.batch_size=64")
    (tmp_path / "shown.yaml").write_text(shown.stdout)
    assert load_recipe(str(tmp_path / "shown.yaml")) == load_recipe("token", ["train.batch_size=64"])
    assert avtool("recipes", "cp", "token", "mine.yaml").stdout == "mine.yaml\n"
    assert (tmp_path / "mine.yaml").read_text() == avtool("recipes", "show", "token", "--raw").stdout
    assert avtool("recipes", "validate", "mine.yaml").stdout == "mine.yaml: valid\n"
    refused = avtool("recipes", "cp", "dense", "mine.yaml")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: mine.yaml exists\nhint: choose another DEST, or add --force to replace it\n"
    )
    assert avtool("recipes", "cp", "dense", "mine.yaml", "--force").returncode == 0
    assert "kind: dense" in (tmp_path / "mine.yaml").read_text()


def test_doctor_tells_versions_codecs_and_places(avtool: Avtool, tmp_path: Path) -> None:
    done = avtool("doctor", "--json", "--threads", "1")
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["broken"] else 0)
    assert found["broken"] == []
    assert set(found["codecs"].values()) == {"works"}
    assert found["packages"]["torch"].startswith("2.")
    assert found["threads"] == {"OMP_NUM_THREADS": "1", "torch": 1}
    assert found["places"]["data ($AVTOOL_DATA)"] == str(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_doctor_warns_of_places_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AVTOOL_DATA", str(tmp_path / "file"))
    monkeypatch.setenv("AVTOOL_MODEL", "nowhere")
    monkeypatch.setenv("AVTOOL_CACHE", "~/cache-of-mine")
    found = doctor.examine()
    assert found["warnings"][:2] == [
        f"$AVTOOL_DATA is {tmp_path / 'file'}, a file: a folder is needed",
        "$AVTOOL_MODEL: no model at nowhere",
    ]
    assert found["places"]["data ($AVTOOL_DATA)"] == "unusable"
    assert found["places"]["downloads ($AVTOOL_CACHE)"] == str(Path.home() / "cache-of-mine")
    assert found["broken"] == []


def test_doctor_fails_where_a_package_is_broken(monkeypatch) -> None:
    monkeypatch.setitem(doctor.PACKAGES, "nothing-of-the-kind", "avtool_nothing")
    found = doctor.examine()
    assert found["packages"]["nothing-of-the-kind"] == "not installed"
    assert found["broken"] == [
        "nothing-of-the-kind not installed cannot be imported: No module named 'avtool_nothing'"
    ]


def test_doctor_warns_of_versions_that_do_not_go_together() -> None:
    together = {"torch": "2.12.1+cpu", "torchvision": "0.27.1", "torchaudio": "2.11.0"}
    assert doctor.version_warnings(together) == []
    (warning,) = doctor.version_warnings(together | {"torch": "2.13.0"})
    assert warning.startswith("torch 2.13, torchvision 0.27, torchaudio 2.11 do not go together")


def test_doctor_finds_the_model_that_localize_would_take(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVTOOL_MODEL", raising=False)
    monkeypatch.setenv("AVTOOL_CACHE", str(tmp_path / "cache"))
    place = "model ($AVTOOL_MODEL, newest run)"
    assert doctor.examine()["places"][place] == "none yet"
    pulled = model_at(tmp_path / "cache" / "models" / "published")
    assert doctor.examine()["places"][place] == str(pulled)
    demo = model_at(tmp_path / "avtool-demo" / "localizer" / "checkpoints" / "step-00000002")
    assert doctor.examine()["places"][place] == str(demo)


def test_doctor_warns_of_two_kinds_of_opencv() -> None:
    assert doctor.opencv_warnings({"opencv-python-headless", "numpy"}) == []
    (warning,) = doctor.opencv_warnings({"opencv-python", "opencv-python-headless"})
    assert "pip uninstall opencv-python opencv-python-headless" in warning
