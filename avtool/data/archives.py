"""Archives among raw files, read in place: .tar, .tar.gz, .tar.bz2, .tar.xz and .zip, whole, in pieces or damaged.

A file in an archive has a path below the archive's: ``parts/x.tar.gz/clips/a.mp4``; where an archive is cut in pieces
that is the first piece. What is an archive is told by its content, whatever its name. Of a damaged one all is used that
can be read: a tar goes on behind a broken header, a zip without its directory is gone through by its files' own
headers. A clip of a .tar or .zip is read where it lies. A compressed tar is gone through from its beginning, once, and
what is wanted of it comes in its order.

Python's tarfile takes a broken header for the end, or is told to pass over it, and says nothing of it either way.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from io import BufferedReader, RawIOBase
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple, Self, cast

from avtool.errors import MediaError

BLOCK, CHUNK = 512, 1 << 20
PIECE = re.compile(
    r"(.*\.(?:tar|tgz|tbz2?|txz|zip|gz|xz|bz2)[._-](?:part)?[._-]?)((?!gz|xz|bz2|zip|zst)[a-z]{2,3}|[0-9]{1,4})",
    re.I | re.S,
)
COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.BZ2File, b"\xfd7zXZ\0": lzma.LZMAFile}
ZIP = (b"PK\3\4", b"PK\5\6")
OTHERS = {b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar"}
BROKEN = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
"""What reading a damaged archive raises."""
NAMED = re.compile(r"\.(tar|tgz|tbz2?|txz|zip|tar\.\w+)$", re.I)


class Damaged(MediaError):
    """A file in an archive cannot be read."""

    reason = "damaged in its archive"


class Member(NamedTuple):
    """A file in an archive: where it begins (in a zip, its header) and its size in bytes; in a zip, also how it is
    packed."""

    offset: int
    size: int
    method: int = 0
    packed: int = 0
    crc: int | None = None


@dataclass
class Listing:
    """What can be read of an archive, by name; whether it has to be gone through from its beginning; and what is wrong
    with it, "" where nothing is."""

    members: dict[str, Member] = field(default_factory=dict)
    streamed: bool = False
    problem: str = ""


def first_pieces(paths: Collection[Path]) -> list[Path]:
    """``paths`` without the second and later pieces of archives."""
    found: dict[tuple[str, int], Path] = {}
    for path in sorted(paths):
        piece = PIECE.fullmatch(str(path))
        found.setdefault((piece[1], len(piece[2])) if piece else (str(path), 0), path)
    return sorted(found.values())


def _pieces(first: Path) -> tuple[list[Path], str]:
    """The pieces of an archive in their order, and which one is missing among them."""
    piece = PIECE.fullmatch(str(first))
    if piece is None:
        return [first], ""
    others = (one for one in first.parent.iterdir() if one.name.startswith(Path(piece[1]).name))
    matched = [(other[2], Path(other[0])) for one in others if (other := PIECE.fullmatch(str(one)))]
    numbered = sorted((_number(n), path) for n, path in matched if len(n) == len(piece[2]))
    begin = min(numbered[0][0], 1) if piece[2].isdecimal() else 0
    whole = [path for k, (number, path) in enumerate(numbered, begin) if number == k]
    return whole, "" if len(whole) == len(numbered) else f"its piece {len(whole) + 1} is missing"


def _number(text: str) -> int:
    if text.isdecimal():
        return int(text)
    return sum((ord(letter) - ord("a")) * 26**k for k, letter in enumerate(reversed(text.lower())))


class _Joined(RawIOBase):
    """Pieces as one file."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [path.open("rb") for path in paths]
        self.ends = [0]
        for path in paths:
            self.ends.append(self.ends[-1] + path.stat().st_size)
        self.at = 0

    def readable(self) -> bool:
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.ends[-1]}[whence])
        return self.at

    def readinto(self, buffer: Any) -> int:
        k = next((k for k, end in enumerate(self.ends[1:]) if self.at < end), None)
        if k is None:
            return 0
        self.files[k].seek(self.at - self.ends[k])
        data = self.files[k].read(min(len(buffer), self.ends[k + 1] - self.at))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


