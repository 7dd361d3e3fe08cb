"""From raw files to a prepared data set: rows, outcomes, report."""

from __future__ import annotations

import csv
import errno
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from avtool import media
from avtool.data import catalog, checks, shards, synth
from avtool.data.catalog import vggsound
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.errors import DataError, TableError, UsageError
from avtool.inputs import from_jpeg, to_jpeg
from avtool.registry import DATASETS
from tests import clips

RATE = clips.RATE


def manifest(folder: Path, rows: list[dict[str, str]], *, name: str = "mine.csv") -> Path:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def row(id: str, **fields: str) -> dict[str, str]:
    return {"id": id, "split": "train", "label": "thing", "video": f"{id}.mp4", **fields}


def report_of(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A folder with one clip for everything that can happen to one, and the manifest."""
    folder = tmp_path_factory.mktemp("mixed")

    def write(name: str, sound: np.ndarray | None, still: bool = False, seconds: float = 4.0) -> None:
        frames = list(clips.moving_frames(max(1, round(5 * seconds))))
        frames = frames[:1] * len(frames) if still else frames
        media.write_clip(folder / f"{name}.mp4", frames, fps=5, waveform=sound, sample_rate=RATE)

    muted = clips.tone(4)
    muted[RATE : 3 * RATE] = 0
    write("fine", clips.tone(4))
    write("mute", None)
    write("silent", np.zeros(4 * RATE, np.float32))
    write("blip", clips.tone(0.1), seconds=0.2)
    write("still", clips.tone(4), still=True)
    write("short", clips.tone(1), seconds=1)
    write("quiet", clips.tone(4, level=0.003))
    write("muted", muted)
    soundfile.write(folder / "sound.wav", clips.tone(4), RATE)
    (folder / "sound.mp4").write_bytes((folder / "sound.wav").read_bytes())
    (folder / "text.mp4").write_text("no clip\n" * 100)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    names = [
        "fine",
        "mute",
        "silent",
        "blip",
        "still",
        "short",
        "quiet",
        "muted",
        "sound",
        "text",
        "empty",
        "noise",
        "gone",
    ]
    manifest(folder, [row(name) for name in names])
    return folder


def test_every_row_has_one_outcome_and_a_reason(mixed, tmp_path):
    report = prepare("manifest", mixed / "mine.csv", out=tmp_path / "out")
    assert report.as_dict() == {
        "name": "mine",
        "prepared": 5,
        "refused": 7,
        "missing": 1,
        "flagged": 4,
        "reasons": {
            media.NO_SOUND: 1,
            media.NO_VIDEO: 1,
            media.UNDECODABLE: 3,
            checks.SILENT: 1,
            checks.TOO_SHORT: 1,
            checks.MISSING: 1,
            checks.STILL: 1,
            checks.SHORT: 1,
            checks.QUIET: 1,
            checks.MUTED: 1,
        },
        "stored": report.stored(),
        "out": str(tmp_path / "out"),
    }
    no_clip, flags = report.tallies()
    assert sum(no_clip.values()) == 7 + 1 and no_clip[media.UNDECODABLE] == 3
    assert flags == dict.fromkeys((checks.STILL, checks.SHORT, checks.QUIET, checks.MUTED), 1)
    with tarfile.open(tmp_path / "out" / "shards" / "train-00000.tar") as tar:
        assert report.bytes == sum(512 + -(-member.size // 512) * 512 for member in tar) > 100_000
    assert report.seconds == pytest.approx(PreparedDataset(tmp_path / "out").durations().sum(), abs=1e-3)
    assert report_of(tmp_path / "out")["stored"] == report.stored()
    reasons = report_of(tmp_path / "out")["reasons"]
    assert reasons[media.NO_SOUND] == ["mute"] and reasons[media.NO_VIDEO] == ["sound"]
    assert reasons[media.UNDECODABLE] == ["text", "empty", "noise"]
    assert reasons[checks.SILENT] == ["silent"] and reasons[checks.TOO_SHORT] == ["blip"]
    assert [reasons[flag] for flag in (checks.STILL, checks.SHORT, checks.QUIET, checks.MUTED)] == [
        ["still"], ["short"], ["quiet"], ["muted"],
    ]  # fmt: skip
    assert "text file" in report_of(tmp_path / "out")["details"]["text"]
    dataset = PreparedDataset(tmp_path / "out")
    ids = [dataset.record(i).id for i in range(len(dataset))]
    assert ids == ["fine", "still", "short", "quiet", "muted"]


def test_the_same_source_gives_the_same_bytes(mixed, tmp_path, monkeypatch):
    def contents(out: Path) -> dict[str, bytes]:
        prepare("manifest", mixed / "mine.csv", out=out)
        return {
            str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
        }

    first = contents(tmp_path / "a")
    assert contents(tmp_path / "b") == first
    assert "shards/train-00000.tar" in first and "index/clips.npy" in first


def test_an_output_that_exists_is_kept_unless_forced(mixed, tmp_path):
    out = tmp_path / "out"
    (out / "old").mkdir(parents=True)
    with pytest.raises(UsageError, match="exists"):
        prepare("manifest", mixed / "mine.csv", out=out)
    assert (out / "old").is_dir()
    with pytest.raises(UsageError, match="not what avtool wrote"):
        prepare("manifest", mixed / "mine.csv", out=out, force=True)
    assert (out / "old").is_dir()
    (out / "dataset.json").write_text("{}")
    prepare("manifest", mixed / "mine.csv", out=out, force=True)
    assert not (out / "old").exists() and (out / "dataset.json").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        prepare("manifest", mixed / "mine.csv", out=tmp_path / "file" / "out")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_run_that_breaks_off_is_kept_as_unfinished_and_gone_on_with(
    mixed, tmp_path, monkeypatch, capsys, error
):
    write = shards.ShardWriter._write

    def failing(self, data):
        if self.clips == 2:
            raise error
        write(self, data)

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(shards.ShardWriter, "_write", failing)
        prepare("manifest", mixed / "mine.csv", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out.unfinished"]
    assert f"to go on: avtool prepare manifest {mixed}/mine.csv --out" in capsys.readouterr().err
    prepare("manifest", mixed / "mine.csv", out=tmp_path / "out")
    prepare("manifest", mixed / "mine.csv", out=tmp_path / "one_go")
    assert (tmp_path / "out" / "dataset.json").read_bytes() == (
        tmp_path / "one_go" / "dataset.json"
    ).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one_go", "out"]


def test_nothing_prepared_is_a_report_all_the_same(mixed, tmp_path):
    table = manifest(mixed, [row("gone"), row("mute")], name="none.csv")
    report = prepare("manifest", table, out=tmp_path / "out")
    assert (report.prepared, report.refused, report.missing) == (0, 1, 1)
    with pytest.raises(DataError, match="holds no clip"):
        PreparedDataset(tmp_path / "out")


def test_images_with_sound(tmp_path):
    rng = np.random.default_rng(0)
    for k, (height, width) in enumerate([(32, 32), (300, 600)]):
        cv2.imwrite(str(tmp_path / f"{k}.png"), rng.integers(0, 256, (height, width, 3), np.uint8))
        soundfile.write(tmp_path / f"{k}.ogg", clips.tone(0.5 + 3 * k), RATE)
    rows = [
        {"id": str(k), "split": "train", "label": "b;a ; b", "image": f"{k}.png", "audio": f"{k}.ogg"}
        for k in range(2)
    ]
    report = prepare("manifest", manifest(tmp_path, rows), out=tmp_path / "out")
    assert (report.prepared, report.flagged) == (2, 1)
    assert list(report_of(tmp_path / "out")["reasons"]) == [checks.SHORT]
    dataset = PreparedDataset(tmp_path / "out")
    assert [dataset.frame(i, 0).shape for i in range(2)] == [(32, 32, 3), (256, 512, 3)]
    assert dataset.record(0).labels == ("b", "a") and dataset.classes == ["a", "b"]


def test_boxes_masks_and_stems_go_with_the_middle_frame(tmp_path):
    sound = clips.click(4, 2.0)
    media.write_clip(
        tmp_path / "a.mp4", clips.level_frames(40, 600, 400), fps=10, waveform=sound, sample_rate=RATE
    )
    mask = np.zeros((600, 400), np.uint8)
    mask[:300] = 2
    (tmp_path / "mask.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    (tmp_path / "small.png").write_bytes(cv2.imencode(".png", mask[:10])[1].tobytes())
    soundfile.write(tmp_path / "stem.wav", 0.5 * sound, RATE)
    truth = {"boxes": "[[0.1, 0.2, 0.5, 0.6]]", "mask": "mask.png", "stems": '{"thing": "stem.wav"}'}
    rows = [
        row("a", video="a.mp4", **truth),
        row("b", video="a.mp4", **truth | {"mask": "small.png"}),
        row("c", video="a.mp4", **truth | {"stems": '["gone.wav"]'}),
    ]
    report = prepare("manifest", manifest(tmp_path, rows), out=tmp_path / "out")
    assert (report.prepared, report.refused, report.missing) == (1, 1, 1)
    assert report_of(tmp_path / "out")["reasons"][checks.MASK_SIZE] == ["b"]
    dataset = PreparedDataset(tmp_path / "out")
    record = dataset.record(0)
    assert clips.level_of(dataset.frame(0, record.key)) == 20
    np.testing.assert_allclose(record.boxes, [[0.1, 0.2, 0.5, 0.6]])
    stored = dataset.mask(0)
    assert stored.shape == (384, 256) and set(np.unique(stored)) == {0, 2} and stored[100, 100] == 2
    assert record.stems == ("thing",)
    assert clips.where_is_click(dataset.stem(0, "thing")) == pytest.approx(2.0, abs=0.002)


HEADER = "id,split,label,video"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,split,video\na,train,a.mp4", "line 1: no column label"),
        ("id,split,label\na,train,x", "line 1: no column video"),
        ("id,split,label,image\na,train,x,a.png", "line 1: no column audio"),
        (f"{HEADER},boxs\na,train,x,a.mp4,1", "line 1: unknown column boxs"),
        (f"{HEADER},id\na,train,x,a.mp4,1", "line 1: column id is there twice"),
        ("", "mine.csv is empty"),
        (f"{HEADER}\n", "no rows"),
        (f"{HEADER}\na,train,x,a.mp4\nb,train,x,b.mp4\na,test,x,c.mp4", "line 4: id a is on line 2 too"),
        (f"{HEADER}\na,train,x", "line 2: not as many fields"),
        (f"{HEADER}\na,train,x,y,a.mp4", "line 2: not as many fields"),
        (f"{HEADER}\n,train,x,a.mp4", "line 2: id is empty"),
        (f"{HEADER}\na,,x,a.mp4", "line 2: split is empty"),
        (f"{HEADER}\na,train,x,", "line 2: names neither a video nor an image"),
        (f"{HEADER},start\na,train,x,a.mp4,soon", "line 2: start is soon"),
        (f"{HEADER},start,end\na,train,x,a.mp4,3,2", "line 2: end 2 is not after start 3"),
        (f"{HEADER},boxes\na,train,x,a.mp4,[[0", "line 2: boxes is not JSON"),
        (f'{HEADER},boxes\na,train,x,a.mp4,"[[0,0,1.5,1]]"', "line 2: boxes.* from 0 to 1"),
        (f'{HEADER},boxes\na,train,x,a.mp4,"[[0.5,0,0.5,1]]"', "line 2: boxes"),
        (f'{HEADER},boxes\na,train,x,a.mp4,"[0,0,1,1]"', "line 2: boxes "),
        (f"{HEADER},stems\na,train,x,a.mp4,3", "line 2: stems "),
        (b"id,split,label,video\na,train,\xff\xfe,a.mp4", "line 2: not UTF-8"),
    ],
)
def test_a_manifest_that_is_wrong_names_line_and_column(tmp_path, text, message):
    path = tmp_path / "mine.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TableError, match=message) as caught:
        prepare("manifest", path, out=tmp_path / "out")
    assert caught.value.exit_code == 2 and "mine.csv" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_where_a_manifest_goes(mixed, tmp_path, monkeypatch):
    monkeypatch.setenv("AVTOOL_DATA", str(tmp_path))
    table = manifest(mixed, [row("fine")], name="one.csv")
    assert prepare("manifest", table).out == tmp_path / "prepared" / "one"
    table = manifest(mixed, [row("fine")], name="manifest.csv")
    assert prepare("manifest", table).out == tmp_path / "prepared" / mixed.name
    with pytest.raises(UsageError, match="csv"):
        prepare("manifest")
    with pytest.raises(DataError, match="not there"):
        prepare("manifest", tmp_path / "gone.csv")
    with pytest.raises(UsageError, match="unknown data set vggsond") as caught:
        prepare("vggsond")
    assert "vggsound" in caught.value.hint


@pytest.fixture(scope="module")
def vgg(tmp_path_factory) -> Path:
    """The published layout with the traps of the real files."""
    folder = tmp_path_factory.mktemp("vgg")
    lines = [
        '-ab_c,30,"police car, (siren)",train',
        "_x,0,dog barking,test",
        'zz,284,"police car, (siren)",test',
        "gone,5,never downloaded,train",
    ]
    (folder / "annotations").mkdir()
    (folder / "annotations" / "vggsound.csv").write_bytes("\r\n".join(lines).encode() + b"\r\n")
    clips.clip(folder / "clips/police_car___siren_/-ab_c_000030_000040.mp4", 3.0)
    clips.clip(folder / "clips/police_car___siren_/zz_000284_000294.mp4", 3.0)
    path = folder / "clips/dog_barking/_x_000000_000010.mp4"
    path.parent.mkdir()
    media.write_clip(path, clips.level_frames(45), fps=5, waveform=clips.tone(8.4), sample_rate=RATE)
    (folder / "clips/a_class_of_the_disk_only").mkdir()
    boxes = [
        {
            "file": "_x_000000",
            "class": "dog barking",
            "bbox": [[0.1, 0.1, 0.5, 0.5], [-2.88e16, 0.1, 0.2, 0.3]],
        },
        {"file": "zz_000284", "class": "police car, (siren)", "bbox": [[0.3, 0.1, 0.3, 0.5]]},
    ]
    (folder / "annotations" / "vggss.json").write_text(json.dumps(boxes))
    return folder


def test_vggsound(vgg, tmp_path, monkeypatch):
    monkeypatch.setenv("AVTOOL_DATA", str(tmp_path))
    (tmp_path / "vggsound").symlink_to(vgg)
    report = prepare("vggsound")
    assert (report.prepared, report.refused, report.missing) == (3, 0, 1)
    assert report.out == tmp_path / "prepared" / "vggsound"
    assert report_of(report.out)["notes"] == {catalog.BROKEN_BOX: ["_x_000000", "zz_000284"]}
    dataset = PreparedDataset(report.out, "all")
    assert dataset.classes == ["dog barking", "never downloaded", "police car, (siren)"]
    records = [dataset.record(i) for i in range(3)]
    assert [record.id for record in records] == ["-ab_c_000030", "_x_000000", "zz_000284"]
    assert [record.split for record in records] == ["train", "test", "test"]
    assert [record.label_ids for record in records] == [(2,), (0,), (2,)]
    assert [len(record.boxes) for record in records] == [0, 1, 0]
    boxed = records[1]  # boxes are drawn at 5 s, though the middle is elsewhere
    assert clips.level_of(dataset.frame(1, boxed.key)) == 25 and boxed.middle == 5.0
    assert len(PreparedDataset(report.out, "test")) == 2


def test_vggsound_that_is_not_there_says_what_to_get(tmp_path):
    with pytest.raises(DataError, match="no VGGSound at") as caught:
        prepare("vggsound", tmp_path / "nowhere", out=tmp_path / "out")
    hint = caught.value.hint
    for part in (
        vggsound.PAGE,
        "GB",
        "CC BY 4.0",
        f"{tmp_path}/nowhere/annotations",
        "clips/LABEL",
        "avtool prepare",
    ):
        assert part in hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["a,b,c", "a,soon,dog,train", "id,start,label,split"])
def test_a_vggsound_csv_that_is_wrong_names_the_line(tmp_path, line):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "vggsound.csv").write_text(f"a,1,dog,train\n{line}\n")
    with pytest.raises(TableError, match="line 2: not id,start,label,split"):
        prepare("vggsound", tmp_path, out=tmp_path / "out")


def test_every_data_set_of_the_table_has_its_file():
    folder = Path(catalog.__file__).parent
    files = {path.stem.replace("_", "-") for path in folder.glob("[!_]*.py")} - {"tables"}
    assert files == set(DATASETS)


def test_of_synth_what_is_drawn_and_made_is_stored(tmp_path):
    report = prepare("synth", out=tmp_path / "synth", clips=6, seed=1)
    assert (report.prepared, report.refused, report.missing, report.flagged) == (6, 0, 0, 0)
    dataset = PreparedDataset(report.out, "all")
    for clip in range(6):
        scene, record, facts = synth.describe(1, clip), dataset.record(clip), dataset.facts(clip)
        stage, stems = synth.Stage(scene), synth.stems_of(scene)
        assert facts["times"] == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5] and record.masked == (record.key,) == (4,)
        for k, index in enumerate(range(0, synth.FRAMES, 4)):
            stored = from_jpeg(to_jpeg(stage.frame(index)))
            np.testing.assert_array_equal(dataset.frame(clip, k), stored)
        np.testing.assert_array_equal(dataset.waveform(clip), stems.sum(0))
        assert record.labels == record.stems == tuple(thing.kind for thing in scene.sounding)
        for name, stem in zip(record.stems, stems, strict=True):
            np.testing.assert_array_equal(dataset.stem(clip, name), stem)
        np.testing.assert_array_equal(dataset.mask(clip, 4), stage.truth()[0])
    with pytest.raises(UsageError, match="takes no source"):
        prepare("synth", tmp_path, out=tmp_path / "b")


def test_of_synth_other_sizes_and_rates_are_kept_too(tmp_path):
    settings = ["short_side=80", "frame_rate=3", "sample_rate=8000"]
    dataset = PreparedDataset(prepare("synth", out=tmp_path / "s", clips=1, settings=settings).out, "all")
    facts, stage = dataset.facts(0), synth.Stage(synth.describe(0, 0))
    assert facts["times"] == [k / 8 for k in (0, 2, 5, 8, 10, 13, 16, 18, 21, 24, 26, 29)]
    assert facts["times"][facts["key"]] == 2 and facts["size"] == [80, 80] and facts["samples"] == 32000
    shown = from_jpeg(to_jpeg(media.resized(stage.frame(13), (80, 80))))
    np.testing.assert_array_equal(dataset.frame(0, 5), shown)
    (tmp_path / "sound.wav").write_bytes(shards.wav_bytes(synth.mixture(synth.stems_of(stage.scene)), 16000))
    heard = media.read_waveform(tmp_path / "sound.wav", sample_rate=8000)
    np.testing.assert_array_equal(dataset.waveform(0), heard)
    assert synth.frames_kept(0.1) == [16] and synth.frames_kept(100) == list(range(32))


def test_synth_as_files_is_prepared_as_any_manifest(tmp_path):
    """What an mp4 loses is small: the files are of the same clips."""
    drawn = PreparedDataset(prepare("synth", out=tmp_path / "drawn", clips=2).out, "all")
    table = synth.render(tmp_path / "files", clips=2, seed=0)
    coded = PreparedDataset(prepare("manifest", table, out=tmp_path / "coded").out, "all")
    for clip in range(2):
        same = (
            "id",
            "split",
            "labels",
            "times",
            "key",
            "masks",
            "boxes",
            "view",
            "stems",
            "samples",
            "recording",
        )
        assert [drawn.facts(clip)[key] for key in same] == [coded.facts(clip)[key] for key in same]
        np.testing.assert_array_equal(drawn.mask(clip, 4), coded.mask(clip, 4))
        assert np.abs(drawn.frame(clip, 4).astype(int) - coded.frame(clip, 4)).mean() < 4
        assert np.corrcoef(drawn.waveform(clip), coded.waveform(clip))[0, 1] > 0.95


@clips.needs_test_data
def test_real_vggsound_clips(tmp_path):
    report = prepare("vggsound", clips.TEST_DATA / "vggsound_mini", out=tmp_path / "out")
    assert (report.prepared, report.missing, report.refused) == (11, 41, 0)
    assert report_of(tmp_path / "out")["reasons"][checks.STILL] == ["M1pPtg6a_g8_000230"]
    dataset = PreparedDataset(tmp_path / "out", "all")
    assert sum(len(dataset.record(i).boxes) > 0 for i in range(11)) == 5


@clips.needs_test_data
def test_odd_clips(tmp_path):
    rows = [row(path.stem, video=str(path)) for path in sorted((clips.TEST_DATA / "odd_clips").glob("*.mp4"))]
    prepare("manifest", manifest(tmp_path, rows), out=tmp_path / "out")
    report = report_of(tmp_path / "out")
    assert (report["prepared"], report["refused"]) == (5, 1)
    assert report["reasons"][media.NO_SOUND] == ["no_audio_track"]
    assert report["reasons"][checks.STILL] == ["one_video_frame"]


def test_other_columns_are_kept_with_the_clip(tmp_path):
    clips.clip(tmp_path / "a.mp4", 2.0)
    prepare("manifest", manifest(tmp_path, [row("a", camera="left, up", licence="")]), out=tmp_path / "out")
    assert PreparedDataset(tmp_path / "out").facts(0)["extra"] == {"camera": "left, up", "licence": ""}


def test_a_soft_mask_is_cut_at_half_and_said(tmp_path):
    clips.clip(tmp_path / "a.mp4", 2.0)
    soft = np.clip(np.arange(64) * 8 - 128, 0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), np.tile(soft, (48, 1)))
    report = prepare("manifest", manifest(tmp_path, [row("a", mask="a.png")]), out=tmp_path / "out")
    assert report.ids[media.SOFT_MASK] == ["a"]
    assert np.array_equal(PreparedDataset(report.out).mask(0), np.tile(255 * (soft >= 128), (48, 1)))


def test_the_next_command_is_the_small_recipe_while_clips_are_few(tmp_path):
    from avtool.cli.prepare import _next_command

    for count, recipe in ((999, "tiny"), (1000, "dense")):
        facts = {"splits": {"test": 5000, "train": count}, "settings": {"sample_rate": 16000}}
        (tmp_path / "dataset.json").write_text(json.dumps(facts))
        shown = f"avtool pretrain --recipe {recipe}"
        assert _next_command("vggsound", tmp_path, at_home=False) == f"{shown} --data {tmp_path}"
        data = (
            "" if recipe == "dense" else f" --data {tmp_path}"
        )  # the small recipe looks for another data set
        assert _next_command("vggsound", tmp_path, at_home=True) == shown + data
