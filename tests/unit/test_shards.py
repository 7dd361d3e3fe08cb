"""The store: tar shards, their index, random access."""

from __future__ import annotations

import io
import json
import mmap
import os
import pickle
import tarfile
import tracemalloc
import wave
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset
import yaml

from avtool.data import dataset as dataset_module
from avtool.data import shards
from avtool.data.card import FACTS
from avtool.data.catalog import Row
from avtool.data.convert import PreparedClip, Settings, convert
from avtool.data.dataset import PreparedDataset
from avtool.errors import DataError
from tests import clips

SETTINGS = Settings(rows_per_shard=2)


def store(
    folder: Path, prepared: list[PreparedClip | None], planned: list[shards.Shard] | None = None
) -> Path:
    """A data set of these clips, in the shards ``planned``; None is a row that gave none."""
    classes = sorted({label for clip in prepared if clip for label in clip.row.labels})
    splits = sorted({clip.row.split for clip in prepared if clip})
    parts, facts = [], []
    of_rows = [clip.row.split if clip else "train" for clip in prepared]
    for shard in shards.shards_of(of_rows, SETTINGS.rows_per_shard) if planned is None else planned:
        with shards.ShardWriter(shards.shard_path(folder, shard.name), shard, classes, splits) as writer:
            for row in shard.rows:
                if (clip := prepared[row]) is not None:
                    writer.add(row, shards.clip_bytes(row, clip, SETTINGS))
        parts.append(writer.packed())
        facts.append(writer.facts())
    counts = {"prepared": sum(clip is not None for clip in prepared)}
    names = {"name": "test", "classes": classes, "splits": splits, "licence": None, "made_with": []}
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


@pytest.mark.parametrize("split", ["train", "test"])
def test_any_webdataset_reader_groups_the_clips(folder, prepared, split):
    urls = [str(path) for path in sorted((folder / "shards").glob(f"{split}-*.tar"))]
    assert [Path(url).name for url in urls] == [
        f"{split}-{k:05d}.tar" for k in range({"train": 3, "test": 1}[split])
    ]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    wanted = [(f"{row:08d}", clip) for row, clip in enumerate(prepared) if clip and clip.row.split == split]
    assert [sample["__key__"] for sample in samples] == [key for key, _ in wanted]
    for sample, (_, clip) in zip(samples, wanted, strict=True):
        facts = json.loads(sample["json"])
        assert facts["id"] == clip.row.id and facts["labels"] == list(clip.row.labels)
        assert facts.keys() == {*FACTS}
        frames = {f"f{k:03d}.jpg": jpeg for k, jpeg in enumerate(clip.jpegs) if k != clip.key}
        assert sample.keys() - frames.keys() == {"__key__", "__url__", "__local_path__", "json", "wav", "jpg"}
        assert sample["jpg"] == clip.jpegs[clip.key] and frames.items() <= sample.items()
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
        frames, middle = dataset._span("frames", clip["frames"]), clip["key"]
        assert [frame["begin"] for frame in frames] == [
            ends[f"{key}.jpg" if k == middle else f"{key}.f{k:03d}.jpg"] for k in range(len(frames))
        ]