def open_archive(archive: Path) -> BinaryIO:
    pieces, _ = _pieces(archive)
    if len(pieces) == 1:
        return pieces[0].open("rb")
    return cast(BinaryIO, BufferedReader(_Joined(pieces), CHUNK))


def listing(archive: Path) -> Listing | None:
    """What is in the file ``archive``; None if it is no archive."""
    stat = archive.stat()
    return _listing(archive, stat.st_size, stat.st_mtime_ns)


@cache
def _listing(archive: Path, _size: int, _changed: int) -> Listing | None:
    found, named = Listing(), NAMED.search(archive.name) or PIECE.fullmatch(archive.name)
    problem = ""
    try:
        pieces, problem = _pieces(archive)
        if not pieces:
            return Listing(problem=problem)
        with open_archive(archive) as file:
            head = file.read(BLOCK)
            file.seek(0)
            if other := next((kind for magic, kind in OTHERS.items() if head.startswith(magic)), None):
                return Listing(problem=f"{other} cannot be read: unpack it, or pack it as .tar or .zip")
            if head.startswith(ZIP):
                _list_zip(file, found)
            else:
                unpacked = unpacked_stream(file)
                found.streamed = unpacked is not None
                _list_tar(unpacked or file, found)
    except BROKEN as error:
        if not found.members and not named:
            return None  # a file of another kind
        said = " ".join(str(error).split()) or type(error).__name__
        wrong = "its checksum is wrong, so some file in it is damaged" if "CRC check" in said else ""
        problem = problem or wrong or (f"it breaks off: {said}" if found.members else said)
    if problem := problem or found.problem:
        found.problem = f"{problem}; {len(found.members)} files in it can be read"
    return found


def unpacked_stream(file: BinaryIO) -> Any:
    """What a compressed file unpacks to; None where it is not compressed as a whole."""
    head = file.read(BLOCK)
    file.seek(0)
    return next((unpack(file) for magic, unpack in COMPRESSED.items() if head.startswith(magic)), None)


def _put(found: Listing, name: str, member: Member) -> None:
    found.members[posixpath.normpath(name).lstrip("/")] = member


# tar -------------------------------------------------------------------------------------------------


def _list_tar(file: Any, found: Listing) -> None:
    if not (head := file.read(BLOCK)):
        raise ValueError("it is empty")
    file.seek(0)
    ended = False

    class Header(tarfile.TarInfo):
        """What tarfile passes over is noted."""

        @classmethod
        def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
            nonlocal ended
            try:
                header, ended = super().fromtarfile(tar), False
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                ended = True  # of the archive, but another may follow
                raise
            except (tarfile.InvalidHeaderError, tarfile.SubsequentHeaderError) as error:  # type: ignore[attr-defined]
                if not (ended or found.problem):
                    found.problem = f"it is damaged after file {len(found.members)}"
                raise tarfile.InvalidHeaderError(str(error)) from None  # type: ignore[attr-defined]
            return header

    try:
        if any(head):
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise ValueError("it is no archive") from None
    for member in tarfile.TarFile(fileobj=file, tarinfo=Header, ignore_zeros=True, encoding="utf-8"):
        if member.isreg() and not member.issparse():
            file.seek(member.offset_data + max(0, member.size - 1))
            if member.size and not file.read(1):
                raise EOFError("it is cut short")  # a file that is cut off is none of them
            _put(found, member.name, Member(member.offset_data, member.size))
    if not ended and not found.problem:
        found.problem = "it ends without an end mark, it may be cut short"


# zip -------------------------------------------------------------------------------------------------


def _list_zip(file: BinaryIO, found: Listing) -> None:
    try:
        entries = [entry for entry in zipfile.ZipFile(file).infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error):
        _list_zip_by_headers(file, found)
        found.problem = "its directory is missing or damaged"
        return
    for one in entries:
        member = Member(one.header_offset, one.file_size, one.compress_type, one.compress_size, one.CRC)
        if one.flag_bits & 1:
            found.problem = "it holds encrypted files: unpack it"
        elif one.compress_type not in UNZIP:
            found.problem = f"it holds files of compression {one.compress_type}: unpack it"
        else:
            _put(found, one.filename, member)


