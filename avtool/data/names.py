"""Names that are nearly the same: a reader takes ``Dog_barking`` and ``dog barking`` for one class, a program for two.

One rule for labels, splits and a model's classes: names are alike if they differ only in case, in spaces (also written
as _ , ( ) or as a hyphen within a word), in the encoding of accents or in invisible characters.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

ROLES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
"""What a split is for, and what people call such a split."""


def plain(name: str) -> str:
    """``name`` without these differences: names are alike if this is the same."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return " ".join(re.sub(r"[\s_,()]|(?<=\w)-(?=\w)", " ", seen).split()) or name


def alike(names: Iterable[str], by: Callable[[str], str] = plain) -> list[list[str]]:
    """Groups of ``names`` for which ``by`` gives the same, each sorted; names that stand alone are left out."""
    found = defaultdict(set)
    for name in names:
        found[by(name)].add(name)
    return sorted(sorted(twins) for twins in found.values() if len(twins) > 1)


def matched(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For each of ``names`` the one of ``known`` that is equal, or the only one that is alike; others are left out."""
    there, by_plain = set(known), defaultdict(set)
    for name in there:
        by_plain[plain(name)].add(name)
    nearest = {name: {name} if name in there else by_plain.get(plain(name), set()) for name in names}
    return {name: next(iter(found)) for name, found in nearest.items() if len(found) == 1}


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of ``names``, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def role(split: str) -> str:
    """What ``split`` is for: train, validation or test; its name, as ``plain`` gives it, where that does not tell."""
    name = plain(split)
    return next((known for known, called in ROLES.items() if name in called), name)
