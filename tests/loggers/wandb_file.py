"""A reader of W&B's run files (`run-*.wandb`), so that tests see what was stored, not what was meant.

The file is a LevelDB log: a 7-byte header, then 32 KiB blocks of records, each with a 7-byte header
(checksum, length, kind) and possibly split over blocks. A record is a protobuf message.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
HEADER = struct.Struct("<IHB")  # checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last part


def _payloads(data: bytes) -> Iterator[bytes]:
    assert data.startswith(b":W&B"), "not a W&B run file"
    place, parts = 7, b""
    while place + HEADER.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER.size:  # too little room for a header: padding
            place += left
            continue
        _, length, kind = HEADER.unpack_from(data, place)
        place += HEADER.size
        if kind == 0:
            return
        parts += data[place : place + length]
        place += length
        if kind in (1, 4):
            yield parts
            parts = b""


class RunFile:
    """What one run file holds."""

    def __init__(self, path: Path) -> None:
        """Read the whole file."""
        from wandb.proto import wandb_internal_pb2

        self.path = path
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}  # by name or glob
        self.artifacts: list[Any] = []
        self.alerts: list[Any] = []
        self.kinds: set[str] = set()
        self.run: Any = None
        for payload in _payloads(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            kind = record.WhichOneof("record_type")
            self.kinds.add(kind)
            if kind == "history":
                self.history.append(_items(record.history.item))
            elif kind == "summary":
                self.summary |= _items(record.summary.update)
            elif kind == "config":
                self.config |= _items(record.config.update)
            elif kind == "run":
                self.run = record.run
                self.config |= _items(record.run.config.update)
            elif kind == "metric":
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric
            elif kind == "artifact":
                self.artifacts.append(record.artifact)
            elif kind == "alert":
                self.alerts.append(record.alert)


def _items(items: Any) -> dict[str, Any]:
    return {
        "/".join(item.nested_key) if item.nested_key else item.key: json.loads(item.value_json)
        for item in items
    }


def read(directory: Path) -> RunFile:
    """The one run file below a directory."""
    (path,) = directory.rglob("*.wandb")
    return RunFile(path)
