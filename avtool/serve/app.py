"""The page of ``avtool serve`` in gradio, and what of gradio's server a visitor may reach."""

import ctypes
import json
import shutil
import socket
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avtool.errors import explain
from avtool.html import render
from avtool.predict import Chosen
from avtool.serve.found import Bounds, find

WAITING, KEPT = 8, 3600.0
"""Visitors' uploads that are held at most, as many times the largest one, and seconds after which one that was never
computed is removed."""
UPLOAD, EVENTS = "/gradio_api/upload", ("/gradio_api/run/predict", "/gradio_api/queue/join")
SHOWN = {"/", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/queue/data", UPLOAD, *EVENTS}
SHOWN |= {"/gradio_api/upload_progress", "/gradio_api/startup-events"}
SHOWN_IN = ("/assets/", "/static/", "/gradio_api/heartbeat/")
"""All of gradio's server that the page needs. The rest would serve files that others brought to whoever has their
address, fetch other machines' pages, and tell what runs here."""
LONGEST = 1 << 16
"""Bytes of an event at most: it names files, and holds none."""
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'"
)
STYLE = """
.gradio-container { max-width: 72rem !important; margin: 0 auto }
.found { width: 100%; border: 1px solid var(--border-color-primary); border-radius: .5rem }
iframe.found { height: max(36rem, 85vh) } img.found { width: auto; max-width: 100% }
.note, .refused { border-left: 4px solid #b8500a; padding: .3rem .8rem; margin: .6rem 0; overflow-wrap: anywhere }
.refused { font-size: 1.1rem }
.files { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem }
.commands { overflow-x: auto; font-size: .9rem; margin: .4rem 0 }
"""


class Busy:
    """One computation at a time, which ``stop`` ends."""

    def __init__(self) -> None:
        self._lock, self._thread = threading.Lock(), 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._thread = threading.get_ident()

    def __exit__(self, *_error: object) -> None:
        self._thread = 0
        self._lock.release()

    def stop(self) -> None:
        """Interrupt what is computed, and return when it has cleaned up."""
        if thread := self._thread:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
            )
        self._lock.acquire()


