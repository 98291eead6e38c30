"""The parts of the page that need no browser: strokes and ids, opened folders, the guard, sessions, jobs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import warnings
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from backbones import hues
from clips import scene, scene_mask, write_frames, write_video
from PIL import Image

from incontext.cli import main
from incontext.engine import Segmenter
from incontext.hints import Hints, Point, Scribbles
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.options import LoadOptions
from incontext.prompt_tensor import PromptTensor
from incontext.prompters.parts import Claim, Clicks
from incontext.prompters.prompter import Prompter
from incontext.rounds import PrompterRounds
from incontext.tuning import TuningStep
from incontext.types import Segmentation
from incontext.ui import follow, hinting, learn, paint, results
from incontext.ui import sessions as sessions_module
from incontext.ui.guard import LEAST_FREE, MOST_UPLOADED, Guard
from incontext.ui.hinting import Said
from incontext.ui.model import Model
from incontext.ui.places import Places
from incontext.ui.sessions import MOST_SESSIONS, Followed, Following, Session, SessionImage, Sessions
from incontext.video.tracker import Tracker

# --------------------------------------------------------------------------------------------- paint


def layer(ids: Pixels) -> Pixels:
    return paint.strokes_of_ids(ids).copy()


def test_strokes_are_read_as_the_brushes_ids() -> None:
    ids = np.arange(8, dtype=np.uint8).repeat(3).reshape(4, 6)
    assert np.array_equal(paint.ids_of_strokes([layer(ids)], ids.shape), ids)


def test_smoothed_edges_end_half_way_in_their_own_colour() -> None:
    """What covers less than half is background; a colour that was blended with its neighbour is the nearer brush."""
    stroke = layer(np.array([[0, 1, 1, 2, 2, 0]], np.uint8))
    stroke[0, 1, 3], stroke[0, 5, :3], stroke[0, 5, 3] = 127, (60, 180, 75), 128
    red, green = (np.array(color, float) for _, color in paint.BRUSHES[:2])
    stroke[0, 2, :3], stroke[0, 3, :3] = 0.8 * red + 0.2 * green, 0.3 * red + 0.7 * green
    assert paint.ids_of_strokes([stroke], (1, 6)).tolist() == [[0, 0, 1, 2, 2, 2]]


def test_upper_layers_cover_lower_ones_and_are_scaled() -> None:
    lower, upper = np.full((4, 4), 1, np.uint8), np.zeros((2, 2), np.uint8)
    upper[0, 1] = 3
    assert paint.ids_of_strokes([layer(lower), layer(upper)], (4, 4)).tolist() == [
        [1, 1, 3, 3],
        [1, 1, 3, 3],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
    ]
    with pytest.raises(ValueError, match=r"expected layers \(h, w, 4\) of uint8, got float64 \(2, 2\)"):
        paint.ids_of_strokes([np.zeros((2, 2))], (2, 2))  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(48, 64), (300, 200), (720, 960), (7, 700)])
def test_ids_come_back_from_the_canvas(shape: tuple[int, int]) -> None:
    ids = np.random.default_rng(0).integers(0, 8, shape, np.uint8)
    canvas = paint.ids_on_canvas(ids)
    assert canvas.shape == paint.CANVAS
    assert np.array_equal(paint.ids_from_canvas(canvas, shape), ids)


def test_a_large_image_comes_back_from_the_canvas_in_its_own_size() -> None:
    ids = np.zeros((3000, 1000), np.uint8)
    ids[600:1800, 300:800] = 2
    back = paint.ids_from_canvas(paint.ids_on_canvas(ids), ids.shape)
    assert np.count_nonzero(back != ids) / ids.size < 0.01
    image = paint.image_on_canvas(np.full((3000, 1000, 3), 7, np.uint8))
    top, left, height, width = paint.box_on_canvas((3000, 1000))
    assert (top, left, height, width) == (0, 360, 720, 240)
    assert (image[:, left : left + width] == 7).all()
    assert (image[:, :left] == 128).all()


def test_every_id_has_a_colour_of_its_own() -> None:
    palette = paint.palette_for(range(1, 255))
    assert len(np.unique(palette.colors, axis=0)) == 255
    assert palette.colors[1].tolist() == [230, 25, 75]
    assert paint.palette_for([9, 2, 255, 0]).ids.tolist() == [0, 2, 9]


# -------------------------------------------------------------------------------------------- places


def test_only_opened_folders_are_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    for path in (inside / "deep" / "a.png", outside / "b.png"):
        Image.new("RGB", (4, 4)).save(path)
    (inside / "link.png").symlink_to(outside / "b.png")
    (inside / "link").symlink_to(outside)
    places = Places.open([inside])
    assert places.check(inside / "deep" / "a.png").name == "a.png"
    for path in (outside / "b.png", inside / ".." / "out" / "b.png", inside / "link.png", inside / "link" / "b.png"):
        with pytest.raises(ValueError, match="expected something in the folders that were opened for this page"):
            places.check(path)
    assert places.listed(Path.is_file) == [str(inside / "deep" / "a.png")]
    with pytest.raises(ValueError, match="expected a folder to open for the page, got none"):
        Places.open([tmp_path / "absent"])


# --------------------------------------------------------------------------------------------- guard


class Inner:
    """An application that reads all that is sent, and notes what reaches it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del scope
        more = True
        while more:
            message = await receive()
            self.bodies.append(message.get("body", b""))
            more = message.get("more_body", False)
        headers = [(b"access-control-allow-origin", b"*"), (b"x-inner", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"inside"})


