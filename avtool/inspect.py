"""What lies at a path: a prepared data set, a model or a clip. The Python API behind ``avtool inspect``."""

import json
import shlex
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avtool import places
from avtool.data.dataset import PreparedDataset
from avtool.data.shards import ARRAYS, DATASET_JSON, MADE_WITH, checksum_of, index_path, shard_path
from avtool.data.views import start_around
from avtool.errors import AvtoolError, DataError, UsageError
from avtool.files import check_output, sha256_of
from avtool.progress import progress_bar

SHOWN_CLASSES = 10
SHEET_SECONDS = 10.0
"""At most so much sound, around the frame, is seen in a contact sheet."""
CLIP_SECONDS = 60.0
"""A longer clip is decoded to here and no further."""
REPORT_JSON = "report.json"
CLIP_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv", ".mpg", ".m4v")


def inspect(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """What is at ``path``, as plain values; ``what`` says which kind it is: ``data set`` (a folder that avtool
    prepared), ``model`` (a run, a checkpoint or a converted folder, or the name of a pulled model) or ``clip`` (a
    video, picture or sound file).

    ``verify``: read a data set's shards and index and compare their sums. Raises AvtoolError where it is none of
    these, or broken.
    """
    kind = kind_of(path)
    if verify and kind != "data set":
        raise UsageError(f"{path} is a {kind}: --verify goes with a data set", hint="leave it out")
    if kind == "data set":
        return describe_dataset(path, verify=verify)
    return describe_model(path) if kind == "model" else describe_clip(path)


def kind_of(path: Path) -> str:
    """``data set``, ``model`` or ``clip``. Raises AvtoolError where ``path`` is none of them."""
    if path.is_file():
        _refuse_other_files(path)
        return "clip"
    if path.is_dir():
        return _kind_of_folder(path)
    if path.exists():
        raise DataError(f"{path} is neither a file nor a folder", hint="name a clip or a folder")
    if len(path.parts) == 1 and (places.prepared_folder(str(path)) / DATASET_JSON).is_file():
        raise DataError(
            f"there is nothing at {path}", hint=f"avtool inspect {places.prepared_folder(str(path))}"
        )
    try:
        places.resolve_checkpoint(path)
    except AvtoolError as error:
        raise DataError(
            f"there is nothing at {path}",
            hint="check the path; avtool pull --list names models that can be fetched",
        ) from error
    return "model"


def _kind_of_folder(path: Path) -> str:
    if (path / DATASET_JSON).is_file() or (path / "shards").is_dir():
        return "data set"  # without dataset.json a broken one, which opening it says
    if places.is_checkpoint(path) or any((path / name).exists() for name in (places.CHECKPOINTS, "run.json")):
        return "model"
    if path.name == places.CHECKPOINTS:
        return "model"
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if not entries:
        raise DataError(f"{path} is an empty folder", hint="name a data set, a run, a checkpoint or a clip")
    clip = next((entry for entry in entries if entry.suffix.lower() in CLIP_ENDINGS), None)
    raise DataError(
        f"{path} is neither a prepared data set nor a run nor a checkpoint: it has neither {DATASET_JSON} nor "
        f"model.safetensors nor {places.CHECKPOINTS}",
        hint=f"avtool inspect {shlex.quote(str(clip))}"
        if clip
        else "name a folder that avtool wrote, or a clip",
    )


def _refuse_other_files(path: Path) -> None:
    """Raise AvtoolError for files that belong to a folder which can be inspected, and for archives."""
    folder = shlex.quote(str(path.parent))
    if path.name in (
        DATASET_JSON,
        REPORT_JSON,
        "config.json",
        "run.json",
        "metrics.jsonl",
        "model.safetensors",
    ):
        raise DataError(f"{path} is a part of the folder it lies in", hint=f"avtool inspect {folder}")
    if path.suffix in (".pth", ".pt", ".safetensors"):
        raise DataError(
            f"{path} holds weights alone", hint=f"avtool convert {shlex.quote(str(path))} --out DIR"
        )
    if tarfile.is_tarfile(path):
        _check_members(path)
        whole = shlex.quote(str(path.parent.parent)) if path.parent.name == "shards" else "DIR"
        raise DataError(
            f"{path} is a tar; of a prepared data set the folder is inspected", hint=f"avtool inspect {whole}"
        )


def _check_members(path: Path) -> None:
    """Raise DataError that names a member which leads out of the folder that a tar is unpacked in, and a tar that is
    cut short. Nothing is unpacked."""
    hint = "do not unpack it; fetch it again from where it came from"
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if wrong := _wrong_with(member):
                    raise DataError(f"{path}: member {member.name!r} {wrong}", hint=hint)
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if len(tar.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path} is a tar that is damaged or cut short: {error}", hint=hint) from error


def _wrong_with(member: tarfile.TarInfo) -> str:
    """Why a member must not be unpacked; nothing where it may be."""
    if member.islnk() or member.issym():
        return f"is a link to {member.linkname!r}"
    if member.name.startswith("/") or ".." in Path(member.name).parts:
        return "leads out of its folder"
    return "" if member.isfile() or member.isdir() else "is neither file nor folder"


# Data sets -------------------------------------------------------------------------------------------


def describe_dataset(folder: Path, *, verify: bool = False) -> dict[str, Any]:
    """A prepared data set: counts, classes, durations, settings, sizes on disk and what its report says.

    ``classes.most`` are the ones with most clips; ``durations`` in seconds; ``verified`` counts the files and bytes
    whose sums were compared (None: not asked for); ``made_with`` are the versions that prepared it, empty for data sets
    of before they were noted. Raises DataError where it is broken, or a sum differs.
    """
    dataset = PreparedDataset(folder, "all")
    dataset.check_shards()
    facts = json.loads((folder / DATASET_JSON).read_text(encoding="utf-8"))
    index = {name: np.load(index_path(folder, name), mmap_mode="r") for name in ("clips", "labels", "frames")}
    clips, seconds = index["clips"], np.asarray(index["clips"]["duration"], np.float64)
    size = {
        "shards": sum(shard["bytes"] for shard in facts["shards"]),
        "index": sum(index_path(folder, name).stat().st_size for name in ARRAYS),
        "all": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }
    return {
        "what": "data set",
        "path": str(folder),
        "name": dataset.name,
        "format": facts["format"],
        "checksum": dataset.checksum,
        MADE_WITH: facts.get(MADE_WITH, []),
        "settings": dataset.settings,
        "counts": facts["counts"],
        "splits": dataset.splits,
        "classes": _classes(dataset.classes, index["labels"]),
        "without_label": int((clips["labels"]["size"] == 0).sum()),
        "frames": len(index["frames"]),
        "with": {name: int((clips[name]["size"] > 0).sum()) for name in ("boxes", "masks", "stems")},
        "durations": {
            "shortest": float(seconds.min()),
            "median": float(np.median(seconds)),
            "longest": float(seconds.max()),
            "sum": float(seconds.sum()),
        },
        "bytes": {**size, "per_clip_second": size["shards"] / max(float(seconds.sum()), 1e-9)},
        "shards": len(facts["shards"]),
        "report": _report(folder),
        "verified": _verify(folder, facts) if verify else None,
    }


def _classes(names: list[str], labels: np.ndarray) -> dict[str, Any]:
    """``count``, how many of them have ``no_clip``, and the ten with ``most`` clips, by name."""
    counts = np.bincount(labels, minlength=len(names))
    order = np.argsort(-counts, kind="stable")[:SHOWN_CLASSES]
    most = {names[k]: int(counts[k]) for k in order if counts[k]}
    return {"count": len(names), "no_clip": int((counts == 0).sum()), "most": most}


def _report(folder: Path) -> dict[str, Any] | None:
    """Rows for each reason and flag, and ids for each note, of report.json; None where there is none."""
    path = folder / REPORT_JSON
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {part: {name: len(ids) for name, ids in report[part].items()} for part in ("reasons", "notes")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is broken", hint="prepare the data set again") from error


def _verify(folder: Path, facts: Mapping[str, Any]) -> dict[str, int]:
    """Compare every sum in dataset.json, its own included. Raises DataError that names what differs."""
    sums = {shard_path(folder, number): shard["sha256"] for number, shard in enumerate(facts["shards"])}
    sums |= {index_path(folder, name): facts.get("index", {}).get(name) for name in ARRAYS}
    broken = [] if checksum_of(facts) == facts["checksum"] else [DATASET_JSON]
    total = 0
    with progress_bar("verifying", total=len(sums), unit="files") as bar:
        for path, wanted in sums.items():
            if not path.is_file() or sha256_of(path) != wanted:
                broken.append(str(path.relative_to(folder)))
            else:
                total += path.stat().st_size
            bar.advance()
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise DataError(
            f"{folder}: {', '.join(broken[:3])}{more} changed since the data set was prepared (sha256 differs)",
            hint="copy it again, or prepare it again with avtool prepare ... --force",
        )
    return {"files": len(sums), "bytes": total}


def write_sheet(folder: Path, out: Path, *, clips: int = 24, seed: int = 0, force: bool = False) -> list[str]:
    """Write a contact sheet of ``clips`` clips (or all) of a data set, drawn at random from ``seed``, as the PNG
    ``out``; their ids, in the sheet's order.

    A tile has the clip's key frame with its boxes, the log-mel of at most 10 s of sound around it, id, split and
    labels. UsageError where ``out`` exists (unless ``force``), DataError where the data set is broken.
    """
    from avtool.report.heatmap import write_png
    from avtool.report.sheet import contact_sheet

    check_output(out, force=force, option="--sheet", suffix=".png")
    dataset = PreparedDataset(folder, "all")
    count = min(clips, len(dataset))
    chosen = np.sort(np.random.default_rng(seed).choice(len(dataset), count, replace=False))
    write_png(out, contact_sheet([_tile(dataset, int(i)) for i in chosen]))
    return [dataset.record(int(i)).id for i in chosen]


def _tile(dataset: PreparedDataset, i: int) -> Any:
    import torch

    from avtool.features import LogMel, to_float_waveform
    from avtool.report.sheet import Tile

    record = dataset.record(i)
    count = round(SHEET_SECONDS * dataset.sample_rate)
    sound = dataset.waveform(i, start_around(dataset, record, record.middle, count), count)
    waveform = torch.from_numpy(sound.copy())[None]
    log_mel = LogMel(sample_rate=dataset.sample_rate)(to_float_waveform(waveform))
    labels = "; ".join(record.labels) or "no label"
    lines = [record.id, f"{record.split}: {labels}"]
    return Tile(dataset.frame(i, record.key), record.boxes, log_mel[0, 0].numpy(), lines)


# Models ----------------------------------------------------------------------------------------------


def describe_model(path: Path) -> dict[str, Any]:
    """A run (its newest checkpoint), a checkpoint or a converted folder: what to build, parameters by part, and for a
    run step, recipe and the last metrics up to that step. Raises CheckpointError where weights and config.json do not
    fit each other."""
    from avtool.checkpoint import empty_model_and_weights
    from avtool.config.checkpoint import read_config

    folder = places.resolve_checkpoint(path)
    config = read_config(folder)
    module, weights = empty_model_and_weights(folder, config)
    parts: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        part = _part_of(name)
        parts[part] = parts.get(part, 0) + parameter.numel()
    return {
        "what": "model",
        "path": str(path),
        "checkpoint": str(folder),
        **config.model_dump(mode="json"),
        "parameters": {"all": sum(parts.values()), **parts},
        "precisions": sorted({str(value.dtype).removeprefix("torch.") for value in weights.values()}),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "resumable": zipfile.is_zipfile(folder / "trainer.pt"),
        "run": _run(folder),
    }


def _part_of(name: str) -> str:
    """The part of a model that a parameter is counted under: of the encoder each tower, otherwise each child."""
    words = name.split(".")
    return ".".join(words[:2]) if words[0] == "encoder" else words[0]


def _run(checkpoint: Path) -> dict[str, Any] | None:
    """What the run that a checkpoint lies in says; None where it lies in none."""
    import yaml

    from avtool.tracking import METRICS, read_metrics, read_run_facts

    run, number = checkpoint.absolute().parent.parent, checkpoint.name.removeprefix("step-")
    if checkpoint.absolute().parent.name != places.CHECKPOINTS or not number.isdigit():
        return None
    step = int(number)
    recipe = run / "recipe.yaml"
    last: dict[str, Any] = {}
    for row in read_metrics(run) if (run / METRICS).is_file() else []:
        if row["step"] <= step:
            last |= row
    return {
        "folder": str(run),
        "step": step,
        "checkpoints": [path.name for path in places.checkpoints_of(run)],
        "recipe": yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None,
        "facts": read_run_facts(run),
        "metrics": last,
    }


# Clips -----------------------------------------------------------------------------------------------


def describe_clip(path: Path) -> dict[str, Any]:
    """A clip: its container and streams as their headers say, and what becomes of it when it is prepared.

    ``decoded``: ``refused`` (the reason, None where it is not), ``flags``, and the frames and sound that avtool keeps
    of its first minute. Raises MediaError where there is nothing to decode.
    """
    from avtool import media
    from avtool.data.catalog import Row
    from avtool.data.checks import dbfs
    from avtool.data.convert import PreparedClip, Settings, convert

    header = media.describe_container(path)
    end = CLIP_SECONDS if (header["duration"] or 0) > CLIP_SECONDS else None
    outcome = convert(Row(id=path.stem, split="", labels=(), video=path, end=end), settings := Settings())
    decoded: dict[str, Any] = {"seconds": end or header["duration"]}
    if isinstance(outcome, PreparedClip):
        level = dbfs(np.mean(np.square(outcome.waveform / 32768)))
        decoded |= {"refused": None, "detail": "", "flags": outcome.flags, "frames": len(outcome.jpegs)}
        decoded |= {
            "frame_rate": settings.frame_rate,
            "size": outcome.size,
            "source_size": outcome.source_size,
        }
        decoded |= {
            "samples": len(outcome.waveform),
            "sample_rate": settings.sample_rate,
            "dbfs": float(level),
        }
    else:
        decoded |= {"refused": outcome.reason, "detail": outcome.detail, "flags": []}
    return {"what": "clip", "path": str(path), "bytes": path.stat().st_size, **header, "decoded": decoded}
