"""What is prepared: from where, to where, which share of it, and whether it is the same as last time."""

import hashlib
import json
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from avtool import media, places
from avtool.data import catalog
from avtool.data.convert import Settings
from avtool.data.shards import FORMAT, MADE_WITH
from avtool.data.staging import Part, Staging
from avtool.errors import UsageError
from avtool.files import json_text, printable


@dataclass(frozen=True)
class Job:
    """What is prepared, from where, to where, and which share of it."""

    name: str
    called: str
    source: Path
    out: Path
    request: catalog.Request
    part: Part
    in_parts: bool
    settings: Settings

    @property
    def renders(self) -> bool:
        return self.name == "synth"

    @property
    def staging(self) -> Staging:
        return Staging(self.out)

    def plan(self, rows: catalog.Source | None) -> dict[str, object]:
        """What must be the same for an unfinished preparation to be gone on with, and how to."""
        plan = {
            "name": self.called,
            "data set": self.name,
            "format": FORMAT,
            "settings": asdict(self.settings),
            "request": asdict(self.request),
            "source": None if self.renders else str(self.source.resolve()),
            "rows": None if rows is None else _sum_of(rows, self.source),
            "command": self.command(),
            MADE_WITH: [media.tool_versions()],
        }
        return json.loads(json_text(plan))

    def command(self, *, with_part: bool = False) -> str:
        """The command that does all of it, or this part."""
        words = ["avtool", "prepare", self.name]
        if not self.renders:
            words.append(str(self.source))
        for option, value in asdict(self.request).items():
            if value is not None and value != getattr(catalog.Request(), option):
                words += [f"--{option}", str(value)]
        words += ["--out", str(self.out)]
        words += ["--part", str(self.part)] if with_part and self.in_parts else []
        return shlex.join(words + (["--force"] if self.out.exists() else []))

    def shards(self, rows: catalog.Source) -> range:
        return range(-(-len(rows.rows) // self.settings.rows_per_shard))

    def rows_of(self, shard: int, rows: catalog.Source) -> range:
        """The numbers of the rows that shard ``shard`` holds."""
        size = self.settings.rows_per_shard
        return range(shard * size, min((shard + 1) * size, len(rows.rows)))


def job_of(
    name: str, source: Path | None, out: Path | None, request: catalog.Request, part: str | None
) -> Job:
    """What the arguments of ``prepare`` ask for. Raises UsageError."""
    if source is None and name == "manifest":
        raise UsageError(
            "manifest needs the csv that lists the clips", hint="avtool prepare manifest FILE.csv"
        )
    if source is not None and name == "synth":
        raise UsageError(
            f"synth is rendered, it takes no source ({source})", hint="avtool prepare synth --out DIR"
        )
    if part is not None and name == "synth":
        raise UsageError("synth is rendered on one machine, not in parts", hint="leave out --part")
    called = "-".join(filter(None, (name, request.subset)))
    if source is not None and name == "manifest":
        called = printable(_name_of(source))
    out = places.prepared_folder(called) if out is None else out
    return Job(
        name=name,
        called=called,
        source=places.source_folder(name) if source is None else source,
        out=out,
        request=request,
        part=Part() if part is None else Part.parse(part),
        in_parts=part is not None,
        settings=Settings(),
    )


def _name_of(table: Path) -> str:
    """The name of a manifest's data set: the csv's, or its folder's where the csv is called manifest."""
    return table.stem if table.stem != "manifest" else table.absolute().parent.name


def _sum_of(source: catalog.Source, folder: Path) -> str:
    """One sum over all that the annotations say, however the way to the files is written."""
    digest, root = hashlib.sha256(), str(folder if folder.is_dir() else folder.parent) + os.sep
    for row in source.rows:
        digest.update(repr(row).replace(root, "").encode())
    digest.update(repr((source.classes, sorted(source.notes.items()))).encode())
    return digest.hexdigest()
