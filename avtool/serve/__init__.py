"""A page that runs a model on the clips that are dropped on it: the Python API behind ``avtool serve``."""

import errno
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from avtool.devices import resolve_device
from avtool.errors import UsageError
from avtool.libraries import need_extra
from avtool.predict import choose_model
from avtool.progress import say, warn
from avtool.serve.found import Bounds, check_encoder

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Hosts that only this machine reaches."""
SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Environment in which gradio asks no other machine for anything, and has no browser keep what was found."""


def serve(
    *,
    model: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    bounds: Bounds = Bounds(),
    device: str = "auto",
) -> None:
    """Serve the page on ``host`` and ``port`` (0: a free one) until it is interrupted, and print its address.

    One clip is computed at a time. Nothing of a visitor is kept: uploads, and what is computed of them, lie in one
    temporary folder, each until its own result is shown, and all of it goes when this returns. ``model``: a run,
    checkpoint or converted folder (None: see ``avtool.places.find_model``). UsageError where gradio is missing, the
    model has no encoder of both, or the address cannot be had.
    """
    os.environ.update(SETTINGS)
    with tempfile.TemporaryDirectory(prefix="avtool-serve-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        need_extra("gradio", extra="serve", purpose="avtool serve", load=True)
        chosen = choose_model(model, device=resolve_device(device))
        check_encoder(chosen)
        with _listening(host, port) as listening:
            from avtool.serve.app import run

            _ = chosen.module  # before anyone waits for it
            where = f"[{host}]" if ":" in host else host
            if host not in LOCAL:
                warn(
                    f"whoever reaches {host} can use this page: it asks for no password and is not encrypted"
                )
            say(f"http://{where}:{listening.getsockname()[1]} (Ctrl-C ends it)")
            with suppress(KeyboardInterrupt):  # which is how it ends
                run(chosen, bounds, listening, folder=Path(folder), local=host in LOCAL)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. UsageError with another port or host where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        hints = {
            errno.EADDRINUSE: "choose another with --port, or --port 0 for a free one",
            errno.EACCES: "ports below 1024 need rights of their own: --port 7860",
        }
        what = {
            errno.EADDRINUSE: f"port {port} of {host} is taken",
            errno.EACCES: f"no permission for port {port}",
        }
        number = error.errno or 0
        raise UsageError(
            what.get(number, f"cannot listen on {host}, port {port}: {error.strerror or error}"),
            hint=hints.get(number, "--host 127.0.0.1 is this machine alone, --host 0.0.0.0 all its networks"),
        ) from error
