"""What can be read besides local folders: addresses, lists and tars, and what is said when one of them is broken."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from incontext.images.read import read_image
from incontext.sources import remote
from incontext.sources.find import below_common_folder, contents, find_remote, read_list, version
from incontext.sources.places import Place, Problem, RemoteFile, TarMember
from incontext.sources.remote import path_or_address
from incontext.sources.tars import find_in_tar

pytest.importorskip("fsspec", reason="needs the extra `remote`")


def encoded(grey: int, size: tuple[int, int] = (6, 4), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(stream, kind)
    return stream.getvalue()


def grey_of(place: Place) -> int:
    """What an image of `encoded` shows, wherever it lies."""
    pixels = read_image(contents(place), name=str(place))
    assert len(np.unique(pixels)) == 1
    return int(pixels[0, 0, 0])


def tar_of(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def split(found: Iterator[Any]) -> tuple[dict[str, Place], list[str]]:
    """The images by name, and the problems' sentences."""
    everything = list(found)
    problems = [each.error for each in everything if isinstance(each, Problem)]
    assert all(each.place in each.error for each in everything if isinstance(each, Problem))
    images = [each for each in everything if not isinstance(each, Problem)]
    assert len({name for _, name in images}) == len(images)
    return {name.as_posix(): place for place, name in images}, problems


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, which stands for object stores."""
    from fsspec.implementations.memory import MemoryFileSystem

    files = MemoryFileSystem()
    files.store.clear()
    yield files
    files.store.clear()


class Web:
    """A web server on the loopback. status: what it answers to a path, one after the other, before it serves it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.status: dict[str, list[int]] = {}
        self.promised: dict[str, int] = {}  # a length that is not the true one
        self.gives_parts = True
        self.asked: list[tuple[str, str]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                web.answer(self)

            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.asked.append((request.command, request.path))
        waiting = self.status.get(path, [])
        status = waiting.pop(0) if waiting else (200 if path in self.files else 404)
        body = self.files.get(path, b"no") if status == 200 else b"no"
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        total = len(body)
        if status == 200 and part is not None and self.gives_parts:
            status, body = 206, body[int(part[1]) : int(part[2]) + 1]
        request.send_response(status)
        if status == 206 and part is not None:
            request.send_header("Content-Range", f"bytes {part[1]}-{int(part[1]) + len(body) - 1}/{total}")
        if self.gives_parts:
            request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(self.promised.get(path, len(body))))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


@pytest.fixture
def web() -> Iterator[Web]:
    pytest.importorskip("aiohttp", reason="needs the extra `remote`")
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield web
    web.server.shutdown()
    web.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSE", 0.0)


# ----------------------------------------------------------------------------------------------- tars


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_in_a_tar_are_found_and_read(tmp_path: Path, layout: int) -> None:
    long = "/".join(["a" * 30] * 4) + ".png"
    members = [
        ("./b.png", encoded(10)),
        ("b.json", b"{}"),
        (long, encoded(20)),
        ("ü/7.JPG", encoded(30, kind="PNG")),
        (".hidden.png", encoded(40)),
        (".deep/x.png", encoded(50)),
        ("empty.png", b""),
    ]
    found, problems = split(find_in_tar(tar_of(tmp_path / "1.tar", members, format=layout)))
    assert list(found) == ["b.png", long, "ü/7.JPG", "empty.png"]
    assert problems == []
    assert [grey_of(found[name]) for name in ("b.png", long, "ü/7.JPG")] == [10, 20, 30]
    assert str(found["ü/7.JPG"]) == f"{tmp_path}/1.tar/ü/7.JPG"
    with pytest.raises(ValueError, match=r"1\.tar/empty\.png: the file is empty"):
        grey_of(found["empty.png"])


def test_places_travel(tmp_path: Path) -> None:
    found, _ = split(find_in_tar(tar_of(tmp_path / "1.tar", [("a.png", encoded(7))])))
    remote_file = RemoteFile("s3://bucket/a.png", 12, "x")
    for place in (found["a.png"], tmp_path / "a.png", remote_file):
        again = pickle.loads(pickle.dumps(place))
        assert again == place
        assert hash(again) == hash(place)
    assert grey_of(pickle.loads(pickle.dumps(found["a.png"]))) == 7


