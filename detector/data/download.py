"""A download that ends: every wait is bounded, and so is what may arrive."""

from __future__ import annotations

import http.client
import os
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

from detector.runtime.progress import progress_bar

STALL_SECONDS = 10.0  # without a byte


def download(
    url: str, file: Path, *, largest: int, stall_seconds: float = STALL_SECONDS, total_seconds: float = 1800.0
) -> None:
    """Fetch `url` into a new file, which appears whole or not at all. An existing one is never touched.

    Args:
        url: an http or https address.
        file: to create; its folder exists.
        largest: bytes that may arrive.
        stall_seconds: how long to wait for the next byte.
        total_seconds: how long it may take in all.

    Raises:
        OSError, ValueError: why it did not work, in words for the user.
    """
    if os.path.lexists(file):
        raise FileExistsError(f"{file}: exists already")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as folder:
        partial = Path(folder, file.name)
        try:
            _receive(url, partial, largest, stall_seconds, total_seconds)
        except HTTPError:
            raise
        except http.client.HTTPException as error:
            raise ValueError(str(error) or type(error).__name__) from error
        except OSError as error:  # urllib hides the reason in an attribute
            raise ValueError(str(getattr(error, "reason", None) or error.strerror or error)) from error
        os.replace(partial, file)


def _receive(url: str, file: Path, largest: int, stall_seconds: float, total_seconds: float) -> None:
    """Write the file at `url` to `file`. Raises OSError, ValueError or HTTPException."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    if not url.startswith(("http://", "https://")):
        raise ValueError("only http and https addresses are supported")
    deadline = time.monotonic() + total_seconds
    received = 0
    request = urllib.request.Request(url, headers={"User-Agent": "detector"})
    try:
        # The timeout holds for the connection and for every single wait for bytes.
        with urllib.request.urlopen(request, timeout=stall_seconds) as response, file.open("wb") as out:
            announced = response.headers.get("Content-Length")
            total = int(announced) if announced and announced.isdecimal() else None
            with progress_bar(DownloadColumn(), TransferSpeedColumn()) as bar:
                task = bar.add_task(f"downloading {file.name}", total=total)
                while chunk := response.read1(65536):  # read1: whatever is there, without waiting for more
                    received += len(chunk)
                    if received > largest:
                        raise ValueError(f"more than {largest // 1_000_000} MB arrived")
                    if time.monotonic() > deadline:
                        raise ValueError(f"it took longer than {total_seconds:g} s")
                    out.write(chunk)
                    bar.advance(task, len(chunk))
    except TimeoutError:
        raise ValueError(f"no data for {stall_seconds:g} s") from None
    if total is not None and received != total:
        raise ValueError(f"the connection broke after {received} of {total} bytes")
