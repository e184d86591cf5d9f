"""How long a recording is, by its header alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from mbflow.errors import DataError, require

__all__ = ["audio_seconds"]

# What libsndfile says of a stream whose header leaves its length open.
_UNKNOWN = 2**63 - 1


def audio_seconds(audio: bytes | Path) -> float:
    """The length of a recording by its header; no sample is decoded.

    Args:
        audio: A file's content or its path: FLAC, WAV, OGG and whatever else libsndfile reads.

    Returns:
        Seconds, above 0.

    Raises:
        DataError: It is no such file, is damaged, holds no sample, or does not say how long it is.
        MissingExtraError: soundfile is not installed.

    Example:
        >>> import struct
        >>> from mbflow.speech.audio import audio_seconds
        >>> samples = bytes(2 * 4000)
        >>> head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", 16,
        ...                    1, 1, 8000, 16000, 2, 16)
        >>> wav = head + struct.pack("<4sI", b"data", len(samples)) + samples
        >>> audio_seconds(wav)  # doctest: +SKIP
        0.5
    """
    soundfile: Any = require("soundfile", extra="speech", purpose="reading audio")
    if isinstance(audio, Path) and not audio.is_file():
        raise DataError(f"there is no file {audio}")
    try:
        with soundfile.SoundFile(io.BytesIO(audio) if isinstance(audio, bytes) else audio) as file:
            frames, rate = file.frames, file.samplerate
    except (soundfile.SoundFileError, TypeError) as error:
        # A file named as raw samples has no header, which is a TypeError.
        why = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise DataError(f"{why[:1].lower()}{why[1:]}") from None
    if frames <= 0 or rate <= 0:
        raise DataError("it holds no sample")
    if frames >= _UNKNOWN:
        raise DataError("its header does not say how long it is")
    return float(frames / rate)
