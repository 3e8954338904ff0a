"""Synthetic images with the statistics of photographs, for calibration without data.

Source: Lee, Mumford and Huang, *Occlusion models for natural images*, 2001. Opaque shapes whose
sizes follow a power law ("dead leaves") have the edges and the spectrum of photographs. Each shape
has a texture: noise with a power spectrum of about 1/f^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHAPES = 80
_SMALLEST = 0.03
"""Radius of the smallest shape, as a share of the image side."""


def dead_leaves(
    height: int, width: int, channels: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return one image: float32 [channels, height, width] with values in [0, 1]."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    image = _textured(np.full((channels, 1, 1), 0.5, np.float32), height, width, random)
    for _ in range(_SHAPES):
        # Radii r have the density 1/r^3, so the image looks the same at every scale.
        radius = _SMALLEST / np.sqrt(1 - random.random() * (1 - (_SMALLEST / 0.6) ** 2))
        x, y = random.random(2)
        aspect = np.exp(random.normal(0, 0.4))
        angle = random.random() * np.pi
        u = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        v = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        if random.random() < 0.5:
            inside = (u / aspect) ** 2 + (v * aspect) ** 2 < radius**2
        else:
            inside = np.maximum(np.abs(u / aspect), np.abs(v * aspect)) < radius
        color = _color(channels, random)
        image = np.where(inside, _textured(color, height, width, random), image)
    clipped: NDArray[np.float32] = np.clip(image, 0, 1)
    return clipped


def _color(channels: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return a color, float32 [channels, 1, 1], that differs more in brightness than in hue."""
    brightness = random.beta(1.3, 1.6)
    hue = random.normal(0, 0.12, channels)
    return np.asarray(brightness + hue, np.float32)[:, None, None]


def _textured(
    color: NDArray[np.float32], height: int, width: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Add a texture to a color [channels, 1, 1]: float32 [channels, height, width]."""
    noise = random.standard_normal((height, width), np.float32)
    spectrum = np.fft.rfft2(noise)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    exponent = random.uniform(0.6, 1.6)
    spectrum *= 1 / np.maximum(frequency, 1 / max(height, width)) ** exponent
    texture = np.fft.irfft2(spectrum, s=(height, width)).astype(np.float32)
    texture *= np.float32(random.exponential(0.06) / max(float(texture.std()), 1e-6))
    return color + texture[None]
