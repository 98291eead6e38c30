"""What stands between the network and the page: who may ask, for what, and how much.

An ASGI application around another one. Gradio's server has many entrances beside those that this page uses, some of
which fetch addresses of the asker's choice; only those in use are open. Refuses to know what the page does.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE: Final = "incontext_token"
VISITOR: Final = "incontext_visitor"  # a cookie: the name by which a browser finds its session again
_KEPT = "Path=/; HttpOnly; SameSite=Strict"
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
MOST_UPLOADED: Final = 4 << 30  # bytes in one request
LEAST_FREE: Final = 1 << 30  # bytes of the disk that uploads leave alone
MOST_ASKED: Final = 4 << 20  # bytes of a request that names uploads

SILENT_SECONDS: Final = 30.0  # of a request's body in which nothing comes
SLOW_SECONDS: Final = 60.0  # after which less than this has to come on average:
LEAST_SPEED: Final = 4096  # bytes a second
_TOO_SLOW: Final = (408, "expected what is sent to come, got too little for too long; send it again")

_HEARTBEAT = re.compile(r"/gradio_api/heartbeat/([\w-]+)/?")
_OPEN = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static)/[^?]*"
    r"|/gradio_api/(queue/(join|data)|upload|upload_progress|heartbeat/[\w-]+|startup-events|theme\.css|cancel|reset)/?"
    r"|/gradio_api/file=.*",
    re.DOTALL,
)
# Everything from this server alone. Gradio evaluates templates, and its styles are inline.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """Lets through what the page needs.

    Args:
        token: Asked for once in the address (?token=...), then kept as a cookie; None where only this machine can ask.
        uploads: The folder in which uploads end up.
        on_heartbeat: Told of the connection that a page keeps open while it is shown: whose it is, and whether it
            begins or ends.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str | None,
        uploads: Path,
        on_heartbeat: Callable[[str, bool], None] | None = None,
    ) -> None:
        self._app, self._token, self._uploads = app, token, uploads
        self._on_heartbeat = on_heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        if self._token is not None and not self._knows(headers):
            await self._ask(scope, send)
            return

        visitor = _cookie(headers, VISITOR)
        # A browser that has no name yet gets one with the page, and keeps it: its session outlives a reload.
        named = scope["path"] == "/" and scope["method"] == "GET" and visitor is None
        given = [(b"set-cookie", f"{VISITOR}={secrets.token_urlsafe(24)}; {_KEPT}".encode())] if named else []

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if not pair[0].lower().startswith(b"access-control-")]
                message = {**message, "headers": [*kept, *_HEADERS, *given]}
            await send(message)

        if scope["method"] == "POST":
            receive = _InTime(receive)
        if scope["path"].rstrip("/") == "/gradio_api/queue/join":
            try:
                body = await _body(receive)
            except TimeoutError:
                await _answer(send, *_TOO_SLOW)
                return
            if body is None or not self._names_uploads_only(body):
                await _answer(send, 403, "expected uploaded files, got something else")
                return
            receive = _again(body, receive)
        if scope["method"] == "POST":
            await self._bounded(scope, receive, send_guarded)
        else:
            with self._heard(scope["path"], visitor):
                await self._app(scope, receive, send_guarded)

    @contextmanager
    def _heard(self, path: str, visitor: str | None) -> Iterator[None]:
        """Tell of a heartbeat's beginning and end; of any other request nothing."""
        heartbeat = _HEARTBEAT.fullmatch(path)
        if heartbeat is None or self._on_heartbeat is None:
            yield
            return
        name = visitor or heartbeat[1]
        self._on_heartbeat(name, True)
        try:
            yield
        finally:
            self._on_heartbeat(name, False)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what comes, whatever length was told, and look at the disk, which other requests fill as well.

        Gradio removes what it has written of an upload for Starlette's error alone, so that one which ends early must
        look like it as well.
        """
        from starlette.formparsers import MultiPartException

        came, whole, cut = 0, False, False
        refusal: tuple[int, str] | None = None

        async def receive_counted() -> Message:
            nonlocal came, whole, cut, refusal
            try:
                message = await receive()
            except TimeoutError:
                cut, refusal = True, _TOO_SLOW
                raise MultiPartException("cut off") from None
            if whole:
                return message
            size = len(message.get("body", b""))
            came += size
            refusal = refusal or self._too_much(came, size)
            cut = refusal is not None or message["type"] == "http.disconnect"
            if cut:
                raise MultiPartException("cut off")
            whole = not message.get("more_body", False)
            return message

        async def send_unless_refused(message: Message) -> None:
            if refusal is None:
                await send(message)

        try:
            await self._app(scope, receive_counted, send_unless_refused)
        except MultiPartException:
            if not cut:
                raise
        if refusal is not None:
            await _answer(send, *refusal)

    def _names_uploads_only(self, body: bytes) -> bool:
        """Tell whether each file that is named was uploaded.

        Gradio, mounted in an application, would read any other file, too, and fetch addresses.
        """
        try:
            asked: list[object] = [json.loads(body)]
        except (ValueError, RecursionError):
            return False
        while asked:
            each = asked.pop()
            if isinstance(each, dict):
                path = each.get("path")
                if path is not None and not self._is_upload(path):
                    return False
                asked += each.values()
            elif isinstance(each, list):
                asked += each
        return True

    def _is_upload(self, path: object) -> bool:
        try:
            return isinstance(path, str) and Path(os.path.realpath(path)).is_relative_to(self._uploads)
        except (OSError, ValueError):
            return False

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Find status and sentence for what nobody may ask, token or not."""
        host = headers.get("host", "")
        if self._token is None and _name(host) not in LOOPBACK:  # a page elsewhere whose name leads here
            return 403, f"expected this machine to be asked by the name 127.0.0.1 or localhost, got {host[:100]!r}"
        origin = headers.get("origin")
        foreign = origin is not None and not _leads_to(origin, host)
        if foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            navigates = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET" and not foreign
            if not (navigates and scope["path"] == "/"):
                return 403, "expected a request of this page itself, got one of another page"
        if not _OPEN.fullmatch(scope["path"]) or "://" in unquote(scope["path"]):
            return 404, "there is nothing here"
        if scope["method"] != "POST":
            return None
        try:
            length = int(headers["content-length"])
        except (KeyError, ValueError):
            return 411, "expected the length of what is sent"
        return self._too_much(length, length)

    def _too_much(self, length: int, unwritten: int) -> tuple[int, str] | None:
        """Find status and sentence for too long a request.

        Args:
            length: Its bytes.
            unwritten: Those that are not on the disk.
        """
        if length > MOST_UPLOADED:
            return (
                413,
                f"expected at most {MOST_UPLOADED >> 30} GiB at once, got {length >> 30}; send less, or name a folder",
            )
        if shutil.disk_usage(self._uploads).free - unwritten < LEAST_FREE:
            return 507, "the disk of this machine is nearly full; free some of it first"
        return None

    def _knows(self, headers: dict[str, str]) -> bool:
        kept = _cookie(headers, COOKIE)
        return kept is not None and self._is_token(kept)

    def _is_token(self, text: str) -> bool:
        return self._token is not None and secrets.compare_digest(text.encode(), self._token.encode())

    async def _ask(self, scope: Scope, send: Send) -> None:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not self._is_token(given):
            await _answer(send, 401, "expected the token of this page: open the address that `incontext ui` printed")
            return
        # Not Strict: a link on another page begins a navigation whose redirect would come without the cookie.
        cookie = f"{COOKIE}={given}; Path=/; HttpOnly; SameSite=Lax"
        more = [(b"location", scope["path"].encode()), (b"set-cookie", cookie.encode())]
        await _answer(send, 303, "", more)


