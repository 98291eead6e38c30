"""The page's server among visitors who mean no good, or are many: time limits, room for the next one, nothing left."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from incontext.ui.serve import remove_abandoned

pytestmark = [pytest.mark.slow]
pytest.importorskip("gradio", reason="needs gradio, of the extra ui", exc_type=ImportError)

SERVER = """
from incontext.ui import PageOptions, serve, connections
connections.HEAD_SECONDS, connections.MOST_CONNECTIONS = 3.0, 200
serve(PageOptions(port=0), on_ready=lambda address: print(address, flush=True))
"""


@dataclass
class Server:
    port: int
    root: Path
    process: subprocess.Popen[str]

    def get(self, path: str, timeout: float = 30) -> tuple[int, bytes]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=timeout) as answer:
            return answer.status, answer.read()


def started(temporary: Path) -> Server:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
    assert found is not None, line
    newest = max(temporary.glob("incontext-ui-*"), key=lambda path: path.stat().st_mtime_ns)
    return Server(int(found[1]), newest, process)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = started(tmp_path)
    yield running
    running.process.kill()
    running.process.wait(30)
    assert running.process.stdout is not None
    running.process.stdout.close()


@contextlib.contextmanager
def page(server: Server, visitor: str) -> Iterator[None]:
    """A page that is shown: it keeps a connection open, and asks for something, so that the visitor has a session."""
    heart = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    heart.request("GET", f"/gradio_api/heartbeat/{visitor}")
    answer = heart.getresponse()
    assert answer.status == 200
    answer.readline()
    try:
        yield
    finally:
        answer.close()
        heart.close()


def asks(server: Server, visitor: str) -> dict[str, object]:
    """Call one of the page's functions; its last message."""
    config = json.loads(server.get("config")[1])
    tab = next(each for each in config["dependencies"] if each["targets"] and each["targets"][0][1] == "select")
    body = json.dumps({"data": [], "fn_index": tab["id"], "session_hash": visitor, "trigger_id": None}).encode()
    base = f"http://127.0.0.1:{server.port}/gradio_api/queue/"
    join = urllib.request.Request(base + "join", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(join, timeout=30).close()
    with urllib.request.urlopen(f"{base}data?session_hash={visitor}", timeout=60) as stream:
        for line in stream:
            if line.startswith(b"data:"):
                message: dict[str, object] = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message
    raise AssertionError("no answer came")


def half_open(port: int, content: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(content)
    return connection


HALVES = (
    b"",
    b"GET / HT",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n",
)


def test_many_visitors_half_open_connections_and_reloads(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(20):
            stack.enter_context(page(server, f"visitor-{number}"))
            assert asks(server, f"visitor-{number}")["success"]
        halves = [half_open(server.port, HALVES[number % len(HALVES)]) for number in range(300)]
        for connection in halves:
            stack.callback(connection.close)
        failures: list[object] = []

        def reload(first: int) -> None:
            for number in range(first, 200, 4):
                try:
                    with page(server, f"reload-{number}"):
                        if number % 5 == 0 and not asks(server, f"reload-{number}")["success"]:
                            failures.append(number)
                except (OSError, AssertionError, http.client.HTTPException) as error:
                    failures.append(error)

        threads = [threading.Thread(target=reload, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert server.get("")[0] == 200
        with page(server, "honest"):
            assert asks(server, "honest")["success"]
        for number in range(20):  # nobody who was here has lost the page
            assert asks(server, f"visitor-{number}")["success"]
        ended = 0
        for connection in halves:
            connection.settimeout(20)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b""
            ended += 1
        assert ended == 300


def test_bytes_that_trickle_do_not_keep_a_connection(server: Server) -> None:
    connection = half_open(server.port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    sent = 0
    with contextlib.suppress(ConnectionError), connection:
        while sent < 100:
            connection.sendall(b"x")
            sent += 1
            time.sleep(0.25)
    assert sent < 100


def uploads(server: Server) -> Path:
    """Something is uploaded; where it lies."""
    boundary = "x"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="secret.txt"\r\n\r\nsecret\r\n'
        f"--{boundary}--\r\n"
    ).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/gradio_api/upload",
        body,
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        (path,) = json.loads(answer.read())
    assert Path(path).is_relative_to(server.root)
    return Path(path)


@pytest.mark.parametrize("kind", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_server_that_is_asked_to_end_leaves_nothing(server: Server, kind: str) -> None:
    path = uploads(server)
    assert path.exists()
    with page(server, "visitor"):
        server.process.send_signal(getattr(signal, kind))
        server.process.wait(60)
    assert not server.root.exists()


def test_what_a_killed_server_left_goes_when_the_next_one_starts(server: Server, tmp_path: Path) -> None:
    path = uploads(server)
    server.process.kill()
    server.process.wait(30)
    assert path.exists()
    old = time.time() - 3600
    os.utime(server.root, (old, old))
    next_one = started(tmp_path)
    try:
        assert not server.root.exists()
        os.utime(next_one.root, (old, old))
        remove_abandoned(tmp_path)
        assert next_one.root.exists()  # its process lives
        assert next_one.get("")[0] == 200
    finally:
        next_one.process.send_signal(signal.SIGTERM)
        next_one.process.wait(60)
        assert next_one.process.stdout is not None
        next_one.process.stdout.close()


def test_folders_of_others_and_new_ones_stay(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("x")
    (tmp_path / "incontext-ui-link").symlink_to(elsewhere)
    (tmp_path / "incontext-ui-new").mkdir()
    (tmp_path / "incontext-ui-old").mkdir()
    (tmp_path / "other-old").mkdir()
    old = time.time() - 3600
    for name in ("incontext-ui-old", "other-old", "elsewhere"):
        os.utime(tmp_path / name, (old, old))
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "elsewhere",
        "incontext-ui-link",
        "incontext-ui-new",
        "other-old",
    ]
    assert (elsewhere / "file").exists()
