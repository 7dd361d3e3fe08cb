"""What is kept of a clip is a setting: frames a second, their size, samples of sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avtool.cli import app
from avtool.config.recipes import load_recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.engine import train
from avtool.errors import DataError, UsageError
from avtool.evaluate import evaluate
from tests import clips

OTHER = ["frame_rate=4", "short_side=32", "sample_rate=22050", "jpeg_quality=70"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    rows = ["id,split,label,video"]
    for k in range(4):
        clips.clip(folder / f"{k}.mp4", 4.0, fps=10, seed=k)
        rows.append(f"{k},{'train' if k < 3 else 'test'},c{k % 2},{k}.mp4")
    (folder / "mine.csv").write_text("\n".join(rows))
    return folder / "mine.csv"


@pytest.fixture(scope="module")
def kept(source, tmp_path_factory) -> Path:
    return prepare("manifest", source, out=tmp_path_factory.mktemp("kept") / "out", settings=OTHER).out


def test_what_is_kept_is_what_was_asked_for(kept):
    dataset = PreparedDataset(kept, "all")
    record = dataset.record(0)
    assert (record.height, record.width) == (32, 43) and dataset.sample_rate == 22050
    assert len(record.times) == pytest.approx(16, abs=1) and record.samples == pytest.approx(
        4 * 22050, abs=900
    )
    assert dataset.facts(0)["sample_rate"] == 22050
    assert (
        dataset.settings.items()
        >= {
            "short_side": 32,
            "frame_rate": 4.0,
            "sample_rate": 22050,
            "jpeg_quality": 70,
            "rows_per_shard": 256,
            "window_seconds": 3.0,
        }.items()
    )


def test_a_still_picture_is_one_and_a_slow_one_is_not_however_many_frames_are_kept(source, tmp_path):
    flags = prepare("manifest", source, out=tmp_path / "out", settings=["frame_rate=10"]).as_dict()["reasons"]
    assert flags == {}


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("framerate=4", "unknown key framerate", "did you mean frame_rate?"),
        ("hdr=", "hdr is empty: it should be 'tonemap'", "HDR pictures"),
        (" frame_rate = 0", "frame_rate is 0: ", "at most 120"),
        ("frame_rate=fast", "frame_rate is 'fast': it should be a number", "frames a second"),
        ("frame_rate=0", "frame_rate is 0", "above 0 and at most 120"),
        ("short_side=2.5", "short_side is 2.5: it should be a whole number", "16 to 4096"),
        ("sample_rate=16", "sample_rate is 16", "from 1000 to 192000"),
        ("jpeg_quality=101", "jpeg_quality is 101", "from 1 to 100"),
    ],
)
def test_a_setting_that_is_wrong_is_named_before_anything_is_read(setting, message, hint, tmp_path):
    with pytest.raises(UsageError) as caught:
        prepare("manifest", tmp_path / "nowhere.csv", out=tmp_path / "out", settings=[setting])
    assert message in caught.value.message and hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_them_with_and_without_a_source(source, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["prepare", "manifest", str(source), *OTHER[:2], "--out", str(out)])
    assert (
        done.exit_code == 0 and json.loads((out / "dataset.json").read_text())["settings"]["frame_rate"] == 4
    )
    words = ["prepare", "manifest", OTHER[0], str(source), OTHER[2], "--out", str(tmp_path / "later")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "spectrogram.sample_rate=22050\n" in done.output
    done = CliRunner().invoke(app, ["prepare", "manifest", str(source), "other.csv", "--out", str(out)])
    assert done.exit_code == 2 and "for example frame_rate=4" in done.output
    told = CliRunner().invoke(app, ["prepare", "vggsound", "frame_rat=4", "--out", str(tmp_path / "b")])
    assert told.exit_code == 2 and "did you mean frame_rate?" in told.output


def test_other_settings_are_refused_by_name_and_the_command_repeats_them(source, tmp_path):
    out = tmp_path / "out"
    mine = [*OTHER, "rows_per_shard=2"]
    prepare("manifest", source, out=out, part="1/2", settings=mine)
    with pytest.raises(
        UsageError, match=r"unfinished preparation with another short_side: 32, now 256"
    ) as caught:
        prepare("manifest", source, out=out, part="2/2", settings=["frame_rate=4", "rows_per_shard=2"])
    again = f"{source} short_side=32 frame_rate=4.0 sample_rate=22050 jpeg_quality=70 rows_per_shard=2 --out {out}"
    assert again in caught.value.hint
    assert json.loads((tmp_path / "out.unfinished/plan.json").read_text())["settings"]["frame_rate"] == 4
    assert prepare("manifest", source, out=out, part="2/2", settings=mine).sealed
    with pytest.raises(UsageError, match="exists"):
        prepare("manifest", source, out=out, part="2/2")


def test_training_and_evaluation_at_the_rate_that_is_stored(kept, source, tmp_path):
    small = ["max_steps=2", "train.batch_size=3", "train.eval_every=0"]
    with pytest.raises(DataError, match=r"of 16000 samples a second, but .* holds sound of 22050") as caught:
        trained("tiny", SHAPE, small, data=kept, out=tmp_path / "run")
    run = trained("tiny", SHAPE, small, caught.value.hint, data=kept, out=tmp_path / "run")
    tuned = trained("tiny-classify", small, f"init.model={run}", data=kept, out=tmp_path / "tuned")
    (table,) = evaluate(tuned, kept, split="test", device="cpu")
    assert table.rows
    localized = CliRunner().invoke(
        app,
        ["localize", str(source.parent / "0.mp4"), "--model", str(run), "--out", str(tmp_path / "map.png")],
    )
    assert localized.exit_code == 0, localized.output
    usual = prepare("manifest", source, out=tmp_path / "usual").out
    for work in (
        lambda: evaluate(tuned, usual, split="test", device="cpu"),
        lambda: trained("tiny-classify", small, f"init.model={run}", data=usual, out=tmp_path / "b"),
    ):
        with pytest.raises(DataError, match=r"sound of 22050 samples a second, but .* of 16000") as caught:
            work()
        assert "sample_rate=22050" in caught.value.hint


SHAPE = ["model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=24", "model.depth=1"]
SHAPE += ["model.fusion.tokens=[2,1,1]", "model.decoder={dim: 24, depth: 1, heads: 3}", "train.accumulate=1"]


def trained(recipe: str, *settings: str | list[str], data: Path, out: Path) -> Path:
    given = [one for some in settings for one in ([some] if isinstance(some, str) else some)]
    return train(load_recipe(recipe, [*given, "data.workers=0"]), data=data, out=out, device="cpu")
