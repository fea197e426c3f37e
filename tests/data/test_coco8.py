"""The download: a server on this machine plays the network, well-behaved and otherwise."""

from __future__ import annotations

import io
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detector.data import coco8
from detector.data.coco8 import DatasetUnavailable, fetch_coco8
from detector.errors import UserError

Handle = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers every request with `handle`; `released` lets a stalled answer end with the test."""

    def __init__(self) -> None:
        self.handle: Handle = lambda request: None
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/coco8.zip"

    def send(self, body: bytes, announced: int | None = None) -> None:
        """Answer with a body, optionally announcing another length."""

        def handle(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", str(len(body) if announced is None else announced))
            request.end_headers()
            with suppress(OSError):  # the client had enough
                request.wfile.write(body)

        self.handle = handle


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.released.set()
    served.http.shutdown()
    thread.join()
    served.http.server_close()


def zipped(files: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    """A zip file with these entries."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as package, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names given twice are meant
        for name, content in files.items() if isinstance(files, dict) else files:
            package.writestr(name, content)
    return stream.getvalue()


def content(prefix: str = "coco8/") -> dict[str, bytes]:
    """The files of the real archive, with other content."""
    files = {f"{prefix}README.md": b"readme"}
    for split in ("train", "val"):
        for index in range(4):
            files[f"{prefix}images/{split}/{index}.jpg"] = bytes([index])
            files[f"{prefix}labels/{split}/{index}.txt"] = b"0 0.5 0.5 1 1"
    return files


def refused(server: Server, folder: Path, **options: float) -> str:
    """The message of a download that fails, having left nothing behind."""
    with pytest.raises(DatasetUnavailable) as caught:
        fetch_coco8(folder / "coco8", url=server.url, **options)
    assert list(folder.iterdir()) == []
    message = str(caught.value)
    assert server.url in message and "\n" not in message
    return message


@pytest.mark.parametrize("prefix", ["coco8/", ""])
def test_download(server: Server, tmp_path: Path, prefix: str) -> None:
    server.send(zipped(content(prefix)))
    destination = fetch_coco8(tmp_path / "data" / "coco8", url=server.url)
    assert destination == tmp_path / "data" / "coco8"
    assert (destination / "images/train/3.jpg").read_bytes() == b"\x03"
    assert sum(path.is_file() for path in destination.rglob("*")) == 17
    assert [path.name for path in destination.parent.iterdir()] == ["coco8"]
    assert destination.stat().st_mode & 0o055 == (tmp_path / "data").stat().st_mode & 0o055


def test_an_existing_folder_is_never_touched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "coco8").mkdir()
    (tmp_path / "coco8" / "mine.txt").write_text("mine")
    server.send(zipped(content()))
    with pytest.raises(UserError, match="exists already"):
        fetch_coco8(tmp_path / "coco8", url=server.url)
    assert [path.name for path in (tmp_path / "coco8").iterdir()] == ["mine.txt"]


