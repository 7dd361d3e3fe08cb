"""``avtool serve`` as a visitor has it, in Chromium: a clip dropped, shown, played and fetched; what is refused; and
that nothing of it stays, goes to another visitor or leaves this machine."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import clips
from tests.processes import ROOT

pytest.importorskip("gradio")
from tests.browser import Browser, needs_chromium
from tests.unit.test_load_export import saved

SAYS = "return document.querySelector('.refused')?.textContent === arguments[0]"
PATIENCE = 300.0
"""Seconds that a busy machine is given."""


class Server(NamedTuple):
    process: subprocess.Popen[str]
    address: str
    temporary: Path
    model: Path

    def files(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def ask(self, path: str, **request: Any) -> tuple[int, bytes]:
        """Status and content."""
        asked = urllib.request.Request(self.address + path, **request)
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def upload(self, content: bytes, name: str = "a.mp4") -> tuple[int, bytes]:
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        data = head.encode() + content + b"\r\n--x--\r\n"
        return self.ask(
            "/gradio_api/upload", data=data, headers={"Content-Type": "multipart/form-data; boundary=x"}
        )

    def event(self, number: int, data: list[Any], place: str = "run/predict") -> tuple[int, bytes]:
        """One of the page's own events, 0: a clip is taken, 1: it is computed."""
        sent = json.dumps({"data": data, "fn_index": number, "session_hash": "abc"}).encode()
        return self.ask(f"/gradio_api/{place}", data=sent, headers={"Content-Type": "application/json"})


def file_of(path: object) -> dict[str, Any]:
    return {"path": path, "orig_name": "a.mp4", "meta": {"_type": "gradio.FileData"}}


