"""Generators of images with the statistics of photographs, of sounds, and of spectrograms.

Source of images: Lee, Mumford and Huang, *Occlusion models for natural images*, 2001. Opaque shapes
whose sizes follow a power law ("dead leaves") have the edges and the spectrum of photographs. Each
shape has a texture: noise with a power spectrum of about 1/f^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHAPES = 80
_SMALLEST = 0.03
"""Radius of the smallest shape, as a share of the image side."""

RATE = 16_000
"""Samples per second of synthetic sounds."""


_TEXTURES = 8
"""Number of textures of an image; every shape shows one of them at a random place."""


def dead_leaves(
    height: int, width: int, channels: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return one image: float32 [channels, height, width] with values in [0, 1]."""
    textures = [_texture(height, width, random) for _ in range(_TEXTURES)]
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    image = np.full((channels, 1, 1), 0.5, np.float32) + _amplitude(random) * textures[0]
    for _ in range(_SHAPES):
        # Radii r have the density 1/r^3, so the image looks the same at every scale.
        radius = _SMALLEST / np.sqrt(1 - random.random() * (1 - (_SMALLEST / 0.6) ** 2))
        x, y = random.random(2)
        aspect = np.exp(random.normal(0, 0.4))
        angle = random.random() * np.pi
        reach = 1.5 * radius * max(aspect, 1)
        box = (_within(rows[:, 0], y, reach), _within(columns[0], x, reach))
        u = (columns[:, box[1]] - x) * np.cos(angle) + (rows[box[0]] - y) * np.sin(angle)
        v = (rows[box[0]] - y) * np.cos(angle) - (columns[:, box[1]] - x) * np.sin(angle)
        if random.random() < 0.5:
            inside = (u / aspect) ** 2 + (v * aspect) ** 2 < radius**2
        else:
            inside = np.maximum(np.abs(u / aspect), np.abs(v * aspect)) < radius
        texture = textures[random.integers(_TEXTURES)]
        down, right = random.integers(height), random.integers(width)
        texture = texture.take(np.arange(height)[box[0]] + down, axis=0, mode="wrap")
        texture = texture.take(np.arange(width)[box[1]] + right, axis=1, mode="wrap")
        leaf = _color(channels, random) + _amplitude(random) * texture
        place = image[:, box[0], box[1]]
        np.copyto(place, leaf, where=inside)
    clipped: NDArray[np.float32] = np.clip(image, 0, 1)
    return clipped


def _within(positions: NDArray[np.float32], center: float, reach: float) -> slice:
    """Return the slice of ascending positions that are at most `reach` from a center."""
    start, stop = np.searchsorted(positions, (center - reach, center + reach))
    return slice(int(start), int(stop))


def _color(channels: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return a color, float32 [channels, 1, 1], that differs more in brightness than in hue."""
    brightness = random.beta(1.3, 1.6)
    hue = random.normal(0, 0.12, channels)
    return np.asarray(brightness + hue, np.float32)[:, None, None]


def _amplitude(random: np.random.Generator) -> float:
    return float(random.exponential(0.06))


def _texture(height: int, width: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return a texture of deviation 1 that repeats at its edges, float32 [height, width]."""
    noise = random.standard_normal((height, width), np.float32)
    spectrum = np.fft.rfft2(noise)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    exponent = random.uniform(0.6, 1.6)
    spectrum *= 1 / np.maximum(frequency, 1 / max(height, width)) ** exponent
    texture = np.fft.irfft2(spectrum, s=(height, width)).astype(np.float32)
    return np.asarray(texture / max(float(texture.std()), 1e-6))


def speech_like(samples: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return a waveform with what speech has at 16 kHz: float32 [samples] within -1 and 1.

    Voiced sounds (harmonics of a gliding pitch under resonances), noise, and pauses follow each
    other about five times a second.
    """
    wave = np.zeros(samples)
    start = 0
    while start < samples:
        length = min(int(random.uniform(0.05, 0.35) * RATE), samples - start)
        time = np.arange(length) / RATE
        form = random.choice(("voice", "voice", "noise", "pause"))
        if form == "voice":
            pitch = np.linspace(random.uniform(80, 300), random.uniform(80, 300), length)
            phase = 2 * np.pi * np.cumsum(pitch) / RATE
            resonances = random.uniform([200, 800, 2000], [900, 2500, 3500])
            sound = np.zeros(length)
            for harmonic in range(1, 30):
                frequency = harmonic * pitch.mean()
                gain = np.exp(-0.5 * ((frequency - resonances) / 250) ** 2).sum() + 0.02
                sound += gain / harmonic**0.5 * np.sin(harmonic * phase)
        elif form == "noise":
            sound = np.diff(random.standard_normal(length + 1))
        else:
            sound = np.zeros(length)
        sound *= np.sin(np.pi * np.minimum(time / max(time[-1], 1e-6), 1)) ** 0.5
        level = random.uniform(0.02, 0.3) / max(float(np.abs(sound).max()), 1e-6)
        wave[start : start + length] = sound * level
        start += length
    noise = random.standard_normal(samples) * 10 ** random.uniform(-4, -2)
    return np.clip(wave + noise, -1, 1).astype(np.float32)


def log_spectrogram(
    frames: int, frequencies: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return the log-power spectrogram of a speech-like waveform: float32 [frames, frequencies].

    Windows have 25 ms and begin every 10 ms. Frequencies are denser below, as on the mel scale. The
    mean is 0 and the variance 1.
    """
    window, hop = RATE // 40, RATE // 100
    wave = speech_like(window + hop * frames, random)
    windows = np.lib.stride_tricks.sliding_window_view(wave, window)[::hop][:frames]
    power = np.abs(np.fft.rfft(windows * np.hanning(window), 512)) ** 2
    places = (power.shape[1] - 1) * np.linspace(0, 1, frequencies) ** 1.7
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, power.shape[1] - 1)
    share = places - below
    values = np.log(power[:, below] * (1 - share) + power[:, above] * share + 1e-6)
    standardized = (values - values.mean()) / max(float(values.std()), 1e-6)
    return np.asarray(standardized, np.float32)
