"""Clips, frames, images and sound: the only user of PyAV (FFmpeg comes inside its wheel).

Frames are uint8 (H, W, 3) RGB, upright, with square pixels: all tags are applied. Sound read here is int16 (N,), mono,
all channels mixed down. Times are seconds from the clip's start, which is the start of its earliest stream: a
stream that starts later is placed where it belongs, so that picture and sound stay aligned.
"""

import av
import cv2

from avtool.media.colour import Hdr
from avtool.media.container import (
    HDR,
    NO_SOUND,
    NO_VIDEO,
    SILENT,
    TOO_SHORT,
    UNDECODABLE,
    MediaFile,
    UnusableMedia,
    check_file,
    describe_container,
)
from avtool.media.decode import DecodedClip, decode_clip
from avtool.media.encode import write_clip
from avtool.media.frames import (
    COLOURED_MASK,
    SOFT_MASK,
    Picture,
    check_time,
    find_frame,
    fitted,
    is_picture,
    read_frame,
    read_image,
    read_mask,
    read_picture,
    resized,
    scaled_size,
    shown_frames,
)
from avtool.media.sound import (
    AS_IT_IS,
    ONE_SIDED,
    OPPOSITE,
    SECONDS_NEEDED,
    Form,
    Sound,
    hear,
    read_waveform,
    refusal,
    resampled,
)
from avtool.media.versions import Tools, tool_versions, tools_in_words

__all__ = [
    "AS_IT_IS", "COLOURED_MASK", "HDR", "NO_SOUND", "NO_VIDEO", "ONE_SIDED", "OPPOSITE", "SECONDS_NEEDED", "SILENT",
    "SOFT_MASK", "TOO_SHORT", "UNDECODABLE",
    "DecodedClip", "Form", "Hdr", "MediaFile", "Picture", "Sound", "Tools", "UnusableMedia", "check_file",
    "check_time", "decode_clip", "describe_container", "find_frame", "fitted", "hear", "is_picture",
    "read_frame", "read_image", "read_mask", "read_picture", "read_waveform", "refusal", "resampled", "resized",
    "scaled_size", "shown_frames", "tool_versions", "tools_in_words", "write_clip",
]  # fmt: skip

# What is wrong with a clip is said by an exception, not by FFmpeg's own lines on stderr.
av.logging.set_level(None)
# Pictures are small, and a thread pool does not survive the fork of a loader's workers.
cv2.setNumThreads(0)