def started(folder: Path, *options: str) -> Server:
    model = saved(folder / "model", "separation")
    temporary = folder / "temporary"
    temporary.mkdir()
    words = ["-m", "avtool", "serve", "--model", model, "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.match(r"(http://127\.0\.0\.1:\d+) ", line):
            assert [path.name.startswith("avtool-serve-") for path in temporary.iterdir()] == [True]
            return Server(process, found[1], temporary, model)
    pytest.fail(f"it did not start: exit code {process.wait()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = started(tmp_path_factory.mktemp("served"), "--max-mb", "2", "--max-seconds", "5")
    yield server
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(PATIENCE) == 0
    assert [*server.temporary.iterdir()] == []


class Visitor(Browser):
    def __init__(self, server: Server) -> None:
        super().__init__(performance=True)
        self.server = server
        self.driver.get(server.address)
        self.until(lambda: self.js("return !!document.querySelector('input[type=file]')"))

    def drop(self, *files: Path) -> None:
        self.find("input[type=file]").send_keys("\n".join(map(str, files)))

    def requests(self) -> list[str]:
        """The addresses of all that was asked for since the last time."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            entry["params"]["request"]["url"]
            for entry in entries
            if entry["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture
def visitor(server: Server) -> Iterator[Visitor]:
    visitor = Visitor(server)
    yield visitor
    visitor.driver.quit()


def ours(visitor: Visitor) -> None:
    """Nothing was asked of another machine, and the console has nothing but a word of gradio's own."""
    asked = [url for url in visitor.requests() if not url.startswith(("data:", "blob:"))]
    assert asked and [url for url in asked if not url.startswith(visitor.server.address)] == []
    assert [said for said in visitor.said() if "Method not implemented" not in said] == []


@needs_chromium
def test_a_clip_is_shown_plays_and_its_files_are_those_of_the_command(
    server: Server, visitor: Visitor, tmp_path: Path
) -> None:
    clip = clips.clip(tmp_path / "my clip.mp4", 2.0, fps=10)
    visitor.drop(clip)
    visitor.until(lambda: visitor.js("return !!document.querySelector('iframe.found')"))
    assert server.files() == []
    links = visitor.js(
        "return [...document.querySelectorAll('a[download]')].map((a) => [a.download, a.href])"
    )
    found = {name: base64.b64decode(href.partition(";base64,")[2]) for name, href in links}
    import avtool

    written = avtool.separate(clip, out=tmp_path / "sounds", model=server.model)
    for path in written.files:
        if path.suffix == ".wav":
            assert found[f"sounds-{path.name}"] == path.read_bytes()
    visitor.driver.switch_to.frame(visitor.find("iframe.found"))
    visitor.until(lambda: visitor.of_video("readyState") >= 2)
    visitor.find("#play").click()
    visitor.until(lambda: visitor.of_video("ended"))
    visitor.driver.switch_to.default_content()
    assert visitor.js("return document.documentElement.scrollWidth <= innerWidth")
    ours(visitor)


@needs_chromium
def test_what_is_no_clip_and_what_is_too_long_is_refused_with_a_sentence(
    visitor: Visitor, tmp_path: Path
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no clip")
    long = clips.clip(tmp_path / "long.mp4", 6.0)
    for file, sentence in (
        (text, "text.mp4 is a text file, not a clip"),
        (long, "long.mp4 lasts 6 s: here a clip may last 5 s"),
    ):
        visitor.drop(file)
        refused = partial(
            visitor.js, "return document.querySelector('.refused')?.textContent == arguments[0]", sentence
        )
        visitor.until(refused)
    assert visitor.server.files() == []
    ours(visitor)


def test_what_one_brings_is_given_to_nobody(server: Server) -> None:
    status, said = server.upload(b"mine")
    (path,) = json.loads(said)
    assert status == 200 and Path(path).read_bytes() == b"mine"
    for other in (
        f"/gradio_api/file={path}",
        f"/file={path}",
        f"//gradio_api/file={path}",
        f"/gradio_api/upload/../file={path}",
        f"/gradio_api/upload/%2e%2e/file={path}",
        f"/gradio_api/file/{path}",
        "/gradio_api/file=https://example.com/",
        "/gradio_api/proxy=https://example.com/",
        "/gradio_api/runs",
        "/gradio_api/info",
        "/gradio_api/vibe-code/",
        "/monitoring/summary",
    ):
        status, said = server.ask(other)
        assert status == 404 and b"mine" not in said, other
    Path(path).unlink()


def test_an_event_names_no_file_but_what_was_brought(server: Server, tmp_path: Path) -> None:
    mine = tmp_path / "mine.mp4"
    mine.write_bytes(b"mine")
    for path, wanted in (
        (str(mine), 403),
        (f"{server.temporary}/../../{mine.relative_to('/')}", 403),
        ("https://example.com/a.mp4", 403),
        (["a"], 403),
        (json.loads(server.upload(b"theirs")[1])[0], 200),
    ):
        assert server.event(0, [[file_of(path)]])[0] == wanted, path
    (taken,) = server.files()
    assert taken.read_bytes() == b"theirs" and mine.exists()
    taken.unlink()
    assert server.event(0, [["x" * (1 << 16)]])[0] == 400


def test_another_page_cannot_come_in_by_a_name_of_its_own(server: Server) -> None:
    assert server.ask("/")[0] == 200
    assert server.ask("/", headers={"Host": "example.com"})[0] == 400


def test_uploads_are_bounded_one_by_one_and_together(server: Server) -> None:
    status, said = server.upload(bytes(2 * 2**20))
    assert (status, said) == (413, b"at most 2 MB can be brought here") and server.files() == []
    kept, full = [], 0
    for number in range(12):
        status, said = server.upload(bytes([number]) * 1_900_000)
        if status == 200:
            kept += [Path(path) for path in json.loads(said)]
        else:
            assert status == 503
            full += 1
    assert len(kept) == 8 and full == 4
    for path in kept[1:]:
        os.utime(path, (0, 0))  # nobody came for it in an hour
    assert server.upload(b"again")[0] == 200
    assert kept[0].exists() and not any(path.exists() for path in kept[1:])
    for path in server.files():
        path.unlink()


def test_it_ends_while_it_computes_and_leaves_nothing(tmp_path: Path) -> None:
    server = started(tmp_path)
    clip = clips.clip(tmp_path / "a.mp4", 50.0, fps=10)
    path = json.loads(server.upload(clip.read_bytes())[1])[0]
    assert server.event(0, [[file_of(path)]])[0] == server.event(1, [None, True], "queue/join")[0] == 200
    until = time.monotonic() + PATIENCE
    while (
        not [*server.temporary.rglob("found/sounds")] and time.monotonic() < until
    ):  # its first step is done
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    assert [*server.temporary.iterdir()] == []
