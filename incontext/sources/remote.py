"""What lies behind addresses such as s3://bucket/folder: requests through fsspec, and sentences for what they raise.

fsspec (the optional extra `remote`) is imported when the first address is met. Refuses to know images and tars.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

from incontext.images.write import whole_file
from incontext.sources.places import WEB, RemoteFile, protocol, shown

MOST_BYTES: Final = 1 << 30  # of an encoded image, which is held in memory

_T = TypeVar("_T")
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_BLOCK = 1 << 20  # bytes for each request while a tar's headers are read: longer members are passed over
_PAUSE = 1.0  # seconds before a request that may pass the second time is made again
_PASSING = frozenset({408, 429, 500, 502, 503, 504})  # what servers answer when they may have more luck later
_PASSING_NAMES = frozenset({"ClientPayloadError", "ServerDisconnectedError"})  # of aiohttp
_REFUSED = frozenset({401, 403})
_CONNECT_SECONDS, _SILENT_SECONDS, _TOTAL_SECONDS = 15, 60, 900
_WITH_FOLDERS = frozenset({"ftp", "sftp", "ssh", "smb", "hdfs", "webhdfs"})  # elsewhere it might make a new bucket
_STAMPS = ("ETag", "etag", "LastModified", "updated", "mtime", "created", "blob_id")  # as file systems call it
_PACKAGES = {
    **dict.fromkeys(WEB, "aiohttp"),
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    "hf": "huggingface_hub",
}


def is_address(text: object) -> bool:
    """Tell whether this is a URL, such as s3://bucket/folder, and no local path."""
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def path_or_address(text: str | os.PathLike[str]) -> Path | str:
    """Make a path of a text, also where a `file://` URL says it; other URLs stay as they are."""
    if not (isinstance(text, str) and is_address(text)):
        return Path(text)
    parts = urlsplit(text)
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else text


def is_pattern(url: str) -> bool:
    """Tell whether it has wildcards; on the web none are known, and ? begins something else."""
    return protocol(url) not in WEB and bool(set(url.partition("://")[2]) & set("*?["))


# -------------------------------------------------------------------------------------------- requests


def file_system(url: str) -> tuple[Any, str]:
    """Open fsspec's file system for a URL, and tell the path in it.

    Raises:
        ValueError: a package is missing for it, or there is no such protocol.
    """
    kind = protocol(url)
    try:
        import fsspec
    except ImportError:
        raise ValueError(f"{shown(url)}: expected fsspec for {kind}://; run: pip install 'incontext[remote]'") from None
    try:
        files, path = fsspec.core.url_to_fs(url, **_options(kind))
    except ImportError:
        package = _PACKAGES.get(kind)
        named = f"{package}; run: pip install {package}" if package else "a package that fsspec names for it"
        raise ValueError(f"{shown(url)}: {kind}:// needs {named}") from None
    except Exception as error:  # what a protocol makes of a strange address can be nearly anything
        raise failed(url, error) from error
    return files, path