def test_another_run_was_faster(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.send(zipped(content()))
    verified = coco8._verified

    def other_run_finishes(folder: Path) -> Path:
        (tmp_path / "coco8").mkdir()
        (tmp_path / "coco8" / "theirs.txt").write_text("theirs")
        return verified(folder)

    monkeypatch.setattr(coco8, "_verified", other_run_finishes)
    fetch_coco8(tmp_path / "coco8", url=server.url)
    assert [path.name for path in (tmp_path / "coco8").iterdir()] == ["theirs.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["coco8"]


def test_not_found(server: Server, tmp_path: Path) -> None:
    server.handle = lambda request: request.send_error(404)
    assert "404" in refused(server, tmp_path)


def test_nobody_there(server: Server, tmp_path: Path) -> None:
    server.url = "http://127.0.0.1:1/coco8.zip"
    assert "refused" in refused(server, tmp_path)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nPK"])
def test_a_server_that_stalls(server: Server, tmp_path: Path, sent: bytes) -> None:
    def handle(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(sent)
        request.wfile.flush()
        server.released.wait(30)

    server.handle = handle
    assert "no data for 0.2 s" in refused(server, tmp_path, stall_seconds=0.2)


def test_a_server_that_trickles(server: Server, tmp_path: Path) -> None:
    def handle(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while not server.released.wait(0.02):
            try:
                request.wfile.write(b"P")
            except OSError:
                return

    server.handle = handle
    assert "longer than 0.3 s" in refused(server, tmp_path, total_seconds=0.3)


def test_a_server_that_never_ends(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco8, "MAX_BYTES", 1_000_000)
    server.send(b"P" * 3_000_000)
    assert "more than 1 MB arrived" in refused(server, tmp_path)


def test_a_broken_connection(server: Server, tmp_path: Path) -> None:
    body = zipped(content())
    server.send(body[:500], announced=len(body))
    assert f"broke after 500 of {len(body)} bytes" in refused(server, tmp_path)


def test_a_cut_zip_file(server: Server, tmp_path: Path) -> None:
    server.send(zipped(content())[:-30])
    assert "the zip file is damaged" in refused(server, tmp_path)


def test_a_web_page_instead(server: Server, tmp_path: Path) -> None:
    server.send(b"<html>please log in</html>")
    assert "the zip file is damaged" in refused(server, tmp_path)


def test_a_flipped_bit(server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as package:
        for name, data in content().items():
            package.writestr(name, data)
    server.send(stream.getvalue().replace(b"0 0.5 0.5 1 1", b"0 0.5 0.5 1 0", 1))
    assert "the zip file is damaged" in refused(server, tmp_path)


@pytest.mark.parametrize("name", ["../evil.txt", "coco8/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt",
                                  "C:/evil.txt", "C:evil.txt"])  # fmt: skip
def test_a_path_that_leaves_the_folder(server: Server, tmp_path: Path, name: str) -> None:
    server.send(zipped({**content(), name: b"evil"}))
    inside = tmp_path / "inside"
    inside.mkdir()
    assert "unsafe path" in refused(server, inside)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_a_link(server: Server, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("coco8/images/train/link")
    link.external_attr = 0o120777 << 16
    server.send(zipped([*content().items(), (link, b"/etc")]))
    assert "a link" in refused(server, tmp_path)


def test_a_name_twice(server: Server, tmp_path: Path) -> None:
    server.send(zipped([*content().items(), ("coco8/README.md", b"again")]))
    assert "'README.md' twice" in refused(server, tmp_path)


def test_a_file_where_a_folder_should_be(server: Server, tmp_path: Path) -> None:
    server.send(zipped([("coco8", b"a file"), *content().items()]))
    refused(server, tmp_path)


def test_a_bomb(server: Server, tmp_path: Path) -> None:
    server.send(zipped({**content(), "coco8/zeros": bytes(51_000_000)}))
    assert "unpacks to more than 50 MB" in refused(server, tmp_path)


def test_a_bomb_that_lies_about_its_size(server: Server, tmp_path: Path) -> None:
    body = zipped({"coco8/zeros": bytes(5_000_000)})
    server.send(body.replace((5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    assert "the zip file is damaged" in refused(server, tmp_path)


def test_too_many_files(server: Server, tmp_path: Path) -> None:
    server.send(zipped({**content(), **{f"coco8/{index}": b"" for index in range(200)}}))
    assert "more than 200" in refused(server, tmp_path)


@pytest.mark.parametrize(("change", "reason"), [
    ("labels/val/2.txt", "3 .txt files in labels/val, expected 4"),
    ("images/train/0.jpg", "3 .jpg files in images/train, expected 4"),
])  # fmt: skip
def test_a_missing_file(server: Server, tmp_path: Path, change: str, reason: str) -> None:
    files = content()
    del files[f"coco8/{change}"]
    server.send(zipped(files))
    assert reason in refused(server, tmp_path)


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "local.zip").write_bytes(zipped(content()))
    with pytest.raises(DatasetUnavailable, match="only http and https"):
        fetch_coco8(tmp_path / "coco8", url=(tmp_path / "local.zip").as_uri())


def test_a_missing_grandparent(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="No such file"):
        fetch_coco8(tmp_path / "a" / "b" / "coco8", url=server.url)


def test_ctrl_c_leaves_nothing_behind(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(archive: Path, folder: Path) -> None:
        assert archive.stat().st_size > 0
        raise KeyboardInterrupt

    monkeypatch.setattr(coco8, "extract_safely", interrupted)
    server.send(zipped(content()))
    with pytest.raises(KeyboardInterrupt):
        fetch_coco8(tmp_path / "coco8", url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_for_a_terminal_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.send(zipped(content()))
    fetch_coco8(tmp_path / "quiet", url=server.url)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fetch_coco8(tmp_path / "bar", url=server.url)
    out, err = capsys.readouterr()
    assert out == "" and "downloading coco8.zip" in err


def test_waits_are_bounded_by_default() -> None:
    assert coco8.STALL_SECONDS == 10 and coco8.TOTAL_SECONDS <= 600
    assert coco8.URL.startswith("https://github.com/ultralytics/assets/")
