"""Which image a label means: one way for all formats, whatever their tools make of a name.

A name is tried as it stands; percent-decoded (the label's name or the image's); with backslashes as separators;
without its folders; without what an upload put before it (`cb0618f1-name.jpg`). The two ways to write an accent
(Unicode's NFC and NFD) are alike, and so are suffixes in capitals. Where several images are meant by a name, none is
taken, and both are named.

Refuses to know what labels are, and what is inside of images.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias
from urllib.parse import unquote

from incontext.images.gate import checked_name
from incontext.images.read import IMAGE_SUFFIXES

_UPLOADED: Final = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an upload
_BEFORE: Final = "/"  # marks keys of what uploads were called before; no name holds it
_ENCODED: Final = "/%/"  # marks keys of percent-encoded names, decoded


# --------------------------------------------------------------------------------------------- what names mean


def readings(text: str) -> Iterator[PurePosixPath]:
    """Tell what a name may mean, the most literal first, as paths that stay inside of a folder."""
    forms = dict.fromkeys([text, unquote(text), _slashed(text), _slashed(unquote(text))])
    names = dict.fromkeys(_slashed(form).rstrip("/").rpartition("/")[2] for form in forms)
    plain = (_UPLOADED.sub("", name) for name in names)
    for form in dict.fromkeys([*forms, *names, *plain]):
        try:
            yield checked_name(form)
        except ValueError:
            continue


def relative_name(text: object) -> PurePosixPath:
    """Return an image's name for results, as a file says it.

    Raises:
        ValueError: It leads out of a folder, or is none.
    """
    return checked_name(_slashed(text) if isinstance(text, str) else text)


def alike(name: str) -> str:
    """Equal for names of one image: accents in either form, suffixes in small letters or capitals."""
    suffix = PurePosixPath(name).suffix
    return unicodedata.normalize("NFC", name.removesuffix(suffix)) + suffix.lower()


def loosely_alike(name: str) -> str:
    """As `alike`, and equal for names in capitals and in small letters."""
    return unicodedata.normalize("NFC", name).casefold()


def uploaded_as(name: str) -> str | None:
    """Return the loose name of what an upload was called before; None for what has no upload's prefix."""
    plain = _UPLOADED.sub("", name)
    return loosely_alike(plain) if plain != name else None


def likeness(said: str, name: str) -> int | None:
    """Tell how far the name of an image that a label says is from that of an image, both without folders.

    It is 0 where they are the same, None where another one is meant.
    """
    spelled = [reading.name for reading in readings(said)]
    if said == name:
        return 0
    if alike(name) in map(alike, spelled):
        return 1
    if loosely_alike(name) in map(loosely_alike, spelled):
        return 2
    before = uploaded_as(name)
    is_before = before is not None and uploaded_as(said) is None and before in map(loosely_alike, spelled)
    return 3 if is_before else None


def _slashed(text: str) -> str:
    return text.replace("\\", "/")


# ------------------------------------------------------------------------------------------- finding images


Named: TypeAlias = tuple[PurePosixPath, Path | None]
"""The name of an image in results, and where it lies, if it is there."""


