"""Prepared data as other programs read them, and as Parquet. docs/data.md names the versions that were tried."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from typer.testing import CliRunner

from avtool import libraries
from avtool.cli import app
from avtool.data import shards
from avtool.data.card import FACTS
from avtool.data.catalog import Row
from avtool.data.convert import PreparedClip, Settings, convert
from avtool.data.dataset import PreparedDataset
from avtool.data.parquet import convert_data
from avtool.data.prepare import prepare
from avtool.errors import DataError, UsageError
from avtool.inputs import from_jpeg
from tests import clips
from tests.unit.test_prepare import manifest, row
from tests.unit.test_shards import store


def is_there(module: str) -> bool:
    with suppress(ModuleNotFoundError):
        return find_spec(module) is not None
    return False


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not is_there(module), reason=f"{module} is not installed")


@pytest.fixture(scope="module", params=["synth", pytest.param("real", marks=clips.needs_test_data)])
def data(request, synth: Callable[[int], Path], tmp_path_factory) -> Path:
    """Clips that are all alike, and clips of different sizes and numbers of frames."""
    if request.param == "synth":
        return synth(25)
    out = tmp_path_factory.mktemp("real") / "vggsound"
    return prepare("vggsound", clips.TEST_DATA / "vggsound_mini", out=out).out


def jpeg_of(dataset: PreparedDataset, i: int, k: int) -> bytes:
    clip = dataset._clip(i)
    entry = dataset._span("frames", clip["frames"])[k]
    return dataset._bytes(clip, int(entry["begin"]), int(entry["size"]))


def check(dataset: PreparedDataset, i: int, facts: dict[str, Any], picture: Any, wav: bytes) -> None:
    """``picture`` is the key frame, as it is stored or in pixels of (H, W, 3)."""
    record = dataset.record(i)
    assert (facts["id"], facts["split"]) == (record.id, record.split)
    assert facts["labels"] == list(record.labels) and facts["times"] == pytest.approx(record.times)
    assert wav[shards.WAV_HEADER :] == dataset.waveform(i).tobytes()
    if isinstance(picture, bytes):
        assert picture == jpeg_of(dataset, i, record.key)
    else:
        wanted = dataset.frame(i, record.key)
        picture = np.asarray(picture)
        assert picture.shape == wanted.shape and np.abs(picture.astype(int) - wanted).max() < 8


def rounded(facts: dict[str, Any]) -> dict[str, Any]:
    """Some readers of JSON take the last digit of a number for another."""
    return json.loads(json.dumps(facts), parse_float=lambda text: round(float(text), 9))


# Hugging Face datasets, by the card -------------------------------------------------------------------


def loaded(folder: Path, cache: Path, *, streaming: bool) -> dict[str, list[dict[str, Any]]]:
    import datasets

    found = datasets.load_dataset(str(folder), streaming=streaming, cache_dir=str(cache))
    return {split: list(samples) for split, samples in found.items()}


@needs("datasets")
@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_the_shards_split_by_split(data, tmp_path, streaming):
    found = loaded(data, tmp_path, streaming=streaming)
    assert list(found) == ["train", "test"]
    for split, samples in found.items():
        dataset = PreparedDataset(data, split)
        assert len(samples) == len(dataset)
        for i, sample in enumerate(samples):
            check(dataset, i, sample["json"], sample["jpg"], sample["wav"])
            assert sample["json"].keys() == FACTS.keys()
            key, count = sample["json"]["key"], len(sample["json"]["times"])
            there = [name for name in sample if name.startswith("f") and sample[name] is not None]
            assert there == [f"f{k:03d}.jpg" for k in range(count) if k != key]
            mask = dataset.mask(i)
            assert (mask is None) == (sample.get("mask.png") is None)
            assert mask is None or np.array_equal(np.asarray(sample["mask.png"]), mask)


@needs("datasets")
@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_parquet_split_by_split(data, tmp_path, streaming):
    pytest.importorskip("pyarrow")
    assert convert_data(data, tmp_path / "out") == PreparedDataset(data, "all").splits
    for split, samples in loaded(tmp_path / "out", tmp_path / "cache", streaming=streaming).items():
        dataset = PreparedDataset(data, split)
        assert len(samples) == len(dataset)
        for i, sample in enumerate(samples):
            check(dataset, i, sample, sample["frames"][sample["key"]], sample["wav"])
            facts = dataset.facts(i)
            assert rounded({name: sample[name] for name in FACTS}) == rounded(facts)
            assert len(sample["frames"]) == len(facts["times"])
            for k, mask in zip(facts["masks"], sample["mask_images"], strict=True):
                assert np.array_equal(np.asarray(mask), dataset.mask(i, k))
            for name, wav in zip(facts["stems"], sample["stem_wavs"], strict=True):
                assert wav[shards.WAV_HEADER :] == dataset.stem(i, name).tobytes()


SPLITS = ("train", "held out/2", "all", "größer", "lost")


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """Splits of any name; of "train" the first shard is empty, of "lost" every one."""
    folder = tmp_path_factory.mktemp("odd")
    clips.clip(folder / "a.mp4", 1.5)
    rows = [row("gone"), *(row(f"{k}", split=split, video="a.mp4") for k, split in enumerate(SPLITS[:4]))]
    table = manifest(folder, [*rows, row("lost", split="lost")])
    return prepare("manifest", table, out=folder / "out", settings=["rows_per_shard=1"]).out


def test_splits_of_any_name_have_files_of_their_own(odd):
    files = {"train": "train", "held out/2": "held_out_2", "all": "all_", "größer": "größer", "lost": "lost"}
    assert shards.split_files(SPLITS) == files
    assert shards.split_files(["a/b", "a:b"]) == {"a/b": "a_b", "a:b": "a_b_"}
    there = {path.name for path in (odd / "shards").iterdir()}
    assert there == {f"{file}-00000.tar" for file in files.values()} | {"train-00001.tar"}
    text = (odd / "README.md").read_text()
    assert "lost" not in text and "path: shards/all_-*.tar" in text
    assert "files of 2 were missing" in text


@needs("datasets")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_datasets_loads_splits_of_any_name(odd, tmp_path, form, streaming):
    folder = odd
    if form == "parquet":
        pytest.importorskip("pyarrow")
        convert_data(odd, folder := tmp_path / "out")
    found = loaded(folder, tmp_path / "cache", streaming=streaming)
    said = {
        split: [sample.get("json", sample)["split"] for sample in samples] for split, samples in found.items()
    }
    assert said == {"train": ["train"], "held_out_2": ["held out/2"], "all_": ["all"], "größer": ["größer"]}


# Readers of the shards --------------------------------------------------------------------------------


def tars(data: Path, split: str) -> list[str]:
    return sorted(map(str, (data / "shards").glob(f"{split}-*.tar")))


def test_webdataset_reads_frame_sound_and_facts_in_batches(data):
    for split in ("train", "test"):
        found = webdataset.WebDataset(tars(data, split), shardshuffle=False).decode("pil")
        samples = [
            sample
            for batch in found.to_tuple("jpg", "wav", "json").batched(4)
            for sample in zip(*batch, strict=True)
        ]
        dataset = PreparedDataset(data, split)
        assert len(samples) == len(dataset)
        for i, (picture, wav, facts) in enumerate(samples):
            check(dataset, i, facts, picture, wav)
        listed = webdataset.WebDataset(tars(data, split), shardshuffle=False).listed(4)
        assert sum(map(len, listed)) == len(dataset)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, begun once."""
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.proof
@needs("ray.data")
def test_ray_reads_rows_and_undecoded_batches(data, cluster):
    from ray.data import read_webdataset

    for split in ("train", "test"):
        dataset, order = PreparedDataset(data, split), {}
        for i in range(len(dataset)):
            order[dataset.record(i).id] = i
        rows = read_webdataset(tars(data, split)).take_all()
        assert len(rows) == len(dataset)
        for found in rows:
            check(dataset, order[found["json"]["id"]], found["json"], found["jpg"], found["wav"])
        batches = read_webdataset(tars(data, split), decoder=None).iter_batches(batch_size=4)
        seen = 0
        for batch in batches:
            for facts, picture, wav in zip(batch["json"], batch["jpg"], batch["wav"], strict=True):
                told = json.loads(facts)
                check(dataset, order[told["id"]], told, picture, wav)
                seen += 1
        assert seen == len(dataset)


