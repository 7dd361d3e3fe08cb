"""What lies at a path: a prepared data set, a model or a clip. The Python API behind ``avtool inspect``."""

import json
import shlex
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from avtool import places
from avtool.data.dataset import PreparedDataset, read_facts
from avtool.data.names import listed
from avtool.data.report import REPORT_JSON, Report
from avtool.data.shards import ARRAYS, DATASET_JSON, MADE_WITH, checksum_of, index_path, shard_path
from avtool.data.tree import KINDS, VIDEO
from avtool.data.views import start_around
from avtool.errors import AvtoolError, DataError, UsageError
from avtool.files import check_output, sha256_of
from avtool.hub import is_hub_name
from avtool.progress import progress_bar
from avtool.tracking import METRICS, RUN_JSON, read_metrics, read_run_facts

SHOWN_CLASSES = 10
SHEET_SECONDS = 10.0
"""At most so much sound, around the frame, is seen in a contact sheet."""
CLIP_SECONDS = 60.0
"""A longer clip is decoded to here and no further."""
PARTS = (DATASET_JSON, REPORT_JSON, "config.json", RUN_JSON, METRICS, "model.safetensors")
"""Files of a folder that can be inspected."""


def inspect(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """What is at ``path``, as plain values; ``what`` says which kind it is: ``data set`` (a folder that avtool
    prepared), ``model`` (a run, a checkpoint or a converted folder, or the name of one that is pulled or on the hub) or
    ``clip`` (a video, picture or sound file).

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
    hint = "check the path; avtool pull --list names models that can be fetched"
    prepared = places.prepared_folder(str(path))
    if len(path.parts) == 1 and (prepared / DATASET_JSON).is_file():
        hint = f"avtool inspect {prepared}"
    elif is_hub_name(path):
        return "model"  # and if it cannot be had, the hub says why
    else:
        with suppress(AvtoolError):
            places.resolve_checkpoint(path)
            return "model"
    raise DataError(f"there is nothing at {path}", hint=hint)


def _kind_of_folder(path: Path) -> str:
    if (path / DATASET_JSON).is_file() or (path / "shards").is_dir():
        return "data set"  # without dataset.json a broken one, which opening it says
    of_run = [path / places.CHECKPOINTS, path / RUN_JSON]
    if places.is_checkpoint(path) or path.name == places.CHECKPOINTS or any(part.exists() for part in of_run):
        return "model"
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if not entries:
        raise DataError(f"{path} is an empty folder", hint="name a data set, a run, a checkpoint or a clip")
    clips = [entry for entry in entries if KINDS.get(entry.suffix[1:].lower()) == VIDEO]
    raise DataError(
        f"{path} is neither a prepared data set nor a run nor a checkpoint: it has neither {DATASET_JSON} nor "
        f"model.safetensors nor {places.CHECKPOINTS}",
        hint=_inspect(clips[0]) if clips else "name a folder that avtool wrote, or a clip",
    )


def _inspect(path: Path) -> str:
    return f"avtool inspect {shlex.quote(str(path))}"


def _refuse_other_files(path: Path) -> None:
    """Raise AvtoolError for files that belong to a folder which can be inspected, and for archives."""
    if path.name in PARTS:
        raise DataError(f"{path} is a part of the folder it lies in", hint=_inspect(path.parent))
    if path.suffix in (".pth", ".pt", ".safetensors"):
        hint = f"avtool convert {shlex.quote(str(path))} --out DIR"
        raise DataError(f"{path} holds weights alone", hint=hint)
    if tarfile.is_tarfile(path):
        _check_members(path)
        whole = path.parent.parent if path.parent.name == "shards" else Path("DIR")
        what = "is a tar; of a prepared data set the folder is inspected"
        raise DataError(f"{path} {what}", hint=_inspect(whole))


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


def describe_dataset(folder: Path, *, verify: bool = False) -> dict[str, Any]:
    """A prepared data set: counts, classes, durations, settings, sizes on disk and what its report says.

    ``classes.most`` are the ones with most clips; ``durations`` in seconds; ``verified`` counts the files and bytes
    whose sums were compared (None: not asked for); ``made_with`` are the versions that prepared it, empty for data sets
    of before they were noted. Raises DataError where it is broken, or a sum differs.
    """
    dataset = PreparedDataset(folder, "all")
    dataset.check_shards()
    facts = read_facts(folder)
    clips, frames = (np.load(index_path(folder, name), mmap_mode="r") for name in ("clips", "frames"))
    seconds = dataset.durations().astype(np.float64)
    counts = dataset.class_counts()
    most = [k for k in np.argsort(-counts, kind="stable")[:SHOWN_CLASSES] if counts[k]]
    in_shards = sum(shard["bytes"] for shard in facts["shards"])
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
        "classes": {
            "count": len(counts),
            "no_clip": int((counts == 0).sum()),
            "most": {dataset.classes[k]: int(counts[k]) for k in most},
        },
        "without_label": int((clips["labels"]["size"] == 0).sum()),
        "frames": len(frames),
        "with": {name: int((clips[name]["size"] > 0).sum()) for name in ("boxes", "masks", "stems")},
        "durations": {
            "shortest": float(seconds.min()),
            "median": float(np.median(seconds)),
            "longest": float(seconds.max()),
            "sum": float(seconds.sum()),
        },
        "bytes": {
            "shards": in_shards,
            "index": sum(index_path(folder, name).stat().st_size for name in ARRAYS),
            "all": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "per_clip_second": in_shards / max(float(seconds.sum()), 1e-9),
        },
        "shards": len(facts["shards"]),
        "report": _report(folder),
        "verified": _verify(folder, facts) if verify else None,
    }


def _report(folder: Path) -> dict[str, Any] | None:
    """Rows for each reason and flag, ids for each note, and the audit, of report.json; None where there is none."""
    path = folder / REPORT_JSON
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        counts = {
            part: {name: len(ids) for name, ids in report[part].items()} for part in ("reasons", "notes")
        }
        return counts | {"audit": Report.from_listing(report, folder).found()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is broken", hint="prepare the data set again") from error


def _verify(folder: Path, facts: Mapping[str, Any]) -> dict[str, int]:
    """Compare every sum in dataset.json, its own included. Raises DataError that names what differs."""
    sums = {shard_path(folder, shard["name"]): shard["sha256"] for shard in facts["shards"]}
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
        raise DataError(
            f"{folder}: {listed(broken, 3)} changed since the data set was prepared (sha256 differs)",
            hint="copy it again, or prepare it again with avtool prepare ... --force",
        )
    return {"files": len(sums), "bytes": total}


def write_sheet(folder: Path, out: Path, *, clips: int = 24, seed: int = 0, force: bool = False) -> list[str]:
    """Write a contact sheet of ``clips`` clips (or all) of a data set, drawn at random from ``seed``, as the PNG
    ``out``; their ids, in the sheet's order.

    A tile has the clip's key frame with its boxes, the log-mel of at most 10 s of sound around it, id, split and
    labels. UsageError where ``out`` exists (unless ``force``), DataError where the data set is broken.
    """
    import torch

    from avtool.features import LogMel, to_float_waveform
    from avtool.report.heatmap import write_png
    from avtool.report.pictures import Tile, contact_sheet

    check_output(out, force=force, option="--sheet", suffix=".png")
    dataset = PreparedDataset(folder, "all")
    chosen = np.random.default_rng(seed).choice(len(dataset), min(clips, len(dataset)), replace=False)
    log_mel, samples = LogMel(sample_rate=dataset.sample_rate), round(SHEET_SECONDS * dataset.sample_rate)
    tiles = []
    for i in sorted(chosen.tolist()):
        record = dataset.record(i)
        sound = dataset.waveform(i, start_around(dataset, record, record.middle, samples), samples)
        mels = log_mel(to_float_waveform(torch.from_numpy(sound.copy())[None]))[0, 0].numpy()
        text = [record.id, f"{record.split}: {'; '.join(record.labels) or 'no label'}"]
        tiles.append(Tile(dataset.frame(i, record.key), record.boxes, mels, text))
    write_png(out, contact_sheet(tiles))
    return [tile.lines[0] for tile in tiles]


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
        first, second, *_ = [*name.split("."), ""]
        part = f"{first}.{second}" if first == "encoder" else first  # of the encoder each tower
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


def _run(checkpoint: Path) -> dict[str, Any] | None:
    """What the run that a checkpoint lies in says; None where it lies in none."""
    import yaml

    folder, number = checkpoint.absolute().parent, checkpoint.name.removeprefix("step-")
    if folder.name != places.CHECKPOINTS or not number.isdigit():
        return None
    run, recipe = folder.parent, folder.parent / "recipe.yaml"
    last: dict[str, Any] = {}
    for row in read_metrics(run) if (run / METRICS).is_file() else []:
        if row["step"] <= int(number):
            last |= row
    return {
        "folder": str(run),
        "step": int(number),
        "checkpoints": [path.name for path in places.checkpoints_of(run)],
        "recipe": yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None,
        "facts": read_run_facts(run),
        "metrics": last,
    }


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
        decoded |= {
            "refused": None,
            "detail": "",
            "flags": outcome.flags,
            "frames": len(outcome.jpegs),
            "frame_rate": settings.frame_rate,
            "size": outcome.size,
            "source_size": outcome.source_size,
            "samples": len(outcome.waveform),
            "sample_rate": settings.sample_rate,
            "dbfs": float(dbfs(np.mean(np.square(outcome.waveform / 32768)))),
        }
    else:
        decoded |= {"refused": outcome.reason, "detail": outcome.detail, "flags": []}
    return {"what": "clip", "path": str(path), "bytes": path.stat().st_size, **header, "decoded": decoded}
