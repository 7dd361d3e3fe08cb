"""What became of the rows of a data set: counts, and for every reason and flag the ids it holds for."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avtool.data.convert import Rejected
from avtool.data.names import listed
from avtool.files import json_text

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
COUNTS = ("prepared", "refused", "missing", "flagged")
SIZES = ("seconds", "bytes")
SHOWN = 3


@dataclass
class Report:
    """The outcomes of rows, in their order.

    ``ids``: reason or flag to ids; ``details``: id of a row that gave no clip to a sentence; ``thumbnails``: id
    of a refused row to a JPEG in base64; ``flags``: position among the prepared clips to its flags;
    ``notes``: what was wrong in the annotations; ``audit``: of the whole, as ``avtool.data.audit`` says. ``seconds``
    and ``bytes`` of all prepared clips. ``sealed``: whether ``out`` is finished, or waits for other parts.
    """

    name: str
    out: Path
    prepared: int = 0
    refused: int = 0
    missing: int = 0
    flagged: int = 0
    seconds: float = 0.0
    bytes: int = 0
    ids: dict[str, list[str]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    thumbnails: dict[str, str] = field(default_factory=dict)
    flags: dict[int, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    sealed: bool = True

    def add_clip(self, facts: dict[str, Any]) -> None:
        """Add a row that was prepared, by its facts and the ``bytes`` it takes in its shard."""
        if facts["flags"]:
            self.flagged += 1
            self.flags[self.prepared] = facts["flags"]
        self.prepared += 1
        self.seconds += facts["duration"]
        self.bytes += facts["bytes"]
        for flag in facts["flags"]:
            self.ids.setdefault(flag, []).append(facts["id"])

    def add_rejected(self, rejection: dict[str, Any]) -> None:
        """Add a row that gave no clip, as ``rejection_bytes`` put it."""
        id = rejection["id"]
        self.missing += rejection["missing"]
        self.refused += not rejection["missing"]
        self.ids.setdefault(rejection["reason"], []).append(id)
        self.details[id] = rejection["detail"]
        if rejection["thumbnail"]:
            self.thumbnails[id] = rejection["thumbnail"]

    def add(self, other: Report) -> None:
        """Add the rows of ``other``, which come after these."""
        self.flags |= {self.prepared + position: flags for position, flags in other.flags.items()}
        for name in (*COUNTS, *SIZES):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, ids in other.ids.items():
            self.ids.setdefault(reason, []).extend(ids)
        self.details |= other.details
        self.thumbnails |= other.thumbnails

    def sort(self, order: Sequence[int], ids: Sequence[str]) -> None:
        """Put the rows, which were added shard by shard, in the order of their ``ids``; ``order``: where each of the
        prepared clips is among those that were added."""
        self.flags = {new: self.flags[old] for new, old in enumerate(order) if old in self.flags}
        places = {id: k for k, id in enumerate(ids)}
        self.ids = {reason: sorted(found, key=places.__getitem__) for reason, found in self.ids.items()}
        for name in ("details", "thumbnails"):
            setattr(self, name, dict(sorted(getattr(self, name).items(), key=lambda item: places[item[0]])))

    def counts(self) -> dict[str, int]:
        """{prepared, refused, missing, flagged}."""
        return {name: getattr(self, name) for name in COUNTS}

    def tallies(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many rows each reason left without a clip, and how many clips each flag is on."""
        known = sorted(self.ids.items())
        no_clip = {name: n for name, ids in known if (n := sum(id in self.details for id in ids))}
        flags = {name: n for name, ids in known if (n := sum(id not in self.details for id in ids))}
        return no_clip, flags

    def why(self) -> dict[str, str]:
        """For each reason that left rows without a clip, the first sentences that say more."""
        known = {
            reason: [self.details[id] for id in ids if id in self.details] for reason, ids in self.ids.items()
        }
        return {reason: listed(details, SHOWN) for reason, details in known.items() if details}

    def stored(self) -> dict[str, float]:
        """``seconds`` and ``bytes`` of all prepared clips, and ``bytes_per_second``."""
        seconds = round(self.seconds, 3)
        rate = round(self.bytes / max(seconds, 1e-3))
        return {"seconds": seconds, "bytes": self.bytes, "bytes_per_second": rate}

    def found(self) -> dict[str, str]:
        """What of the audit is to be looked at, in words."""
        shared = self.audit.get("in_several_splits", {}).items()
        words = {
            f"{what}s in several splits": ", ".join(f"{n} clips of {name}" for name, n in of["clips"].items())
            for what, of in shared
        }
        if untrained := self.audit.get("classes_without_training_clips"):
            words["classes without training clips"] = listed(untrained)
        return {what: said for what, said in words.items() if said}

    def as_dict(self) -> dict[str, Any]:
        """The counts, ``reasons`` (name to number of rows, flags and refusals alike), ``notes`` likewise where there
        are any, ``stored`` and ``out``."""
        found = self.listing()
        del found["details"], found["audit"]
        for part in ("reasons", "notes"):
            found[part] = {name: len(ids) for name, ids in found[part].items()}
        if not found["notes"]:
            del found["notes"]
        found["out"] = str(self.out)
        return found if self.sealed else {**found, "sealed": False}

    def listing(self) -> dict[str, Any]:
        """What report.json holds: the counts, ``reasons`` (name to ids), ``stored``, details, notes, audit."""
        text = {"name": self.name, **self.counts(), "reasons": dict(sorted(self.ids.items()))}
        rest = {name: getattr(self, name) for name in ("details", "notes", "audit")}
        return {**text, "stored": self.stored(), **rest}

    @classmethod
    def from_listing(cls, listing: dict[str, Any], out: Path) -> Report:
        """The report that a report.json holds."""
        counts = {name: listing[name] for name in COUNTS} | {name: listing["stored"][name] for name in SIZES}
        rest = {name: listing[name] for name in ("name", "details", "notes")}
        return cls(out=out, ids=listing["reasons"], audit=listing.get("audit", {}), **counts, **rest)

    def record(self) -> dict[str, Any]:
        """All of it as JSON takes it; ``from_record`` is the way back."""
        return {**asdict(self), "out": str(self.out), "flags": list(self.flags.items())}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Report:
        return cls(**{**record, "out": Path(record["out"]), "flags": dict(record["flags"])})


def rejection_bytes(rejected: Rejected) -> bytes:
    """A row that gave no clip, as it is staged: a JSON object."""
    thumbnail = base64.b64encode(rejected.thumbnail).decode() if rejected.thumbnail else ""
    found = {"id": rejected.row.id, "reason": rejected.reason, "detail": rejected.detail}
    return json_text({**found, "missing": rejected.missing, "thumbnail": thumbnail}).encode()