class Images:
    """Finds images below some folders, the first folder first.

    deep: of these folders the subfolders are searched as well, in the end, by names without folders.
    """

    def __init__(self, *folders: Path | None, deep: Iterable[Path | None] = ()) -> None:
        self._folders = tuple(dict.fromkeys(folder for folder in folders if folder is not None))
        self._deep = tuple(dict.fromkeys(folder for folder in deep if folder is not None))
        self._listings: dict[Path, Mapping[str, Sequence[str]]] = {}

    def find(self, text: str | PurePosixPath) -> Path | None:
        """Return the image that a name means, or None where there is none.

        Raises:
            ValueError: There are several.
        """
        names = list(readings(str(text)))
        for name in names:
            for folder in self._folders:
                if is_file(path := folder / name):
                    return path
            for folder in self._folders:
                if found := _only(str(text), self._equal(folder, name.parts)):
                    return found
        return self._loosely(str(text), [name.name for name in names], self._below)

    def find_stem(self, stem: PurePosixPath) -> Path | None:
        """Return the image of this name, to which the suffix of an image is still to be added, or None.

        Raises:
            ValueError: There are several.
        """
        names = [name.as_posix() for name in readings(str(stem))]
        for name in names:
            for key in (str, _composed):
                if found := _only(str(stem), self._stems(key).get(key(name), ())):
                    return found
        for name in names:
            if found := _only(str(stem), self._stems(loosely_alike).get(loosely_alike(name), ())):
                return found
        if len(stem.parts) > 1:
            return None  # labels in folders of their own are not those of images in other ones
        return self._loosely(str(stem), [PurePosixPath(name).name for name in names], self._last_stems)

    def called(self, stem: str) -> Path | None:
        """Return the image that lies in one of the folders itself and has this name before its suffix, or None.

        Raises:
            ValueError: There are several.
        """
        for folder in self._folders:
            names = (name for names in self._listed(folder).values() for name in names)
            images = filter(_is_image, (folder / name for name in names))
            if found := _only(stem, (path for path in images if _composed(path.stem) == _composed(stem))):
                return found
        return None

    def _loosely(self, said: str, names: Iterable[str], paths: Mapping[str, Sequence[Path]]) -> Path | None:
        """Return the image that is called so in any folder, in capitals or not.

        Or it is called so before or after an upload, or once its name is percent-decoded.
        """
        for key in dict.fromkeys(map(loosely_alike, names)):
            if found := _only(said, paths.get(key, ())):
                return found
        if any(map(uploaded_as, names)):
            return None  # another upload of an equal name is another image
        keys = dict.fromkeys(before + loosely_alike(name) for before in (_BEFORE, _ENCODED) for name in names)
        return next((found for key in keys if (found := _only(said, paths.get(key, ())))), None)

    def named(self, text: str | PurePosixPath) -> Named:
        """Return the name that an image has in results, and where it lies.

        It is its own name below its folder, where the label's name is only like it.

        Raises:
            ValueError: There are several, or the name leads out and there is no image.
        """
        path = self.find(text)
        try:
            name = relative_name(str(text))
        except ValueError:
            if path is None:
                raise
            return self._own_name(path), path
        is_said = path is None or any(path == folder / name for folder in self._folders)
        return (name if is_said or path is None else self._own_name(path)), path

    def named_all(self, texts: Iterable[str]) -> dict[str, Named | ValueError]:
        """Tell what `named` gives for each of the names of a set, or raises.

        Where several of them mean one image, it is that of the one that is exactly its name, else of none.
        """
        found: dict[str, Named | ValueError] = {}
        claims: defaultdict[str, list[str]] = defaultdict(list)
        for text in dict.fromkeys(texts):
            try:
                found[text] = _, path = self.named(text)
            except ValueError as error:
                found[text] = error
                continue
            if path is not None:
                claims[os.path.realpath(path)].append(text)
        for place, claim in claims.items():
            exact = [text for text in claim if any(_is_at(folder, text, place) for folder in self._folders)]
            for text in claim if len(claim) > 1 else ():
                other = next(each for each in claim if each != text)
                if [text] != exact:
                    found[text] = ValueError(f"{text!r} and {other!r} may both mean {place}; rename one of them")
        return found

    def _own_name(self, path: Path) -> PurePosixPath:
        inside = [folder for folder in (*self._folders, *self._deep) if path.is_relative_to(folder)]
        nearest = max(inside, key=lambda folder: len(folder.parts))
        return PurePosixPath(path.relative_to(nearest).as_posix())

    def _equal(self, folder: Path, parts: Sequence[str]) -> list[Path]:
        """List the files whose path below a folder is alike, part by part."""
        places = [folder]
        for part in parts:
            places = [place / name for place in places for name in self._listed(place).get(alike(part), ())]
        return [place for place in places if is_file(place)]

    def _listed(self, folder: Path) -> Mapping[str, Sequence[str]]:
        if folder not in self._listings:
            listing: defaultdict[str, list[str]] = defaultdict(list)
            with suppress(OSError):  # no folder, or a closed one: nothing is found in it
                for path in folder.iterdir():
                    listing[alike(path.name)].append(path.name)
            self._listings[folder] = listing
        return self._listings[folder]

    @cached_property
    def _below(self) -> Mapping[str, Sequence[Path]]:
        """All images, those in subfolders of deep folders too, by the loosest likeness of their names."""
        pairs = ((folder, names) for folder in self._folders for names in self._listed(folder).values())
        listed = filter(_is_image, (folder / name for folder, names in pairs for name in names))
        deep = (path for folder in self._deep for path in walked(folder))
        return _by_name((path.name, path) for path in (*listed, *deep))

    @cached_property
    def _last_stems(self) -> Mapping[str, Sequence[Path]]:
        return _by_name((PurePosixPath(stem).name, path) for stems in self._stems_of for stem, path in stems)

    def _stems(self, key: Callable[[str], str]) -> Mapping[str, Sequence[Path]]:
        """Images below the folders by their paths without suffixes; of one path, those of the first folder."""
        name = key.__name__
        if name not in self._by_stem:
            found: dict[str, list[Path]] = {}
            for stems in self._stems_of:
                own: defaultdict[str, list[Path]] = defaultdict(list)
                for stem, path in stems:
                    own[key(stem)].append(path)
                found = {**own, **found}
            self._by_stem[name] = found
        return self._by_stem[name]

    @cached_property
    def _by_stem(self) -> dict[str, Mapping[str, Sequence[Path]]]:
        return {}

    @cached_property
    def _stems_of(self) -> list[list[tuple[str, Path]]]:
        """For each folder the images below it, each with its path from there without the suffix."""
        return [
            [(path.relative_to(folder).with_suffix("").as_posix(), path) for path in walked(folder)]
            for folder in self._folders
        ]


