"""``avtool report``: what a page of a run, of prepared data and of a clip says, and what cannot become one."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from avtool import media, pages
from avtool.cli import app
from avtool.errors import AvtoolError, DataError, UsageError
from avtool.files import sha256_of
from avtool.pages import clip as of_clip
from avtool.pages import report
from avtool.places import resolve_checkpoint
from avtool.tracking import keep_evaluation, read_run_facts
from tests import clips
from tests.pages import CLASS, NAME, SECONDS, TONES, Page, found_in
from tests.unit.test_hub import SMALL, run_avtool


@pytest.fixture(scope="module")
def runs(synth: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run ``pre``, and ``loc`` of it, which was evaluated."""
    folder, data = tmp_path_factory.mktemp("runs"), synth(20)
    settings = [*SMALL, "train.eval_clips=4", "train.log_every=1"]
    run_avtool("pretrain", "--recipe", "tiny", "--data", data, "--out", folder / "pre", *settings)
    start = ["--recipe", "tiny-localize", "--from", folder / "pre", "--data", data, "--out", folder / "loc"]
    run_avtool("finetune", "localize", *start, *SMALL[:3], *SMALL[4:5], "localize.width=16")
    run_avtool("evaluate", folder / "loc", "--data", data, "--protocol", "pointing,ciou-median")
    return folder


@pytest.fixture
def found(tmp_path: Path) -> Path:
    return found_in(tmp_path)


def page_of(folder: Path, out: Path) -> Page:
    return Page(report(folder, out=out, force=True).read_text())


def decoded(url: str | None) -> tuple[str, bytes]:
    kind, _, content = str(url).removeprefix("data:").partition(";base64,")
    return kind, base64.b64decode(content)


def test_a_pretraining_shows_curves_pictures_cost_and_what_made_it(runs: Path, tmp_path: Path) -> None:
    page = page_of(runs / "pre", tmp_path / "page.html")
    facts = read_run_facts(runs / "pre")
    for said in (
        "Made by avtool pretrain on synth, step 2 of 2.",
        "checkpoints/step-00000002",
        "2steps",
        "8samples",
        "not been evaluated: avtool evaluate",
        facts["versions"]["torch"],
        facts["data"]["checksum"][:12],
        "max_steps: 2",
    ):
        assert said in page.text.replace("\n", ""), said
    charts = {str(given["aria-label"]).partition(":")[0] for given in page.of("svg")}
    assert {"loss", "learning rate", "samples a second"} <= charts
    (picture,) = [decoded(given["src"]) for given in page.of("img")]
    assert picture == ("image/png", (runs / "pre" / "reconstructions.png").read_bytes())


def test_a_chart_shows_training_and_held_out_values_where_they_belong(runs: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (runs / "pre" / "metrics.jsonl").read_text().splitlines()]
    lost = [row["loss"] for row in rows if "loss" in row]
    held = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    text = report(runs / "pre", out=tmp_path / "page.html").read_text()
    chart = text[text.index('aria-label="loss') :].partition("</svg>")[0]
    assert f"in training from {lost[0]:.6g} at step 1 to {lost[-1]:.6g} at step 2" in chart
    line, dots = (
        np.array([pair.split(",") for pair in points.split()], float)
        for points in re.findall(r'points="([^"]*)"', chart)
    )
    assert len(line) == len(lost) == 2 and len(dots) == len(held) == 2
    assert line[0, 0] > dots[0, 0] and line[1, 0] == dots[1, 0] == 390  # steps 1 and 0; both end at step 2
    up, values = -np.concatenate([line[:, 1], dots[:, 1]]), np.array(lost + held)
    assert np.corrcoef(up, values)[0, 1] > 0.999  # one axis, and higher is more


def test_a_runs_tables_have_protocol_n_roles_and_intervals(runs: Path, tmp_path: Path) -> None:
    page = page_of(runs / "loc", tmp_path / "page.html")
    (line,) = (runs / "loc" / "evaluations.jsonl").read_text().splitlines()
    for table in json.loads(line)["tables"]:
        assert f"{table['task']} by {table['protocol']}: {table['data']}" in page.text
        assert f"n = {table['samples']}" in page.text and table["words"][1:] in page.text
        for row in table["rows"]:
            measure = next(iter(row["measures"].values()))
            assert f"{measure['value']:z.1f} [{measure['low']:z.1f}, {measure['high']:z.1f}]" in page.text
    assert {"model", "control", "floor", "ceiling"} <= set(re.findall(r"[a-z]+", page.text))
    assert f"avtool pretrain on synth, step 2 of 2 ({runs / 'pre'}" in page.text  # what it started from
    assert not page.of("img")


