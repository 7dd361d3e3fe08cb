"""The demo's folder: whose it is, what of it is replaced, and what stays where a demo breaks off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from avtool import demo as demo_module
from avtool.demo import DEMO_JSON, FULL, MADE, OF_BEFORE, demo, what_next
from avtool.errors import AvtoolError, UsageError
from avtool.places import checkpoint_folder
from tests.unit.test_places import model_at


class Interrupted(BaseException):
    """As KeyboardInterrupt, which would end pytest as well."""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a demo goes; its commands are stood in for by one that pretrains halfway and is interrupted."""

    def interrupted(out: Path, _: object, note: Any, **__: object) -> None:
        note.begin("data")
        (out / "data").mkdir()
        (out / "data" / "new").touch()
        raise Interrupted

    monkeypatch.setattr(demo_module, "_make", interrupted)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "avtool-demo"


def made_in(out: Path, *names: str, finished: bool = True) -> None:
    """What a demo leaves, ``names`` of it, beside something of the user's."""
    for name in names:
        (out / name).mkdir(parents=True)
        (out / name / "old").touch()
    made = {name: ["old"] for name in names if name in MADE}
    (out / DEMO_JSON).write_text(json.dumps({"finished": finished, "made": made}))
    (out / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("finished", "names", "words"),
    [
        (
            True,
            MADE,
            "holds what a demo made: data, pretrained, clip.mp4, other.mp4, before.png, localizer, heatmap.png",
        ),
        (False, ("data.unfinished",), "holds what an unfinished demo made: data.unfinished"),
    ],
)
@pytest.mark.parametrize("small", [True, False])
def test_what_is_there_is_named_and_left(finished: bool, names, words: str, small: bool, out: Path) -> None:
    made_in(out, *names, finished=finished)
    with pytest.raises(UsageError) as caught:
        demo(out, small=small)
    assert caught.value.message == f"{out} {words}"
    assert caught.value.hint == "add --force to replace these, or choose another --out"
    assert all((out / name / "old").exists() for name in names)


def test_force_replaces_what_a_demo_made_and_nothing_else(out: Path, capsys) -> None:
    made_in(out, *MADE, "data.unfinished")
    (out / "mine").mkdir()
    with pytest.raises(Interrupted):
        demo(out, force=True, command=["avtool", "demo", "--force"])
    assert sorted(path.name for path in out.iterdir()) == ["data", DEMO_JSON, "mine", "notes.txt"]
    assert [path.name for path in (out / "data").iterdir()] == ["new"]
    facts = json.loads((out / DEMO_JSON).read_text())
    assert facts["finished"] is False and facts["clips"] == FULL.clips and facts["made"] == {"data": ["new"]}
    assert facts["command"] == ["avtool", "demo", "--force"]
    assert "keeps data; with --force the demo begins anew" in capsys.readouterr().err


@pytest.mark.parametrize("force", [True, False])
def test_a_folder_of_the_users_is_never_replaced(force: bool, out: Path) -> None:
    (out / "data").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"not even with --force: without demo\.json") as caught:
        demo(out, force=force)
    assert "another --out" in caught.value.hint
    assert [path.name for path in out.iterdir()] == ["data"]


@pytest.mark.parametrize("force", [True, False])
def test_what_is_there_under_its_names_and_was_never_made_by_a_demo_stays(force: bool, out: Path) -> None:
    made_in(out, "data", "pretrained", finished=False)
    (out / "localizer").mkdir()
    with pytest.raises(UsageError, match="localizer is there, and no demo made it"):
        demo(out, force=force)
    assert (out / "data" / "old").exists() and (out / "localizer").exists()


@pytest.mark.parametrize("name", ["localizer/mine.json", "data/mine/notes.txt", "pretrained/link"])
def test_what_is_not_a_demos_stays_also_inside_what_it_made(name: str, out: Path) -> None:
    made_in(out, *MADE)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to(out.parent) if name.endswith("link") else (out / name).touch()
    with pytest.raises(UsageError, match="holds what a demo made"):
        demo(out)
    with pytest.raises(UsageError, match=r"is there, and no demo made it") as caught:
        demo(out, force=True)
    assert str(out / Path(*Path(name).parts[:2])) in caught.value.message
    assert caught.value.hint == "choose another --out, or move it away"
    assert os.path.lexists(out / name) and all((out / made / "old").exists() for made in MADE)