def _only(said: str, found: Iterable[Path]) -> Path | None:
    """Return the one that was found, if it is one.

    Raises:
        ValueError: There are several; two are named.
    """
    different = {os.path.realpath(path): path for path in found}
    if len(different) > 1:
        one, other = sorted(different.values())[:2]
        raise ValueError(f"{said!r} may mean {one} or {other}; rename one of them, or move it away")
    return next(iter(different.values()), None)


def _is_at(folder: Path, text: str, place: str) -> bool:
    try:
        return os.path.realpath(folder / relative_name(text)) == place
    except ValueError:
        return False


def _by_name(named: Iterable[tuple[str, Path]]) -> Mapping[str, Sequence[Path]]:
    """Paths by their loose names, by what they were called before an upload, and before they were percent-encoded."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for name, path in named:
        found[loosely_alike(name)].append(path)
        if (before := uploaded_as(name)) is not None:
            found[_BEFORE + before].append(path)
        if (decoded := unquote(name)) != name:
            found[_ENCODED + loosely_alike(decoded)].append(path)
    return found


def _composed(stem: str) -> str:
    return unicodedata.normalize("NFC", stem)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def walked(folder: Path) -> Iterator[Path]:
    """List the images below a folder, in order, hidden ones passed over; links to folders are not followed."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from (path for name in sorted(files) if name[0] != "." and _is_image(path := Path(parent, name)))


def is_file(path: Path) -> bool:
    """Whether there is such a file; False also for names that are longer than names can be."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


# ------------------------------------------------------------------------------------------- joining two sets


@dataclass(frozen=True)
class Joined:
    """Files of labels and the images that they mean.

    Attributes:
        pairs: By image.
        alone: Labels that mean no image, or not clearly one.
        problems: A sentence for each of those that mean several.
    """

    pairs: Mapping[Path, Path]
    alone: Sequence[Path]
    problems: Sequence[str]


def join(labels: Mapping[PurePosixPath, Path], images: Images) -> Joined:
    """Join files of labels, by their paths without suffixes, with the images of the same names.

    Where two mean one image, the one that is called exactly like it has it; without such a one neither has it.
    """
    claims: defaultdict[Path, list[tuple[PurePosixPath, Path]]] = defaultdict(list)
    alone: list[Path] = []
    problems: list[str] = []
    for stem, label in labels.items():
        try:
            image = images.find_stem(stem)
        except ValueError as error:
            problems.append(f"{label}: {error}")
            alone.append(label)
            continue
        if image is None:
            alone.append(label)
        else:
            claims[image].append((stem, label))
    pairs: dict[Path, Path] = {}
    for image, claim in claims.items():
        exact = [label for stem, label in claim if image.stem == stem.name] if len(claim) > 1 else [claim[0][1]]
        if len(exact) == 1:
            pairs[image] = exact[0]
        else:
            first, second = (label for _, label in claim[:2])
            problems.append(f"{image} may be meant by {first} or {second}; rename one of them, or move it away")
        alone += [label for _, label in claim if label != pairs.get(image)]
    return Joined(pairs, alone, problems)
