"""Options by the name of a model: a TOML file of rules.

    [[models]]                    # each rule that matches a model changes the options it names;
    files = "onnx/decoder*"       # later rules overrule earlier ones
    bits = 6
    granularity = "scale"

    [[models]]
    files = "onnx/encoder_model.onnx"
    target_bits = 4.4
    calibration = "encoder_inputs"        # relative to this file

    [[models]]
    files = "*_fp16.onnx"
    copy = true

Keys are the options of `convert-model`, with _ for -.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from qqonnx.config import Calibration, Options, Target, check_options
from qqonnx.errors import OptionError, QqonnxError, first_line
from qqonnx.quantities import parse_share, parse_size

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same module, before it was part of Python
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_TARGETS: dict[str, tuple[str, type]] = {
    "target_size": ("size", str),
    "target_bits": ("bits", float),
    "target_ratio": ("ratio", float),
    "max_drop": ("max_drop", str),
}
_CALIBRATION: dict[str, tuple[str, type]] = {
    "calibration": ("data", str),
    "calibration_samples": ("samples", int),
    "finetune": ("finetune", bool),
}
_OPTIONS = {entry.name: str(entry.type) for entry in fields(Options)}
_KINDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list of strings",
    dict: "a table of whole numbers",
}


@dataclass(frozen=True)
class Settings:
    """What is done with one model.

    Attributes:
        options: how weights are compressed.
        calibration: how levels are calibrated; None without calibration.
        copy: whether the model is copied as it is.
    """

    options: Options
    calibration: Calibration | None = None
    copy: bool = False


@dataclass(frozen=True)
class Rule:
    """Options of the models whose path matches a pattern.

    Attributes:
        files: pattern (`*`, `?`, `[...]`) of a model's path or name.
        values: options by key, as in the file.
    """

    files: str
    values: dict[str, Any]

    def matches(self, path: Path) -> bool:
        """Return whether the rule is about a model, by its path in the folder or by its name."""
        return fnmatchcase(path.as_posix(), self.files) or fnmatchcase(path.name, self.files)


def read_rules(path: Path) -> list[Rule]:
    """Read a TOML file of rules.

    Raises:
        QqonnxError: the file cannot be read, is not TOML, or holds an unknown key or a value of
            another type.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise QqonnxError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # tomllib's, and that of text that is not UTF-8
        raise QqonnxError(f"{path}: not TOML: {first_line(error)}") from error
    models = content.pop("models", None)
    if content or not isinstance(models, list) or not all(isinstance(m, dict) for m in models):
        raise QqonnxError(f"{path}: must hold nothing but tables [[models]]")
    try:
        return [_rule(table, path.parent) for table in models]
    except QqonnxError as error:
        raise QqonnxError(f"{path}: {error}") from error


def settings_of(
    path: Path, options: Options, calibration: Calibration | None, rules: Sequence[Rule]
) -> Settings:
    """Return the settings of a model.

    Raises:
        OptionError: the options of the rules do not fit each other.
    """
    settings = Settings(options, calibration)
    for rule in rules:
        if rule.matches(path):
            settings = _changed(settings, rule.values)
    if settings.copy:
        return settings
    try:
        check_options(settings.options, settings.calibration)
    except OptionError as error:
        raise OptionError(error.field, f"{path}: {error.problem}") from error
    return settings


def check_rules(rules: Sequence[Rule], models: Sequence[Path]) -> None:
    """Refuse rules that are about no model.

    Raises:
        QqonnxError: a rule matches no model.
    """
    for rule in rules:
        if not any(rule.matches(path) for path in models):
            raise QqonnxError(f"options: no model has a name like {rule.files}")


def _rule(table: dict[str, Any], folder: Path) -> Rule:
    if not isinstance(table.get("files"), str):
        raise QqonnxError("a table [[models]] needs files, a pattern")
    values = {key: value for key, value in table.items() if key != "files"}
    for key, value in values.items():
        kind = _kind(key)
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        # In Python, but not in TOML, true is a whole number.
        if not fits or (isinstance(value, bool) and kind is not bool) or not _entries_fit(value):
            raise QqonnxError(f"{table['files']}: {key}: {value!r} is not {_KINDS[kind]}")
    data = values.get("calibration")
    if data not in (None, "none") and (folder / data).exists():
        values["calibration"] = str(folder / data)
    if sum(key in _TARGETS for key in values) > 1:
        raise QqonnxError(f"{table['files']}: has more than one target")
    return Rule(table["files"], values)


def _kind(key: str) -> type:
    if key == "copy":
        return bool
    if key in _TARGETS or key in _CALIBRATION:
        return (_TARGETS | _CALIBRATION)[key][1]
    if key not in _OPTIONS:
        raise QqonnxError(f"unknown key {key}")
    kinds = {"Mapping": dict, "Sequence": list, "int": int, "float": float, "bool": bool}
    return next((kind for name, kind in kinds.items() if _OPTIONS[key].startswith(name)), str)


def _entries_fit(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(entry) is int for entry in value.values())
    return not isinstance(value, list) or all(isinstance(entry, str) for entry in value)


def _changed(settings: Settings, values: dict[str, Any]) -> Settings:
    calibration = settings.calibration
    named = {_CALIBRATION[key][0]: value for key, value in values.items() if key in _CALIBRATION}
    if named.get("data") == "none":
        named["data"] = None
    target = next((_target(key, value) for key, value in values.items() if key in _TARGETS), None)
    if target is not None:
        named["target"] = target
    if named:
        calibration = replace(calibration or Calibration(), **named)
    options = {key: value for key, value in values.items() if key in _OPTIONS}
    return Settings(
        replace(settings.options, **options), calibration, values.get("copy", settings.copy)
    )


def _target(key: str, value: Any) -> Target:
    field, _ = _TARGETS[key]
    parse: Callable[[Any], Any] = {"size": parse_size, "max_drop": parse_share}.get(field, float)
    return Target(**{field: parse(value)})
