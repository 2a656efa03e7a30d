"""Downloads, over a loopback server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from distmeta.core.errors import UserError
from distmeta.data.fetch import REMOTE, RemoteData, RemoteFile, fetch

_CONTENT = b"raw data" * 1000


class _Handler(SimpleHTTPRequestHandler):
    """Serves a folder; `short.bin` ends before its announced Content-Length."""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path != "/short.bin":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.bin").write_bytes(_CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(served))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _remote(
    url: str, name: str = "a.bin", algorithm: str = "sha256", digest: str | None = None
) -> dict[str, RemoteData]:
    digest = digest or hashlib.new(algorithm, _CONTENT).hexdigest()
    return {"toy": RemoteData(url, (RemoteFile(name, algorithm, digest),))}


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_is_downloaded_and_verified(url: str, tmp_path: Path, algorithm: str) -> None:
    (path,) = fetch("toy", tmp_path / "to", remote=_remote(url, algorithm=algorithm))
    assert path.read_bytes() == _CONTENT
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["a.bin"]


def test_a_good_file_is_kept_and_a_bad_one_replaced(url: str, tmp_path: Path) -> None:
    fetch("toy", tmp_path / "to", remote=_remote(url))
    fetch("toy", tmp_path / "to", remote=_remote("http://127.0.0.1:9"))  # no request is made to this server
    (tmp_path / "to" / "a.bin").write_bytes(b"changed")
    (path,) = fetch("toy", tmp_path / "to", remote=_remote(url))
    assert path.read_bytes() == _CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": "0" * 64}, r"a.bin: the sha256 digest is [0-9a-f]{64}; allowed: 0{64}"),
        ({"name": "absent.bin"}, r"absent.bin: cannot be downloaded: HTTP Error 404"),
        ({"name": "short.bin"}, r"short.bin: "),
    ],
)
def test_a_failed_download_leaves_nothing(url: str, tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch("toy", tmp_path / "to", remote=_remote(url, **change))
    assert not (tmp_path / "to").exists()


def test_no_network_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"http://127.0.0.1:9/a.bin: cannot be downloaded: .*; allowed: a working network"
    ):
        fetch("toy", tmp_path / "to", remote=_remote("http://127.0.0.1:9"))
    assert not (tmp_path / "to").exists()


def test_unknown_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no data 'omniglt' to download; allowed: did you mean 'omniglot'\?"):
        fetch("omniglt", tmp_path)


def test_the_table_of_files_is_well_formed() -> None:
    for data in REMOTE.values():
        assert data.url.startswith("https://")
        assert all(len(file.digest) == {"sha256": 64, "md5": 32}[file.algorithm] for file in data.files)


def test_published_digests_match_the_local_files(data_dir: Path) -> None:
    for name in ("banking77", "clinc150"):
        for file in REMOTE[name].files:
            content = (data_dir / name / file.name).read_bytes()
            assert hashlib.new(file.algorithm, content).hexdigest() == file.digest