def test_only_tables_of_the_weights_that_are_there_are_shown(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "pre", tmp_path / "run")
    row = {"name": "<i>x</i>", "role": "model", "measures": {"m": {"value": 1.0, "low": None, "high": None}}}
    table = {"task": "t", "protocol": "p", "words": "w", "unit": "%", "rows": [row], "samples": 1234,
             "recordings": 99, "seed": 0, "left_out": {"unlabelled": 5}, "notes": ["a <n>"], "data": "d"}  # fmt: skip
    kept = {"weights": "of before", "data": {"checksum": "c"}, "tables": [table]}
    keep_evaluation(tmp_path / "run", kept)
    page = page_of(tmp_path / "run", tmp_path / "page.html")
    assert (
        "1,234" not in page.text and "Other weights of this run were evaluated, these were not" in page.text
    )
    weights = sha256_of(resolve_checkpoint(tmp_path / "run") / "model.safetensors")
    keep_evaluation(tmp_path / "run", kept | {"weights": weights})
    text = page_of(tmp_path / "run", tmp_path / "page.html").text
    assert "n = 1,234 from 99 recordings" in text and "5 clips left out unlabelled" in text
    assert "<i>x</i>" in text and "a <n>" in text


def test_a_run_that_is_not_finished_says_so(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "<run>"
    shutil.copytree(runs / "pre", run)
    for path in run.glob("checkpoints/*/config.json"):
        path.write_text(path.read_text().replace("step 2 of 2", "step 2 of 9"))
    text = page_of(run, tmp_path / "page.html").text
    assert "It is not finished" in text and "<run>" in text
    shutil.rmtree(run / "checkpoints")
    (run / "run.json").unlink()
    (run / "recipe.yaml").unlink()
    text = page_of(run, tmp_path / "page.html").text
    assert "No checkpoint is written yet" in text and "The run has no run.json" in text


def test_the_page_of_data_is_the_one_that_prepare_wrote(synth: Callable[[int], Path], tmp_path: Path) -> None:
    out = report(synth(20), out=tmp_path / "page.html")
    assert out.read_bytes() == (synth(20) / "report.html").read_bytes()
    page = Page(out.read_text())
    assert "20prepared" in page.text.replace("\n", "") and not page.of("script")


def test_a_clips_page_has_the_clip_its_layers_and_its_sources(found: Path, tmp_path: Path) -> None:
    page = page_of(found, tmp_path / "page.html")
    (video,) = page.of("video")
    kind, content = decoded(video["src"])
    (tmp_path / "out.mp4").write_bytes(content)
    streams = clips.streams_of(tmp_path / "out.mp4")
    assert kind == "video/mp4" and (streams["video"]["codec"], streams["audio"]["codec"]) == ("h264", "aac")
    assert media.describe_container(tmp_path / "out.mp4")["duration"] == pytest.approx(SECONDS, abs=0.15)
    for said in (NAME, CLASS, "heat map, maps.npz", "masks, masks.npz", "classes, classes.json", "first 75 %",
                 "own sound: 50.0 % marked", "silence: 0.0 % marked; moved by 0.00", "moved by 2.00",
                 "Not above its controls.", "guided by the box [0, 0, 0.5, 1]", "sounds/rest.wav"):  # fmt: skip
        assert said in page.text, said
    assert {given.get("type") for given in page.of("input")} == {"range", "checkbox", "radio"}
    # one is louder than full scale: both are lowered alike, so that their loudness can be compared
    for given, (frequency, level) in zip(page.of("audio"), TONES.values(), strict=True):
        kind, content = decoded(given["src"])
        sound, rate = soundfile.read(io.BytesIO(content))
        tone = clips.tone(SECONDS, frequency=frequency, rate=rate, level=level / 1.5)
        assert kind == "audio/flac" and np.abs(sound - tone).max() < 1e-3


def test_layers_hold_every_map_in_one_scale(found: Path, tmp_path: Path) -> None:
    text = report(found, out=tmp_path / "page.html").read_text()
    layers = json.loads(re.search(r'id="found">(.*?)</script>', text)[1])["layers"]
    assert [layer.get("sound") for layer in layers] == ["own sound", "silence", "white noise", None]
    assert CLASS not in re.search(r'id="found">(.*?)</script>', text)[1]
    for layer in layers[:3]:
        assert (layer["times"], layer["across"], layer["rows"]) == ([0.0, 0.5, 1.0, 1.5], 2, 2)
        (tmp_path / "tiles.png").write_bytes(decoded(layer["src"])[1])
        layer["tiles"] = media.read_image(tmp_path / "tiles.png").astype(int).sum(axis=2)
    own, silence, noise = (layer["tiles"] for layer in layers[:3])
    assert own.shape == (8, 8)  # two tiles beside two, each with its border doubled
    left, right = [1, 1, 0, 0] * 2, [0, 0, 1, 1] * 2
    assert np.array_equal(own > own.min(), [left] * 4 + [right] * 4)
    assert np.array_equal(noise, own[:, ::-1])
    assert own.min() == silence.min() < silence.max() < own.max()


def test_a_picture_with_sound_and_a_clip_without_have_pages_too(found: Path, tmp_path: Path) -> None:
    shutil.rmtree(found / "sounds")
    for name in ("maps.npz", "masks.npz"):
        (found / name).unlink()
    silent = tmp_path / NAME
    media.write_clip(silent, clips.moving_frames(10), fps=5, waveform=None, sample_rate=clips.RATE)
    page = page_of(found, tmp_path / "page.html")
    assert len(page.of("video")) == 1 and "Spectrogram" not in str(page.tags)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda found: (found.parent / NAME).unlink(), DataError, "which is not there"),
        (lambda found: (found / "maps.npz").write_bytes(b"PK\3\4"), DataError, "maps.npz is broken"),
        (lambda found: (found / "sounds/rest.wav").unlink(), DataError, "rest.wav is missing"),
        (lambda found: (found / "classes.json").write_text("{"), DataError, "classes.json is broken"),
        (lambda found: found_in(found / "x").rename(found / "other"), DataError, "found in several clips"),
        (lambda found: shutil.rmtree(found) or found.mkdir(), DataError, "holds neither a run nor prepared"),
        (shutil.rmtree, DataError, "there is nothing at"),
        (
            lambda found: (found / "run.json").write_text("{}"),
            AvtoolError,
            "is not a run: there is no metrics",
        ),
        (lambda found: (found / "metrics.jsonl").touch(), AvtoolError, "holds no step of training yet"),
        (lambda found: (found / "shards").mkdir(), DataError, "is not a prepared data set"),
    ],
)
def test_what_cannot_become_a_page_is_said_in_one_sentence(
    found: Path, tmp_path: Path, spoil: Callable[[Path], object], error: type[AvtoolError], said: str
) -> None:
    spoil(found)
    with pytest.raises(error, match=re.escape(said)) as raised:
        report(found, out=tmp_path / "page.html")
    assert raised.value.hint and "\n" not in raised.value.message
    assert not (tmp_path / "page.html").exists() and not list(tmp_path.glob(".*"))


