"""What the page of ``avtool serve`` shows of a visitor's files, without its server: the bytes of the commands, within
bounds, and nothing left on the disk."""

from __future__ import annotations

import base64
import contextlib
import html
import re
import socket
import struct
import sys
import tempfile
import types
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from avtool.checkpoint import save_checkpoint
from avtool.cli import app
from avtool.errors import MediaError, UsageError
from avtool.media.container import MediaFile
from avtool.model.build import random_model
from avtool.predict import Chosen, choose_model
from avtool.serve import found as serving
from avtool.serve.found import Bounds, check_encoder, find
from tests import clips
from tests.models import described
from tests.unit.test_load_export import SETTINGS, SPECTROGRAM

KINDS: dict[str, dict[str, object]] = {
    "autoencoder": {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2},
    "classifier": {"classes": 5},
    "separation": {},
    "segmentation": {"classes": 1, "dim": 128},
}
COMMANDS = {
    "autoencoder": [],
    "classifier": ["classify CLIP --json > classes.json"],
    "separation": ["separate CLIP --out sounds"],
    "segmentation": ["segment CLIP --out masks.npz", "segment CLIP --out masks.mp4"],
}
MAPS = ["localize CLIP --controls --out maps.npz", "localize CLIP --controls --out heatmap.mp4"]
NAME = "a 'clip' <b>.mp4"
Chooser = dict[str, Chosen]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Chooser:
    found = {}
    for kind, own in KINDS.items():
        folder = tmp_path_factory.mktemp("models") / kind
        config = described(kind, {**SETTINGS, **own}, SPECTROGRAM)
        save_checkpoint(folder, model=random_model(kind, config.settings, seed=0), config=config)
        found[kind] = choose_model(folder, device=torch.device("cpu"))
    return found


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return clips.clip(tmp_path / "theirs" / NAME, 2.0, fps=10)


def run(line: str, folder: Path, given: list[Path], model: Chosen) -> None:
    """Run ``avtool LINE`` in ``folder``; CLIP stands for ``given``."""
    line, _, output = line.partition(" > ")
    words = [word for part in line.split() for word in (map(str, given) if part == "CLIP" else [part])]
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, [*words, "--model", str(model.checkpoint)])
    assert done.exit_code == 0, done.stderr
    if output:
        (folder / output).write_text(done.stdout, encoding="utf-8")


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_those_of_the_commands_byte_by_byte(
    kind: str, models: Chooser, clip: Path, tmp_path: Path
) -> None:
    found = find([clip], models[kind], Bounds(), videos=True)
    folder = tmp_path / "found"
    folder.mkdir()
    for line in (*COMMANDS[kind], *MAPS):
        run(line, folder, [clip], models[kind])
    wanted = files_in(folder)
    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0
    wanted["clip.html"] = (tmp_path / "page.html").read_bytes()
    assert found.files.keys() == wanted.keys()
    assert [name for name in wanted if found.files[name] != wanted[name]] == []
    assert found.page == wanted["clip.html"].decode() and found.notes == []
    typed = [line.replace("CLIP", "'a '\"'\"'clip'\"'\"' <b>.mp4'") for line in (*COMMANDS[kind], *MAPS)]
    assert found.commands == [*(f"avtool {line}" for line in typed), "avtool report FOLDER --out clip.html"]
    assert files_in(clip.parent).keys() == {NAME}  # nothing else is left


def offered(page: str) -> dict[str, bytes]:
    """The files that a visitor's page offers."""
    links = re.findall(r'download="([^"]*)" href="data:[^;]*;base64,([^"]*)"', page)
    return {html.unescape(name): base64.b64decode(content) for name, content in links}


def test_the_page_holds_all_files_and_what_a_name_says_is_text(models: Chooser, clip: Path) -> None:
    found = find([clip], models["separation"], Bounds())
    page = found.html()
    assert offered(page) == {name.replace("/", "-"): content for name, content in found.files.items()}
    assert "<b>" not in page and "<script" not in page
    (inner,) = re.findall(r'<iframe [^>]*sandbox="allow-scripts" srcdoc="([^"]*)"', page)
    assert html.unescape(inner) == found.page
    assert str(clip.parent) not in re.sub('base64,[^"&]*', "", re.sub('srcdoc="[^"]*"', "", page))


