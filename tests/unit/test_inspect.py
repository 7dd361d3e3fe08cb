"""inspect: what lies at a path is told truly, and what cannot be inspected is refused by name."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from avtool.checkpoint import save_checkpoint
from avtool.cli import app
from avtool.config.checkpoint import read_config
from avtool.config.recipes import load_recipe
from avtool.config.types import flat
from avtool.data.prepare import prepare
from avtool.data.shards import index_path, shard_path
from avtool.errors import AvtoolError, CheckpointError, DataError, MediaError, UsageError
from avtool.inspect import inspect, write_sheet
from avtool.model.build import build_model, count_parameters
from avtool.report.paint import MAT
from avtool.report.pictures import FRAME_HEIGHT, MEL_HEIGHT, TILE_WIDTH, Tile, contact_sheet
from avtool.tracking import MetricsLog, write_run_facts
from tests.clips import CLOCKWISE, clip, moving_frames, tag_rotation, tone, write_clip
from tests.models import described

YELLOW = (255, 210, 0)


def run(*args: object):
    return CliRunner().invoke(app, ["inspect", *map(str, args)])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of two classes, one with a box, one without a label; a sixth has no sound."""
    folder = tmp_path_factory.mktemp("inspect")
    for k in range(5):
        clip(folder / f"{k}.mp4", 1.0 + k, seed=k)
    write_clip(folder / "mute.mp4", moving_frames(5), fps=5, waveform=None, sample_rate=16000)
    lines = ["id,split,label,video,boxes"]
    lines += [f"c{k},train,{'dog' if k < 3 else 'cat' if k < 4 else ''},{k}.mp4," for k in range(5)]
    lines[1] += '"[[0.25, 0.25, 0.75, 0.75]]"'
    lines += ["mute,test,bird,mute.mp4,"]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    prepare("manifest", folder / "m.csv", out=folder / "p")
    return folder / "p"


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(dataset, tmp_path / "p")


@pytest.fixture
def training_run(tmp_path: Path) -> Path:
    """A run with checkpoints at steps 2 and 4, and metrics up to 5."""
    recipe = load_recipe("tiny", [])
    settings = flat(recipe.model)
    model = build_model("autoencoder", settings)
    model.reset_parameters()
    config = described("autoencoder", settings)
    for step in (2, 4):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        save_checkpoint(folder, model=model, config=config, trainer={"step": torch.tensor(step)})
    log = MetricsLog(tmp_path / "run", resume_step=0)
    for step in range(1, 6):
        log.write(step=step, loss=10.0 - step, **({"held_out_loss": 3.0} if step == 3 else {}))
    write_run_facts(tmp_path / "run", recipe_yaml="task: pretrain\nseed: 7\n", command=["avtool", "pretrain"])
    return tmp_path / "run"


# Data sets -------------------------------------------------------------------------------------------


def test_a_data_set_is_counted(dataset: Path) -> None:
    found = inspect(dataset)
    assert found["what"] == "data set"
    assert found["counts"] == {
        "prepared": 5,
        "refused": 1,
        "missing": 0,
        "flagged": found["counts"]["flagged"],
    }
    assert found["splits"] == {"test": 0, "train": 5}
    assert found["classes"] == {"count": 3, "no_clip": 1, "most": {"dog": 3, "cat": 1}}
    assert list(found["classes"]["most"]) == ["dog", "cat"]
    assert found["without_label"] == 1
    assert found["with"] == {"boxes": 1, "masks": 0, "stems": 0}
    lengths = found["durations"]
    assert (lengths["shortest"], lengths["median"]) == pytest.approx((1.0, 3.0), abs=0.15)
    assert (lengths["longest"], lengths["sum"]) == pytest.approx((5.0, 15.0), abs=0.5)
    assert found["report"]["reasons"]["no sound track"] == 1
    tars = [path.stat().st_size for path in (dataset / "shards").iterdir()]
    assert found["bytes"]["shards"] == sum(tars) and found["shards"] == len(tars) == 2
    on_disk = sum(path.stat().st_size for path in dataset.rglob("*") if path.is_file())
    assert found["bytes"]["all"] == on_disk > found["bytes"]["shards"] + found["bytes"]["index"]
    assert found["bytes"]["per_clip_second"] == pytest.approx(found["bytes"]["shards"] / lengths["sum"])
    assert found["frames"] == len(np.load(index_path(dataset, "frames")))
    assert found["settings"] == json.loads((dataset / "dataset.json").read_text())["settings"]
    assert found["verified"] is None