class _InTime:
    """What is sent, as long as it comes: TimeoutError where nothing does for a while, or too little on the whole."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._begin: float | None = None
        self._came = 0
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:  # from now on it is the end of the connection that is waited for
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._begin = now if self._begin is None else self._begin
        left = self._begin + SLOW_SECONDS + self._came / LEAST_SPEED - now
        async with asyncio.timeout(max(0.0, min(SILENT_SECONDS, left))):
            message = await self._receive()
        self._came += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        return message


def _cookie(headers: Mapping[str, str], name: str) -> str | None:
    """Read a cookie; None where there is none of that name, or what stands there is none."""
    cookies = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except Exception:  # noqa: BLE001  whatever stands there, it is not the cookie
        return None
    kept = cookies.get(name)
    return kept.value if kept is not None and kept.value else None


async def _body(receive: Receive) -> bytes | None:
    """Receive all that is sent, or None where it is too much."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if len(body) > MOST_ASKED:
            return None
        if not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Receive once more what was received."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


async def _answer(send: Send, status: int, sentence: str, more: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS, *(more or [])]
    if status == _TOO_SLOW[0]:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})


def _leads_to(origin: str, host: str) -> bool:
    """Tell whether an Origin header is that of a page of this Host."""
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def _name(host: str) -> str:
    """Take the host of a Host header, without its port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
