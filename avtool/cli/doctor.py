"""``avtool doctor``: what is installed, what works, and where things are looked for."""

import importlib
import os
import platform
import re
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from avtool import __version__, places
from avtool.commands import command, examples, print_facts, print_json
from avtool.config.shipped import recipes_folder
from avtool.errors import AvtoolError, in_mebibytes, more_shared_memory
from avtool.libraries import MODULES, ONLY_FOR, TRIED, problem_of

EPILOG = examples("avtool doctor", "avtool doctor --json", next_command="avtool demo")
NOT_INSTALLED = "not installed"
LITTLE_SHARED_MEMORY = 2**30
"""Bytes of /dev/shm that are worth a warning where there are fewer; Docker gives 64 MiB."""


@command("threads", "json")
def doctor(*, json: bool) -> None:
    """Say what is installed, what works and where things lie.

    Exit code 1 when something that avtool needs is broken.
    """
    found = examine()
    if json:
        print_json(found)
    else:
        _print(found)
    if found["broken"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Versions, devices, codecs and places as plain values; ``broken`` and ``warnings`` are sentences."""
    warnings, broken = list[str](), list[str]()
    found_places = _places(warnings) | shared_memory_found(warnings)
    packages = _packages(warnings, broken)
    installed = {(package.metadata["Name"] or "").lower() for package in metadata.distributions()}
    warnings += [*opencv_warnings(installed), *version_warnings(packages)]
    return {
        "avtool": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "devices": _devices(),
        "threads": _threads(),
        "codecs": _codecs(broken),
        "places": found_places,
        "warnings": warnings,
        "broken": broken,
    }


def _packages(warnings: list[str], broken: list[str]) -> dict[str, str]:
    """Version of every package. What cannot be imported is ``broken``; what little needs is one of the ``warnings``."""
    versions = {}
    for package, module in MODULES.items():
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = NOT_INSTALLED
        if problem := problem_of(module):
            line = f"{package} {versions[package]} cannot be imported: {problem}"
            if package in ONLY_FOR:
                warnings.append(f"{line}; {ONLY_FOR[package]}")
            else:
                broken.append(line)
    if not problem_of("av"):
        versions["FFmpeg (inside av)"] = importlib.import_module("av").ffmpeg_version_info
    return versions


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{platform.machine()}, {os.cpu_count()} cores"}
    if problem_of("torch"):
        return devices
    import torch

    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        devices[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _threads() -> dict[str, Any]:
    threads: dict[str, Any] = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set")}
    if not problem_of("torch"):
        import torch

        threads["torch"] = torch.get_num_threads()
    return threads


def _codecs(broken: list[str]) -> dict[str, str]:
    """Write a short clip as H.264 and AAC and read it back: the only proof that codecs work."""
    if problem := problem_of("avtool.media"):
        broken.append(f"clips cannot be read: {problem}")
        return {}
    import av
    import numpy as np

    from avtool import media

    codecs, step = {}, "writing H.264 (libx264) and AAC"
    try:
        with tempfile.TemporaryDirectory(prefix="avtool-doctor-") as folder:
            clip = Path(folder) / "clip.mp4"
            sound = np.sin(np.arange(8000) / 8).astype(np.float32) / 2
            media.write_clip(
                clip, [np.full((64, 64, 3), 128, np.uint8)] * 5, fps=10, waveform=sound, sample_rate=16000
            )
            codecs[step], step = "works", "reading H.264 and AAC"
            media.decode_clip(clip, frame_rate=10, short_side=64, sample_rate=16000)
            codecs[step] = "works"
    except (AvtoolError, av.FFmpegError, OSError, ValueError) as error:
        codecs[step] = "broken"
        broken.append(f"{step} fails: {error}")
    return codecs


def _places(warnings: list[str]) -> dict[str, str]:
    """Where things are looked for; what speaks against a place is added to ``warnings``."""
    look: dict[str, Callable[[], Path | None]] = {
        "data ($AVTOOL_DATA)": places.data_root,
        "prepared data": lambda: places.prepared_folder("NAME"),
        "runs": lambda: places.RUNS,
        "model ($AVTOOL_MODEL, newest run)": lambda: model[0] if (model := places.usual_model()) else None,
        "downloads ($AVTOOL_CACHE)": places.cache_root,
        "recipes": recipes_folder,
    }
    found = {}
    for name, find in look.items():
        try:
            folder = find()
        except AvtoolError as error:
            found[name] = "unusable"
            warnings += [] if error.message in warnings else [error.message]
        else:
            found[name] = "none yet" if folder is None else str(folder.absolute())
    return found


def shared_memory_found(warnings: list[str]) -> dict[str, str]:
    """What /dev/shm holds; ``warnings`` get a sentence where that is little for loader workers."""
    if (found := places.shared_memory()) is None:
        return {}
    total, free = map(in_mebibytes, found)
    if found[0] < LITTLE_SHARED_MEMORY:
        warnings.append(
            f"{places.SHARED_MEMORY} holds {total}: workers hand batches over in it, and large ones need more; "
            f"{more_shared_memory()}, or set data.workers=0"
        )
    return {f"shared memory ({places.SHARED_MEMORY})": f"{total}, {free} free"}


def opencv_warnings(installed: set[str]) -> list[str]:
    """A sentence where several packages bring the same cv2; ``installed``: package names in lower case."""
    cv2 = re.compile("opencv-(contrib-)?python(-headless)?")
    names = sorted(filter(cv2.fullmatch, installed), key=len)
    if len(names) < 2:
        return []
    return [
        f"{' and '.join(names)} are both installed and overwrite each other's cv2: "
        f"pip uninstall {' '.join(names)}, then pip install opencv-python-headless"
    ]


def version_warnings(packages: dict[str, str]) -> list[str]:
    """A sentence for each package that is outside what was tried."""
    warnings = []
    for name, (oldest, newest) in TRIED.items():
        version = packages.get(name, NOT_INSTALLED)
        if version == NOT_INSTALLED:
            continue
        found, last = _numbers(version), _numbers(newest)
        if found < _numbers(oldest):
            way_out = f"pip install '{name}>={oldest}'"
            warnings.append(
                f"{name} {version} is older than any version that avtool was tested with: {way_out}"
            )
        elif found[: len(last)] > last:
            warnings.append(
                f"{name} {version} is newer than any version that avtool was tested with ({newest})"
            )
    return warnings


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version)[0])]


def _print(found: dict[str, Any]) -> None:
    typer.echo(f"avtool {found['avtool']}, Python {found['python']}")
    for title in ("packages", "devices", "threads", "codecs", "places"):
        typer.secho(f"\n{title}", bold=True)
        print_facts(found[title])
    typer.echo()
    for line in found["warnings"]:
        typer.secho(f"warning: {line}", fg=typer.colors.YELLOW)
    for line in found["broken"]:
        typer.secho(f"broken: {line}", fg=typer.colors.RED)
    if not found["broken"]:
        following = "localize clip.mp4 --out heatmap.png" if places.DEMO.exists() else "demo"
        typer.echo(f"Everything that avtool needs works. Next: avtool {following}")
