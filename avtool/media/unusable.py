"""Files that cannot be used, and why."""

import stat
from pathlib import Path

from avtool.errors import MediaError
from avtool.files import LFS_POINTER

NO_SOUND = "no sound track"
NO_VIDEO = "no video"
UNDECODABLE = "undecodable"
SILENT = "digital silence"
TOO_SHORT = "less than 0.2 s of sound"


class UnusableMedia(MediaError):
    """A file that is there but cannot be used; ``reason`` is one of NO_SOUND, NO_VIDEO, UNDECODABLE."""

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


_SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_file(path: Path) -> None:
    """Raise MediaError where ``path`` is missing, no regular file, empty, a Git LFS pointer or text.

    Nothing but a regular file is opened: a pipe would be waited on for ever.
    """
    if not path.exists():
        raise MediaError(
            f"{path} does not exist", hint="check the path; a name that begins with - is written ./-name"
        )
    if path.is_dir():
        raise MediaError(f"{path} is a folder, a file is needed", hint="name a clip inside it")
    if not path.is_file():
        kind = _SPECIAL.get(stat.S_IFMT(path.stat().st_mode), "something else")
        raise UnusableMedia(
            f"{path} is {kind}, a file is needed",
            reason=UNDECODABLE,
            hint="write what comes out of it to a file, and name that",
        )
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except PermissionError as error:
        raise UnusableMedia(f"no permission to read {path}", reason=UNDECODABLE) from error
    if not head:
        raise UnusableMedia(f"{path} is empty", reason=UNDECODABLE, hint="download or copy it again")
    if head.startswith(LFS_POINTER):
        raise UnusableMedia(
            f"{path} is a Git LFS pointer, not the file itself", reason=UNDECODABLE, hint="run: git lfs pull"
        )
    if not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        raise UnusableMedia(
            f"{path} is a text file, not a clip",
            reason=UNDECODABLE,
            hint="name the clip itself; a csv of clips goes through avtool prepare manifest",
        )
