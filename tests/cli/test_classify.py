"""``avtool classify`` and ``avtool embed`` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from avtool.tasks.names import ClassNames
from tests import clips, timed
from tests.cli.conftest import Avtool
from tests.unit.test_embed import NAMES, checkpoint


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A model, a clip, one without sound and a text."""
    ClassNames(NAMES).write(checkpoint(tmp_path / "model"))
    clips.clip(tmp_path / "-x.mp4", 2.0)
    clips.write_clip(tmp_path / "mute.mp4", clips.level_frames(5), fps=5, waveform=None, sample_rate=16000)
    (tmp_path / "text.mp4").write_text("no clip")
    return tmp_path


def test_the_likeliest_classes_and_those_over_time(avtool: Avtool, home: Path) -> None:
    done = avtool("classify", "--model", "model", "--top", "2", "--", "-x.mp4")
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head == "-x.mp4: mean of 3 windows"
    assert len(lines) == 2 + 3 and all(line.split()[-1] in NAMES for line in lines)
    assert lines[2].split()[:4] == ["0.00", "to", "1.00", "s"]
    assert "model model (from --model)" in done.stderr
    single = avtool("classify", "--model", "model", "--every", "5", "--top", "9", "./-x.mp4")
    assert single.stdout.splitlines()[0] == "-x.mp4: mean of 2 windows"


def test_json_has_all_windows_and_what_failed(avtool: Avtool, home: Path) -> None:
    done = avtool(
        "classify", "--json", "--model", "model", "--", "text.mp4", "-x.mp4", "mute.mp4", "gone.mp4"
    )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    clip, mute = found["clips"]
    assert (clip["lacks"], mute["lacks"]) == (None, "sound")
    assert clip["clip"] == "-x.mp4" and len(clip["windows"]) == 3
    assert sum(entry["probability"] for entry in clip["top"]) == pytest.approx(1, abs=1e-4)
    assert {entry["class"] for entry in clip["windows"][0]["top"]} == set(NAMES)
    assert [entry["clip"] for entry in found["failed"]] == ["text.mp4", "gone.mp4"]
    for line in (
        "error: text.mp4 is a text file",
        "error: gone.mp4 does not exist",
        "mute.mp4 has no sound track: mute.mp4 is judged by its picture alone",
        "2 of 4 clips failed",
    ):
        assert line in done.stderr


def test_a_single_clip_that_fails_is_an_error_like_any_other(avtool: Avtool, home: Path) -> None:
    done = avtool("classify", "--model", "model", "gone.mp4")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-2] == "error: gone.mp4 does not exist"
    done = avtool("classify", "--model", "model", "mute.mp4")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "mute.mp4: without sound")
    done = avtool("classify", "-x.mp4")
    assert done.returncode == 2 and "write ./-x.mp4" in " ".join(done.stderr.split())


def test_it_is_said_where_the_picture_begins_late(avtool: Avtool, home: Path) -> None:
    timed.make(home / "late.mp4", picture_begins=2.0)
    done = avtool("classify", "--model", "model", "late.mp4")
    assert done.returncode == 0 and "late.mp4 has no new frame before 2.00 s" in done.stderr


def test_embed_writes_what_can_be_used(avtool: Avtool, home: Path) -> None:
    done = avtool("embed", "--model", "model", "--out", "t.npz", "--", "-x.mp4", "text.mp4")
    assert (done.returncode, done.stdout) == (1, "t.npz\n")
    assert "error: text.mp4 is a text file" in done.stderr
    with np.load(home / "t.npz") as file:
        assert file["files"].tolist() == ["-x.mp4"] and file["fusion"].shape == (1, 24)
    again = avtool("embed", "--model", "model", "--out", "t.npz", "./-x.mp4")
    assert again.returncode == 2 and "t.npz exists" in again.stderr


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_help_ends_in_examples(command: str, avtool: Avtool) -> None:
    done = avtool(command, "--help")
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 80
    examples, following = done.stdout[done.stdout.index("Examples:") :].split("Next:")
    assert examples.count(f"\n    avtool {command} ") == 3
    assert following.strip().startswith("avtool evaluate")