def test_the_card_names_every_member_of_any_clip(folder):
    _, header, text = (folder / "README.md").read_text().split("---\n")
    card = yaml.safe_load(header)
    assert card["configs"][0]["data_files"] == [
        {"split": split, "path": f"shards/{split}-*.tar"} for split in ("train", "test")
    ]
    kinds = {feature["name"]: feature["dtype"] for feature in card["dataset_info"]["features"]}
    members = set()
    for path in (folder / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            members |= {name.partition(".")[2] for name in tar.getnames()}
    assert set(kinds) == members | {"__key__", "__url__"}
    assert kinds["jpg"] == "image" and kinds["wav"] == "binary"
    assert card["license"] == "unknown" and "Unknown: none was given" in text
    assert "| train | `train` | 4 | `shards/train-*.tar` |" in text and 'split="train"' in text


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


@pytest.fixture(params=[20_000, 1_000_000])
def large(folder, tmp_path, request) -> tuple[Path, int]:
    """An index of so many clips, every tenth of split test, that points to a single shard."""
    count = request.param
    facts = json.loads((folder / shards.DATASET_JSON).read_text())
    facts["splits"] = {"test": count // 10, "train": count - count // 10}
    facts["shards"] = [facts["shards"][0]] * (count // 256)
    (tmp_path / shards.DATASET_JSON).write_text(json.dumps(facts))
    (tmp_path / "index").mkdir()
    for name, dtype in shards.ARRAYS.items():
        empty = np.zeros(0, dtype)
        shape = (count * {"frames": 20, "text": 20}.get(name, 1), *empty.shape[1:])
        array = np.lib.format.open_memmap(shards.index_path(tmp_path, name), "w+", empty.dtype, shape)
        if name == "splits":
            array[:] = np.arange(count) % 10 > 0
        array.flush()
    return tmp_path, count


def is_mapped(array: np.ndarray) -> bool:
    """Whether it lies in a file that is mapped, not in memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return isinstance(array.base, mmap.mmap)


def test_opening_makes_nothing_for_each_clip(large):
    path, count = large
    for split, clips_in, bytes_each in (("all", count, 0), ("train", count - count // 10, 8)):
        tracemalloc.start()
        dataset = PreparedDataset(path, split)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(dataset) == clips_in and dataset.record(clips_in - 1).samples == 0
        assert all(is_mapped(array) for array in dataset._index.values())
        # dataset.json takes some 3 bytes a clip, a Python object for each clip would take 36 at the least
        assert held < 300_000 + (bytes_each + 4) * count and peak < 300_000 + (bytes_each + 6) * count


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
    assert caught.value.hint == "avtool prepare manifest FILE.csv --out DIR, and --data DIR"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1'])
def test_a_broken_dataset_json(copy, text):
    (copy / shards.DATASET_JSON).write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json is broken") as caught:
        PreparedDataset(copy)
    assert caught.value.hint == f"avtool prepare manifest FILE.csv --out {copy} --force"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("splits", {"train": "1"}), ("shards", "x"), ("shards", [{"bytes": 1}]), ("settings", None),
        ("shards", [{"name": "../x.tar", "bytes": 1, "sha256": ""}]), ("settings", {}),
        ("classes", {}), ("made_with", {"av": "1"}), ("counts", None), ("index", []),
    ],
)  # fmt: skip
def test_a_dataset_json_of_another_form_is_broken(copy, key, value):
    path = copy / shards.DATASET_JSON
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(DataError, match=rf"dataset\.json is broken: {key}"):
        PreparedDataset(copy)


def test_another_format(copy):
    facts = json.loads((copy / shards.DATASET_JSON).read_text())
    sources = {
        "mine": "manifest FILE.csv",
        "audioset-eval": "audioset --subset eval",
        "synth": "synth --clips 5",
    }
    for name, source in sources.items():
        (copy / shards.DATASET_JSON).write_text(json.dumps({**facts, "format": 99, "name": name}))
        with pytest.raises(DataError, match="format 99, this avtool reads 3 and 4") as caught:
            PreparedDataset(copy)
        assert caught.value.hint == f"avtool prepare {source} --out {copy} --force"


def test_without_pread_the_same_is_read(copy, monkeypatch):
    read = [PreparedDataset(copy, "all").waveform(k) for k in range(3)]
    monkeypatch.delattr(os, "pread")
    dataset = PreparedDataset(copy, "all")
    for k in (2, 0, 1):
        assert np.array_equal(dataset.waveform(k), read[k])


def test_a_shard_cut_short_or_gone_is_named(copy):
    path = shards.shard_path(copy, "train-00002.tar")
    path.write_bytes(path.read_bytes()[:-512])
    dataset = PreparedDataset(copy, "all")
    dataset.waveform(0)
    with pytest.raises(DataError, match=r"train-00002\.tar does not have the \d+ bytes"):
        dataset.waveform(3)
    path.unlink()
    with pytest.raises(DataError, match=r"train-00002\.tar is missing"):
        dataset.waveform(3)


def test_an_index_that_does_not_fit_is_noticed(copy, folder):
    path = shards.index_path(copy, "frames")
    frames = np.load(path)
    frames["begin"] += 7
    np.save(path, frames)
    with pytest.raises(DataError, match=r"the index does not fit .*train-00000\.tar \(row 0\)"):
        PreparedDataset(copy, "all").frame(0, 0)
    text = shards.index_path(copy, "text")
    np.save(text, np.load(text)[:-1])
    with pytest.raises(DataError, match=r"text\.npy is shorter than the index needs"):
        PreparedDataset(copy, "all").record(3)  # of the last shard
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
    with pytest.raises(DataError, match=r"the index does not fit .*train-00000\.tar"):
        PreparedDataset(copy, "all").waveform(0)
    entries["wav"] -= 2
    for field, wrong in (("shard", 99), ("shard", -1), ("samples", 1 << 60), ("labels", (0, 1 << 40))):
        bad = entries.copy()
        bad[field][0] = wrong
        np.save(path, bad)
        with pytest.raises(DataError, match="index"):
            dataset = PreparedDataset(copy, "all")
            dataset.facts(0)
            dataset.waveform(0)
            dataset.record(0)
    entries["shard"][-1] = 99
    np.save(path, entries)
    with pytest.raises(DataError, match=r"index does not fit dataset\.json"):
        PreparedDataset(copy, "all")


def test_a_tar_of_others_in_the_place_of_a_shard_is_refused_and_writes_nothing(copy):
    path = shards.shard_path(copy, "train-00000.tar")
    size = path.stat().st_size
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("../outside", tarfile.REGTYPE),
            ("/outside", tarfile.SYMTYPE),
            ("00000000.wav", tarfile.LNKTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "../../outside", 0
            tar.addfile(member)
    data = path.read_bytes()
    path.write_bytes((data + bytes(size))[:size])
    before = sorted(copy.parent.rglob("*"))
    dataset = PreparedDataset(copy, "all")
    for use in (dataset.waveform, dataset.facts, lambda i: dataset.frame(i, 0)):
        with pytest.raises(DataError, match=r"the index does not fit .*train-00000\.tar"):
            use(0)
    assert sorted(copy.parent.rglob("*")) == before


def test_a_stored_mask_of_another_size_than_its_frame_is_refused(prepared, tmp_path):
    def png(*size: int) -> bytes:
        return cv2.imencode(".png", np.ones(size, np.uint8))[1].tobytes()

    masked = replace(prepared[0], masks={0: png(48, 64), 1: png(48, 63), 2: png(48, 64, 3), 3: b"no png"})
    dataset = PreparedDataset(store(tmp_path, [masked]))
    assert dataset.mask(0, 0).shape == (48, 64)
    for k in (1, 2, 3):
        with pytest.raises(DataError, match=r"the index does not fit .*train-00000\.tar \(row 0\)"):
            dataset.mask(0, k)


@pytest.mark.parametrize(("array", "wrong"), [("labels", 99), ("labels", -1), ("splits", 7)])
def test_an_index_of_other_classes_or_splits_is_noticed(copy, array, wrong):
    path = shards.index_path(copy, array)
    values = np.load(path)
    values[:] = wrong
    np.save(path, values)
    with pytest.raises(DataError, match="the index does not fit"):
        PreparedDataset(copy, "all").record(1)


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
