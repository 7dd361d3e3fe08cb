"""The unfinished folder of a preparation: what is done so far, so that it can be stopped and gone on with.

``OUT.unfinished`` beside OUT holds:

- ``plan.json``: what is prepared (settings, source), and with which versions of the tools; only the same can go on
  here
- ``clips/00000012``: the outcome of source row 12, staged until all rows of its shard are there
- ``parts/000000.npz``: the index and the report of a shard that is written; its staged clips are gone
- ``whole/``: what becomes OUT once every shard is written
- ``locks/``: held by the processes that work here

Every file in it is whole: written under another name, then renamed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from avtool.data.shards import ARRAYS, MADE_WITH, Shard, shard_path
from avtool.errors import UsageError
from avtool.files import NO_LOCKS, check_output, json_text, take_lock
from avtool.media import Tools, tools_in_words
from avtool.progress import warn

PLAN_JSON = "plan.json"
RECORD = "record"
FOLDERS = ("locks", "whole", "clips", "parts")
BROKEN: dict[str, Any] = {"broken": True}
"""Stands for a plan that cannot be read."""
POLL = 0.05
"""Seconds between two looks at a lock that another process holds."""


@dataclass(frozen=True)
class Part:
    """Part ``number`` of ``count`` of a preparation: it owns every ``count``-th shard."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """From "I/N". Raises UsageError."""
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            hint = "for the second of four: --part 2/4"
            raise UsageError(f"part {text} is not I/N with I from 1 to N", hint=hint)
        return cls(int(number), int(count))

    def owns(self, shard: int) -> bool:
        return shard % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class _Plan(BaseModel):
    """A plan, as far as anything is made of it but a comparison."""

    model_config = ConfigDict(strict=True)

    command: str = ""
    made_with: Annotated[list[Tools], Field(min_length=1)] = [{}]


class Staging:
    """The unfinished folder of ``out``."""

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(f"{out.name}.unfinished")
        self.whole = self.folder / "whole"

    def command(self) -> str:
        """The command that goes on with it; "" where nothing was begun."""
        return self._read_plan().get("command", "")

    @contextmanager
    def opened(self, plan: dict[str, Any], part: Part, *, force: bool) -> Iterator[None]:
        """Hold ``part`` of ``plan`` for the length of the block, begun afresh or gone on with.

        ``plan["command"]`` is what goes on with it; the rest must be as it was begun, or ``force`` drops what
        is there. Where only the versions in ``plan["made_with"]`` are others, ``force`` goes on (see ``admit``).
        Raises UsageError for another plan, a process that holds the part, or a folder of the user's.
        """
        self._check_ours()
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            mine = held.enter_context(self._lock(f"{part.number}-of-{part.count}"))
            if not mine or self._others(part, of_any_count=False):
                raise self._in_use()
            with self._lock("plan", wait=True):  # parts that start together begin it once
                self._begin(plan, part, force=force)
            for tools in plan[MADE_WITH]:
                self.admit(tools, "this process", force=force)
            yield

    def _begin(self, plan: dict[str, Any], part: Part, *, force: bool) -> None:
        different, way = self._difference(plan)
        if different and not force:
            raise UsageError(
                f"{self.folder} is an unfinished preparation {different}", hint=f"{way}drop it: add --force"
            )
        if different or not self.whole.is_dir():
            # where there is no plan yet nobody has begun, whoever holds a part
            if self._read_plan() and self._others(part, of_any_count=True):
                raise self._in_use()
            for path in self.folder.iterdir():  # begin afresh: everything goes but the locks
                if path.is_dir() and path.name != "locks":
                    shutil.rmtree(path)
                elif path.name == PLAN_JSON:
                    path.unlink()
        for name in FOLDERS:
            (self.folder / name).mkdir(exist_ok=True)
        if not (self.folder / PLAN_JSON).is_file():
            self._store_plan(plan)
        if different := self._difference(plan)[0]:
            raise UsageError(f"{self.folder} was begun by another process {different}")

    def admit(self, tools: Tools, who: str, *, force: bool) -> None:
        """Let ``who`` work here with ``tools``, and note it. Raises UsageError where what is there was made with other
        versions alone, as the bytes may be others; ``force`` goes on with it nevertheless."""
        with self._lock("plan", wait=True) as held:
            begun = self.made_with()
            if not held or tools in begun:
                return
            then = tools_in_words(begun[0], other_than=tools)
            now = tools_in_words(tools, other_than=begun[0])
            if not force:
                raise UsageError(
                    f"{self.folder} was begun with {then}; {who} has {now}",
                    hint=f"install the same versions; or begin again: remove {self.folder}; "
                    "or go on with both: add --force",
                )
            warn(f"{self.folder} was begun with {then}; {who} goes on with {now}")
            self._store_plan({**self._read_plan(), MADE_WITH: [*begun, tools]})

    def made_with(self) -> list[Tools]:
        """The versions of the tools that have worked here, those first that began."""
        return self._read_plan().get(MADE_WITH, [{}])

    @contextmanager
    def sealing(self) -> Iterator[bool]:
        """Wait until nobody else seals; whether there is still something to seal."""
        with self._lock("seal", wait=True):
            if self.whole.is_dir():
                yield True
                return
            yield False
        # another process removed it all; the lock may have come back since
        (self.folder / "locks" / "seal").unlink(missing_ok=True)
        with suppress(OSError):  # not empty: begun again
            (self.folder / "locks").rmdir()
            self.folder.rmdir()

    # Rows and shards ---------------------------------------------------------------------------------

    def staged_rows(self) -> set[int]:
        """The rows whose outcome is staged."""
        return {int(entry.name) for entry in os.scandir(self.folder / "clips") if entry.name.isdecimal()}

    def write_row(self, row: int, data: bytes) -> None:
        self._write(self.folder / "clips" / f"{row:08d}", data)

    def read_row(self, row: int) -> bytes:
        return (self.folder / "clips" / f"{row:08d}").read_bytes()

    def new_shard(self, number: int) -> Path:
        """A name to write a shard under."""
        folder = self.folder / f".shard-{number:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder / "shard.tar"

    @contextmanager
    def spool(self, part: str) -> Iterator[Path]:
        """A folder for what ``part`` takes out of archives, empty before and gone after."""
        folder = self.folder / f".spool-{part.replace('/', '-of-')}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def finish_shard(
        self, shard: Shard, written: Path, arrays: dict[str, np.ndarray], record: dict[str, Any]
    ) -> None:
        """Put a written shard in its place and note that it is done; the staged outcomes of its rows go."""
        target = shard_path(self.whole, shard.name)
        target.parent.mkdir(exist_ok=True)
        written.replace(target)
        part = written.with_name("part.npz")
        content: dict[str, Any] = {**arrays, RECORD: np.frombuffer(json_text(record).encode(), np.uint8)}
        np.savez(part, **content)
        part.replace(self._part(shard.number))
        shutil.rmtree(written.parent, ignore_errors=True)
        for row in shard.rows:
            (self.folder / "clips" / f"{row:08d}").unlink(missing_ok=True)

    def has_shard(self, number: int) -> bool:
        return self._part(number).is_file()

    def read_shard(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The index arrays and the record of a shard that is done."""
        with np.load(self._part(number)) as stored:
            arrays = {name: stored[name] for name in ARRAYS}
            return arrays, json.loads(stored[RECORD].tobytes())

    def is_untouched(self) -> bool:
        """Whether no row was done yet."""
        return not any((self.folder / "clips").iterdir()) and not any((self.folder / "parts").iterdir())

    def _part(self, number: int) -> Path:
        return self.folder / "parts" / f"{number:06d}.npz"

    def _write(self, path: Path, data: bytes) -> None:
        """Whole or not at all, also where processes on other machines write the same."""
        with NamedTemporaryFile(prefix=f".{path.name}-", dir=path.parent, delete=False) as file:
            try:
                file.write(data)
                file.flush()
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    # Plan and locks ----------------------------------------------------------------------------------

    def _check_ours(self) -> None:
        """UsageError where the folder is there and is none of these, or none can be made."""
        for last in (False, True):  # another process may begin it between the two looks
            if self._is_begun():
                return
            try:
                return check_output(self.folder, force=True, markers=(PLAN_JSON,))
            except UsageError:
                if last:
                    raise

    def _is_begun(self) -> bool:
        """Whether it is there without a plan, with nothing in it but what a preparation begins with."""
        begun = (*FOLDERS, f".{PLAN_JSON}")
        return self.folder.is_dir() and all(path.name.startswith(begun) for path in self.folder.iterdir())

    def _read_plan(self) -> dict[str, Any]:
        path = self.folder / PLAN_JSON
        try:
            plan = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            _Plan.model_validate(plan)
            return plan
        except ValueError:
            return BROKEN

    def _store_plan(self, plan: dict[str, Any]) -> None:
        self._write(self.folder / PLAN_JSON, (json_text(plan, indent=1) + "\n").encode())

    def _difference(self, plan: dict[str, Any]) -> tuple[str, str]:
        """What is not as it was when the folder was begun, and how to go on with it all the same, where that can be; ""
        where all is, but for the versions of the tools."""
        begun = self._read_plan()
        compared = [key for key in {**begun, **plan} if key not in ("command", MADE_WITH)]
        keys = [key for key in compared if begun.get(key) != plan.get(key)]
        if not begun or not keys:
            return "", ""
        if begun == BROKEN:
            return f"whose {PLAN_JSON} is broken", ""
        if keys[0] == "rows":
            what = f"of other rows: the annotations of {plan['source']} are not what they were"
            return what, "make them as they were, and give the same command; or "
        then, now, name = begun.get(keys[0]), plan.get(keys[0]), keys[0]
        if isinstance(then, dict) and isinstance(now, dict):
            name = next(key for key in {**now, **then} if then.get(key) != now.get(key))
            then, now = then.get(name), now.get(name)
        what = f"with another {name}: {then}, now {now}"
        if keys[0] == "format":
            return what, "go on with the version of avtool that began it; or "
        return what, f"go on with it: {self.command()}; or "

    def _in_use(self) -> UsageError:
        return UsageError(
            f"{self.folder} is being worked on by another process",
            hint="wait until it ends, or stop it: what it has done is kept",
        )

    def _others(self, part: Part, *, of_any_count: bool) -> bool:
        """Whether another process holds a part, one of another number of parts or of any."""
        for path in (self.folder / "locks").iterdir():
            number, _, count = path.name.partition("-of-")
            if (number, count) == (str(part.number), str(part.count)) or not count:
                continue
            if of_any_count or count != str(part.count):
                with self._lock(path.name) as free:
                    if not free:
                        return True
        return False

    @contextmanager
    def _lock(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Hold lock ``name`` where it is free; whether it is held."""
        path, held = self.folder / "locks" / name, None
        try:  # taking it would make the folder again that another process has removed, as it has finished
            while path.parent.is_dir() and (held := take_lock(path)) is None and wait:
                time.sleep(POLL)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warn(f"{self.folder} cannot be locked ({error.strerror}): let no two processes do the same part")
            yield True
            return
        try:
            yield held is not None
        finally:
            if held is not None:
                held.release()
