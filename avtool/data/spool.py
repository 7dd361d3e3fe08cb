"""What a preparation takes out of archives for its workers, and for how long."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from avtool.data import archives
from avtool.data.archives import Member, inside, listing
from avtool.errors import UsageError

Held = dict[str, Path | tuple[Path, Member]]
"""Where the bytes are of paths that lead into archives: in a file of their own, or in which archive."""


class Spool:
    """Files of compressed tars, in ``folder`` for as long as a row that is being worked on needs them. ``shared``:
    whether those who work on the rows see that folder."""

    def __init__(self, folder: Path, *, shared: bool = True) -> None:
        self.folder, self.shared = folder, shared
        self.uses: Counter[Path] = Counter()

    def held(self, rows: Iterable[tuple[int, Iterable[Path]]]) -> Iterator[tuple[int, Held]]:
        """Each of ``rows``, a number and the row's files, once all of them can be read, and where those are that lie in
        archives. Rows with files in compressed tars come last, in the order of these."""
        rest: dict[int, Held] = {}
        missing: Counter[int] = Counter()
        sought: dict[Path, dict[str, list[tuple[int, str]]]] = {}
        for number, paths in rows:
            held: Held = {}
            for path in paths:
                archive, name = inside(path) or (path, "")
                known = listing(archive) if name else None
                if known is None or name not in known.members:
                    continue
                if known.streamed:
                    sought.setdefault(archive, {}).setdefault(name, []).append((number, str(path)))
                    missing[number] += 1
                else:
                    held[str(path)] = archive, known.members[name]
            if missing[number]:
                rest[number] = held
            else:
                yield number, held
        if sought and not self.shared:
            raise UsageError(
                f"{min(sought)} is compressed as a whole: only this machine can read clips in it",
                hint="unpack it to a .tar (gunzip, unxz, bunzip2), or leave out --address",
            )
        for archive in sorted(sought):
            for name, taken in self._unpacked(archive, sought[archive]):
                self.uses[taken] = len(sought[archive][name])
                for number, at in sought[archive][name]:
                    rest[number][at] = taken
                    missing[number] -= 1
                    if not missing[number]:
                        yield number, rest.pop(number)
        yield from rest.items()

    def _unpacked(self, archive: Path, wanted: Collection[str]) -> Iterator[tuple[str, Path]]:
        """The files ``wanted`` of a compressed tar as they come in it, each as a file; it is gone through once, no
        further than the last of them."""
        members = (listing(archive) or archives.Listing()).members
        with archives.open_archive(archive) as packed:
            tar = archives.unpacked_stream(packed)
            for name in sorted(wanted, key=members.__getitem__):
                tar.seek(members[name].offset)
                target = self.folder / f"{len(self.uses):08d}{Path(name).suffix[:8]}"
                with target.open("wb") as out:
                    for begun in range(0, members[name].size, archives.CHUNK):
                        out.write(tar.read(min(archives.CHUNK, members[name].size - begun)))
                yield name, target

    def done(self, held: Held) -> None:
        """A row has been worked on: what no other needs is removed."""
        for taken in held.values():
            if isinstance(taken, Path):
                self.uses[taken] -= 1
                if self.uses[taken] <= 0:
                    taken.unlink(missing_ok=True)
