"""Sounds as WAV files of 32-bit floats, written piece by piece."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile


@contextmanager
def sound_writers(
    folder: Path, names: Sequence[str], *, rate: int, channels: int
) -> Iterator[Callable[[Sequence[np.ndarray]], None]]:
    """Yield what writes the next piece, float32 (C, n), of each of the sounds NAME.wav in ``folder``: equal sounds are
    equal bytes."""
    with ExitStack() as files:
        sounds = [files.enter_context(_wav(folder / f"{name}.wav", rate, channels)) for name in names]

        def write(pieces: Sequence[np.ndarray]) -> None:
            for sound, piece in zip(sounds, pieces, strict=True):
                sound.write(piece.T)

        yield write


@contextmanager
def _wav(path: Path, rate: int, channels: int) -> Iterator[soundfile.SoundFile]:
    with path.open("w+b", buffering=0) as content:
        file = _Whole(content)  # so that any path will do, and a full disk is an OSError with its reason
        try:
            with soundfile.SoundFile(file, "w", rate, channels, format="WAV", subtype="FLOAT") as sound:
                yield sound
        finally:
            if file.error is not None:
                raise file.error
        content.seek(0)
        peak = content.read(1024).index(b"PEAK")  # a chunk that says when it was written
        content.seek(peak + 12)
        content.write(bytes(4))


class _Whole:
    """A file of which every write is whole, or ``error`` says why not: libsndfile does not pass it on."""

    def __init__(self, file: io.FileIO) -> None:
        self.file = file
        self.error: OSError | None = None
        self.seek, self.tell, self.read = file.seek, file.tell, file.read

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            self.error = error
            return 0
        return len(data)


def read_sound(path: Path) -> np.ndarray:
    """A sound file as float32 (N, C), full scale 1.0."""
    samples: Any = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32", always_2d=True)[0]
    return samples