def _options(kind: str) -> dict[str, Any]:
    if kind not in WEB:
        return {}
    import aiohttp

    limits = aiohttp.ClientTimeout(total=_TOTAL_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
    return {"client_kwargs": {"timeout": limits}}


def failed(url: str, error: Exception, doing: str = "read") -> OSError | ValueError:
    """Say what went wrong with an address, as a sentence.

    Args:
        doing: "read", "written" or "removed".
    """
    where, status = shown(url), getattr(error, "status", None)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{where}: there is no such file or folder")
    if isinstance(status, int):  # aiohttp's own text repeats the address, signature included
        text = f"the server answered {status} {getattr(error, 'message', '')}".strip()
    else:
        text = " ".join(str(error).replace(url, where).split()) or type(error).__name__
    refused = isinstance(error, PermissionError) or status in _REFUSED or "credential" in text.lower()
    advice = "; check the credentials and the permissions" if refused else ""
    return ValueError(f"{where}: cannot be {doing} ({text}){advice}")


def persistently(url: str, request: Callable[[], _T], doing: str = "read") -> _T:
    """Make a request, and make it again once if it fails for a reason that may pass.

    Raises:
        FileNotFoundError, ValueError: see :func:`failed`.
    """
    try:
        return request()
    except Exception as error:  # as in file_system
        if not _may_pass(error):
            raise failed(url, error, doing) from error
    time.sleep(_PAUSE)
    try:
        return request()
    except Exception as error:
        raise failed(url, error, doing) from error


def _may_pass(error: Exception) -> bool:
    return (
        isinstance(error, TimeoutError | ConnectionResetError)
        or getattr(error, "status", None) in _PASSING
        or type(error).__name__ in _PASSING_NAMES
    )


# --------------------------------------------------------------------------------------------- reading


def fetch(file: RemoteFile) -> bytes:
    """Fetch the whole of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be fetched, or is larger than 1 GiB.
    """
    files, path = file_system(file.url)
    if protocol(file.url) in WEB:  # one request, whose answer may be of any length
        return persistently(file.url, lambda: _answer(files, path, MOST_BYTES, too_long()))
    size = persistently(file.url, lambda: files.size(path)) if file.size is None else file.size
    if size is not None and size > MOST_BYTES:
        raise ValueError(f"{file}: {too_long()}")
    data: bytes = persistently(file.url, lambda: files.cat_file(path))
    return data


def fetch_part(file: RemoteFile, offset: int, size: int) -> bytes:
    """Fetch some bytes of a file; fewer where it ends before.

    Raises:
        FileNotFoundError, ValueError: as :func:`fetch`.
    """
    if size == 0:
        return b""
    files, path = file_system(file.url)
    if protocol(file.url) in WEB:  # where servers may well answer with all of it
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        more = "the server gives no parts of files; copy it here"
        return persistently(file.url, lambda: _answer(files, path, size, more, headers))
    data: bytes = persistently(file.url, lambda: files.cat_file(path, start=offset, end=offset + size))
    return data


def _answer(files: Any, path: str, most: int, more: str, headers: dict[str, str] | None = None) -> bytes:
    buffer = _Bounded(most, more)
    files.get_file(path, buffer, **({} if headers is None else {"headers": headers}))
    return buffer.getvalue()


class _Bounded(BytesIO):
    """Takes no more than `most` bytes.

    Args:
        more: What is wrong where there are more.
    """

    def __init__(self, most: int, more: str) -> None:
        super().__init__()
        self._most, self._more = most, more

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._most:
            raise ValueError(self._more)
        return super().write(data)


def too_long() -> str:
    """Say what is wrong with a file above MOST_BYTES."""
    return f"expected an image of at most {MOST_BYTES >> 20} MiB, got more; make it smaller first"


@contextmanager
def opened(file: RemoteFile) -> Iterator[tuple[BinaryIO, int]]:
    """Open a stream that can seek, at its start, and tell its length.

    Raises:
        FileNotFoundError, ValueError: as :func:`fetch`; or the server gives no parts of files.
    """
    if protocol(file.url) in WEB:
        fetch_part(file, 0, 1)  # so that a server without parts is found out at once
    files, path = file_system(file.url)
    with persistently(file.url, lambda: files.open(path, "rb", block_size=_BLOCK, cache_type="readahead")) as stream:
        if getattr(stream, "size", None) is None:
            raise ValueError(f"{file}: the server does not say how long it is; copy it here")
        yield cast("BinaryIO", stream), int(stream.size)


# --------------------------------------------------------------------------------------------- writing


def refuse_unwritable_address(url: str) -> None:
    """Refuse an address that nothing can be written to. Nothing is requested.

    Raises:
        ValueError: It is one.
    """
    if protocol(url) in WEB or not url.partition("://")[2].strip("/") or is_pattern(url):
        raise ValueError(
            f"{shown(url)}: expected a folder to write to, such as s3://bucket/masks; choose one, or a local folder"
        )
    file_system(url)


def join(url: str, name: str) -> str:
    """Make the address of a file below a folder."""
    return f"{url.rstrip('/')}/{name}"


def upload(url: str, content: bytes | Path) -> None:
    """Write a file: these bytes, or those of a local file.

    Object stores show it whole or not at all.

    Raises:
        FileNotFoundError, ValueError: it cannot be written.
    """
    files, path = file_system(url)

    def write() -> None:
        if protocol(url) in _WITH_FOLDERS:
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
        if isinstance(content, bytes):
            files.pipe_file(path, content)
        else:
            files.put_file(str(content), path)

    persistently(url, write, "written")


def remove(url: str) -> None:
    """Remove a file, if it is there.

    Raises:
        ValueError: it cannot be removed.
    """
    files, path = file_system(url)
    with suppress(FileNotFoundError):
        persistently(url, lambda: files.rm_file(path), "removed")


def fetch_to(url: str, path: Path) -> bool:
    """Copy a file to a local one, which is removed where there is none.

    Returns whether there is one.

    Raises:
        ValueError: it cannot be read.
    """
    files, there = file_system(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path) as stream:
            beside = stream.name
            persistently(url, lambda: files.get_file(there, beside))
    except FileNotFoundError:
        path.unlink(missing_ok=True)
        return False
    return True


# --------------------------------------------------------------------------------------------- listing


def listing(url: str) -> list[tuple[RemoteFile, str]] | None:
    """List the files below a folder or of a pattern, by name.

    Each has its path from the folder, or from the fixed part of the pattern. None: the address is that of a file.

    Raises:
        FileNotFoundError: There is nothing at the address, or nothing matches.
        ValueError: It cannot be listed.
    """
    files, path = file_system(url)
    files.invalidate_cache()
    if is_pattern(url):
        root = _fixed_part(path)
        hits = persistently(url, lambda: files.glob(path, detail=True))
        if not hits:
            raise FileNotFoundError(f"{shown(url)}: nothing matches this pattern")
    elif persistently(url, lambda: files.isdir(path)):
        root = path
        hits = persistently(url, lambda: files.find(path, detail=True))
    elif persistently(url, lambda: files.exists(path)):
        return None
    else:
        raise FileNotFoundError(f"{shown(url)}: there is no such file or folder")
    return [_listed(files, hit, root, info) for hit, info in sorted(hits.items()) if info.get("type") != "directory"]


def _listed(files: Any, hit: str, root: str, info: dict[str, Any]) -> tuple[RemoteFile, str]:
    stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), None)
    below = hit[len(root) :].lstrip("/") if hit.startswith(root) else hit.rpartition("/")[2]
    return RemoteFile(files.unstrip_protocol(hit), info.get("size"), stamp), below


def _fixed_part(pattern: str) -> str:
    """Take the folder before the first part with a wildcard."""
    parts = pattern.split("/")
    wild = next(number for number, part in enumerate(parts) if set(part) & set("*?["))
    return "/".join(parts[:wild])
