"""What each command hands to the function behind it, and what it prints; the functions are stood in for."""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from avtool.cli import app
from avtool.cli.prepare import CLIPS


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("AVTOOL_DATA", "AVTOOL_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict[str, Any]]]:
    """Arguments of every call of a stand-in."""
    seen: list[tuple[tuple, dict[str, Any]]] = []

    def stand_in(module: str, name: str, result: Any = None) -> None:
        def record(*args: Any, **kwargs: Any) -> Any:
            seen.append((args, kwargs))
            return result

        fake = sys.modules.get(module) if isinstance(sys.modules.get(module), _Fake) else _Fake(module)
        setattr(fake, name, record)
        monkeypatch.setitem(sys.modules, module, fake)

    stand_in("avtool.tasks.localize.predict", "localize", SimpleNamespace(controls={}))
    stand_in("avtool.demo", "demo")
    stand_in("avtool.engine", "train", Path("runs/tiny-1"))
    stand_in("avtool.engine", "dry_run", "parameters: 7")
    stand_in("avtool.data.prepare", "prepare", _Report())
    return seen


class _Fake(ModuleType):
    pass


class _Report:
    out = Path("data/prepared/synth")
    prepared = 3

    def tallies(self) -> tuple[dict[str, int], dict[str, int]]:
        return {"no sound track": 1}, {"short": 2}

    def found(self) -> dict[str, str]:
        return {}

    def why(self) -> dict[str, str]:
        return {"no sound track": "a.mp4 has no sound track"}

    def as_dict(self) -> dict[str, Any]:
        counts = {"prepared": self.prepared, "refused": 1, "missing": 0, "flagged": 2}
        return {**counts, "reasons": {"no sound track": 1}, "stored": {"bytes_per_second": 75880}}


def invoke(*args: str) -> Result:
    return CliRunner().invoke(app, args)


@pytest.mark.parametrize("clip", [["--", "-x.mp4"], ["./-x.mp4"], ["x.mp4"]], ids=" ".join)
def test_localize_hands_on_clip_names_whatever_they_begin_with(clip: list[str], calls, work: Path) -> None:
    done = invoke("localize", "--out", "h.png", "--map", "cosine", "--at", "1.5", "--raw", "h.npy", *clip)
    assert done.exit_code == 0, done.output
    assert done.stdout == "h.png\nh.npy\n"
    ((args, kwargs),) = calls
    assert args == (Path(clip[-1]),)
    assert kwargs == {
        "out": Path("h.png"),
        "audio": None,
        "model": None,
        "at": 1.5,
        "every": None,
        "map": "cosine",
        "raw": Path("h.npy"),
        "controls": False,
        "other": None,
        "device": "auto",
        "force": False,
    }


def test_a_clip_name_that_begins_with_a_dash_is_otherwise_an_option(calls, work: Path) -> None:
    taken = "begins with - and was read as an option"
    for words, said in (
        (["-x.mp4"], f"-x.mp4 {taken}"),
        (["x.mp4", "--map", "sketch"], "--map sketch is not known"),
        (["x.mp4", "--at", "-1.5", "--sketch"], "--sketch"),  # a number is no clip's name
    ):
        done = invoke("localize", *words)
        output = " ".join(done.output.split())
        assert (done.exit_code, said in output, taken in output) == (2, True, taken in said), done.output
    assert calls == []


def test_pretrain_lays_settings_and_seed_over_the_recipe(calls, work: Path) -> None:
    (work / "d").mkdir()
    done = invoke(
        "pretrain", "--recipe", "tiny", "--data", "d", "--seed", "3", "optim.base_lr=1e-4", "max_steps=20"
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == "runs/tiny-1\n"
    (((recipe,), kwargs),) = calls
    assert (recipe.seed, recipe.optim.base_lr, recipe.max_steps) == (3, 1e-4, 20)
    assert (kwargs["data"], kwargs["resume"], kwargs["stop_after"]) == (Path("d"), False, None)
    assert kwargs["out"].parent == Path("runs")
    assert kwargs["out"].name.startswith("tiny-2")
    assert kwargs["command"][0] == "avtool"


@pytest.mark.parametrize("words", [["demo"], ["pretrain", "--recipe", "tiny", "--data", "d"]])
def test_a_seed_larger_than_torch_takes_is_refused_before_anything_is_done(words, calls, work: Path) -> None:
    done = invoke(*words, "--seed", str(2**63))
    assert done.exit_code == 2 and "is not from 0 to 2**63 - 1" in done.output and calls == []


def test_pretrain_finds_prepared_data_by_the_recipes_name(calls, work: Path, monkeypatch) -> None:
    monkeypatch.setenv("AVTOOL_DATA", "elsewhere")
    (work / "elsewhere" / "prepared" / "synth").mkdir(parents=True)
    assert invoke("pretrain", "--recipe", "tiny").exit_code == 0
    assert calls[0][1]["data"] == Path("elsewhere/prepared/synth")


def test_resume_takes_the_newest_run_of_this_recipe(calls, work: Path) -> None:
    (work / "d").mkdir()
    for run in ("tiny-20250101-000000", "tiny-20250102-000000", "tiny-of-mine-20250103-000000"):
        step = work / "runs" / run / "checkpoints" / "step-00000002"
        step.mkdir(parents=True)
        (step / "config.json").write_text("{}")
        (step / "model.safetensors").write_text("")
    assert invoke("pretrain", "--recipe", "tiny", "--data", "d", "--resume").exit_code == 0
    assert calls[0][1]["out"] == Path("runs/tiny-20250102-000000")
    assert invoke("pretrain", "--recipe", "dense", "--data", "d", "--resume").exit_code == 0
    assert calls[1][1]["out"].name.startswith("dense-2")


def test_dry_run_prints_the_resolved_recipe_and_the_models_facts(calls, work: Path) -> None:
    (work / "d").mkdir()
    done = invoke("pretrain", "--recipe", "tiny", "--data", "d", "--dry-run", "train.batch_size=2")
    assert done.exit_code == 0, done.output
    assert "batch_size: 2\n" in done.stdout
    assert done.stdout.endswith("parameters: 7\n")


def test_of_several_processes_one_says_what_a_run_would_be(
    calls, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    done = invoke("pretrain", "--recipe", "tiny", "--data", "d", "--dry-run")
    assert (done.exit_code, done.stdout, calls) == (0, "", [])


def test_a_dry_run_is_told_the_device(calls, work: Path) -> None:
    (work / "d").mkdir()
    assert (
        invoke("pretrain", "--recipe", "tiny", "--data", "d", "--dry-run", "--device", "cuda:99").exit_code
        == 0
    )
    assert calls[0][1]["device"] == "cuda:99"


def splits_of(folder: Path, **splits: int) -> None:
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"splits": splits, "settings": {"sample_rate": 16000}}))


