"""avtool recipes and avtool doctor."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import avtool as avtool_package
from avtool.cli import doctor
from avtool.config.recipes import load_recipe
from avtool.config.shipped import recipe_names
from avtool.libraries import ONLY_FOR, TRIED
from tests.cli.conftest import Avtool, broken_packages
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
    shown = load_recipe(str(tmp_path / "shown.yaml"))
    assert shown.model_dump() == load_recipe("token", ["train.batch_size=64"]).model_dump()
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
    monkeypatch.setitem(doctor.MODULES, "nothing-of-the-kind", "avtool_nothing")
    found = doctor.examine()
    assert found["packages"]["nothing-of-the-kind"] == "not installed"
    assert found["broken"] == [
        "nothing-of-the-kind not installed cannot be imported: No module named 'avtool_nothing'"
    ]


def test_doctor_warns_of_versions_that_were_not_tried() -> None:
    assert doctor.version_warnings({"av": "17.1.0", "numpy": "2.5.9", "PyYAML": "6.0.3"}) == []
    (old,) = doctor.version_warnings({"av": "17.0.1"})
    assert old == "av 17.0.1 is older than any version that avtool was tested with: pip install 'av>=17.1'"
    (new,) = doctor.version_warnings({"opencv-python-headless": "5.1.0.2"})
    assert new == "opencv-python-headless 5.1.0.2 is newer than any version that avtool was tested with (5.0)"


def test_lower_ends_of_pyproject_are_those_that_were_tried() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    asked = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])
    assert asked == {name: oldest for name, (oldest, _) in TRIED.items()}


@pytest.mark.parametrize("package", ["torchaudio", "torchvision"])
def test_doctor_says_what_is_missing_without(package: str, avtool: Avtool) -> None:
    done = avtool("doctor", "--json", without=[package])
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["broken"] == []
    (warning,) = [line for line in found["warnings"] if line.startswith(package)]
    assert "cannot be imported: " in warning and warning.endswith(ONLY_FOR[package])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["bench", "data"],
            "bench data needs torchvision, which does not load here: operator torchvision::nms",
        ),
        (
            [
                "pretrain",
                "--recipe",
                "tiny",
                "--data",
                "data",
                "--dry-run",
                "init.image=timm:vit_tiny_patch16_224",
            ],
            "init.image=timm:NAME needs timm, which does not load here: operator torchvision::nms",
        ),
    ],
)
def test_what_needs_torchvision_says_so(command: list[str], message: str, avtool: Avtool) -> None:
    assert avtool("prepare", "synth", "--clips", "20", "--out", "data").returncode == 0
    done = avtool(*command, without=["torchvision"])
    assert done.returncode == 2 and f"error: {message}" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_every_module_is_imported_without_torchvision_and_torchaudio(tmp_path: Path) -> None:
    """As it has to be beside a CPU build of torch."""
    names = [module.name for module in pkgutil.walk_packages(avtool_package.__path__, "avtool.")]
    assert "avtool.features" in names and "avtool.bench.data" in names
    names.remove("avtool.serve.app")  # all of it is of an extra
    script = "\n".join(f"import {name}" for name in names if not name.endswith("__main__"))
    path = broken_packages(tmp_path, ["torchaudio", "torchvision"])
    script += "\nfrom avtool.features import LogMel\nassert LogMel().filters.shape == (401, 128)\n"
    path = os.pathsep.join([path, str(Path(avtool_package.__path__[0]).parent)])
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": path})


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
