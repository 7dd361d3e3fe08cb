"""``avtool bench data``: samples a second from mp4 files, decoded as commonly published loaders do it, and from the
same clips prepared."""

import csv
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from multiprocessing import forkserver, set_forkserver_preload
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from avtool.bench.measure import compare, interleave, measured_on, spread
from avtool.data import synth
from avtool.data.catalog import Request, read_source
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import PREFETCH, batches_in_training, collate, spread_over
from avtool.data.prepare import prepare
from avtool.data.views import TrainingViews, draws, random_crop
from avtool.data.workers import START_METHOD
from avtool.devices import keep_freed_memory
from avtool.errors import DataError
from avtool.inputs import fit_window
from avtool.libraries import need

IMAGE_SIZE, WINDOW_SECONDS, SAMPLE_RATE = 224, 3.0, 16000
CROP_SCALE = (0.5, 1.0)
ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
TRANSFORMS = "torchvision.transforms.functional"
SECONDS = 2.0
"""Length of a turn: CPU time of one process, or wall time end to end."""
WAYS = {"a core": 0, "1 worker": 1, "2 workers": 2}
"""How samples are read: by so many worker processes, 0 by the measuring process itself."""
COMPARED = [(f"prepared, {way}", f"mp4, {way}") for way in WAYS]
COMPARED += [(f"{side}, 2 workers", f"{side}, 1 worker") for side in ("prepared", "mp4")]
"""Pairs of sides, the rate of the first over the second's."""

PUBLISHED_RATE = 35.0
"""Samples a core-second of the published loader on 10 s clips of VGGSound, at the least: what the mp4 side has to reach
to be a fair one, on an idle machine."""
PUBLISHED_SECONDS, PUBLISHED_SIDE = (9.0, 11.0), 240
"""Median length and short side, at the least, of clips that this holds for."""

Batches = Iterator[Mapping[str, Any]]


def benchmark_data(
    source: Path | None = None, *, clips: int = 64, batch: int = 32, rounds: int = 5, seed: int = 0
) -> dict[str, Any]:
    """Measure both sides on the same clips and return plain values: ``machine``, ``settings``, ``clips``, ``results``,
    ``ratios`` and ``reference`` (a sentence on the mp4 side, which says so where ratios to it do not count).

    ``source``: a folder of clips (also in folders within it), of which at most ``clips`` are taken, prepared in a
    temporary folder; None: ``clips`` clips are rendered. A sample is a random frame, cropped at random to 224 x 224,
    and 3 s of sound at 16 kHz; no log-mel, which runs on the device. Rates are samples a second of CPU time in one
    process, and of wall time with one and with two worker processes. Raises DataError where there is no usable
    clip.
    """
    need(TRANSFORMS, purpose="bench data")
    cpu, settings = torch.device("cpu"), {"benchmark": "data", "batch": batch, "rounds": rounds, "seed": seed}
    found = measured_on(cpu, settings)
    keep_freed_memory(cpu)  # as training does
    if START_METHOD == "forkserver":
        # Workers then need not import torch one by one; prepare would start a server that has not.
        set_forkserver_preload([__name__, TRANSFORMS])
        forkserver.ensure_running()
    with tempfile.TemporaryDirectory(prefix="avtool-bench-") as folder:
        dataset, videos = _both(source, Path(folder), clips=clips, seed=seed)
        _check_all(videos)
        size = min(batch, len(dataset))  # of which as many as fit are handed over as one
        found["settings"]["batch"] = batch = batch // size * size
        rates = interleave(_sides(dataset, videos, batch, seed), rounds)
        facts = [dataset.facts(i) for i in range(len(dataset))]
        found["clips"] = {
            "count": len(facts),
            "median_seconds": float(np.median([fact["duration"] for fact in facts])),
            "median_size": np.median([fact["source_size"] for fact in facts], axis=0).tolist(),
            "file_bytes": sum(path.stat().st_size for path in videos),
        }
    results = {name: {"name": name, "rate": spread(each), "rounds": each} for name, each in rates.items()}
    return {
        **found,
        "results": list(results.values()),
        "ratios": [compare(results[over], results[under], "rate") for over, under in COMPARED],
        "reference": mp4_in_words(spread(rates["mp4, a core"])["median"], found["clips"]),
    }


