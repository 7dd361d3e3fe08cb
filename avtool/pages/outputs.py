"""What tasks wrote of one clip, as it lies in a folder: the .npz of ``localize`` and ``segment``, the folders of
``separate``, and what ``classify --json`` says, in a .json."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avtool.errors import DataError
from avtool.files import printable
from avtool.tasks.separate.predict import FACTS_JSON

WRITE_THEM = (
    "avtool localize CLIP --controls --out DIR/maps.npz, segment CLIP --out DIR/masks.npz, separate CLIP --out "
    "DIR/sounds, classify CLIP --json > DIR/classes.json"
)


class Output(NamedTuple):
    """What a task wrote, ``content`` by name, into the file ``path``, of the clip and the sound (None: not said) that
    it names so."""

    path: Path
    clip: str
    sound: str | None
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Outputs:
    """What there is of ``clip``, heard with the file ``sound`` (None: its own sound), by task."""

    clip: Path
    sound: Path | None
    maps: list[Output]
    masks: list[Output]
    separated: list[Output]
    classes: list[Output]


def read_outputs(folder: Path) -> Outputs:
    """What lies in ``folder`` and the folders in it. DataError where there is nothing, where it is of several clips or
    broken, and where the clip is gone."""
    found = [one for path in sorted([*folder.glob("*"), *folder.glob("*/*")]) for one in _read(path)]
    if not found:
        raise DataError(
            f"{folder} holds neither a run nor prepared data nor what avtool found in a clip", hint=WRITE_THEM
        )
    telling = [one for one in found if one.sound is not None] or found
    named = [name for one in telling for name in (one.clip, one.sound) if name is not None]
    of: dict[tuple[Path, Path], Output] = {}
    for one in telling:
        clip, sound = (_there(name or one.clip, one, folder, named) for name in (one.clip, one.sound))
        of.setdefault((clip, sound), one)
    if len(of) > 1:
        first, second, *_ = of.values()
        what = "clips" if len({clip for clip, _ in of}) > 1 else "sounds of one clip"
        raise DataError(
            f"{folder} holds what was found in several {what}: {first.path.name} is of another than {second.path.name}",
            hint="write what is found in each into a folder of its own",
        )
    ((clip, sound),) = of
    return Outputs(
        clip=clip,
        sound=None if sound == clip else sound,
        maps=[one for one in found if "map" in one.content],
        masks=[one for one in found if "masks" in one.content],
        separated=[one for one in found if one.path.name == FACTS_JSON],
        classes=[one for one in found if "windows" in one.content and Path(one.clip).name == clip.name],
    )


def _read(path: Path) -> list[Output]:
    """What the file ``path`` holds of clips; nothing where it is another kind of file."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as file:
                if not {"times", "clip", "sound"} <= {*file.files}:
                    return []
                arrays = {name: file[name] for name in file.files}
            return [Output(path, str(arrays["clip"]), str(arrays["sound"]), arrays)]
        if path.suffix != ".json":
            return []
        said = json.loads(path.read_text(encoding="utf-8"))
        if path.name == FACTS_JSON:
            return [Output(path, said["clip"], said["sound"], said)]
        clips = said.get("clips", []) if isinstance(said, dict) else []
        return [Output(path, one["clip"], None, one) for one in clips if "windows" in one]
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        what = f"{printable(path)} is broken or was not written to its end"
        raise DataError(what, hint="write it again, or take it out of the folder") from error


def _there(named: str, output: Output, folder: Path, others: list[str]) -> Path:
    """The file that ``output`` names: where it says, in ``folder``, or where one of ``others`` of its name lies."""
    name = Path(named).name
    for path in (Path(named), folder / name, *map(Path, others)):
        if path.name == name and path.is_file():
            return path.resolve()
    raise DataError(
        f"{printable(output.path)} is of {printable(named)}, which is not there",
        hint=f"put that file into {printable(folder)}",
    )
