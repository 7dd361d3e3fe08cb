"""The files of a source by their names, wherever in it they lie, also in archives: one rule for all layouts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from avtool.data import archives

VIDEO, SOUND, PICTURE, TABLE = "video", "sound", "picture", "table"
SUFFIXES = {
    VIDEO: "mp4 mkv webm avi mov flv m4v mpg mpeg ts mts wmv 3gp ogv",
    SOUND: "wav flac mp3 ogg opus m4a aac",
    PICTURE: "jpg jpeg png bmp webp tif tiff",
    TABLE: "csv json xml txt",
}
KINDS = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes.split()}
OTHERS = frozenset(
    ["md", "html", "pdf", "py", "sh", "log", "pkl", "npy", "npz", "pt", "pth", "mat", "h5", "safetensors"]
)
"""Suffixes of what is neither looked for nor an archive."""
PREPARED = {"dataset.json", "plan.json"}
"""One of these lies in a folder that avtool wrote."""


class Tree:
    """The files under ``folder``, by kind and name without suffix; ``problems``: of archives that are damaged.

    Left out: what begins with a dot, ``__MACOSX``, and prepared data. Of files with one name those outside of archives
    come first, then in alphabetical order.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.problems = folder, dict[str, str]()
        self._files: dict[str, dict[str, str | tuple[str, ...]]] = {kind: {} for kind in SUFFIXES}
        self._folders: dict[str, list[str]] = {}
        unknown = [Path(path) for path in self._walk(folder)]
        for archive in archives.first_pieces(unknown):
            if (listing := archives.listing(archive)) is None:
                continue
            if listing.problem:
                self.problems[str(archive.relative_to(folder))] = listing.problem
            self._folder(str(archive), listing.members)

    def _walk(self, folder: Path) -> Iterator[str]:
        """Put down all files; what may be an archive is handed back."""
        seen = set()
        for place, folders, names in os.walk(folder, followlinks=True):
            if (here := Path(place).resolve()) in seen or PREPARED & set(names):
                folders.clear()
                continue
            seen.add(here)
            folders[:] = sorted(name for name in folders if _counts(name))
            for name in sorted(filter(_counts, names)):
                if not self._put(place, name) and name.rpartition(".")[2].lower() not in OTHERS:
                    yield f"{place}{os.sep}{name}"
            self._folders.setdefault(here.name, []).append(place)

    def _folder(self, archive: str, names: Iterable[str]) -> None:
        """Put down what is in an archive."""
        places = set()
        for name in names:
            above, _, last = name.rpartition("/")
            if all(map(_counts, name.split("/"))):
                place = f"{archive}{os.sep}{above}" if above else archive
                self._put(place, last)
                places.add(place)
        for place in sorted(places):
            self._folders.setdefault(Path(place).name, []).append(place)

    def _put(self, place: str, name: str) -> bool:
        stem, _, suffix = name.rpartition(".")
        kind = KINDS.get(suffix.lower())
        if kind is None:
            return False
        path, of_kind = f"{place}{os.sep}{name}", self._files[kind]
        before = of_kind.get(stem, ())
        of_kind[stem] = ((before, path) if isinstance(before, str) else (*before, path)) if before else path
        return True

    def all(self, kind: str, name: str) -> tuple[str, ...]:
        """The files of ``kind`` whose name without suffix is ``name``."""
        found = self._files[kind].get(name, ())
        return (found,) if isinstance(found, str) else found

    def find(self, kind: str, names: Iterable[str]) -> Path | None:
        """The first file of ``kind`` that has one of ``names``, the earlier the better."""
        names = names if self._files[kind] else ()
        return next((Path(found[0]) for name in names if (found := self.all(kind, name))), None)

    def folder(self, name: str, within: str) -> Path | None:
        """The folder ``name``, best one that lies in a folder ``within``."""
        found = [Path(place) for place in self._folders.get(name, ())]
        return next((place for place in found if place.parent.name == within), None)


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


tree_of = lru_cache(maxsize=1)(Tree)
"""The tree of a folder; of the last one it is kept, until ``cache_clear``."""