def test_a_clip_that_is_moved_is_found_in_the_folder(found: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / NAME, found / NAME)
    page = page_of(found, tmp_path / "page.html")
    assert NAME in page.text and len(page.of("video")) == 1


def test_videos_and_pictures_beside_it_are_shown(found: Path, tmp_path: Path) -> None:
    clips.clip(found / "heatmap.mp4", 0.4)
    shutil.copy(found / "sounds" / "masks.png", found / "mask.png")
    page = page_of(found, tmp_path / "page.html")
    assert [given["aria-label"] for given in page.of("video")][1:] == ["heatmap.mp4"]
    assert "mask.png" in [given["alt"] for given in page.of("img")]


def test_a_page_has_a_limit_of_time_and_of_bytes(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LARGEST", 10_000)
    with pytest.raises(UsageError, match=r"would take \d+ kB; at most 10 kB") as raised:
        report(found, out=tmp_path / "page.html")
    assert "shorter part" in raised.value.hint
    monkeypatch.setattr(of_clip, "LONGEST", SECONDS / 2)
    with pytest.raises(UsageError, match="lasts 2 s or more: a page holds at most 1 s") as raised:
        report(found, out=tmp_path / "page.html")
    assert "ffmpeg" in raised.value.hint
    assert not (tmp_path / "page.html").exists()


def test_the_command_writes_the_page_and_says_where(found: Path, tmp_path: Path, runs: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(found), "--out", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"{out}\n"), done.output
    for words, said in (
        ([str(found), "--out", str(out)], "page.html exists"),
        ([str(found), "--out", str(tmp_path / "page.pdf")], "is not named .html"),
        ([str(tmp_path / NAME)], "is a file; a folder is needed"),
        ([str(resolve_checkpoint(runs / "pre"))], "holds weights, not a run"),
    ):
        done = CliRunner().invoke(app, ["report", *words])
        assert done.exit_code == 2 and said in done.stderr and "hint: " in done.stderr, done.output
