"""Hostile files: good ones with one thing changed, of every kind that an import or a corpus reads."""

from __future__ import annotations

import io
import json
import lzma
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MARK = "executed"
DEEP = "[" * 50_000
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 3, 2**31, 2**63, 10**30, 1.5, 1e300, "", "a", "\ud800", "\0", [], {}, [None], ["a", "b"],
    {"a": []}, "char", [-1, 5], [0, 2**62],
)  # fmt: skip
"""Values that are put in the place of others."""


class Attack:
    """Writes a file where it is unpickled carelessly."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path(MARK),)


@dataclass(frozen=True)
class Good:
    """The good files that the hostile ones are made of."""

    safetensors: bytes
    checkpoint: bytes
    state: dict[str, torch.Tensor]
    vocab: Any
    frequency: Any
    tokenizer: Any


def json_of(value: Any, draw: random.Random) -> bytes:
    """A JSON text, sometimes with a member that is deep, repeated or no JSON."""
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5)
    places = [at for at, character in enumerate(text) if character in ':,[{}]"0123456789']
    at = draw.choice(places) if places else 0
    kind = draw.randrange(8)
    if kind == 0:
        text = text[:at] + draw.choice([DEEP, "NaN", "-Infinity", "1e999", '"\\ud800"', "[", "}", "9" * 400, "null"])
        text += json.dumps(value)[at:]
    elif kind == 1:
        text = text[:at]
    elif kind == 2:
        text = text + draw.choice(["x", "}", "[]", "\0"])
    mark = draw.choice([b"\xef\xbb\xbf", b"\xff\xfe"]) if draw.random() < 0.1 else b""
    return mark + text.encode("utf-8", "surrogatepass")


def changed(value: Any, draw: random.Random) -> Any:
    """A JSON value with one thing in it replaced, left out or repeated."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        kind = draw.randrange(8)
        if kind == 0:
            return {name: item for name, item in value.items() if name != key}
        if kind == 1:
            return {**value, draw.choice(["a", "", "\ud800", "x" * 3000]): draw.choice(ODD)}
        if kind == 2:
            return {(draw.choice(["z", ""]) if name == key else name): item for name, item in value.items()}
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        kind = draw.randrange(5)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return [*value, value[at]]
        return [*value[:at], changed(value[at], draw), *value[at + 1 :]]
    return draw.choice(ODD)


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Bytes with bits flipped, cut, zeroed, doubled or replaced."""
    data = bytearray(content)
    at = draw.randrange(len(data))
    kind = draw.randrange(6)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        return bytes(data) + bytes(data[at : at + 50])
    if kind == 2:
        data[at : at + draw.randint(1, 64)] = bytes(draw.randint(1, 64))
        return bytes(data)
    for _ in range(draw.choice([1, 1, 4, 40])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


# ---- safetensors


def safetensors(good: Good, draw: random.Random) -> bytes:
    """A file of `export`, with a bit flipped, or its header, its settings, its JSON or its numbers changed."""
    length = int.from_bytes(good.safetensors[:8], "little")
    header, data = json.loads(good.safetensors[8 : 8 + length]), bytearray(good.safetensors[8 + length :])
    kind = draw.randrange(6)
    if kind == 0:
        return flipped(good.safetensors, draw)
    if kind == 1:
        header = changed(header, draw)
    elif kind == 2:
        settings = changed(json.loads(header["__metadata__"]["sifu_settings"]), draw)
        header["__metadata__"]["sifu_settings"] = json_of(settings, draw).decode("utf-8", "replace")
    else:
        arrays = [name for name in header if name != "__metadata__" and 0 not in header[name]["shape"]]
        name = draw.choice(["nodes/tokenizer", "nodes/vocabulary"]) if kind == 3 else draw.choice(arrays)
        begin, end = header[name]["data_offsets"]
        if name in ("nodes/tokenizer", "nodes/vocabulary"):
            end_of_data = len(data)
            new = json_of(changed(json.loads(data[begin:end]), draw), draw)
            data += new  # at the end; the old bytes stay
            header[name] = {"dtype": "U8", "shape": [len(new)], "data_offsets": [end_of_data, end_of_data + len(new)]}
        else:
            code, size = {"U8": ("B", 1), "F32": ("<f", 4), "F64": ("<d", 8), "I32": ("<i", 4), "I64": ("<q", 8)}[
                header[name]["dtype"]
            ]
            at = begin + size * draw.randrange((end - begin) // size)
            odd: list[Any] = [float("nan"), float("inf"), -float("inf"), -1.0]
            if code == "B":
                odd = [0, 1, 7, 255]
            elif code in "<i<q":
                odd = [-1, -2, 2**31 - 1, 7, -(2**31), *([2**62, -(2**63)] if code == "<q" else [])]
            data[at : at + size] = struct.pack(code, draw.choice(odd))
    text = json_of(header, draw) if draw.random() < 0.2 else json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + bytes(data)


# ---- checkpoints


def _saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _rezipped(content: bytes, change: Callable[[str, bytes], bytes], *, compression: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def checkpoint(good: Good, draw: random.Random) -> bytes:
    """A checkpoint with code, odd tensors, or a damaged archive."""
    state, name = dict(good.state), draw.choice(list(good.state))
    tensor = state[name]
    odd: list[Callable[[], Any]] = [
        lambda: torch.nn.Parameter(tensor),
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: torch._neg_view(tensor),
        lambda: tensor[:1].clone().expand(tensor.shape),
        lambda: torch.zeros(1).expand(10**6, 10**6),
        lambda: tensor.transpose(0, 1),
        lambda: tensor.to(draw.choice([torch.float64, torch.int8, torch.complex64, torch.bool, torch.bfloat16])),
        lambda: tensor * draw.choice([float("nan"), float("inf"), 1e38, 0.0]),
        lambda: tensor[:0],
        lambda: tensor.unsqueeze(0),
        lambda: draw.choice(ODD),
        lambda: Attack(),
        lambda: [tensor],
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    ]
    kind = draw.randrange(8)
    if kind <= 2:
        state[name] = draw.choice(odd)()
        return _saved(draw.choice([state, {"model_state_dict": state}]))
    if kind == 3:
        return draw.choice(
            [pickle.dumps(Attack()), _saved(Attack()), _saved([1]), _saved({}), b"", b"PK\x03\x04", b"\x80\x02."]
        )
    if kind == 4:
        return _rezipped(good.checkpoint, lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    if kind == 5:

        def change(name: str, data: bytes) -> bytes:
            return flipped(data, draw) if name.endswith(("data.pkl", "byteorder", "version")) and data else data

        return _rezipped(good.checkpoint, change, compression=zipfile.ZIP_STORED)
    return flipped(good.checkpoint, draw)


# ---- corpora


def corpus(draw: random.Random) -> tuple[str, bytes]:
    """The suffix and the content of a text."""
    lines = [{"text": "春風花月 ab"}, {"text": "夜"}, {"tokens": ["a", 5]}, ["a", "b"]]
    rows = b"\n".join(json_of(changed(draw.choice(lines), draw), draw) for _ in range(4))
    text = draw.choice(
        [rows, flipped("春風花月\n夜來風雨聲\n".encode() * 9, draw), "春風".encode("utf-16"), b"\x93NUMPY\0", b""]
    )
    suffix = draw.choice([".txt", ".jsonl", ".jsonl", ".txt.gz", ".jsonl.xz"])
    if suffix.endswith(".xz"):
        text = draw.choice([lzma.compress(text), flipped(lzma.compress(text + b"x"), draw)])
    return suffix, text
