"""Damaged copies of models: bytes changed anywhere, or a field of the protobuf set to nonsense."""

from __future__ import annotations

import random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor

_INTEGERS = (0, 1, -1, 2, 3, 7, 13, 255, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63))
_TEXTS = ("", "x", "../x", "/etc/passwd", "\x1b[31m\n", "Loop", "Gather", "input", "[bold]{0}%s")


def changed_bytes(data: bytes, seed: int) -> bytes:
    """Return `data` with up to four cuts, repeats, or overwritten runs of bytes."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) or 1)
        end = start + chance.choice((1, 1, 1, 4, 64, 1000))
        kind = chance.randrange(3)
        if kind == 0:
            data = data[:start] + data[end:]
        elif kind == 1:
            data = data[:end] + data[start:]
        else:
            data = data[:start] + chance.randbytes(min(end, len(data)) - start) + data[end:]
    return data


def changed_fields(data: bytes, seed: int) -> bytes:
    """Return the model in `data` with one to three fields changed, removed or repeated."""
    chance = random.Random(seed)
    model = onnx.load_from_string(data)
    for _ in range(chance.randint(1, 3)):
        message = chance.choice(_messages(model))
        _change(message, chance.choice(message.DESCRIPTOR.fields), chance)
    return model.SerializeToString()


def _messages(message: Any) -> list[Any]:
    """Return the message and all messages inside it."""
    found = [message]
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if _repeated(field) else [value]:
                found.extend(_messages(inner))
    return found


def _change(message: Any, field: FieldDescriptor, chance: random.Random) -> None:
    value = getattr(message, field.name)
    if not _repeated(field):
        if field.type == FieldDescriptor.TYPE_MESSAGE or chance.random() < 0.2:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _nonsense(field, value, chance))
        return
    kind = chance.randrange(3)
    index = chance.randrange(len(value)) if len(value) else 0
    if kind == 0 and len(value):
        del value[index]
    elif kind == 1 and len(value):
        value.append(value[index])
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        value.add()
    elif len(value):
        value[index] = _nonsense(field, value[index], chance)
    else:
        value.append(_nonsense(field, None, chance))


def _nonsense(field: FieldDescriptor, value: Any, chance: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice((*_TEXTS, f"{value}x"))
    if field.type == FieldDescriptor.TYPE_BYTES:
        data = value or b""
        return chance.choice(
            (b"", data[:-1], data + b"\xff", b"\x00\xff\xc0\x7f" * (len(data) // 4))
        )
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return chance.choice((0.0, float("nan"), float("inf"), 1e38))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return chance.choice(list(field.enum_type.values)).number
    limit = 2**31 if field.type == FieldDescriptor.TYPE_INT32 else 2**63
    if field.type == FieldDescriptor.TYPE_UINT64:
        return chance.choice([number for number in _INTEGERS if number >= 0])
    return chance.choice([number for number in _INTEGERS if -limit <= number < limit])


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)