def test_what_is_too_large_for_a_page_is_named(
    models: Chooser, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find([clip], models["separation"], Bounds())
    monkeypatch.setattr(serving, "OFFERED", len(found.files["sounds/rest.wav"]) - 1)
    page = found.html()
    assert "sounds/rest.wav (128 kB) is too large for this page" in page
    assert "sounds-rest.wav" not in offered(page) and "maps.npz" in offered(page)


def test_a_picture_with_a_sound(models: Chooser, tmp_path: Path) -> None:
    picture, sound = tmp_path / "a.png", tmp_path / "b.wav"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    soundfile.write(sound, clips.tone(2.0), clips.RATE)
    for kind, lines in {
        "autoencoder": [],
        "segmentation": ["segment CLIP --out mask.png --overlay overlay.png"],
    }.items():
        found = find([sound, picture], models[kind], Bounds(), videos=True)
        folder = tmp_path / kind
        folder.mkdir()
        for line in (*lines, "localize CLIP --controls --out heatmap.png"):
            run(line, folder, [picture, Path("--audio"), sound], models[kind])
        assert found.files == files_in(folder) and found.page is None
        assert found.html().count("<img ") == len(found.files)


def test_what_a_clip_cannot_be_used_for_is_said_and_the_rest_is_done(models: Chooser, tmp_path: Path) -> None:
    sound = tmp_path / "b.wav"
    soundfile.write(sound, clips.tone(2.0), clips.RATE)
    found = find([sound], models["classifier"], Bounds())
    assert [*found.files] == ["classes.json", "clip.html"]
    refused, warned = found.notes
    assert refused == "localize: b.wav has no video"
    assert warned == "warning: b.wav has no picture: b.wav is judged by its sound alone"
    with pytest.raises(UsageError, match="one clip at a time"):
        find([sound, sound], models["classifier"], Bounds())


def test_a_text_file_is_refused_with_a_sentence(models: Chooser, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no clip")
    with pytest.raises(MediaError, match=r"^text\.mp4 is a text file, not a clip"):
        find([text], models["autoencoder"], Bounds())
    assert files_in(tmp_path).keys() == {"text.mp4"}


def test_a_clip_is_as_long_as_its_packets_say(
    models: Chooser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clips.clip(tmp_path / "long.mp4", 4.0)
    monkeypatch.setattr(serving, "localize", lambda *_, **__: pytest.fail("it was computed"))
    with pytest.raises(UsageError, match=r"^long\.mp4 lasts 4 s: here a clip may last 3 s$"):
        find([clip], models["autoencoder"], Bounds(seconds=3))
    data = clip.read_bytes()
    for box, at in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):  # headers that say 1 s
        parts = data.split(box)
        data = box.join(
            [parts[0], *(part[:at] + struct.pack(">I", 1) + part[at + 4 :] for part in parts[1:])]
        )
    clip.write_bytes(data)
    with MediaFile(clip) as file:
        assert file.duration() < 1
    with pytest.raises(UsageError, match=r"^long\.mp4 lasts 4 s"):
        find([clip], models["autoencoder"], Bounds(seconds=3))


def test_a_missing_library_and_a_taken_port_are_said_with_the_way_out(
    models: Chooser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(models["autoencoder"].checkpoint)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = CliRunner().invoke(app, ["serve", "--model", model])
    assert done.exit_code == 2 and "avtool serve needs gradio" in done.stderr
    assert "hint: pip install 'avtool[serve]'" in done.stderr
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["serve", "--model", model, "--port", port])
    assert done.exit_code == 2 and f"port {port} of 127.0.0.1 is taken" in done.stderr
    assert "--port 0 for a free one" in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_an_encoder_of_one_modality_is_refused() -> None:
    chosen = SimpleNamespace(config=SimpleNamespace(kind="vit"), checkpoint=Path("vit"))
    with pytest.raises(UsageError, match="an encoder of pictures or of sounds alone"):
        check_encoder(chosen)