def test_verify_reads_everything_and_names_what_changed(copy: Path) -> None:
    found = inspect(copy, verify=True)
    assert found["verified"]["bytes"] == found["bytes"]["shards"] + found["bytes"]["index"]
    for path in (shard_path(copy, "train-00000.tar"), index_path(copy, "frames")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        inspect(copy)
        with pytest.raises(DataError, match=path.name):
            inspect(copy, verify=True)
        path.write_bytes(whole)
    text = (copy / "dataset.json").read_text()
    (copy / "dataset.json").write_text(text.replace('"jpeg_quality": 90', '"jpeg_quality": 91'))
    with pytest.raises(DataError, match=r"dataset\.json changed"):
        inspect(copy, verify=True)


def test_a_data_set_without_its_end_or_report_is_told(copy: Path) -> None:
    (copy / "report.json").write_text("{")
    with pytest.raises(DataError, match=r"report\.json is broken"):
        inspect(copy)
    (copy / "report.json").unlink()
    assert inspect(copy)["report"] is None
    assert ["report", "none"] in [line.split() for line in run(copy).stdout.splitlines()]
    (copy / "dataset.json").unlink()
    with pytest.raises(DataError, match="not a prepared data set"):
        inspect(copy)


def test_a_data_set_is_shown_in_a_screenful(dataset: Path) -> None:
    done = run(dataset, "--verify")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    text = " ".join(done.stdout.split())
    for words in (
        "prepared 5, refused 1",
        "without_label 1",
        "no sound track 1",
        "boxes 1",
        "verified files 10, bytes ",
        "most (dog 3, cat 1)",
        "median 3.0 s",
    ):
        assert words in text
    assert json.loads(run(dataset, "--json").stdout) == inspect(dataset)


# Sheets ----------------------------------------------------------------------------------------------


def test_a_tile_holds_frame_box_spectrogram_and_text() -> None:
    frame = np.full((96, 128, 3), (10, 120, 40), np.uint8)
    mel = np.full((8, 20), -6.0, np.float32)
    mel[:4, 10:] = 2.0  # loud in the low bands of the second half
    boxes = np.array([[0.25, 0.25, 0.75, 0.75]], np.float32)
    plain = contact_sheet([Tile(frame, boxes[:0], mel, [])])
    sheet = contact_sheet([Tile(frame, boxes, mel, ["clip", "train: dog"])])
    top, left = 12, 12
    assert plain.shape[1] == sheet.shape[1] == TILE_WIDTH + 24
    picture = sheet[top : top + FRAME_HEIGHT, left : left + TILE_WIDTH]
    assert (picture[5, 5] == frame[0, 0]).all()
    assert (picture[FRAME_HEIGHT // 4, TILE_WIDTH // 2] == YELLOW).all()
    assert not (plain == np.array(YELLOW, np.uint8)).all(-1).any()
    sound = (
        sheet[top + FRAME_HEIGHT : top + FRAME_HEIGHT + MEL_HEIGHT, left : left + TILE_WIDTH]
        .astype(int)
        .sum(-1)
    )
    quarter = MEL_HEIGHT // 4
    assert sound[-quarter:, -quarter:].mean() > 3 * max(
        sound[:quarter].mean(), sound[-quarter:, :quarter].mean(), 1
    )
    text = sheet[top + FRAME_HEIGHT + MEL_HEIGHT :]
    assert (text < 60).any()
    assert (plain[top + FRAME_HEIGHT + MEL_HEIGHT :] == 255).all()


def test_upright_and_wide_frames_are_shown_whole() -> None:
    mel = np.zeros((4, 4), np.float32)
    for height, width in ((320, 80), (40, 400), (1, 1)):
        frame = np.full((height, width, 3), (200, 0, 0), np.uint8)
        sheet = contact_sheet([Tile(frame, np.zeros((0, 4)), mel, ["x"])])
        red = (sheet[12 : 12 + FRAME_HEIGHT] == (200, 0, 0)).all(-1)
        rows, columns = red.any(1).sum(), red.any(0).sum()
        place = sheet[12 : 12 + FRAME_HEIGHT, 12 : 12 + TILE_WIDTH]
        assert (red[:, 12 : 12 + TILE_WIDTH] | (place == MAT).all(-1)).mean() > 0.95
        assert rows == FRAME_HEIGHT or columns == TILE_WIDTH
        assert rows / columns == pytest.approx(height / width, rel=0.05)


def test_silence_is_dark() -> None:
    quiet = contact_sheet(
        [Tile(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4)), np.full((8, 8), -7.0), ["x"])]
    )
    sound = quiet[12 + FRAME_HEIGHT : 12 + FRAME_HEIGHT + MEL_HEIGHT, 12 : 12 + TILE_WIDTH]
    assert sound.max() < 60


def test_a_sheet_is_drawn_from_the_seed(dataset: Path, tmp_path: Path) -> None:
    first = write_sheet(dataset, tmp_path / "a.png", clips=3, seed=1)
    assert first == write_sheet(dataset, tmp_path / "b.png", clips=3, seed=1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (
        len({tuple(write_sheet(dataset, tmp_path / "c.png", clips=3, seed=k, force=True)) for k in range(6)})
        > 1
    )
    assert write_sheet(dataset, tmp_path / "d.png", clips=99) == ["c0", "c1", "c2", "c3", "c4"]
    picture = cv2.imread(str(tmp_path / "d.png"))
    assert picture.shape[1] == 12 + 5 * (TILE_WIDTH + 12)
    assert (picture[..., ::-1] == YELLOW).all(-1).any()


def test_a_sheet_is_whole_or_not_there(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out" / "sheet.png"
    done = run(copy, "--sheet", out, "--clips", 2, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sheet"]["path"] == str(out)
    before = out.read_bytes()
    refused = run(copy, "--sheet", out)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    shard_path(copy, "train-00000.tar").write_bytes(b"cut")
    assert run(copy, "--sheet", out, "--force").exit_code == 1
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    "args",
    [
        ("--clips", 3),
        ("--seed", 3),
        ("--force",),
        ("--sheet", "sheet.jpg"),
        ("--sheet", "s.png", "--clips", 0),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(args: tuple, dataset: Path) -> None:
    assert run(dataset, *args).exit_code == 2


# Models ----------------------------------------------------------------------------------------------


def test_a_run_is_its_newest_checkpoint(training_run: Path) -> None:
    found = inspect(training_run)
    assert found["what"] == "model"
    assert found["checkpoint"].endswith("step-00000004")
    assert found["run"]["step"] == 4
    assert found["run"]["metrics"] == {"step": 4, "loss": 6.0, "held_out_loss": 3.0}
    assert found["run"]["recipe"] == {"task": "pretrain", "seed": 7}
    assert found["resumable"]
    (training_run / "checkpoints" / "step-00000004" / "trainer.pt").write_bytes(bytes(5000))
    assert not inspect(training_run)["resumable"]
    earlier = inspect(training_run / "checkpoints" / "step-00000002")
    assert earlier["run"]["metrics"] == {"step": 2, "loss": 8.0}
    parts = dict(found["parameters"])
    module = build_model("autoencoder", read_config(Path(found["checkpoint"])).settings)
    assert parts.pop("all") == sum(parts.values()) == count_parameters(module)
    assert parts["encoder.image"] == count_parameters(module.encoder.image)
    assert parts["image_decoder"] == count_parameters(module.image_decoder)


def test_a_converted_folder_has_no_run(training_run: Path, tmp_path: Path) -> None:
    shutil.copytree(training_run / "checkpoints" / "step-00000002", tmp_path / "model")
    (tmp_path / "model" / "trainer.pt").unlink()
    found = inspect(tmp_path / "model")
    assert (found["run"], found["resumable"]) == (None, False)
    done = run(tmp_path / "model")
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_run_is_shown_in_a_screenful(training_run: Path) -> None:
    done = run(training_run)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    for words in ("autoencoder", "held_out_loss 3", "seed 7", "encoder.fusion_blocks", "avtool, pretrain"):
        assert words in " ".join(done.stdout.split())
    assert json.loads(run(training_run, "--json").stdout) == inspect(training_run)


def test_weights_that_do_not_fit_are_told(training_run: Path) -> None:
    folder = training_run / "checkpoints" / "step-00000004"
    config = json.loads((folder / "config.json").read_text())
    config["model"]["depth"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="do not fit"):
        inspect(training_run)


@pytest.mark.parametrize("option", ["--verify", "--sheet"])
def test_options_of_data_sets_are_refused_elsewhere(option: str, training_run: Path, tmp_path: Path) -> None:
    done = run(training_run, option, *([tmp_path / "s.png"] if option == "--sheet" else []))
    assert done.exit_code == 2
    assert "goes with a data set" in done.stderr
    assert not (tmp_path / "s.png").exists()


# Clips -----------------------------------------------------------------------------------------------


def test_a_clip_is_told_as_it_is_and_as_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "stereo.mp4"
    sound = np.stack([tone(4.0, rate=44100), tone(4.0, rate=44100)], 1)
    write_clip(path, moving_frames(40, 400, 300 + 12), fps=10, waveform=sound, sample_rate=44100)
    tag_rotation(path, CLOCKWISE)
    found = inspect(path)
    assert (found["what"], found["bytes"]) == ("clip", path.stat().st_size)
    assert found["duration"] == pytest.approx(4.0, abs=0.1)
    video, audio = found["streams"]
    assert (video["type"], video["codec"], video["width"], video["height"]) == ("video", "h264", 312, 400)
    assert (video["fps"], video["rotation"]) == (10.0, 270)
    assert (audio["codec"], audio["rate"], audio["channels"], audio["layout"]) == ("aac", 44100, 2, "stereo")
    decoded = found["decoded"]
    assert (decoded["refused"], decoded["flags"], decoded["frames"]) == (None, [], 8)
    assert (decoded["source_size"], decoded["size"]) == ((400, 312), (328, 256))
    assert decoded["samples"] / decoded["sample_rate"] == pytest.approx(4.0, abs=0.1)
    assert decoded["dbfs"] == pytest.approx(20 * np.log10(0.5 / 2**0.5), abs=0.5)
    done = run(path)
    assert max(map(len, done.stdout.splitlines())) <= 80
    text = " ".join(done.stdout.split())
    for words in (
        "width 312, height 400",
        "rotation 270 degrees",
        "channels 2, layout stereo",
        "flags none",
        "400 x 312",
    ):
        assert words in text
    assert json.loads(run(path, "--json").stdout)["decoded"]["frames"] == 8


def test_flags_and_refusals_are_those_of_prepare(tmp_path: Path) -> None:
    frames = [np.full((48, 64, 3), 90, np.uint8)] * 10
    write_clip(tmp_path / "still.mp4", frames, fps=5, waveform=tone(2.0, level=0.001), sample_rate=16000)
    assert {"still picture", "short", "quiet"} <= set(inspect(tmp_path / "still.mp4")["decoded"]["flags"])
    write_clip(tmp_path / "mute.mp4", moving_frames(10), fps=5, waveform=None, sample_rate=16000)
    found = inspect(tmp_path / "mute.mp4")
    assert found["decoded"]["refused"] == "no sound track"
    assert len(found["streams"]) == 1
    done = run(tmp_path / "mute.mp4")
    assert done.exit_code == 0
    assert "refused no sound track" in " ".join(done.stdout.split())


def test_of_a_long_clip_the_first_minute_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    write_clip(path, moving_frames(70), fps=1, waveform=tone(70.0), sample_rate=16000)
    decoded = inspect(path)["decoded"]
    assert decoded["seconds"] == 60.0
    assert decoded["samples"] == 60 * 16000
    assert "decoded seconds 60 s" in " ".join(run(path).stdout.split())


# What cannot be inspected ----------------------------------------------------------------------------


def archive(path: Path, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for member, member_kind in (("fine.txt", tarfile.REGTYPE), (name, kind)):
            info = tarfile.TarInfo(member)
            info.type, info.linkname = member_kind, link if member == name else ""
            info.size = 5 if member_kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"bytes") if info.size else None)
    return path


@pytest.mark.parametrize(
    ("file", "name", "kind", "said"),
    [
        ("a.tar", "../up.txt", tarfile.REGTYPE, "'../up.txt' leads out of its folder"),
        ("a.tar.gz", "deep/../../up.txt", tarfile.REGTYPE, "leads out of its folder"),
        ("a.mp4", "/etc/passwd", tarfile.REGTYPE, "'/etc/passwd' leads out of its folder"),
        ("a.tar", "door", tarfile.SYMTYPE, "'door' is a link to 'else'"),
        ("a.tar", "door", tarfile.LNKTYPE, "'door' is a link to 'else'"),
        ("a.tar", "pipe", tarfile.FIFOTYPE, "'pipe' is neither file nor folder"),
        ("a.tar", "more.txt", tarfile.REGTYPE, "is a tar; of a prepared data set the folder is inspected"),
    ],
)
def test_archives_are_refused_by_the_name_of_what_is_wrong_in_them(
    file: str, name: str, kind: bytes, said: str, tmp_path: Path
) -> None:
    path = archive(tmp_path / file, name, kind, "else")
    with pytest.raises(DataError) as caught:
        inspect(path)
    assert said in caught.value.message
    assert path.name in caught.value.message
    assert list(tmp_path.iterdir()) == [path]


def test_a_tar_that_is_cut_short_is_told(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", "second.txt")
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match="damaged or cut short"):
        inspect(path)


def test_other_things_are_refused_with_a_way_out(dataset: Path, training_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "clips").mkdir()
    clip(tmp_path / "clips" / "-x y.mp4", 1.0)
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "none.mp4").touch()
    weights = training_run / "checkpoints" / "step-00000004" / "model.safetensors"
    expected: list[tuple[Path, type[AvtoolError], str, str]] = [
        (tmp_path / "empty", DataError, "is an empty folder", "name a data set"),
        (tmp_path / "clips", DataError, "neither a prepared data set nor a run", "'"),
        (tmp_path / "a.txt", MediaError, "is a text file", ""),
        (tmp_path / "a.mp4", MediaError, "is no clip", "damaged"),
        (tmp_path / "none.mp4", MediaError, "is empty", ""),
        (tmp_path / "nowhere", DataError, "there is nothing at", "check the path"),
        (dataset / "dataset.json", DataError, "a part of the folder", f"avtool inspect {dataset}"),
        (shard_path(dataset, "train-00000.tar"), DataError, "is a tar", f"avtool inspect {dataset}"),
        (weights, DataError, "a part of the folder", f"avtool inspect {weights.parent}"),
    ]
    for path, kind, said, hint in expected:
        with pytest.raises(kind) as caught:
            inspect(path)
        assert said in caught.value.message
        assert path.name in caught.value.message
        assert hint in caught.value.hint
    with pytest.raises(UsageError, match="--verify goes with a data set"):
        inspect(tmp_path / "clips" / "-x y.mp4", verify=True)


def test_a_prepared_set_s_name_leads_to_it(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVTOOL_DATA", str(tmp_path))
    shutil.copytree(dataset, tmp_path / "prepared" / "mine")
    with pytest.raises(DataError) as caught:
        inspect(Path("mine"))
    assert caught.value.hint == f"avtool inspect {tmp_path / 'prepared' / 'mine'}"


def test_a_data_set_with_a_shard_cut_short_is_no_data_set(tmp_path: Path) -> None:
    out = prepare("synth", out=tmp_path / "synth", clips=3, seed=0).out
    shard = out / "shards" / "train-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"train-00000.tar does not have the \d+ bytes"):
        inspect(out)
    shard.unlink()
    with pytest.raises(DataError, match=r"train-00000.tar is missing"):
        inspect(out)
