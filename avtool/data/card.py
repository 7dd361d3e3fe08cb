"""README.md of prepared data, in Markdown with the hub's metadata before it: what Hugging Face ``datasets`` reads the
folder by, and what a person has to know of it. It says nothing that is not known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from avtool import __version__
from avtool.data.names import role
from avtool.media import tools_in_words

if TYPE_CHECKING:
    from jinja2 import Template

CARD = "README.md"
KEY_FRAME = ("jpg", "mask.png")
"""The key frame and its mask, whose names tell no number."""
TEXTS, NUMBERS, SECONDS = {"list": "string"}, {"list": "int32"}, {"list": "float64"}
FACTS: dict[str, tuple[Any, str]] = {
    "id": ("string", "its name"),
    "split": ("string", "its split"),
    "labels": (TEXTS, "its classes, by their names"),
    "duration": ("float64", "seconds"),
    "times": (SECONDS, "seconds at which its frames are shown"),
    "key": ("int32", "number of the key frame, from 0"),
    "middle": ("float64", "seconds; the moment that the key frame was sought for"),
    "size": (NUMBERS, "width and height of the frames"),
    "source_size": (NUMBERS, "width and height of the source's frames"),
    "sample_rate": ("int32", "samples of sound a second"),
    "samples": ("int64", "samples of sound"),
    "boxes": ({"list": SECONDS}, "boxes on the key frame: x1, y1, x2, y2, fractions of width and height"),
    "masks": (NUMBERS, "numbers of the frames that have a mask"),
    "stems": (TEXTS, "names of the sources whose own sound is there"),
    "flags": (TEXTS, "what was found of it, as a still picture"),
    "view": ("json", "anything else that is known of the picture"),
    "partner": ("string", "id of the clip to mix it with"),
    "recording": ("string", "what it was recorded in, which others may share"),
    "colour": ("json", "matrix and range of the source's colours, and which of them were assumed"),
    "extra": ("json", "what else the source's table says"),
}
"""What is stored of every clip beside pictures and sounds: the type as ``datasets`` calls it, and what it is."""


def card_of_shards(
    facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], files: Mapping[str, str]
) -> str:
    """The card of the data set of these ``facts``, as dataset.json has them, and of this index; ``files``: what each
    split is called in names of files.

    Every member of any clip is a column. Other clips may lack it, and ``datasets`` looks at the first five alone.
    """
    clips, masks = arrays["clips"], arrays["masks"]["frame"]
    there = clips["frames"]["size"]
    most = int(there.max(initial=0))
    having = len(clips) - np.cumsum(np.bincount(there, minlength=most + 1))
    numbered = np.flatnonzero(having[:most] > np.bincount(clips["key"], minlength=most)[:most])
    masked = clips[np.argsort(clips["masks"]["begin"], kind="stable")]
    of_key = masks == np.repeat(masked["key"], masked["masks"]["size"])
    columns = {"__key__": "string", "__url__": "string", "json": "json", "wav": "binary", "jpg": "image"}
    columns |= {"mask.png": "image"} if of_key.any() else {}
    columns |= {f"f{k:03d}.jpg": "image" for k in numbered}
    columns |= {f"m{k:03d}.png": "image" for k in sorted({*masks[~of_key].tolist()})}
    columns |= {f"stem{k}.wav": "binary" for k in range(clips["stems"]["size"].max(initial=0))}
    return card(facts, columns, files, "shards/{}-*.tar")


def card(facts: Mapping[str, Any], columns: Mapping[str, Any], files: Mapping[str, str], place: str) -> str:
    """The card of the data set of these ``facts`` with ``columns``. A split lies in ``place``, with its name from
    ``files`` for {}."""
    there = [split for split in files if facts["splits"][split]]
    splits = sorted(there, key=lambda split: role(split) != "train")
    places = [{"split": files[split], "path": place.format(files[split])} for split in splits]
    licence = facts.get("licence")  # up to format 3 there was none
    front = {
        "pretty_name": facts["name"],
        "license": licence or "unknown",
        "tags": ["audio-visual", "avtool"],
        "configs": [{"config_name": "default", "data_files": places}],
        "dataset_info": {"features": [_feature(name, kind) for name, kind in columns.items()]},
    }
    return markdown(Path(__file__).with_name("card.md.j2")).render(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        facts=facts,
        splits=splits,
        files=files,
        place=place,
        columns=columns,
        numbered_masks=any(re.match(r"m\d", name) for name in columns),
        of_clip=FACTS,
        made_with=" and ".join(map(tools_in_words, facts.get("made_with") or [{}])),
        version=__version__,
        licence=licence,
    )


def markdown(template: Path, **filters: Callable[..., str]) -> Template:
    """The ``template`` of a card, with ``text`` and these ``filters``."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"text": text, **filters}
    return environment.from_string(template.read_text(encoding="utf-8"))


def _feature(name: str, kind: Any) -> dict[str, Any]:
    return {"name": name, **({"dtype": kind} if isinstance(kind, str) else kind)}


def text(value: object) -> str:
    """One line of Markdown that says ``value`` and nothing else."""
    return re.sub(r"([\\`*_\[\]<|#])", r"\\\1", " ".join(str(value).split()))