@pytest.mark.proof
@needs("megatron.energon")
def test_energon_reads_crude_samples_in_place(data, tmp_path):
    from megatron import energon

    folder = shutil.copytree(data, tmp_path / "data")
    command = [str(Path(sys.executable).with_name("energon")), "prepare", str(folder), "--non-interactive"]
    command += ["--num-workers", "1", "--sample-type", "CrudeWebdataset"]
    command += ["--split-parts", "train:shards/train-.*", "--split-parts", "val:shards/test-.*"]
    subprocess.run(command, check=True, capture_output=True)

    @energon.stateless
    def cook(sample: dict[str, Any]) -> energon.CaptioningSample:
        known = energon.basic_sample_keys(sample)
        return energon.CaptioningSample(**known, image=sample["jpg"], caption=json.dumps(sample["json"]))

    class Encoder(energon.DefaultTaskEncoder):
        cookers = [energon.Cooker(cook)]  # noqa: RUF012

        def batch(self, samples: list[Any]) -> list[Any]:
            return samples

    alone = energon.WorkerConfig(rank=0, world_size=1, num_workers=0)
    for part, split in (("train", "train"), ("val", "test")):
        dataset = PreparedDataset(data, split)
        how = {"split_part": part, "batch_size": 1, "worker_config": alone, "task_encoder": Encoder()}
        loader = energon.get_loader(energon.get_val_dataset(folder, **how))
        samples = sorted((sample for batch in loader for sample in batch), key=lambda sample: sample.__key__)
        assert len(samples) == len(dataset)
        for i, sample in enumerate(samples):
            wanted = dataset.frame(i, dataset.record(i).key)
            assert json.loads(sample.caption) == dataset.facts(i)
            assert np.abs(255 * sample.image.numpy().transpose(1, 2, 0) - wanted).max() < 8
    PreparedDataset(folder).check_shards()  # it wrote beside them


