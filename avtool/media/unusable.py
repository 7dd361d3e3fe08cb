"""Files that cannot be used, and why; and what decodes and scales the others, in which versions."""

from collections.abc import Mapping
from pathlib import Path

import av
import cv2
import numpy as np

from avtool.errors import MediaError
from avtool.files import LFS_POINTER

NO_SOUND = "no sound track"
NO_VIDEO = "no video"
UNDECODABLE = "undecodable"
SILENT = "digital silence"
TOO_SHORT = "less than 0.2 s of sound"


class UnusableMedia(MediaError):
    """A file that is there but cannot be used; ``reason`` is one of NO_SOUND, NO_VIDEO, UNDECODABLE."""

    def __init__(self, message: str, *, reason: str = UNDECODABLE, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


def check_file(path: Path) -> None:
    """Raise MediaError where ``path`` is missing, no regular file, empty, a Git LFS pointer or text.

    Nothing but a regular file is opened: a pipe would be waited on for ever.
    """
    if not path.exists():
        hint = "check the path; a name that begins with - is written ./-name"
        raise MediaError(f"{path} does not exist", hint=hint)
    if path.is_dir():
        raise MediaError(f"{path} is a folder, a file is needed", hint="name a clip inside it")
    if not path.is_file():
        kind = "a pipe" if path.is_fifo() else "a socket" if path.is_socket() else "a device"
        hint = "write what comes out of it to a file, and name that"
        raise UnusableMedia(f"{path} is {kind}, a file is needed", hint=hint)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except PermissionError as error:
        raise UnusableMedia(f"no permission to read {path}") from error
    if not head:
        raise UnusableMedia(f"{path} is empty", hint="download or copy it again")
    if head.startswith(LFS_POINTER):
        raise UnusableMedia(f"{path} is a Git LFS pointer, not the file itself", hint="run: git lfs pull")
    if not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        hint = "name the clip itself; a csv of clips goes through avtool prepare manifest"
        raise UnusableMedia(f"{path} is a text file, not a clip", hint=hint)


Tools = Mapping[str, str]
"""Tool: its version; empty where nobody noted them."""
_NAMES = {"av": "PyAV", "ffmpeg": "FFmpeg", "opencv": "OpenCV", "numpy": "numpy"}


def tool_versions() -> dict[str, str]:
    """Those of this process."""
    return {
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def tools_in_words(tools: Tools, *, other_than: Tools | None = None) -> str:
    """ "PyAV 18.1.0, OpenCV 5.0.0": all of them, or those that are not as in ``other_than``."""
    shown = {name: version for name, version in tools.items() if (other_than or {}).get(name) != version}
    words = [f"{_NAMES.get(name, name)} {version}" for name, version in shown.items()]
    return ", ".join(words) or "unknown versions"