def ask(
    guard: Any,
    path: str = "/",
    *,
    method: str = "GET",
    query: str = "",
    body: bytes = b"",
    parts: Sequence[bytes | None] = (),
    **headers: str,
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of an answer. headers: with _ for -. parts: in place of a body that comes at once; None
    for the end of the connection."""
    sent: list[Any] = []
    named = {"host": "127.0.0.1:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    coming = list(parts or [body])

    async def receive() -> Any:
        part = coming.pop(0) if coming else None
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(coming)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, sent[1]["body"].decode()


def test_a_token_is_asked_for_once(tmp_path: Path) -> None:
    guard = Guard(Inner(), token="s3cret", uploads=tmp_path)
    status, _, text = ask(guard, host="example.org")
    assert (status, text) == (401, "expected the token of this page: open the address that `incontext ui` printed")
    assert ask(guard, query="token=wrong")[0] == 401
    assert ask(guard, cookie="incontext_token=wrong")[0] == 401
    assert ask(guard, cookie="incontext_token=\N{SNOWMAN}; ;=")[0] == 401
    status, headers, _ = ask(guard, query="token=s3cret")
    assert (status, headers["location"]) == (303, "/")
    # Strict cookies do not come with the redirect of a link that was followed on another page.
    assert headers["set-cookie"] == "incontext_token=s3cret; Path=/; HttpOnly; SameSite=Lax"
    assert ask(guard, "/config", cookie="incontext_token=s3cret")[2] == "inside"
    assert ask(guard, "/gradio_api/file=x", query="token=nothing")[0] == 401


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 200),
        ("/", {"host": "localhost:1"}, 200),
        ("/", {"host": "[::1]:1"}, 200),
        ("/", {"host": "attacker.example"}, 403),
        ("/", {"host": "127.0.0.1.attacker.example"}, 403),
        ("/", {"host": "["}, 403),
        ("/", {"origin": "http://127.0.0.1:7860"}, 200),
        ("/", {"origin": "http://127.0.0.1:9"}, 403),
        ("/", {"origin": "null"}, 403),
        ("/", {"origin": "http://["}, 403),
        ("/", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 200),  # a link to the page
        ("/config", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 403),
        ("/gradio_api/file=/tmp/x.png", {"sec_fetch_site": "same-origin"}, 200),
        ("/gradio_api/file=https://attacker.example/x", {}, 404),
        ("/gradio_api/proxy=https://attacker.example/x", {}, 404),
        ("/gradio_api/call/x", {}, 404),
        ("/gradio_api/component_server", {}, 404),
        ("/gradio_api/queue/data", {}, 200),
        ("/docs", {}, 404),
    ],
)
def test_what_the_guard_lets_through(tmp_path: Path, path: str, headers: dict[str, str], status: int) -> None:
    inner = Inner()
    got, sent, _ = ask(Guard(inner, token=None, uploads=tmp_path), path, **headers)
    assert got == status
    assert len(inner.bodies) == (status == 200)
    assert "access-control-allow-origin" not in sent
    assert "connect-src 'self'" in sent["content-security-policy"]


def test_only_uploads_can_be_named(tmp_path: Path) -> None:
    """Gradio reads any path of this machine and fetches any address that a request names as a file."""
    uploads, inner = tmp_path / "uploads", Inner()
    uploads.mkdir()
    (uploads / "a.png").touch()
    (uploads / "link.png").symlink_to("/etc/passwd")
    guard = Guard(inner, token=None, uploads=uploads)

    def join(data: object) -> int:
        body = data if isinstance(data, bytes) else json.dumps({"data": data}).encode()
        length = str(len(body))
        return ask(guard, "/gradio_api/queue/join", method="POST", body=body, content_length=length)[0]

    assert join([{"path": str(uploads / "a.png"), "url": "http://127.0.0.1:7860/gradio_api/file=a"}, 3, None]) == 200
    assert json.loads(inner.bodies[0])["data"][1] == 3
    for path in ("/etc/passwd", f"{uploads}/../x", f"{uploads}/link.png", "http://x.example/a.png", "a.png", 7, "\0"):
        assert join([[{"layers": [{"path": path}]}]]) == 403, path
    assert join(b"{") == 403
    assert join(b'{"data": ["' + b"x" * (5 << 20) + b'"]}') == 403
    assert len(inner.bodies) == 1


def test_what_is_sent_is_bounded(tmp_path: Path) -> None:
    guard = Guard(Inner(), token=None, uploads=tmp_path)
    assert ask(guard, "/gradio_api/upload", method="POST")[0] == 411
    assert ask(guard, "/gradio_api/upload", method="POST", content_length="10")[0] == 200
    too_much = str(MOST_UPLOADED + 1)
    status, _, text = ask(guard, "/gradio_api/upload", method="POST", content_length=too_much)
    assert (status, text) == (413, "expected at most 4 GiB at once, got 4; send less, or name a folder")


def test_what_comes_is_counted_and_not_what_was_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incontext.ui.guard.MOST_UPLOADED", 30)
    inner = Inner()
    upload = {"path": "/gradio_api/upload", "method": "POST", "content_length": "10", "transfer_encoding": "chunked"}
    guarded = Guard(inner, token=None, uploads=tmp_path)
    assert ask(guarded, parts=[b"x" * 10] * 3, **upload)[0] == 200
    assert inner.bodies == [b"x" * 10] * 3
    assert ask(guarded, parts=[b"x" * 10] * 9, **upload)[0] == 413
    assert inner.bodies == [b"x" * 10] * 6


def test_other_uploads_fill_the_disk_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [LEAST_FREE + more for more in (30, 30, 20, 9)]  # each time that it is looked at
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free.pop(0)))
    inner = Inner()
    guarded = Guard(inner, token=None, uploads=tmp_path)
    status, _, text = ask(guarded, "/gradio_api/upload", method="POST", parts=[b"x" * 10] * 3, content_length="30")
    assert (status, text) == (507, "the disk of this machine is nearly full; free some of it first")
    assert inner.bodies == [b"x" * 10] * 2


@pytest.mark.parametrize(("parts", "status"), [([30], 200), ([30, 60], 413), ([30, None], 400)])
def test_nothing_stays_of_an_upload_that_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[int | None], status: int
) -> None:
    gradio = with_gradio()
    from fastapi import FastAPI

    begin = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
    monkeypatch.setattr("incontext.ui.guard.MOST_UPLOADED", len(begin) + 50)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))

    def empty() -> Any:
        with gradio.Blocks(analytics_enabled=False) as blocks:
            pass
        return gradio.mount_gradio_app(FastAPI(), blocks, path="/")

    sent = [begin, *(None if part is None else b"x" * part for part in parts)]
    end = [] if None in parts else [b"\r\n--x--\r\n"]
    got, _, text = ask(
        Guard(built(empty), token=None, uploads=tmp_path),
        "/gradio_api/upload",
        method="POST",
        parts=[*sent, *end],
        content_length="10",
        content_type="multipart/form-data; boundary=x",
    )
    assert got == status, text
    left = [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
    assert [path.name for path in left] == (["a.txt"] if status == 200 else [])


# ------------------------------------------------------------------------------------------ sessions


def test_visitors_are_kept_apart_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(sessions_module, "after", lambda _, call: later.append(call))
    now = [0.0]
    monkeypatch.setattr(sessions_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    sessions = Sessions(tmp_path, grace=20)
    one, other = sessions.of("one"), sessions.of("other")
    assert sessions.of("one") is one
    assert one.folder != other.folder
    upload = tmp_path / "a.png"
    upload.write_bytes(b"x")
    kept = one.kept(upload)
    assert kept.name == "a.png"
    assert kept.is_relative_to(one.folder)
    sessions.leave("one")
    sessions.leave("nobody")
    assert not any(stop.is_set() for stop in one.stops.values()), "its page may come back"
    assert sessions.of("one") is one  # the connection came back
    now[0] = 40.0
    later.pop()()
    assert one.folder.exists()
    sessions.leave("one")
    now[0] = 59.0
    sessions.of("other")
    assert one.folder.exists(), "its page may come back"
    now[0] = 61.0
    later.pop()()
    assert not one.folder.exists()
    assert other.folder.exists()
    assert upload.exists()
    assert sessions.of("one") is not one
    sessions.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_there_are_not_too_many_visitors(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    for number in range(MOST_SESSIONS):
        sessions.hear(str(number), True)
        sessions.of(str(number))
    with pytest.raises(ValueError, match="expected at most 32 pages at once"):
        sessions.of("one more")
    first = sessions.of("0")
    sessions.hear("0", False)
    assert sessions.of("one more") is not first
    assert not first.folder.exists()
    assert all(stop.is_set() for stop in first.stops.values())


@pytest.mark.parametrize("closed", [True, False])
def test_nobody_is_locked_out_by_pages_that_are_gone(tmp_path: Path, closed: bool) -> None:
    """Pages that were closed, and sessions that no page was ever seen to show: the one left longest makes room."""
    sessions = Sessions(tmp_path)
    honest = None
    for number in range(200):
        if closed:
            sessions.hear(str(number), True)
        session = sessions.of(str(number))
        if number == 100:
            honest = session
            sessions.hear("100", True)
        elif closed:
            sessions.leave(str(number))  # as Gradio tells it, before the connection is known to have ended
            sessions.hear(str(number), False)
    assert sessions.of("100") is honest
    assert honest is not None
    assert honest.folder.exists()
    assert len(list(tmp_path.iterdir())) == MOST_SESSIONS
    assert sessions.of("199").folder.exists()


def test_sessions_without_a_heartbeat_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(tmp_path, grace=0.0)
    silent, shown = sessions.of("silent"), sessions.of("shown")
    sessions.hear("shown", True)
    sessions.of("other")
    assert silent.folder.exists()
    monkeypatch.setattr("incontext.ui.sessions.UNHEARD", 0.0)
    sessions.sweep()
    assert (silent.folder.exists(), shown.folder.exists()) == (False, True)
    sessions.hear("shown", False)
    sessions.sweep()
    assert not shown.folder.exists()


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incontext.ui.guard.SILENT_SECONDS", 0.05)
    inner = Inner()
    guard = Guard(inner, token=None, uploads=tmp_path)

    def half_sent(path: str, **headers: str) -> tuple[int, dict[str, str]]:
        sent: list[Any] = []
        coming = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> Any:
            return coming.pop() if coming else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        named = {"host": "127.0.0.1", "content-length": "10", **headers}
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }
        asyncio.run(asyncio.wait_for(guard(scope, receive, send), 20))
        return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}

    for path in ("/gradio_api/queue/join", "/gradio_api/upload"):
        status, told = half_sent(path)
        assert (status, told["connection"]) == (408, "close")
    assert b"".join(inner.bodies) == b"{"


def test_a_body_that_comes_too_slowly_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incontext.ui.guard.SLOW_SECONDS", 0.05)
    guard = Guard(Inner(), token=None, uploads=tmp_path)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-length", b"1000000")]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "query_string": b"", "headers": headers}
    asyncio.run(asyncio.wait_for(guard(scope, receive, send), 20))
    assert sent[0]["status"] == 408


def test_heartbeats_are_heard(tmp_path: Path) -> None:
    heard: list[tuple[str, bool]] = []
    guard = Guard(Inner(), token=None, uploads=tmp_path, on_heartbeat=lambda *told: heard.append(told))
    assert ask(guard, "/gradio_api/heartbeat/abc-1")[0] == 200
    ask(guard, "/config")
    assert heard == [("abc-1", True), ("abc-1", False)]


# ---------------------------------------------------------------------------------------------- jobs


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    sessions = Sessions(tmp_path / "sessions")
    yield sessions
    sessions.close()


@pytest.fixture
def session(sessions: Sessions) -> Session:
    return sessions.of("visitor")


@pytest.fixture
def segmenter(tiny_config: ModelConfig) -> Segmenter:
    return Segmenter(SegGPT(tiny_config), device="cpu", dtype="float32", name="tiny")


def test_images_become_results_and_results_examples(session: Session, segmenter: Segmenter, tmp_path: Path) -> None:
    model = Model(segmenter, Places(()))
    with pytest.raises(ValueError, match="expected an example, got none; paint what you mean"):
        model.prepared(session, [])
    results.add_example(session, "first", scene(0), scene_mask(0, ids=(1, 2)))
    files = sorted(write_frames(tmp_path / "frames", [scene(number) for number in range(3)]).iterdir())
    bad = tmp_path / "bad.png"
    bad.write_text("x")
    results.take_files(session, [*map(str, files), str(bad)])
    prepared = model.prepared(session, [])
    assert model.prepared(session, []) is prepared  # nothing changed
    done = list(results.segment_images(session, segmenter, prepared))
    assert [each.problem is None for each in done] == [True, True, True, False]
    assert done[3].problem is not None
    assert done[3].problem.endswith("bad.png: expected an image file, got something else or a kind that cannot be read")
    expected = segmenter.segment(scene(1), prepared)
    assert done[1].mask is not None
    assert np.array_equal(read_mask(done[1].mask).ids, expected.mask)
    assert done[1].areas == {i: int((expected.mask == i).sum()) for i in expected.ids}
    with pytest.raises(ValueError, match="expected a result to accept"):
        results.accept(session, 3)
    with pytest.raises(ValueError, match="expected one of 4 results, got number 4"):
        results.accept(session, 4)
    Image.fromarray(scene_mask(1, ids=(1, 2))).save(done[1].mask)  # the tiny network finds anything, or nothing
    example = results.accept(session, 1)
    assert (example.name, example.prompt.ids) == ("1.png", (1, 2))
    assert np.array_equal(example.prompt.image, scene(1))
    assert model.prepared(session, []) is not prepared


def test_a_job_stops_where_it_is_told_to(session: Session, segmenter: Segmenter, tmp_path: Path) -> None:
    results.add_example(session, "first", scene(0), scene_mask(0, ids=(1, 2)))
    files = sorted(write_frames(tmp_path / "frames", [scene(number) for number in range(3)]).iterdir())
    results.take_files(session, list(map(str, files)))
    coming = results.segment_images(session, segmenter, Model(segmenter, Places(())).prepared(session, []))
    next(coming)
    session.stops["track"].set()
    session.stops["tune"].set()
    next(coming)
    session.stops["segment"].set()
    assert list(coming) == []
    assert len(session.results) == 2


def test_uploads_go_with_the_round_that_showed_them(session: Session, segmenter: Segmenter, tmp_path: Path) -> None:
    results.add_example(session, "first", scene(0), scene_mask(0, ids=(1, 2)))
    prepared = Model(segmenter, Places(())).prepared(session, [])
    opened = write_frames(tmp_path / "frames", [scene(number) for number in range(4)])
    first, second, third, fourth = (str(opened / f"{number}.png") for number in range(4))

    def given(path: str) -> Path:
        results.take_files(session, [path])
        return session.images[0].path

    shown = given(first)
    done = list(results.segment_images(session, segmenter, prepared))
    unused, waiting = given(second), given(third)
    assert not unused.parent.exists()
    assert done[0].image.path == shown
    assert shown.exists()  # it is opened when its result is accepted or corrected
    list(results.segment_images(session, segmenter, prepared))
    assert not shown.parent.exists()
    assert waiting.exists()
    results.take_folder(session, Places.open([opened]), str(opened))
    list(results.segment_images(session, segmenter, prepared))
    assert not waiting.parent.exists()
    assert given(fourth).exists()
    assert len(list(opened.iterdir())) == 4


def test_an_example_is_not_shrunk_where_an_id_would_be_lost(session: Session) -> None:
    image, mask = np.zeros((30, 3000, 3), np.uint8), np.ones((30, 3000), np.uint8)
    assert results.add_example(session, "plain", image, mask).prompt.image.shape == (10, 1024, 3)
    mask[0, 0] = 2
    example = results.add_example(session, "small", image, mask)
    assert example.prompt.ids == (1, 2)
    assert example.prompt.image.shape == image.shape


def test_folders_and_names_in_archives(session: Session, tmp_path: Path) -> None:
    folder, outside = tmp_path / "opened", tmp_path / "outside.png"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(outside)
    for name in ("a.png", "a.jpg", "sub/a.png"):
        Image.new("RGB", (8, 6)).save(folder / name)
    (folder / "link.png").symlink_to(outside)
    places = Places.open([folder])
    results.take_folder(session, places, str(folder))
    assert [each.name for each in session.images] == ["a.jpg", "a.png", "sub/a.png"]
    with pytest.raises(ValueError, match="expected something in the folders"):
        results.take_folder(session, places, str(tmp_path))
    told: list[str] = []
    with pytest.raises(ValueError, match="expected results to download, got none"):
        results.zip_masks(session, "indexed", apart=False, on_problem=told.append)
    for image in session.images:
        mask = session.new_file(".png")
        Image.fromarray(np.full((6, 8), 3, np.uint8)).save(mask)
        session.results.append(results.SegmentedImage(image, mask, (6, 8), {3: 48}))
    session.results.append(results.SegmentedImage(SessionImage("bad.png", folder), problem="broken"))
    path = results.zip_masks(session, "indexed", apart=False, on_problem=told.append)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["a.png", "a_2.png", "sub/a.png"]
    with pytest.raises(ValueError, match="expected formats out of"):
        results.zip_masks(session, "nonsense", apart=False, on_problem=told.append)
    for _, name in results.formats():
        assert zipfile.is_zipfile(results.zip_masks(session, name, apart=True, on_problem=told.append)), name


def followed(session: Session, video: Following, segmenter: Segmenter, **how: Any) -> list[int]:
    return [frame.number for frame in follow.follow(session, video, segmenter, **how)]


@pytest.mark.parametrize("states", [5, 64])
@pytest.mark.slow
def test_a_video_is_followed_stopped_corrected(
    session: Session, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: int
) -> None:
    """Whatever happens on the way, the masks are those of a tracker that was given the same masks from the start."""
    monkeypatch.setattr(follow, "MOST_STATES", states)
    frames = [scene(number) for number in range(20)]
    clip = session.kept(write_video(tmp_path / "clip.mkv", frames, codec="ffv1", pixels="bgr0"))
    video = follow.open_video(session, clip)
    assert (video.size, video.rate) == ((48, 64), 10)
    with pytest.raises(ValueError, match="expected something to follow, got nothing"):
        followed(session, video, segmenter)
    with pytest.raises(ValueError, match="the mask is empty"):
        follow.give_mask(video, 2, np.zeros((48, 64), np.uint8))
    follow.give_mask(video, 2, scene_mask(2, ids=(1, 2)))

    coming = follow.follow(session, video, segmenter, memory=3)
    assert [next(coming).number for _ in range(13)] == list(range(2, 15))
    session.stops["track"].set()
    assert list(coming) == []
    assert followed(session, video, segmenter, memory=3) == []
    session.begin("track")
    assert followed(session, video, segmenter, memory=3) == list(range(15, 20))  # on from there
    assert masks(video) == pytest.approx(tracked(segmenter, frames, {2: scene_mask(2, ids=(1, 2))}))

    correction = scene_mask(16, ids=(1, 3))
    follow.give_mask(video, 16, correction)
    assert video.changed == 16
    assert followed(session, video, segmenter, memory=3) == list(range(16, 20))
    given = {2: scene_mask(2, ids=(1, 2)), 16: correction}
    assert masks(video) == pytest.approx(tracked(segmenter, frames, given))

    assert len(list(video.folder.glob("*.npz"))) <= states
    follow.give_mask(video, 1, scene_mask(1, ids=(1, 2)))
    assert followed(session, video, segmenter, memory=3) == list(range(1, 20))
    assert followed(session, video, segmenter, memory=3) == []
    assert followed(session, video, segmenter, memory=0) == list(range(1, 20))
    assert video.at(0) is None
    assert np.array_equal(follow.frame_of(video, 7), frames[7])

    film = follow.movie_of(video, session.new_folder() / "overlay.mp4")
    assert follow.open_video(session, film).count == 19
    assert not clip.exists()
    assert film.exists()
    with pytest.raises(ValueError, match="expected a tracked video to download, got none"):
        follow.zip_of(session.following or video, session.new_folder() / "masks.zip")


def masks(video: Following) -> Pixels:
    return np.stack([read_mask(frame.mask).ids for frame in video.done])


def tracked(segmenter: Segmenter, frames: list[Pixels], given: dict[int, Pixels]) -> Pixels:
    tracker, first = Tracker(segmenter, memory=3), min(given)
    steps = enumerate(frames[first:], start=first)
    return np.stack([tracker.step(frame, given.get(number)).mask for number, frame in steps])


def test_prompts_of_other_images_follow_from_the_first_frame(
    session: Session, segmenter: Segmenter, tmp_path: Path
) -> None:
    video = follow.open_video(session, write_frames(tmp_path / "frames", [scene(number) for number in range(4)]))
    example = results.add_example(session, "other", scene(9), scene_mask(9, ids=(1, 2)))
    assert followed(session, video, segmenter, prompts=[example.prompt]) == [0, 1, 2, 3]


def test_a_long_video_is_refused(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MOST_FRAMES", 3)
    clip = write_frames(tmp_path / "frames", [scene(number) for number in range(4)])
    with pytest.raises(ValueError, match=r"expected at most 3 frames on the page, got 4; cut it, or use `incontext tr"):
        follow.open_video(session, clip)


def labelled(session: Session, count: int) -> learn.Labelled:
    for number in range(count):
        results.add_example(session, f"{number}", scene(4 * number), scene_mask(4 * number, ids=(1, 2)))
    return learn.accepted(session)


def test_tuning_tells_its_steps_and_ends_with_a_key(session: Session, segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match="expected examples to tune on, got none"):
        learn.accepted(session)
    given = labelled(session, 4)
    *came, key = learn.tuning(session, segmenter, given, steps=10, shots=1)
    assert isinstance(key, PromptTensor)
    assert came[:4] == [learn.Tried(n, 4) for n in (1, 2, 3, 4)]
    steps = [each for each in came if isinstance(each, TuningStep)]
    assert [step.step for step in steps] == list(range(1, 11))
    last = steps[-1]
    assert last.found is not None
    ((judge, ids),) = last.found.items()
    assert ids.shape == (32, 32)
    assert set(np.unique(ids)) <= {0, 1, 2}
    assert key.origin.held_out == (given.names[judge],)
    session.prompt_tensors["mine"] = key
    model = Model(segmenter, Places(()))
    session.examples.clear()
    assert model.prepared(session, ["mine"]).shots == 1


def test_tuning_stops_and_passes_errors_on(session: Session, segmenter: Segmenter) -> None:
    given = labelled(session, 3)
    coming = learn.tuning(session, segmenter, given, steps=500, shots=1)
    assert next(coming) == learn.Tried(1, 3)  # so that it can be stopped before the first step
    session.stops["tune"].set()
    assert not any(isinstance(step, PromptTensor) for step in coming)
    session.begin("tune")
    with pytest.raises(ValueError, match="one for each shot"):
        list(learn.tuning(session, segmenter, given, steps=5, shots=4))


def test_labelled_files_find_their_masks(session: Session, tmp_path: Path) -> None:
    paths = []
    for number in range(2):
        paths += [tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"]
        Image.fromarray(scene(number)).save(paths[-2])
        Image.fromarray(scene_mask(number, ids=(1, 2))).save(paths[-1])
    given = learn.uploaded(session, list(map(str, paths)))
    assert given.names == ("0.png", "1.png")
    assert [prompt.ids for prompt in given.prompts] == [(1, 2), (1, 2)]
    assert learn.in_folder(Places.open([tmp_path]), str(tmp_path)).names == given.names
    with pytest.raises(ValueError, match=r"got 0\.png twice"):
        learn.uploaded(session, [str(paths[0]), str(paths[0])])
    with pytest.raises(ValueError, match="expected something in the folders"):
        learn.in_folder(Places(()), str(tmp_path))


def test_other_weights_come_from_this_machine_alone(
    sessions: Sessions, session: Session, segmenter: Segmenter, tmp_path: Path
) -> None:
    from incontext.network.checkpoint import save_model

    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        save_model(folder / "w.safetensors", segmenter.model)
    model = Model(segmenter, Places.open([inside]), LoadOptions(device="cpu", dtype="float32"))
    assert str(inside / "w.safetensors") in model.choices()
    assert "default" in model.choices()
    assert model.seconds_per_image() > 0
    example = results.add_example(session, "first", scene(0), scene_mask(0, ids=(1, 2)))
    model.prepared(session, [])
    video = follow.open_video(session, write_frames(tmp_path / "frames", [scene(0)]))
    assert followed(session, video, segmenter, prompts=[example.prompt]) == [0]
    model.switch(str(inside / "w.safetensors"), sessions)
    assert model.segmenter is not segmenter
    assert (session.prepared, video.settings) == (None, ())  # which hold the network before
    assert model.describe()["weights"] == "w.safetensors"
    with pytest.raises(ValueError, match="expected something in the folders"):
        model.switch(str(outside / "w.safetensors"), sessions)
    with pytest.raises(ValueError, match="is not on this machine; fetch it with: incontext weights download"):
        model.switch("seggpt-vit-large", sessions)


def test_a_backbone_is_asked_beside_from_this_machine_alone(
    sessions: Sessions, session: Session, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from incontext.network.checkpoint import save_model

    monkeypatch.setattr("incontext.matching.voter.open_backbone", lambda _: hues())
    monkeypatch.setattr("incontext.matching.names.on_this_machine", lambda: ["timm:here"])
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    save_model(inside / "w.safetensors", segmenter.model)
    model = Model(segmenter, Places.open([inside]), LoadOptions(device="cpu", dtype="float32"))
    model.switch(str(inside / "w.safetensors"), sessions)
    assert model.backbones() == ["timm:here", str(inside)]
    results.add_example(session, "first", scene(0), scene_mask(0, ids=(1, 2)))
    model.prepared(session, [])
    for name in ("timm:here", str(inside)):
        model.ask_beside(name, sessions)
        assert model.describe()["backbone"] == "hues"
        assert session.prepared is None
    for name, sentence in ((str(outside), "expected something in the folders"), ("timm:there", "download timm:there")):
        with pytest.raises(ValueError, match=sentence):
            model.ask_beside(name, sessions)
    assert "backbone" in model.describe()  # what was before still runs
    model.switch(str(inside / "w.safetensors"), sessions)
    assert model.describe()["backbone"] == "hues"  # other weights keep it
    model.ask_beside(None, sessions)
    assert "backbone" not in model.describe()


# ---------------------------------------------------------------------------------------------- page


def with_gradio() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gradio's own are about its own code
        return pytest.importorskip("gradio", reason="needs gradio, of the extra ui", exc_type=ImportError)


def built(make: Callable[[], Any]) -> Any:
    """What is made of Gradio: where no event loop runs, it makes some and leaves them open."""

    async def inside() -> Any:
        return make()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return asyncio.run(inside())


async def all_of(answers: AsyncIterator[Any]) -> list[Any]:
    return [answer async for answer in answers]


@dataclass
class Page:
    """The page without a browser: what its events do."""

    blocks: Any

    def steps(self, where: str, event: str = "click") -> list[Any]:
        """The functions that an event of the component with this elem_id runs, one after the other."""
        (target,) = (block._id for block in self.blocks.blocks.values() if block.elem_id == where)
        steps = [each for each in self.blocks.fns.values() if (target, event) in each.targets]
        for step in steps:
            steps += [each for each in self.blocks.fns.values() if each.trigger_after == step._id]
        return steps

    def run(self, step: Any, *data: Any, **values: Any) -> list[Any]:
        """All that a function answers. values: of the components, by their elem_id with _ for -."""
        given = [values.get((each.elem_id or "").replace("-", "_")) for each in step.inputs]
        answer = step.fn(SimpleNamespace(session_hash="visitor"), *data, *given)
        if isinstance(answer, AsyncIterator):
            return asyncio.run(all_of(answer))
        return list(answer) if isinstance(answer, Iterator) else [answer]

    def does(self, where: str, event: str = "click", *data: Any, **values: Any) -> Any:
        """What the only function of an event answers at last."""
        (step,) = self.steps(where, event)
        return self.run(step, *data, **values)[-1]


@pytest.fixture
def page(sessions: Sessions, segmenter: Segmenter, tmp_path: Path) -> Page:
    with_gradio()
    from incontext.ui import app

    return Page(built(lambda: app.page(Model(segmenter, Places(())), sessions, tmp_path)))


def test_a_stop_is_for_one_kind_of_job_which_may_be_waiting(page: Page, session: Session, tmp_path: Path) -> None:
    results.add_example(session, "first", scene(0), scene_mask(0, ids=(1, 2)))
    files = sorted(write_frames(tmp_path / "frames", [scene(number) for number in range(3)]).iterdir())
    results.take_files(session, list(map(str, files)))
    *asked, job = page.steps("segment")
    for step in asked:
        page.run(step)
    assert "Stopping" in page.does("stop")
    (told,) = page.run(job, prompt_tensors=[])
    assert ["Stopped before it began" in str(each) for each in told] == [False, True]
    assert session.results == []
    assert [kind for kind, stop in session.stops.items() if stop.is_set()] == ["segment"]
    for step in asked:
        page.run(step)
    page.does("stop-tune")
    assert "3 of 3 images segmented" in page.run(job, prompt_tensors=[])[-1][1]


def test_a_click_does_not_take_back_the_stop_of_a_job_that_is_ending(session: Session) -> None:
    stop = session.stops["segment"]
    session.begin("segment")
    assert session.stops["segment"] is stop  # that of a job which runs, and can still be stopped
    stop.set()
    session.begin("segment")
    assert stop.is_set()
    assert not session.stops["segment"].is_set()


def test_no_event_leaves_the_queue(page: Page) -> None:
    """Those that do are sent to an entrance which the guard keeps shut."""
    assert [each.api_name for each in page.blocks.fns.values() if each.fn is not None and not each.queue] == []


def test_a_mask_is_of_the_frame_in_the_editor(page: Page, session: Session, tmp_path: Path) -> None:
    """The number beside it may be another by now: the editor shows a frame once its slider is released."""
    clip = write_frames(tmp_path / "clip", [scene(number) for number in range(6)])
    video = follow.open_video(session, clip)
    painted = {"layers": [paint.strokes_of_ids(paint.ids_on_canvas(scene_mask(0, ids=(1, 2))))]}
    page.does("use-mask", frame_editor=painted, frame=4)
    assert sorted(video.masks) == [0]
    page.does("frame", "release", frame=3)
    page.does("use-mask", frame_editor=painted, frame=5)
    assert sorted(video.masks) == [0, 3]
    page.does("correct", scrub=2)
    assert "Masks of frames 0, 2, 3." in page.does("use-mask", frame_editor=painted, frame=2)[0]


def test_ids_without_a_brush_are_not_corrected(page: Page, session: Session, tmp_path: Path) -> None:
    error = with_gradio().Error
    files = sorted(write_frames(tmp_path / "clip", [scene(number) for number in range(2)]).iterdir())
    mask = session.new_file(".png")
    Image.fromarray(scene_mask(0, ids=(1, 9))).save(mask)
    session.results.append(results.SegmentedImage(SessionImage("0.png", files[0]), mask, (48, 64), {1: 256, 9: 256}))
    told = "expected ids in 0..7, for which there are brushes, got 9; number what examples show from 1 to 7"
    with pytest.raises(error, match=told):
        page.does("results", "edit", SimpleNamespace(number=0))
    assert session.image is None
    video = follow.open_video(session, tmp_path / "clip")
    video.done += [Followed(number, f"{number}", mask, mask, (1, 9)) for number in range(2)]
    with pytest.raises(error, match=told):
        page.does("correct", scrub=1)
    assert video.painted == 0  # what the editor still shows


# -------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--folder", "nowhere"], "nowhere: expected a folder to open for the page, got none; name another"),
        (["--host", "192.0.2.1"], "expected a host and a port of this machine, got 192.0.2.1"),
        (["--host", "no host"], "expected a host and a port of this machine, got no host"),
    ],
)
def test_bad_options_are_told_at_once(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ui", "--no-open", *arguments])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_without_gradio_a_sentence_says_what_to_install() -> None:
    program = "import sys; sys.modules['gradio'] = None; from incontext.cli import main; main(['ui', '--no-open'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    starting, told = done.stderr.splitlines(keepends=True)
    assert starting == "Starting the page; this takes some seconds.\n"
    assert told == "Error: expected gradio to be installed for the page; run: pip install 'incontext[ui]'\n"


def test_nothing_else_needs_the_page() -> None:
    """Deleting incontext/ui and its command breaks nothing else."""
    folder = Path(__file__).parents[1] / "incontext"
    users = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if "incontext.ui" in path.read_text(encoding="utf-8") and not path.is_relative_to(folder / "ui")
    ]
    assert users == ["cli/ui.py"]


# ------------------------------------------------------------------------------------------ another model beside


class FindsRed:
    """A reader of text that finds red pixels for "red", and nothing for other words."""

    def check(self, phrases: Sequence[str]) -> None: ...

    def read(self, image: Pixels, phrases: Sequence[str], *, least: float, examples: Sequence[object] = ()) -> Any:
        red = image[..., 0] > image[..., 1].astype(int) + 60
        for number, phrase in enumerate(phrases):
            if phrase == "red" and red.any():
                yield Claim(number, np.where(red, 5.0, -5.0).astype(np.float32), 0.9)

    def refer(self, image: Pixels, phrase: str, *, least: float) -> Claim | None:
        return next(self.read(image, [phrase], least=least), None)


class MarksSquares:
    """Answers a click with the 20 x 20 pixels around it, beside what was there before."""

    def masks(self, image: Pixels, objects: Sequence[Clicks]) -> Iterator[tuple[Any, float]]:
        for each in objects:
            inside = np.zeros(image.shape[:2], np.bool_) if each.mask is None else each.mask.copy()
            for (x, y), on in zip(each.points, each.inside, strict=True):
                inside[max(0, int(y) - 10) : int(y) + 10, max(0, int(x) - 10) : int(x) + 10] = on
            yield np.where(inside, 5.0, -5.0).astype(np.float32), 0.9


def page_with(prompter: Prompter, sessions: Sessions, segmenter: Segmenter, root: Path) -> Page:
    from incontext.ui import app

    model = Model(segmenter, Places(()), prompter=prompter)
    return Page(built(lambda: app.page(model, sessions, root)))


@pytest.mark.parametrize("clicks", [True, False])
def test_a_text_marks_the_image_and_clicks_correct_it(
    sessions: Sessions, session: Session, segmenter: Segmenter, tmp_path: Path, clicks: bool
) -> None:
    with_gradio()
    clicker = MarksSquares() if clicks else None
    prompter = Prompter("rigged", reader=FindsRed(), clicker=clicker, sha256="0", min_score=0.5, device="cpu")
    page = page_with(prompter, sessions, segmenter, tmp_path)
    image = np.full((60, 80, 3), 90, np.uint8)
    image[10:30, 20:40] = (220, 40, 40)
    session.image = "photo.png", image
    find, _ = page.steps("find")
    ((answer, told),) = page.run(find, text="red, blue")
    assert "Nothing found for blue" in told
    assert answer["key"] == "image"
    found = hinting.history_of(session).targets["image"].answer()
    assert found is not None
    assert np.array_equal(found.mask == 1, image[..., 0] == 220)
    example = hinting.accept(session, segmenter, "image")
    assert np.array_equal(example.prompt.mask == 1, image[..., 0] == 220)
    said = Said("image", "click", ((0.9, 0.9),))
    target = hinting.say(session, segmenter, said, 1)
    corrected = target.answer()
    assert corrected is not None
    if clicks:
        assert corrected.mask[54, 72] == 1, "the prompter answers clicks"
        assert np.array_equal(target.whole(segmenter).mask, corrected.mask)
    hinting.undo(session)
    error = with_gradio().Error
    for empty in ("", " , ", None):
        with pytest.raises(error, match="expected a text to look for"):
            page.run(find, text=empty)
    session.image = None
    with pytest.raises(error, match="expected an image to look at"):
        page.run(find, text="red")


def test_clicks_go_to_a_prompter_that_answers_them(sessions: Sessions, session: Session, segmenter: Segmenter) -> None:
    prompter = Prompter("rigged", reader=None, clicker=MarksSquares(), sha256="0", min_score=0.5, device="cpu")
    session.image = "photo.png", np.full((60, 80, 3), 90, np.uint8)
    hinting.answered_by(session, segmenter, prompter)
    target = hinting.say(session, segmenter, Said("image", "click", ((0.5, 0.5),)), 3)
    answer = target.answer()
    assert answer is not None
    assert answer.ids == (3,)
    assert (answer.mask == 3).sum() == 400


def test_without_a_clicker_the_network_is_shown_the_find() -> None:
    asked: list[Hints] = []

    def segment(query: Pixels, context: None, *, hints: Hints) -> Segmentation:
        asked.append(hints)
        shape = query.shape[:2]
        return Segmentation(np.zeros(shape, np.uint8), np.ones(shape, np.float32), paint.palette_for([1]))

    image = np.full((60, 80, 3), 90, np.uint8)
    image[10:30, 20:40] = (220, 40, 40)
    prompter = Prompter("rigged", reader=FindsRed(), clicker=None, sha256="0", min_score=0.5, device="cpu")
    corrects: Any = SimpleNamespace(segment=segment)
    rounds = PrompterRounds(prompter, image, ["red"], segmenter=corrects)
    rounds.hint(points=[(5, 6, 0)])
    shown, said = asked[0].marks
    assert isinstance(shown, Scribbles)
    assert np.array_equal(shown.mask == 1, image[..., 0] == 220)
    assert isinstance(said, Point)
    large = image.repeat(2, axis=0).repeat(2, axis=1)
    rounds.on(large)
    shown, said = asked[1].marks
    assert isinstance(shown, Scribbles)
    assert shown.mask.shape == (120, 160)
    assert isinstance(said, Point)
    assert (round(said.x), round(said.y)) == (10, 12)
    with pytest.raises(ValueError, match="answers no hints"):
        PrompterRounds(prompter, image, ["red"]).hint(points=[(5, 6, 0)])


def test_names_counts_and_pictures_are_downloaded(
    session: Session, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    ids = np.zeros((40, 60), np.uint8)
    ids[5:15, 5:15] = ids[20:30, 40:50] = 1
    ids[30:35, 5:15] = 2
    source = tmp_path / "photo.png"
    Image.fromarray(image).save(source)
    answer = Segmentation(ids, np.full(ids.shape, 0.5, np.float32), paint.palette_for([1, 2]))
    monkeypatch.setattr(segmenter, "segment", lambda *_: answer)
    results.take_files(session, [str(source)])
    prepared: Any = None
    (done,) = results.segment_images(session, segmenter, prepared)
    assert done.objects == {1: 2, 2: 1}
    session.names = {1: "nucleus"}

    def opened(name: str) -> zipfile.ZipFile:
        path = results.zip_masks(session, name, apart=False, on_problem=pytest.fail)
        assert name in path.name
        return zipfile.ZipFile(path)

    with opened("csv") as archive:
        rows = archive.read("areas.csv").decode().splitlines()
    assert rows[0] == "image,id,name,pixels,share,objects,confidence"
    assert rows[1:] == ["photo.png,1,nucleus,200,0.083333,2,0.5", "photo.png,2,,50,0.020833,1,0.5"]
    with opened("cut-outs") as archive, archive.open("photo.png") as stream:
        cut = np.asarray(Image.open(stream))
    assert np.array_equal(cut[..., 3] > 0, ids > 0)
    with opened("overlays") as archive:
        assert archive.namelist() == ["photo.jpg"]
    with opened("coco") as archive:
        (name,) = archive.namelist()
        categories = json.loads(archive.read(name))["categories"]
    assert [each["name"] for each in categories] == ["nucleus", "2"]
    from incontext.ui.page import result_card

    card = result_card(0, session.results[0], str, session.names)
    assert "1 nucleus: 8.3% (200 px), 2 objects" in card
    assert "2: 2.1% (50 px), 1 object" in card
    corrected, _ = results.correct(session, 0, image, np.zeros_like(ids))
    assert corrected is done
    with opened("csv") as archive:
        assert archive.read("areas.csv").decode().splitlines()[1] == "photo.png,,,0,0.0,0,"
    results.put_back(session, 0, corrected)
    assert session.results == [done]