def mp4_in_words(rate: float, about: Mapping[str, Any]) -> str:
    """How fast decoding from mp4 is beside the published loader, and, on clips like those it read, whether it is too
    slow here for a fair reference."""
    low, high = PUBLISHED_SECONDS
    alike = low <= about["median_seconds"] <= high and min(about["median_size"]) >= PUBLISHED_SIDE
    return (
        f"mp4: {rate:.1f} samples a core-second; the published loader has at least {PUBLISHED_RATE:.0f} on clips of "
        f"10 s and {PUBLISHED_SIDE} lines or more"
        + (": too slow here, so ratios to mp4 do not count" if alike and rate < PUBLISHED_RATE else "")
    )


# The clips -------------------------------------------------------------------------------------------


def _both(source: Path | None, folder: Path, *, clips: int, seed: int) -> tuple[PreparedDataset, list[Path]]:
    """The same clips prepared and as files, in one order."""
    prepared, table = folder / "prepared", folder / "clips.csv"
    if source is None:
        table = synth.render(folder / "rendered", clips=clips, seed=seed)
    else:
        _list_clips(source, table, clips)
    report = prepare("manifest", table, out=prepared)
    if not report.prepared:
        raise DataError(
            f"none of the clips in {source} can be prepared: {', '.join(report.as_dict()['reasons'])}",
            hint="avtool inspect CLIP says why",
        )
    dataset = PreparedDataset(prepared, "all")
    videos = {row.id: Path(row.video) for row in read_source("manifest", table, Request()).rows if row.video}
    try:
        return dataset, [videos[dataset.record(i).id] for i in range(len(dataset))]
    except KeyError:
        raise DataError(f"{table} does not list every clip of {prepared}", hint="prepare it again") from None


def _list_clips(source: Path, table: Path, clips: int) -> None:
    """A csv of at most so many clips in ``source``, spread evenly over them."""
    if not source.is_dir():
        raise DataError(f"{source} is not a folder", hint="name a folder of clips")
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not files:
        raise DataError(f"{source} holds no clips ({', '.join(ENDINGS)})", hint="name a folder of clips")
    chosen = [files[i].absolute() for i in spread_over(range(len(files)), clips)]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label", "video"])
        writer.writerows([f"{k:05d}-{path.stem}", "bench", "", path] for k, path in enumerate(chosen))


def _check_all(videos: Sequence[Path]) -> None:
    """Raise DataError that names the clip which common loaders would stumble over: avtool prepares more than they
    can read, and in the middle of a measurement is too late."""
    for path in videos:
        try:
            decode_sample(path, np.random.default_rng(0))
        except (av.FFmpegError, IndexError) as error:
            raise DataError(
                f"{path} cannot be read as common loaders do: {error}", hint="leave this clip out"
            ) from error


# Both sides ------------------------------------------------------------------------------------------


def _sides(
    dataset: PreparedDataset, videos: Sequence[Path], batch: int, seed: int
) -> dict[str, Callable[[], float]]:
    """What is measured, by name: each gives samples a second."""

    views = TrainingViews(
        dataset,
        image_size=IMAGE_SIZE,
        window_samples=round(WINDOW_SECONDS * dataset.sample_rate),
        crop_scale=CROP_SCALE,
        seed=seed,
    )

    def from_mp4(workers: int) -> Batches:
        loader = DataLoader(
            Mp4Samples(videos, seed),
            batch_size=batch,
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            # Not forked: PyAV 19 keeps a converter, and its threads are not there after a fork.
            multiprocessing_context=START_METHOD if workers else None,
        )
        return iter(loader)

    def prepared(workers: int) -> Batches:
        size = min(batch, len(dataset))
        chosen = np.arange(len(dataset))
        return batches_in_training(
            views, chosen, batch_size=size, merged=batch // size, workers=workers, seed=seed
        )

    return {
        f"{side}, {way}": partial(rate_of, begin, workers, batch)
        for side, begin in (("mp4", from_mp4), ("prepared", prepared))
        for way, workers in WAYS.items()
    }