def _list_zip_by_headers(file: BinaryIO, found: Listing) -> None:
    """Each file has a header of its own before it."""
    length, at = file.seek(0, os.SEEK_END), 0
    while (at := _find(file, b"PK\3\4", at)) >= 0:
        try:
            name, begin, member = _local(file, at)
            if member.packed == 0 and member.size == 0:  # its sizes stand behind it
                member = _measured(file, at, begin, member)
        except (struct.error, ValueError, zlib.error):
            at += 4
            continue
        if begin + member.packed <= length and not name.endswith("/") and member.method in UNZIP:
            _put(found, name, member)
        at = min(begin + member.packed, length) if begin + member.packed <= length else at + 4


def _find(file: BinaryIO, signature: bytes, at: int) -> int:
    """Where ``signature`` is next, from ``at`` on; -1 where it is not."""
    file.seek(at)
    tail = b""
    while data := file.read(CHUNK):
        if (place := (tail + data).find(signature)) >= 0:
            return at - len(tail) + place
        at += len(data)
        tail = (tail + data)[1 - len(signature) :]
    return -1


def _local(file: BinaryIO, at: int) -> tuple[str, int, Member]:
    """Of the header at ``at`` the name, where the bytes begin, and what it says of them."""
    file.seek(at)
    magic, flags, method, crc, packed, size, name_size, extra_size = struct.unpack(
        "<4s2xHH4xIIIHH", file.read(30)
    )
    if magic != ZIP[0] or flags & 1:
        raise ValueError("no file that can be read begins there")
    name, extra = file.read(name_size), file.read(extra_size)
    if 0xFFFFFFFF in (packed, size) and extra[:2] == b"\1\0":  # ZIP64
        size, packed = struct.unpack_from("<QQ", extra, 4)
    text = name.decode("utf-8" if flags & 0x800 else "cp437", "replace")
    return text, at + 30 + name_size + extra_size, Member(at, size, method, packed, crc if packed else None)


def _measured(file: BinaryIO, at: int, begin: int, member: Member) -> Member:
    """A packed file ends where its own stream does."""
    if member.method != zipfile.ZIP_DEFLATED:
        return member
    file.seek(begin)
    stream, size, read = zlib.decompressobj(-15), 0, 0
    while not stream.eof and (data := file.read(CHUNK)):
        size += len(stream.decompress(data))
        read += len(data)
    if not stream.eof:
        raise ValueError("it is cut short")
    return member._replace(size=size, packed=read - len(stream.unused_data))


UNZIP: dict[int, Callable[[], Any]] = {
    zipfile.ZIP_STORED: lambda: SimpleNamespace(decompress=bytes),  # as it is
    zipfile.ZIP_DEFLATED: lambda: zlib.decompressobj(-15),
    zipfile.ZIP_BZIP2: bz2.BZ2Decompressor,
}


# Reading ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def _file_above(folder: Path) -> Path | None:
    """``folder``, or what it lies in, where that is a file."""
    if folder.is_dir() or folder == folder.parent:
        return None
    return folder if folder.is_file() else _file_above(folder.parent)


def inside(path: Path) -> tuple[Path, str] | None:
    """The archive that ``path`` leads into, and the name in it; None for any other path."""
    archive = _file_above(path.parent)
    return None if archive is None else (archive, path.relative_to(archive).as_posix())


def read_member(archive: Path, member: Member, target: Path) -> None:
    """Write a file of a .tar or .zip to ``target``. Damaged if its bytes cannot be read or are not the right ones."""
    try:
        with open_archive(archive) as file, target.open("wb") as out:
            unzip, begin, packed, crc = None, member.offset, member.size, 0
            if member.packed or member.crc is not None:
                unzip = UNZIP[member.method]()
                _, begin, _ = _local(file, member.offset)
                packed = member.packed
            file.seek(begin)
            while packed > 0 and (data := file.read(min(CHUNK, packed))):
                packed -= len(data)
                plain = unzip.decompress(data) if unzip else data
                crc = zlib.crc32(plain, crc)
                out.write(plain)
            if packed or out.tell() != member.size or member.crc not in (None, crc):
                raise ValueError("its bytes are not those that its archive says")
    except (EOFError, ValueError, zlib.error, struct.error) as error:
        raise Damaged(str(error) or type(error).__name__) from error
