"""Voice activity: compress Silero VAD, measure the chunks of speech that it misses or invents.

    pip install --no-deps silero-vad==6.2.3 espeakng-loader==0.2.4
    python examples/voice_activity.py

eSpeak NG speaks text of Python's documentation, into noise. See voice_activity.md.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from importlib.metadata import files
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import espeakng_loader
import numpy as np

from qqonnx import Calibration, Target, compress, evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, Any]

NAME = "silero_vad_16k_sequence.onnx"
RATE, CHUNK, CONTEXT = 16_000, 512, 64
VOICES = ("en-us", "en-gb", "en-us+f2", "en-gb+f4", "en-us+m3", "en-gb+m7")


@cache
def engine() -> tuple[Any, int]:
    """Return eSpeak NG's library and its samples per second."""
    library = espeakng_loader.load_library()
    return library, library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)


def speak(text: str, voice: str) -> Array:
    """Return a text as eSpeak NG speaks it: float32 at 16 kHz, within -1 and 1."""
    library, rate = engine()
    parts: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def keep(samples: Any, count: int, _: Any) -> int:
        parts.append(ctypes.string_at(samples, 2 * count) if samples else b"")
        return 0

    library.espeak_SetSynthCallback(keep)
    library.espeak_SetVoiceByName(voice.encode())
    content = ctypes.create_string_buffer(text.encode())
    library.espeak_Synth(content, len(content), 0, 0, 0, 1, None, None)
    library.espeak_Synchronize()
    wave = np.frombuffer(b"".join(parts), np.int16).astype(np.float32) / 32768
    size = len(wave) * RATE // rate
    resampled = np.fft.irfft(np.fft.rfft(wave)[: size // 2 + 1], size) * size / len(wave)
    return np.asarray(resampled, np.float32)


@cache
def recording(number: int) -> tuple[Array, Array]:
    """Return chunks of a noisy recording, float32 [n, 512], and which are speech, bool [n]."""
    random = np.random.default_rng(number)
    prose = [line.strip() for topic in sorted(topics) for line in topics[topic].splitlines()]
    prose = [line for line in prose if re.fullmatch(r"[A-Za-z]+([ ,.]+[a-z]+){8,}[,.]?", line)]
    voice, parts = VOICES[number % len(VOICES)], []
    for line in prose[7 * number :: 101][:4]:
        pause = np.zeros(int(random.uniform(0.4, 2.0) * RATE), np.float32)
        parts += [pause, speak(line, voice)]
    clean = np.concatenate(parts)
    clean = clean[: len(clean) // CHUNK * CHUNK]
    spectrum = np.fft.rfft(random.standard_normal(len(clean)))
    spectrum /= np.maximum(np.arange(len(spectrum)), 50) ** random.uniform(0, 1)
    noise = np.fft.irfft(spectrum, len(clean))
    level = np.sqrt(np.mean(clean**2)) / 10 ** (random.uniform(0, 20) / 20)
    mixed = (clean + noise * level / noise.std()) * random.uniform(0.2, 1)
    loudness = np.sqrt((clean.reshape(-1, CHUNK) ** 2).mean(axis=1))
    return mixed.astype(np.float32).reshape(-1, CHUNK), loudness > 0.03 * loudness.max()


def feed(number: int) -> dict[str, Array]:
    """Return the model's inputs for a recording: chunks with what came before, and a state."""
    chunks = recording(number)[0]
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), chunks[:-1, -CONTEXT:]])
    state = np.zeros((1, 1, 128), np.float32)
    return {"input": np.concatenate([before, chunks], axis=1), "h": state, "c": state}


def calibration() -> Iterator[dict[str, Array]]:
    """Yield the inputs of recordings 100 to 115, for --calibration."""
    yield from map(feed, range(100, 116))


def error_rate(session: Any) -> list[float]:
    """Return the share of wrong chunks of each of recordings 0 to 23, for --metric."""
    rates = []
    for number in range(24):
        speech = recording(number)[1]
        probabilities = session.run(["speech_probs"], feed(number))[0]
        rates.append(float(((probabilities > 0.5) != speech).mean()))
    return rates


def main() -> None:
    """Compress to 4.4 bits per weight and evaluate."""
    model = next(str(file.locate()) for file in files("silero-vad") or () if file.name == NAME)
    target = Target(bits=4.4)
    compress(model, "small.onnx", calibration=Calibration(calibration(), target=target))
    print(evaluate("small.onnx", baseline=model, metric=error_rate).to_csv())


if __name__ == "__main__":
    main()