def test_hostile_members_are_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "1.tar"
    with tarfile.open(path, "w") as tar:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, link
            tar.addfile(info, io.BytesIO(data))

        add("../up.png", encoded(1))
        add("a/../../up.png", encoded(1))
        add("/etc/root.png", encoded(1))
        add("link.png", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add("hard.png", kind=tarfile.LNKTYPE, link="fine.png")
        add("pipe.png", kind=tarfile.FIFOTYPE)
        add("folder.png", kind=tarfile.DIRTYPE)
        add("fine.png", encoded(2))
        add("./fine.png", encoded(3))
        add("last.png", encoded(4))
    found, problems = split(find_in_tar(path))
    assert {name: grey_of(place) for name, place in found.items()} == {"fine.png": 2, "last.png": 4}
    outside = "expected a name inside of its folder, got"
    assert problems == [
        f"{path}/../up.png: {outside} '../up.png'; rename it",
        f"{path}/a/../../up.png: {outside} 'a/../../up.png'; rename it",
        f"{path}//etc/root.png: {outside} '/etc/root.png'; rename it",
        *(
            f"{path}/{name}.png: expected a plain file in the tar, got a link or the like; pack it anew"
            for name in ("link", "hard", "pipe")
        ),
        f"{path}/./fine.png: comes twice in the tar; the first one is used",
    ]


def test_a_sparse_member_costs_itself(tmp_path: Path) -> None:
    """Its size is not that of what is in the tar."""
    info = tarfile.TarInfo("sparse.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for at, number in ((386, 1 << 20), (398, 512), (483, 1 << 24)):  # where its one piece begins, its length, the whole
        header[at : at + 12] = f"{number:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    rest = tar_of(tmp_path / "rest.tar", [("a.png", encoded(3))]).read_bytes()
    (tmp_path / "1.tar").write_bytes(bytes(header) + bytes(512) + rest)
    found, problems = split(find_in_tar(tmp_path / "1.tar"))
    assert {name: grey_of(place) for name, place in found.items()} == {"a.png": 3}
    assert len(problems) == 1
    assert "sparse.png: expected a plain file in the tar" in problems[0]


def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x.png")
    info.pax_headers = {"path": "a\0b.png"}
    (tmp_path / "1.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    found, problems = split(find_in_tar(tmp_path / "1.tar"))
    assert found == {}
    assert len(problems) == 1
    assert "got 'a\\x00b.png'" in problems[0]


def test_a_tar_that_is_cut_off_gives_what_comes_before(tmp_path: Path) -> None:
    """Wherever it is cut, what is whole is found, and something is said; only the padding at the end may go."""
    image = encoded(9)
    path = tar_of(tmp_path / "whole.tar", [(f"{i}.png", image) for i in range(3)], format=tarfile.PAX_FORMAT)
    whole = path.read_bytes()
    places, _ = split(find_in_tar(path))
    ends = [place.offset + place.size for place in places.values() if isinstance(place, TarMember)]
    after = -(-ends[-1] // 512) * 512 + 512  # with the first block of the end mark
    cut = tmp_path / "cut.tar"
    for length in [*range(0, after + 1, 61), *ends, *(end - 1 for end in ends), after - 1, after]:
        cut.write_bytes(whole[:length])
        found, problems = split(find_in_tar(cut))
        assert list(found) == [f"{i}.png" for i, end in enumerate(ends) if end <= length]
        assert all(grey_of(place) == 9 for place in found.values())
        assert (problems == []) == (length >= after), (length, problems)


def test_what_is_no_tar_is_said_to_be_none(tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    (tmp_path / "text.tar").write_text("no tar " * 200)
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "folder.tar").mkdir()
    for name in ("packed", "text", "empty"):
        found, problems = split(find_in_tar(tmp_path / f"{name}.tar"))
        assert found == {}
        assert [problem.partition(" (")[0] for problem in problems] == [
            f"{tmp_path}/{name}.tar: expected a tar without compression, got something else or a broken one"
        ]
    for name, what in (("folder", "Is a directory"), ("missing", "No such file or directory")):
        assert split(find_in_tar(tmp_path / f"{name}.tar")) == (
            {},
            [f"{tmp_path}/{name}.tar: cannot be read ({what})"],
        )


def test_headers_that_lead_back_do_not_hang(tmp_path: Path) -> None:
    """A size below 0, which base-256 numbers allow, would be the same header for ever."""
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    first = tar_of(tmp_path / "first.tar", [("0.png", encoded(5))]).read_bytes()
    data = first[: -(-(512 + len(encoded(5))) // 512) * 512]
    (tmp_path / "1.tar").write_bytes(data + bytes(header) + bytes(2048))
    found, problems = split(find_in_tar(tmp_path / "1.tar"))
    assert list(found) == ["0.png"]
    assert len(problems) == 1
    assert "1.tar: the tar is broken" in problems[0]


def test_random_damage_to_a_tar_raises_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    whole = tar_of(tmp_path / "whole.tar", [(f"{i}/ä{'x' * 120}.png", encoded(i)) for i in range(4)]).read_bytes()
    path = tmp_path / "1.tar"
    complaints = 0
    for _ in range(300):
        data = bytearray(whole)
        for at in random.integers(0, len(data), size=int(random.integers(1, 30))):
            data[at] = int(random.integers(0, 256))
        path.write_bytes(data)
        found, problems = split(find_in_tar(path))
        complaints += bool(problems)
        for place in found.values():
            assert isinstance(contents(place), bytes)
    assert 50 < complaints < 300


def test_a_tar_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "1.tar", [("a.png", encoded(1)), ("b.png", encoded(2))])
    found, _ = split(find_in_tar(path))
    before = version(found["b.png"])
    place = found["b.png"]
    assert isinstance(place, TarMember)
    path.write_bytes(path.read_bytes()[: place.offset + 5])
    with pytest.raises(ValueError, match=rf"b\.png: expected {place.size} bytes, got 5; has the tar changed"):
        contents(place)
    assert version(place) != before
    path.unlink()
    assert version(place) is None
    with pytest.raises(FileNotFoundError):
        contents(place)


# ----------------------------------------------------------------------------------------------- web


def test_images_of_the_web_take_one_request_each(web: Web) -> None:
    web.files = {"/a/b%20c.png": encoded(11), "/image": encoded(12)}
    for path, name, grey in (("/a/b%20c.png?key=secret#x", "b c.png", 11), ("/image", "image", 12)):
        found, problems = split(find_remote(web.url + path))
        assert list(found) == [name]
        assert problems == []
        assert web.asked == []  # nothing is looked at before it is read
        place = found[name]
        assert grey_of(place) == grey
        assert [command for command, _ in web.asked] == ["GET"]
        assert str(place) == web.url + path.partition("?")[0]
        web.asked.clear()


def test_what_the_web_refuses_is_said_without_secrets(web: Web) -> None:
    web.status = {"/no.png": [403, 403], "/gone.png": [404], "/ill.png": [500, 500]}
    login = web.url.replace("//", "//user:secret@")
    for path, error, sentence in (
        ("/gone.png", FileNotFoundError, "/gone.png: there is no such file or folder"),
        ("/no.png", ValueError, "/no.png: cannot be read (the server answered 403 Forbidden); check the credentials"),
        ("/ill.png", ValueError, "/ill.png: cannot be read (the server answered 500 Internal Server Error)"),
    ):
        found, _ = split(find_remote(f"{login}{path}?signature=secret"))
        with pytest.raises(error) as raised:
            contents(found[path[1:]])
        assert str(raised.value).startswith(web.url + sentence)
        assert "secret" not in str(raised.value)
    assert len(web.asked) == 4  # the 500 twice


def test_what_may_pass_is_asked_for_again(web: Web) -> None:
    web.files["/a.png"] = encoded(33)
    web.status["/a.png"] = [503]
    assert grey_of(RemoteFile(f"{web.url}/a.png")) == 33
    assert len(web.asked) == 2
    web.promised["/a.png"] = len(web.files["/a.png"]) + 10
    with pytest.raises(ValueError, match=r"a\.png: cannot be read \("):
        contents(RemoteFile(f"{web.url}/a.png"))
    assert len(web.asked) == 4


def test_a_server_that_is_not_there_is_said(web: Web) -> None:
    web.server.server_close()
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+/a\.png: cannot be read \(Cannot connect to host"):
        contents(RemoteFile(f"{web.url}/a.png"))


def test_answers_are_bounded(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files["/a.png"] = bytes(3 << 20)
    monkeypatch.setattr(remote, "MOST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match=r"a\.png: .*expected an image of at most 1 MiB, got more"):
        contents(RemoteFile(f"{web.url}/a.png"))


def test_folders_of_the_web_are_refused() -> None:
    for url in ("https://host/photos/", "https://host", "http://host/*.jpg"):
        with pytest.raises(ValueError, match="folders of the web cannot be listed; give the addresses one by one"):
            list(find_remote(url))


def test_names_from_the_web_stay_inside(web: Web) -> None:
    found, problems = split(find_remote(f"{web.url}/..%2f..%2fup.png"))
    assert found == {}
    assert len(problems) == 1
    assert "got '../../up.png'; rename it" in problems[0]


def test_tars_of_the_web_are_read_in_parts(web: Web, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 3 << 20, np.uint8).tobytes()
    members = [("a.png", encoded(1)), ("a.bin", noise), ("b.png", encoded(2)), ("empty.png", b"")]
    web.files["/s/1.tar"] = tar_of(tmp_path / "1.tar", members).read_bytes()
    found, problems = split(find_remote(f"{web.url}/s/1.tar?key=secret"))
    assert problems == []
    assert {name: grey_of(found[name]) for name in ("a.png", "b.png")} == {"a.png": 1, "b.png": 2}
    assert str(found["b.png"]) == f"{web.url}/s/1.tar/b.png"
    assert contents(found["empty.png"]) == b""
    web.gives_parts = False
    sentence = f"{web.url}/s/1.tar: cannot be read (the server gives no parts of files; copy it here)"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        contents(found["b.png"])
    assert split(find_remote(f"{web.url}/s/1.tar?other")) == ({}, [sentence])
    assert split(find_remote(f"{web.url}/s/2.tar")) == (
        {},
        [f"{web.url}/s/2.tar: there is no such file or folder"],
    )


# --------------------------------------------------------------------------------------- object stores


def test_remote_folders_are_listed(memory: Any, tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c/d.png", "c/.no.png", ".no/e.png", "notes.txt", "a b#1?.png"):
        memory.pipe_file(f"/bucket/in/{name}", encoded(len(name)))
    memory.pipe_file("/bucket/in/s/1.tar", tar_of(tmp_path / "1.tar", [("x/y.png", encoded(99))]).read_bytes())
    memory.pipe_file("/bucket/inside.png", encoded(3))
    for url in ("memory://bucket/in", "memory://bucket/in/"):
        found, problems = split(find_remote(url))
        assert list(found) == ["a b#1?.png", "a.JPG", "b.png", "c/d.png", "s/1/x/y.png"]
        assert problems == []
        assert {name: grey_of(place) for name, place in found.items()} == {
            "a b#1?.png": 10,
            "a.JPG": 5,
            "b.png": 5,
            "c/d.png": 7,
            "s/1/x/y.png": 99,
        }
    assert list(split(find_remote("memory://bucket/in/c/d.png"))[0]) == ["d.png"]
    assert list(split(find_remote("memory://bucket/in/notes.txt"))[0]) == ["notes.txt"]  # given by name: taken
    assert list(split(find_remote("memory://bucket/in/*.png"))[0]) == ["a b#1?.png", "b.png"]
    assert list(split(find_remote("memory://bucket/*/*/*.png"))[0]) == ["in/c/d.png"]
    assert list(split(find_remote("memory://bucket/in/s/*.tar"))[0]) == ["1/x/y.png"]
    for url, sentence in (
        ("memory://bucket/nowhere", "memory://bucket/nowhere: there is no such file or folder"),
        ("memory://bucket/*.tif", "memory://bucket/*.tif: nothing matches this pattern"),
    ):
        with pytest.raises(FileNotFoundError, match=re.escape(sentence)):
            list(find_remote(url))


def test_versions_change_with_remote_files(memory: Any) -> None:
    versions = []
    for grey in (1, 200):
        memory.pipe_file("/bucket/in/a.png", encoded(grey))
        found, _ = split(find_remote("memory://bucket/in"))
        versions.append(version(found["a.png"]))
    assert None not in versions
    assert versions[0] != versions[1]
    assert version(RemoteFile("https://host/a.png")) is None


def test_large_remote_files_are_not_fetched(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/bucket/a.png", bytes(3 << 20))
    monkeypatch.setattr(remote, "MOST_BYTES", 1 << 20)
    found, _ = split(find_remote("memory://bucket"))
    for place in (found["a.png"], RemoteFile("memory://bucket/a.png")):
        with pytest.raises(ValueError, match=r"bucket/a\.png: expected an image of at most 1 MiB, got more"):
            contents(place)


@pytest.mark.parametrize(
    ("missing", "url", "sentence"),
    [
        ("fsspec", "s3://b/a.png", "s3://b/a.png: expected fsspec for s3://; run: pip install 'incontext[remote]'"),
        ("s3fs", "s3://b/a.png", "s3://b/a.png: s3:// needs s3fs; run: pip install s3fs"),
        ("gcsfs", "gs://b/a.png", "gs://b/a.png: gs:// needs gcsfs; run: pip install gcsfs"),
        ("", "nothing://b/a.png", "nothing://b/a.png: cannot be read (Protocol not known: nothing"),
    ],
)
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, missing: str, url: str, sentence: str) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if missing and name.split(".", maxsplit=1)[0] == missing:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setitem(__import__("sys").modules, missing or "nothing", None)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        contents(RemoteFile(url))


def test_missing_credentials_are_said() -> None:
    class NoCredentialsError(Exception):
        pass

    def request() -> None:
        raise NoCredentialsError("Unable to locate credentials")

    sentence = r"^s3://b/a: cannot be written \(Unable to locate credentials\); check the credentials and the perm"
    with pytest.raises(ValueError, match=sentence):
        remote.persistently("s3://b/a", request, "written")


def test_file_addresses_are_paths() -> None:
    assert path_or_address("file:///a/b%20c.png") == Path("/a/b c.png")
    assert path_or_address("C:\\x") == Path("C:\\x")
    assert path_or_address("s3://b/c") == "s3://b/c"
    assert path_or_address(Path("a")) == Path("a")


# ----------------------------------------------------------------------------------------------- lists


def test_lists_of_all_kinds_are_read() -> None:
    assert read_list(b"a.png\r\n\n b c.png \nhttps://h/x\xc3\xa4.png") == ["a.png", " b c.png ", "https://h/xä.png"]
    assert read_list(b"a\nb.png\0c.png\0") == ["a\nb.png", "c.png"]
    assert os.fsencode(read_list(b"\xff.png\n")[0]) == b"\xff.png"
    assert read_list(b"") == []


def test_files_of_a_list_are_named_below_what_they_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def names(*places: str) -> list[str]:
        given = [RemoteFile(each) if "://" in each else Path(each) for each in places]
        found = list(below_common_folder(given))
        assert not any(isinstance(each, Problem) for each in found)
        return [str(each[1]) for each in found if not isinstance(each, Problem)]

    assert names() == []
    assert names("x/a.png") == ["a.png"]
    assert names("x/a.png", "./x/b.png", str(tmp_path / "x" / "c.png")) == ["a.png", "b.png", "c.png"]
    assert names("x/a.png", "y/a.png", "x/z/a.png", "../w/a.png") == [
        f"{tmp_path.name}/x/a.png",
        f"{tmp_path.name}/y/a.png",
        f"{tmp_path.name}/x/z/a.png",
        "w/a.png",
    ]
    assert names("http://h/p/1/a.png", "http://h/p/10/a%20b.png") == ["1/a.png", "10/a b.png"]
    assert names("http://h/a.png", "s3://h/a.png") == ["http/h/a.png", "s3/h/a.png"]
    (hostile,) = below_common_folder([RemoteFile("http://h/..%2f..%2fx.png")])
    assert isinstance(hostile, Problem)


def test_names_are_relative_paths(memory: Any) -> None:
    memory.pipe_file("/bucket/in/a/b.png", encoded(1))
    ((_, name),) = [each for each in find_remote("memory://bucket/in") if not isinstance(each, Problem)]
    assert name == PurePosixPath("a/b.png")
