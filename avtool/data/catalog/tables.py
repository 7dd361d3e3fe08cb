"""Annotation files and the folders beside them: read as they are found in the wild, or refused by file and line."""

import csv
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avtool.data.names import listed
from avtool.data.tree import KINDS, TABLE
from avtool.errors import DataError, TableError
from avtool.files import ARCHIVE, WAYS_OUT, name_of_other_content

NESTED = 100
SHOWN = 300
"""At most about so many characters of a table are quoted."""
SEPARATORS = {";": "semicolons", "\t": "tabs"}
COMMAS = "save it with commas between the columns (CSV, UTF-8)"
LINE = re.compile(r"([^\r\n]*)(?:\r\n|\r|\n|\Z)")


@dataclass(frozen=True)
class Line:
    """One line of a table: its values by the name of their column, spaces around them taken off."""

    path: Path
    number: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def error(self, what: str, *, hint: str = "") -> TableError:
        return _error(self.path, self.number, what, hint)


def _error(path: Path, number: int, what: str, hint: str) -> TableError:
    what = what if len(what) <= SHOWN else f"{what[: SHOWN - 100]} ... {what[-100:]}"
    return TableError(f"{path}, line {number}: {what}", hint=hint)


def check_there(source: Path, *paths: Path, title: str, get: str) -> None:
    """Raise DataError, with ``get`` as the way out, where one of ``paths`` within ``source`` is not there."""
    for path in paths:
        if not path.exists():
            why = f"there is no {path}" if source.is_dir() else "there is no such folder"
            if source.is_file():
                why = "that is a file, a folder is needed"
            raise DataError(f"no {title} at {source}: {why}", hint=get)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark. TableError for another coding, or none."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\3\4"):
        raise TableError(f"{path} is a workbook or a zip, not a text", hint=COMMAS)
    kind = "an archive" if ARCHIVE.match(head) else f"a {KINDS.get(path.suffix[1:].lower(), TABLE)}"
    if (found := name_of_other_content(head) or kind) != f"a {TABLE}":
        hint = "name a csv that lists the clips, those in an archive as x.tar/clips/a.mp4"
        raise TableError(f"{path} is {found}, not a table", hint=WAYS_OUT.get(found, hint))
    data = path.read_bytes()
    if not data.strip():
        raise TableError(f"{path} is empty", hint="get or write the file again")
    coding, what, line = "UTF-16", "UTF-16", 1
    if not _is_utf16(data):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            coding, what = "LATIN1", "another coding, Latin-1 perhaps"
            line = data.count(b"\n", 0, error.start) + 1
        else:
            if "\0" not in text:
                return text
            line = text.count("\n", 0, text.index("\0")) + 1
            raise _error(path, line, "a NUL byte", "get or write the file again: text has none")
    here, there = (shlex.quote(str(one)) for one in (path, path.with_name(f"{path.stem}-utf8{path.suffix}")))
    hint = f"iconv -f {coding} -t UTF-8 {here} > {there}"
    raise _error(path, line, f"not UTF-8 but {what}", hint)


def _is_utf16(data: bytes) -> bool:
    """It says so itself, or every other byte is zero."""
    halves = data[:200:2], data[1:200:2]
    return data[:2] in (b"\xff\xfe", b"\xfe\xff") or any(half.count(0) > len(half) / 2 for half in halves)


def parse_json(text: str) -> Any:
    """The value of a JSON text of at most NESTED levels. Raises ValueError."""
    try:
        value = json.loads(text)
        if _levels(value) <= NESTED:
            return value
    except RecursionError:
        pass
    raise ValueError(f"nested more than {NESTED} levels deep")


def _levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_levels, inner), default=0)


def read_json(path: Path, form: str, read: Callable[[Any], Any]) -> Any:
    """``read`` of what the JSON file holds. TableError with the line, or that it is not of the ``form``."""
    text = read_text(path)
    try:
        return read(parse_json(text))
    except json.JSONDecodeError as error:
        hint = "get the file again, it may be cut off"
        raise _error(path, error.lineno, f"not JSON: {error.msg}", hint) from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        what = f"{path} is not {form} ({type(error).__name__}: {error})"
        raise TableError(what, hint="use the published file as it is") from error


def read_rows(path: Path, columns: Sequence[str], *, hint: str, comment: str = "") -> Iterator[Line]:
    """The lines of a table without a header, each with just these columns; those that begin with ``comment``
    and empty ones are left out."""
    for number, text in _lines(path):
        if comment and text.startswith(comment):
            continue
        values = _split(path, number, text)
        if len(values) != len(columns):
            for separator, word in SEPARATORS.items():
                if text.count(separator) >= len(columns) - 1:
                    raise _error(path, number, f"{word} between the columns", COMMAS)
            raise _error(path, number, f"not {','.join(columns)}", hint)
        yield Line(path, number, dict(zip(columns, values, strict=True)))


def read_headed(
    path: Path, columns: Sequence[str], *, hint: str, check: Callable[[list[str]], None] | None = None
) -> Iterator[Line]:
    """The lines of a table whose first line names the columns: these must be among them. ``check`` sees all the
    names and may raise."""
    lines = _lines(path)
    number, text = next(lines)
    names = _split(path, number, text)
    for separator, word in SEPARATORS.items():
        if len(names) == 1 and separator in text:
            raise _error(path, number, f"{word} between the columns", COMMAS)
    if check:
        check(names)
    check_columns(Line(path, number, {}), names, columns, hint)
    for number, text in lines:
        values = _split(path, number, text)
        if len(values) != len(names):
            what = f"not as many fields as the header has ({len(values)}, not {len(names)})"
            hint = "quote fields that hold a comma"
            if lacking := names[len(values) :]:
                hint = f"there is none for {listed(lacking)}: an empty field keeps its comma"
            raise _error(path, number, what, hint)
        if any(values):  # a spreadsheet writes commas for rows that were emptied
            yield Line(path, number, dict(zip(names, values, strict=True)))


def check_columns(header: Line, names: Sequence[str], columns: Sequence[str], hint: str) -> None:
    """TableError where one of ``columns`` is not among the ``names`` in the header."""
    for name in columns:
        if name not in names:
            raise header.error(f"no column {name} (there are: {', '.join(names)})", hint=hint)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers; they may end in \\n, \\r\\n or \\r, and begin with a byte-order
    mark where files were joined."""
    for number, line in enumerate(LINE.finditer(read_text(path)), 1):
        if text := line[1].rstrip().lstrip("\ufeff"):
            yield number, text


def _split(path: Path, number: int, text: str) -> list[str]:
    try:
        (values,) = csv.reader([text], strict=True, skipinitialspace=True)
    except csv.Error as error:
        unclosed = "unexpected end" in str(error)
        what = "a quote is opened and not closed on this line" if unclosed else str(error)
        hint = (
            'a quoted field begins and ends with " on one line, and a " within it is doubled; a file with a line'
            " break in its name has to be renamed"
        )
        raise _error(path, number, what, hint) from error
    return [value.strip() for value in values]


def clip_names(video: str, start: float, end: float) -> Iterator[str]:
    """The names, without suffix, that people give the clip of a video from ``start`` to ``end`` seconds; the first is
    the usual one."""
    forms = (("06.0f", 1), (".0f", 1), (".3f", 1), (".0f", 1000))
    times = [(format(start * scale, form), format(end * scale, form)) for form, scale in forms]
    for name in (video, f"Y{video}"):
        for first, last in times:
            yield f"{name}_{first}_{last}"
            yield f"{name}_{first}"