# Parquet ----------------------------------------------------------------------------------------------


def test_without_pyarrow_the_error_says_what_to_install(odd, tmp_path, monkeypatch):
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    done = CliRunner().invoke(
        app, ["convert-data", str(odd), "--to", "parquet", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 2 and "--to parquet needs pyarrow, which is not installed" in done.stderr
    assert "pip install 'avtool[parquet]'" in done.stderr and not (tmp_path / "out").exists()


@needs("pyarrow")
def test_parquet_is_whole_or_not_there_and_replaced_by_force_alone(odd, tmp_path, monkeypatch):
    out = tmp_path / "out"
    told = ["convert-data", str(odd), "--to", "parquet", "--out", str(out)]
    done = CliRunner().invoke(app, [*told, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["clips"]["held out/2"] == 1
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {str(path.relative_to(out)) for path in before} == {"README.md", "converted_from.json"} | {
        f"data/{file}-00000.parquet" for file in ("train", "held_out_2", "all_", "größer")
    }
    assert CliRunner().invoke(app, told).exit_code == 2
    with pytest.raises(UsageError, match="exists"):
        convert_data(odd, out)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("avtool.data.parquet._row", lambda members: (_ for _ in ()).throw(KeyboardInterrupt))
        convert_data(odd, out, force=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert CliRunner().invoke(app, [*told, "--force"]).exit_code == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("")
    with pytest.raises(UsageError, match="not what avtool wrote"):
        convert_data(odd, tmp_path / "mine", force=True)
    with pytest.raises(UsageError, match="unknown form csv"):
        convert_data(odd, tmp_path / "csv", to="csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


@needs("pyarrow")
@pytest.mark.parametrize(("at", "said"), [(0, "has other clips than"), (512, "is damaged")])
def test_damaged_shards_are_not_converted(odd, tmp_path, at, said):
    copy = shutil.copytree(odd, tmp_path / "copy")
    path = copy / "shards" / "train-00001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes(512) + whole[at + 512 :])
    with pytest.raises(DataError, match=said):
        convert_data(copy, tmp_path / "out")
    path.write_bytes(whole[:-512])
    with pytest.raises(DataError, match="cut short"):
        convert_data(copy, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


# Format 3 ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_and_new(tmp_path_factory) -> tuple[Path, Path]:
    """The same clips in format 3, with both splits in one shard, and now."""
    folder, prepared = tmp_path_factory.mktemp("formats"), list[PreparedClip]()
    for k in range(4):
        source = Row(
            f"c{k}", ("train", "test")[k % 2], ("a",), video=clips.clip(folder / f"{k}.mp4", 1.5, seed=k)
        )
        clip = convert(source, Settings())
        assert isinstance(clip, PreparedClip)
        prepared.append(clip)
    new = store(folder / "new", prepared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "frame_name", lambda k, key: f"f{k:03d}.jpg")
        patch.setattr(shards, "FORMAT", 3)
        old = store(folder / "old", prepared, [shards.Shard(0, "shard-000000.tar", "", range(4))])
    path = old / shards.DATASET_JSON
    facts = json.loads(path.read_text())
    del facts["licence"], facts["shards"][0]["split"]
    path.write_text(json.dumps({**facts, "checksum": shards.checksum_of(facts)}))
    return old, new


def test_data_of_format_3_are_read(old_and_new):
    old, new = (PreparedDataset(folder, "all") for folder in old_and_new)
    assert old.splits == new.splits == {"test": 2, "train": 2} and len(old) == len(new) == 4
    assert old.class_counts().tolist() == new.class_counts().tolist() == [4]
    for i in range(4):
        record, known = old.record(i), new.record(i)
        assert (record.id, record.split, record.key) == (known.id, known.split, known.key)
        for k in range(len(record.times)):
            jpeg = jpeg_of(old, i, k)
            assert jpeg == jpeg_of(new, i, k) and np.array_equal(old.frame(i, k), from_jpeg(jpeg))
        assert np.array_equal(old.waveform(i), new.waveform(i)) and old.facts(i) == new.facts(i)
    done = CliRunner().invoke(app, ["inspect", str(old_and_new[0]), "--verify", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["format"] == 3


@needs("pyarrow")
def test_data_of_format_3_are_converted(old_and_new, tmp_path):
    from pyarrow import parquet as reader

    for name, folder in zip(("old", "new"), old_and_new, strict=True):
        assert convert_data(folder, tmp_path / name) == {"train": 2, "test": 2}
    old, new = (
        {
            path.name: reader.read_table(io.BytesIO(path.read_bytes()))
            for path in (tmp_path / name).rglob("*.parquet")
        }
        for name in ("old", "new")
    )
    assert old.keys() == new.keys() == {"train-00000.parquet", "test-00000.parquet"}
    assert all(old[name].equals(new[name]) for name in old)
    assert "license: unknown" in (tmp_path / "old" / "README.md").read_text()