def test_what_a_killed_demo_left_is_replaced(out: Path) -> None:
    """As is what a version left that named no files."""
    for made in ({"data": ["old"], "pretrained": None}, ["data", "pretrained"]):
        made_in(out, "data", "pretrained")
        (out / DEMO_JSON).write_text(json.dumps({"finished": False, "made": made}))
        with pytest.raises(Interrupted):
            demo(out, force=True)
        assert not (out / "pretrained").exists() and [path.name for path in (out / "data").iterdir()] == [
            "new"
        ]
        (out / "data" / "new").unlink()
        (out / "data").rmdir()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"made": 3}', '{"made": {"data": 3}}'])
def test_a_broken_note_removes_nothing(content: str, out: Path) -> None:
    made_in(out, *MADE)
    (out / DEMO_JSON).write_text(content)
    with pytest.raises(AvtoolError, match=r"demo\.json is broken"):
        demo(out, force=True)
    assert (out / "data" / "old").exists()


def commands_in(out: Path, pretrain: tuple[str, ...], localize: tuple[str, ...]) -> None:
    for name, settings in (("pretrained", pretrain), ("localizer", localize)):
        (out / name).mkdir(parents=True)
        (out / name / "run.json").write_text(json.dumps({"command": ["avtool", *settings]}))


def test_a_demo_of_before_is_known_by_its_commands(out: Path) -> None:
    commands_in(out, *OF_BEFORE)
    with pytest.raises(UsageError, match="holds what an unfinished demo made: pretrained, localizer"):
        demo(out)
    (out / "notes.txt").touch()
    with pytest.raises(UsageError, match="not even with --force"):
        demo(out, force=True)
    commands_in(out.with_name("own"), OF_BEFORE[0], ("max_steps=9000",))
    with pytest.raises(UsageError, match="not even with --force"):
        demo(out.with_name("own"), force=True)


def test_a_demo_of_before_whose_note_is_damaged_is_not_replaced(out: Path) -> None:
    commands_in(out, *OF_BEFORE)
    (out / "pretrained" / "run.json").write_text("[")
    with pytest.raises(UsageError, match="not even with --force"):
        demo(out, force=True)


@pytest.mark.parametrize("name", ["dangling", "loop", "dangling/x", "loop/x"])
def test_a_link_that_leads_nowhere_is_named(name: str, out: Path) -> None:
    (out.parent / "dangling").symlink_to(out.parent / "nowhere")
    (out.parent / "loop").symlink_to(out.parent / "loop")
    with pytest.raises(UsageError, match=f"{name.partition('/')[0]} is a link that leads nowhere") as caught:
        demo(out.parent / name, force=True)
    assert caught.value.hint == "choose another --out"


def test_a_demo_that_made_nothing_leaves_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise UsageError("no")

    monkeypatch.setattr(demo_module, "_make", refused)
    with pytest.raises(UsageError, match="no"):
        demo()
    assert not out.exists()
    out.mkdir()
    (out / DEMO_JSON).write_text('{"made": []}')
    (out / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"^no$"):  # there is nothing to replace, so nothing to ask for
        demo()
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_the_next_command_names_the_model_where_another_would_be_taken(out: Path, monkeypatch) -> None:
    monkeypatch.delenv("AVTOOL_MODEL", raising=False)
    localizer = out / "localizer"
    model_at(checkpoint_folder(localizer, 3))
    assert what_next(localizer) == "avtool localize clip.mp4 --out heatmap.png"
    named = f"avtool localize clip.mp4 --model {localizer} --out heatmap.png"
    monkeypatch.setenv("AVTOOL_MODEL", "mine")
    assert what_next(localizer) == named
    monkeypatch.delenv("AVTOOL_MODEL")
    monkeypatch.chdir(out)
    assert what_next(localizer) == named


def test_a_command_that_ignores_ctrl_c_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As what a script starts in the background does."""
    monkeypatch.setattr(demo_module, "_GRACE", 0.1)
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        timer = threading.Timer(20, process.kill)
        timer.start()
        demo_module._stop(process)
        timer.cancel()
    assert process.returncode == -signal.SIGTERM