class Guard:
    """In front of gradio's server: it lets through what the page needs, and uploads that are not too large."""

    def __init__(self, app: ASGIApp, folder: Path, bounds: Bounds) -> None:
        self.app, self.folder, self.largest = app, folder, bounds.bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        refused = self._refused(scope) if scope["type"] == "http" else None
        if refused is None and scope["type"] == "http" and scope["path"] in EVENTS:
            event = await _read(receive)
            receive, refused = _again(event, receive), self._refused_event(event)
        if refused is not None:
            status, reason = refused
            while status in (413, 503) and (await receive()).get("more_body"):
                pass  # a browser reads no answer before it has sent all
            await PlainTextResponse(reason, status)(scope, receive, send)
        elif scope["type"] in ("http", "lifespan"):
            await self.app(scope, receive, guarded)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason for what is not let through."""
        path = scope["path"]
        if path not in SHOWN and not path.startswith(SHOWN_IN):
            return 404, "not found"
        if path == UPLOAD:
            length = dict(scope["headers"]).get(b"content-length", b"")
            if not length.isdigit():
                return 411, "an upload has to say how large it is"
            if int(length) > self.largest:
                return 413, f"at most {self.largest / 2**20:g} MB can be brought here"
            if self._held() + int(length) > WAITING * self.largest:
                return 503, "too many clips are waiting: try it again later"
        return None

    def _refused_event(self, event: bytes) -> tuple[int, str] | None:
        """The same for an event. gradio fetches or copies whatever address or file of this machine it names."""
        named = list[Any]()

        def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            named.extend(value for key, value in pairs if key == "path")
            return dict(pairs)

        try:
            json.loads(event, object_pairs_hook=look)
        except (ValueError, RecursionError):
            return 400, "not an event of this page"
        for path in named:
            if not (isinstance(path, str) and Path(path).resolve().is_relative_to(self.folder.resolve())):
                return 403, "this file was not brought here"
        return None

    def _held(self) -> int:
        """Bytes of what visitors have brought, once the oldest that nobody wants is removed."""
        held = 0
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # its visitor's turn is over just now
                facts = path.stat()
                if path.is_file() and facts.st_mtime < time.time() - KEPT:
                    path.unlink()
                elif path.is_file():
                    held += facts.st_size
        return held


async def _read(receive: Receive) -> bytes:
    """All of a request, or the first ``LONGEST`` bytes."""
    content = b""
    while len(content) < LONGEST:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body"):
            break
    return content[:LONGEST]


def _again(content: bytes, receive: Receive) -> Receive:
    """What gives ``content`` first."""
    first = [{"type": "http.request", "body": content, "more_body": False}]

    async def received() -> Message:
        return first.pop() if first else await receive()

    return received


def build(chosen: Chosen, bounds: Bounds, folder: Path, busy: Busy) -> gradio.Blocks:
    """The page. Uploads are first in ``folder`` by their content, where those of two visitors may be one file: each is
    moved at once to a folder of its own."""

    def take(brought: list[dict[str, Any]]) -> Path:
        own = folder / uuid4().hex
        own.mkdir()
        try:
            for path in (Path(one["path"]) for one in brought):
                path.replace(own / path.name)
                with suppress(OSError):  # a file of another name and the same content is in it
                    path.parent.rmdir()
        except FileNotFoundError as error:
            shutil.rmtree(own)
            raise gradio.Error("Another visitor brought the same file just now: bring it again.") from error
        return own

    def look(own: Path, videos: bool) -> tuple[None, str]:
        try:
            with busy:
                return None, find(sorted(own.iterdir()), chosen, bounds, videos=videos).html()
        except Exception as error:  # noqa: BLE001 - it is told: to a visitor in a sentence, in full here
            if (known := explain(error)) is None:
                traceback.print_exc()
            said = known.message if known else "this did not work: the reason is on the server's terminal"
            return None, render("refused", message=said)
        finally:
            shutil.rmtree(own, ignore_errors=True)

    with gradio.Blocks(title="avtool", analytics_enabled=False) as page:
        held = gradio.State()
        gradio.HTML(render("intro", model=chosen.config.origin, bounds=bounds))
        with gradio.Row():
            label = "A video, or a picture and its sound together"
            brought = gradio.File(label=label, file_count="multiple", height=170, scale=3)
            videos = gradio.Checkbox(
                label="Also as videos", info="Choose before you drop a clip; takes twice the time.", scale=1
            )
        shown = gradio.HTML(min_height=80)
        options: dict[str, Any] = {"api_visibility": "private"}
        taken = brought.upload(
            take, brought, held, preprocess=False, queue=False, show_progress="hidden", **options
        )
        taken.success(look, [held, videos], [brought, shown], concurrency_limit=1, **options)
    return page


def run(chosen: Chosen, bounds: Bounds, listening: socket.socket, *, folder: Path, local: bool) -> None:
    """Serve the page on the socket ``listening`` until SIGINT or SIGTERM, which is raised again."""
    busy = Busy()
    page = build(chosen, bounds, folder, busy)
    page.queue(max_size=WAITING, api_open=False, default_concurrency_limit=1)
    outer = FastAPI(openapi_url=None)
    outer.add_middleware(Guard, folder=folder, bounds=bounds)
    if local:  # no page of another host may reach it under a name of its own
        outer.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    settings: dict[str, Any] = {
        "footer_links": [],
        "enable_monitoring": False,
        "ssr_mode": False,
        "show_error": False,
    }
    settings |= {"max_file_size": bounds.bytes, "pwa": False, "mcp_server": False, "css": STYLE}
    app = gradio.mount_gradio_app(outer, page, "/", theme=theme, **settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    try:
        server.run(sockets=[listening])
    finally:
        busy.stop()