def test_prepare_prints_a_table_and_the_next_command(calls, work: Path) -> None:
    splits_of(work / _Report.out, train=20, test=1)
    done = invoke("prepare", "synth", "--clips", "8", "--seed", "5")
    assert done.exit_code == 0, done.output
    how = {
        "subset": None,
        "part": None,
        "jobs": None,
        "engine": "local",
        "address": None,
        "settings": [],
        "licence": None,
    }
    assert calls == [(("synth", None), {"out": None, "force": False, "clips": 8, "seed": 5, **how})]
    assert re.findall(r"(\w[\w ]*?) +(\d+)\s", done.stdout)[:6] == [
        ("prepared", "3"),
        ("refused", "1"),
        ("missing", "0"),
        ("no sound track", "1"),
        ("flagged", "2"),
        ("short", "2"),
    ]
    assert "no sound track: a.mp4 has no sound track\n" in done.stdout
    assert done.stdout.endswith("next: avtool pretrain --recipe tiny\n")
    assert json.loads(invoke("prepare", "synth", "--json").stdout)["reasons"] == {"no sound track": 1}
    assert calls[1][1]["clips"] == CLIPS


def test_prepare_names_the_data_where_it_is_not_at_home(calls, work: Path, monkeypatch) -> None:
    monkeypatch.setattr(_Report, "out", Path("my clips"))
    splits_of(work / "my clips", train=30)
    assert invoke("prepare", "manifest", "x.csv").stdout.endswith("--recipe tiny --data 'my clips'\n")
    assert invoke("prepare", "synth", "--subset", "scenes").stdout.endswith(
        "--recipe tiny --data 'my clips'\n"
    )


def test_prepare_trains_on_all_where_no_split_is_for_training(calls, work: Path) -> None:
    splits_of(work / _Report.out, test=30)
    assert invoke("prepare", "synth").stdout.endswith("next: avtool pretrain --recipe tiny data.split=all\n")


def test_prepare_trains_in_batches_that_few_clips_fill(calls, work: Path) -> None:
    splits_of(work / _Report.out, test=3)
    printed = invoke("prepare", "synth").stdout
    assert printed.endswith("next: avtool pretrain --recipe tiny data.split=all train.batch_size=3\n")


def test_prepare_fails_where_nothing_was_prepared(calls, work: Path, monkeypatch) -> None:
    monkeypatch.setattr(_Report, "prepared", 0)
    done = invoke("prepare", "synth", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["prepared"] == 0


def test_demo_hands_on_its_options(calls, work: Path) -> None:
    assert invoke("demo", "--device", "cpu", "--force").exit_code == 0
    ((args, kwargs),) = calls
    assert args == (Path("avtool-demo"),)
    assert kwargs.pop("command")[0] == "avtool"
    assert kwargs == {"small": False, "force": True, "device": "cpu", "seed": 0, "threads": None}
    assert invoke("demo", "--small").exit_code == 0
    assert (calls[1][1]["small"], calls[1][1]["force"]) == (True, False)


def test_the_number_of_clips_told_by_the_help_is_the_one_behind_it() -> None:
    from avtool.data.prepare import prepare

    assert inspect.signature(prepare).parameters["clips"].default == CLIPS