def rate_of(begin: Callable[[int], Batches], workers: int, batch: int) -> float:
    """Samples a second from ``workers`` processes once each has handed over its first batch, in wall time; without
    workers in CPU time of this process, all its threads together. Whole turns of all workers are counted, as their
    batches arrive in turn."""
    batches, turn = begin(workers), max(1, workers)
    clock = time.perf_counter if workers else time.process_time
    for _ in islice(batches, turn):
        pass
    began, count = clock(), 0
    while (taken := clock() - began) < SECONDS or count == 0:
        for _ in islice(batches, turn):
            count += batch
    return count / taken


class Mp4Samples(IterableDataset[Mapping[str, Any]]):
    """Endless samples of random clips: keys as of the training loader's batches."""

    def __init__(self, videos: Sequence[Path], seed: int) -> None:
        self.videos, self.seed = list(videos), seed

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        info = get_worker_info()
        generator = draws(self.seed, 0, 0 if info is None else info.id)
        while True:
            yield decode_sample(self.videos[generator.integers(len(self.videos))], generator)


def decode_sample(path: Path, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """A training sample straight from a clip: ``image`` uint8 (3, 224, 224) RGB, ``waveform`` int16 (48000,).

    As common loaders do it: the file is opened for the picture and again for the sound. The frame is the first that
    comes after a seek to a random time within the window: a key frame, of which clips from the web have few, so that
    the same few frames of a clip are shown again and again. It becomes a picture of full size, of which a random crop
    is resized. Sound is decoded from where a seek to the window's start leads, which is the picture's key frame before
    it; what belongs to the window is resampled. One thread. DataError where the clip has no such frame or sound.
    """
    transforms = need(TRANSFORMS, purpose="bench data")
    with av.open(f"file:{path}") as container:
        length = (container.duration or 0) / av.time_base
        start = generator.random() * max(0.0, length - WINDOW_SECONDS)
        picture = _frame_near(container, start + generator.random() * min(WINDOW_SECONDS, length)).to_image()
    with av.open(f"file:{path}") as container:
        waveform = _sound_from(container, start)
    left, top, width, height = random_crop(generator, picture.width, picture.height, CROP_SCALE)
    view = transforms.resized_crop(picture, top, left, height, width, [IMAGE_SIZE, IMAGE_SIZE])
    view = transforms.hflip(view) if generator.random() < 0.5 else view
    return {"image": np.asarray(view).transpose(2, 0, 1), "waveform": waveform}


def _frame_near(container: av.container.InputContainer, seconds: float) -> av.VideoFrame:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    _seek(container, seconds)
    for frame in container.decode(stream):
        return frame
    raise DataError(f"{container.name}: no frame at {seconds:.2f} s", hint="leave this clip out")


def _seek(container: av.container.InputContainer, seconds: float) -> None:
    container.seek((container.start_time or 0) + math.floor(seconds * av.time_base))


def _sound_from(container: av.container.InputContainer, start: float) -> np.ndarray:
    stream = container.streams.audio[0]
    _seek(container, start)
    start += (container.start_time or 0) / av.time_base
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    needed, have = round(WINDOW_SECONDS * SAMPLE_RATE), 0
    blocks: list[np.ndarray] = []
    for frame in container.decode(stream):
        if frame.time is not None and frame.time + frame.samples / frame.sample_rate < start:
            continue
        for block in resampler.resample(frame):
            blocks.append(block.to_ndarray().reshape(-1))
            have += block.samples
        if have >= needed:
            break
    if not blocks:
        raise DataError(f"{container.name}: no sound at {start:.2f} s", hint="leave this clip out")
    return fit_window(np.concatenate(blocks), needed)
