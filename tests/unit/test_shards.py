"""The store: tar shards, their index, random access."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import time
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset

from avtool.data import dataset as dataset_module
from avtool.data import shards
from avtool.data.catalog import Row
from avtool.data.convert import PreparedClip, Settings, convert
from avtool.data.dataset import PreparedDataset
from avtool.errors import DataError
from tests import clips

SETTINGS = Settings(rows_per_shard=2)


def store(folder: Path, prepared: list[PreparedClip | None]) -> Path:
    """A data set of these clips; None is a row that gave none."""
    classes = sorted({label for clip in prepared if clip for label in clip.row.labels})
    splits = sorted({clip.row.split for clip in prepared if clip})
    parts, facts = [], []
    for number, first in enumerate(range(0, len(prepared), SETTINGS.rows_per_shard)):
        path = shards.shard_path(folder, number)
        with shards.ShardWriter(path, number, classes, splits) as shard:
            for position in range(first, min(first + SETTINGS.rows_per_shard, len(prepared))):
                if (clip := prepared[position]) is not None:
                    shard.add(position, shards.clip_bytes(position, clip, SETTINGS))
        parts.append(shard.part.packed())
        facts.append(shard.facts())
    counts = {"prepared": sum(clip is not None for clip in prepared)}
    names = {"name": "test", "classes": classes, "splits": splits}
    shards.seal(folder, parts, facts, settings=SETTINGS, counts=counts, **names)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> list[PreparedClip | None]:
    folder = tmp_path_factory.mktemp("clips")
    rows = [
        Row(
            id=f"clip ü{k}",
            split="test" if k == 4 else "train",
            labels=("a", "b", "c")[: k % 4],
            video=clips.clip(folder / f"{k}.mp4", 1.0 + k / 2, seed=k),
            boxes=((0.1, 0.2, 0.3, 0.4),) * k,
        )
        for k in range(5)
    ]
    converted = [convert(row, SETTINGS) for row in rows]
    assert all(isinstance(clip, PreparedClip) for clip in converted)
    return [*converted[:1], None, *converted[1:]]


@pytest.fixture(scope="module")
def folder(prepared, tmp_path_factory) -> Path:
    return store(tmp_path_factory.mktemp("store"), prepared)


def test_any_webdataset_reader_groups_the_clips(folder, prepared):
    urls = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    assert len(urls) == 3
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    wanted = [(f"{row:08d}", clip) for row, clip in enumerate(prepared) if clip]
    assert [sample["__key__"] for sample in samples] == [key for key, _ in wanted]
    for sample, (_, clip) in zip(samples, wanted, strict=True):
        facts = json.loads(sample["json"])
        assert facts["id"] == clip.row.id and facts["labels"] == list(clip.row.labels)
        assert sample["f000.jpg"] == clip.jpegs[0] and f"f{len(clip.jpegs) - 1:03d}.jpg" in sample
        with wave.open(io.BytesIO(sample["wav"])) as sound:
            assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 16000)
            assert sound.readframes(sound.getnframes()) == clip.waveform.tobytes()


def test_tar_members_carry_no_time_and_no_owner_and_the_index_fits(folder, prepared):
    ends = {}
    for path in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (
                    0,
                    0,
                    0,
                    "",
                    0o644,
                )
                ends[member.name] = member.offset_data
    dataset = PreparedDataset(folder, "all")
    for clip in dataset._clips:
        key = f"{clip['row']:08d}"
        assert clip["wav"] == ends[f"{key}.wav"] + shards.WAV_HEADER
        assert clip["json"]["begin"] == ends[f"{key}.json"]
        frames = dataset._span("frames", clip["frames"])
        assert [frame["begin"] for frame in frames] == [
            ends[f"{key}.f{k:03d}.jpg"] for k in range(len(frames))
        ]


def test_random_access_gives_what_was_stored(folder, prepared):
    dataset = PreparedDataset(folder, "all")
    stored = [clip for clip in prepared if clip]
    assert len(dataset) == len(stored)
    for i, clip in reversed(list(enumerate(stored))):
        record = dataset.record(i)
        assert (record.id, record.split, record.labels) == (clip.row.id, clip.row.split, clip.row.labels)
        assert tuple(dataset.classes[label] for label in record.label_ids) == clip.row.labels
        assert dataset.label_id(i) == (0 if clip.row.labels else -1)
        np.testing.assert_allclose(record.times, clip.times, atol=1e-6)
        np.testing.assert_allclose(record.boxes, np.reshape(clip.row.boxes, (-1, 4)), atol=1e-7)
        assert (record.width, record.height) == clip.size == (64, 48)
        assert record.samples == len(clip.waveform) and dataset.facts(i)["samples"] == record.samples
        np.testing.assert_array_equal(dataset.waveform(i), clip.waveform)
        np.testing.assert_array_equal(dataset.waveform(i, 1000, 500), clip.waveform[1000:1500])
        assert len(dataset.waveform(i, record.samples - 10, 500)) == 10
        for k, jpeg in enumerate(clip.jpegs):
            bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            np.testing.assert_array_equal(dataset.frame(i, k), bgr[..., ::-1])
        assert dataset.frame(i, 0, reduce=2).shape == (24, 32, 3)
        assert dataset.mask(i) is None


def test_splits(folder):
    assert [len(PreparedDataset(folder, split)) for split in ("train", "test", "all")] == [4, 1, 5]
    assert PreparedDataset(folder, "test").record(0).id == "clip ü4"
    with pytest.raises(DataError, match=r"no clip of split valid; there are: test \(1\), train \(4\)"):
        PreparedDataset(folder, "valid")


def test_same_clips_same_bytes_and_one_sum_over_all(folder, prepared, tmp_path):
    again = store(tmp_path / "again", prepared)
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()
    fewer = store(tmp_path / "fewer", [*prepared[:-1], None])
    assert (
        PreparedDataset(fewer).checksum != PreparedDataset(folder).checksum == PreparedDataset(again).checksum
    )


def test_pickles_small_and_works_on_the_other_side(folder):
    dataset = PreparedDataset(folder)
    dataset.waveform(0)
    data = pickle.dumps(dataset)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).frame(1, 0), dataset.frame(1, 0))


def test_a_forked_child_and_its_parent_read_at_the_same_time(folder):
    dataset = PreparedDataset(folder)
    wanted = [dataset.waveform(i).tobytes() for i in range(4)]
    child = os.fork()
    same = all(dataset.waveform(i % 4).tobytes() == wanted[i % 4] for i in range(400))
    if child == 0:
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0 and same


def test_only_so_many_shards_are_open_at_once(folder, monkeypatch):
    monkeypatch.setattr(dataset_module, "OPEN_SHARDS", 1)
    dataset = PreparedDataset(folder, "all")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for i in (0, 4, 2, 0, 4):
        dataset.waveform(i)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_a_million_clips_open_in_less_than_a_second(folder, tmp_path):
    clips_in = 1_000_000
    facts = json.loads((folder / shards.DATASET_JSON).read_text())
    facts["splits"] = {"test": 0, "train": clips_in}
    facts["shards"] = [facts["shards"][0]] * (clips_in // 256)
    (tmp_path / shards.DATASET_JSON).write_text(json.dumps(facts))
    (tmp_path / "index").mkdir()
    for name, dtype in shards.ARRAYS.items():
        empty = np.zeros(0, dtype)
        shape = (clips_in * {"frames": 20, "text": 20}.get(name, 1), *empty.shape[1:])
        array = np.lib.format.open_memmap(shards.index_path(tmp_path, name), "w+", empty.dtype, shape)
        if name == "splits":
            array[:] = 1
        array.flush()
    began = time.perf_counter()
    dataset = PreparedDataset(tmp_path, "train")
    assert len(dataset) == clips_in and dataset.record(999_999).samples == 0
    assert time.perf_counter() - began < 1.0


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
    return store(tmp_path / "copy", prepared)


def test_a_folder_that_is_not_prepared_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("AVTOOL_DATA", str(tmp_path))
    with pytest.raises(DataError, match="not a prepared data set") as caught:
        PreparedDataset(tmp_path / "prepared" / "vggsound")
    assert caught.value.hint == "avtool prepare vggsound"
    with pytest.raises(DataError, match=r"no dataset\.json") as caught:
        PreparedDataset(tmp_path)
    assert caught.value.hint == f"avtool prepare manifest FILE.csv --out {tmp_path} --force"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1'])
def test_a_broken_dataset_json(copy, text):
    (copy / shards.DATASET_JSON).write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json is broken"):
        PreparedDataset(copy)


def test_another_format(copy):
    facts = json.loads((copy / shards.DATASET_JSON).read_text())
    (copy / shards.DATASET_JSON).write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        PreparedDataset(copy)


def test_a_shard_cut_short_or_gone_is_named(copy):
    path = shards.shard_path(copy, 2)
    path.write_bytes(path.read_bytes()[:-512])
    dataset = PreparedDataset(copy, "all")
    dataset.waveform(0)
    with pytest.raises(DataError, match=r"shard-000002\.tar does not have the \d+ bytes"):
        dataset.waveform(4)
    path.unlink()
    with pytest.raises(DataError, match=r"shard-000002\.tar is missing"):
        dataset.waveform(4)


def test_an_index_that_does_not_fit_is_noticed(copy, folder):
    path = shards.index_path(copy, "frames")
    frames = np.load(path)
    frames["begin"] += 7
    np.save(path, frames)
    with pytest.raises(DataError, match=r"the index does not fit .*shard-000000\.tar \(row 0\)"):
        PreparedDataset(copy, "all").frame(0, 0)
    text = shards.index_path(copy, "text")
    np.save(text, np.load(text)[:-1])
    with pytest.raises(DataError, match=r"text\.npy is shorter than the index needs"):
        PreparedDataset(copy, "all").record(4)
    clips_path = shards.index_path(copy, "clips")
    np.save(clips_path, np.load(clips_path)[:-1])
    with pytest.raises(DataError, match="index does not fit dataset"):
        PreparedDataset(copy, "all")
    clips_path.write_bytes(clips_path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"clips\.npy is missing or broken"):
        PreparedDataset(copy, "all")


def test_an_index_of_other_shards_is_noticed_before_sound_is_read(copy):
    path = shards.index_path(copy, "clips")
    entries = np.load(path)
    entries["wav"] += 2
    np.save(path, entries)
    with pytest.raises(DataError, match=r"the index does not fit .*shard-000000\.tar"):
        PreparedDataset(copy, "all").waveform(0)
    entries["wav"] -= 2
    entries["shard"][-1] = 99
    np.save(path, entries)
    with pytest.raises(DataError, match=r"index does not fit dataset\.json"):
        PreparedDataset(copy, "all")


def test_durations_and_classes_of_a_split(folder, prepared):
    stored = [clip for clip in prepared if clip]
    dataset = PreparedDataset(folder, "all")
    np.testing.assert_allclose(dataset.durations(), [clip.duration for clip in stored], rtol=1e-6)
    assert dataset.class_counts().tolist() == [3, 2, 1]
    assert PreparedDataset(folder, "train").class_counts().tolist() == [3, 2, 1]
    assert PreparedDataset(folder, "test").class_counts().tolist() == [0, 0, 0]
    np.testing.assert_allclose(PreparedDataset(folder, "test").durations(), [stored[4].duration], rtol=1e-6)


def test_sound_members_are_byte_ranges():
    waveform = np.arange(-5, 5, dtype=np.int16)
    data = shards.wav_bytes(waveform, 16000)
    assert data[shards.WAV_HEADER :] == waveform.tobytes()
