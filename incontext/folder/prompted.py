"""Images of a job that a prompter marks: a few of them as examples for the network, or all of them.

Refuses to know which networks a prompter is made of (prompters), and terminals (cli).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from incontext.examples import open_context
from incontext.folder.identity import refuse_another
from incontext.folder.outputs import Outputs
from incontext.folder.plan import FolderJob, Query
from incontext.folder.report import FileReport
from incontext.folder.work import DecodedQuery, failure, read, write
from incontext.images.gate import below
from incontext.images.ids import Pixels
from incontext.images.variety import by_variety, look
from incontext.images.write import write_image
from incontext.prompting import Found, Prompting, read_note, write_note
from incontext.types import Palette, Prompt, Segmentation

if TYPE_CHECKING:  # it brings seconds
    from incontext.options import LoadOptions
    from incontext.prompters import Prompter

EXAMPLES: Final = "examples"  # below the output folder

_FOLDERS = ("images", "masks", "overlays")
_MOST_LOOKED_AT = 64  # images, of which those that differ most are chosen
_TRIES = 4  # images marked at most, for each example that is wanted


@dataclass(frozen=True, eq=False)
class MarkedExamples:
    """Examples that a prompter marked.

    Attributes:
        prompts: The examples, their ids called by their phrases.
        files: Their images and masks, in `OUT/examples/`; none where nothing was written.
        masks: The same masks, by the names of their queries.
        tried: Images that the prompter looked at.
        reused: Whether an earlier run of the same job had marked them.
    """

    prompts: tuple[Prompt, ...]
    files: tuple[tuple[Path, Path], ...]
    masks: Mapping[PurePosixPath, Path]
    tried: int
    reused: bool = False


def mark_examples(
    prompting: Prompting,
    job: FolderJob,
    count: int,
    loading: LoadOptions,
    *,
    resume: bool = True,
    keep: bool = True,
    on_image: Callable[[Query, bool], None] | None = None,
) -> MarkedExamples:
    """Have a prompter mark some images of a job, chosen for variety, as examples for the others.

    They are kept in `OUT/examples/` (images/, masks/, and overlays/ to look at), which `--prompts` takes, and from
    which a run that goes on takes them again. The prompter is released from memory in the end.

    Args:
        prompting: Who marks, and for what.
        job: The plan.
        count: How many examples; fewer are found where few images show any of it.
        loading: Where the prompter runs.
        resume: Take what an earlier run of the same job marked.
        keep: Whether to write; else nothing is.
        on_image: Called for each image that was looked at: the query, and whether anything was found.

    Raises:
        NothingFoundError: Nothing is found in any image that was tried.
        FileNotFoundError, ValueError: The prompter cannot be used, the folder holds another job's examples or
            something else, or the results are not kept in a local folder.
    """
    if count < 1:
        raise ValueError(f"expected at least 1 example, got {count}")
    _refuse_places(job)
    told, folder = {**(job.marked_by or prompting.describe()), "examples": count}, job.outputs.out / EXAMPLES
    earlier = _earlier(folder, told, resume=resume)
    if earlier is not None:
        return _opened(folder, prompting, earlier["names"], int(earlier["tried"]), reused=True)
    prompts: list[Prompt] = []
    names: list[str] = []
    tried = 0
    with prompting.open(loading) as prompter:
        if keep:
            _clear(folder, told)
        for query, image, found in _found_in(prompter, prompting.text, _various(job.queries)[: _TRIES * count]):
            tried += 1
            if on_image is not None:
                on_image(query, not found.is_empty)
            if found.is_empty:
                continue
            names.append(str(query.name))
            if keep:
                _write(folder, query.name, image, found)
            else:
                called = {i: name for i, name in prompting.names.items() if i in found.ids}
                prompts.append(Prompt(image, found.mask, palette=found.palette, names=called))
            if len(names) == count:
                break
    if not names:
        if keep:
            shutil.rmtree(folder)
        raise _nothing(prompting, tried, len(job.queries))
    if not keep:
        return MarkedExamples(tuple(prompts), (), {}, tried)
    write_note(folder, {**told, "names": names, "tried": tried, "finished": True})
    return _opened(folder, prompting, names, tried)


def _found_in(
    prompter: Prompter, text: Sequence[str], queries: Iterable[Query]
) -> Iterator[tuple[Query, Pixels, Segmentation]]:
    """Mark images one after the other; one that cannot be read is left to the job, which reports it."""
    for query in queries:
        image = read(query)
        if not isinstance(image, FileReport):
            yield query, image.image, prompter.segment(image.image, text=text)


def _nothing(prompting: Prompting, tried: int, count: int) -> ValueError:
    from incontext.prompters import NothingFoundError

    asked = ", ".join(prompting.text)
    return NothingFoundError(
        f"{prompting.prompter} found no {asked!r:.200} in {tried} images of {count}; try other words, a lower "
        "--min-score, or --examples all"
    )


def _various(queries: Sequence[Query]) -> list[Query]:
    """Order images by variety: those that were looked at, evenly spread over all; an image that cannot be read goes."""
    step = max(1, -(-len(queries) // _MOST_LOOKED_AT))
    seen: list[Query] = []
    descriptions = []
    for query in queries[::step]:
        image = read(query)
        if not isinstance(image, FileReport):
            seen.append(query)
            descriptions.append(look(image.image))
    return [seen[number] for number in by_variety(descriptions)]


# --------------------------------------------------------------------------------------------- what is kept


def _refuse_places(job: FolderJob) -> None:
    if job.outputs.remote is not None:
        raise ValueError(
            f"{job.outputs.where}: expected a local output folder, in which examples are kept, with --text; got an "
            "address; --examples all keeps none"
        )
    if any(query.name.parts[0] == EXAMPLES for query in job.queries):
        raise ValueError(
            f"{EXAMPLES}/: expected no images in a folder of this name, as the prompter's examples are kept there; "
            "give a folder above it, or rename it"
        )


def _earlier(folder: Path, told: Mapping[str, object], *, resume: bool) -> dict[str, Any] | None:
    """Read what an earlier run noted, where all of it is of use.

    Raises:
        ValueError: The folder holds another job's examples, or something else.
    """
    record = read_note(folder)
    if record is None:
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"{folder}: expected to keep the prompter's examples in this folder, which has other files; move them, "
                "or choose another output folder"
            )
        return None
    if not resume:
        return None
    refuse_another(str(folder), {name: record.get(name) for name in told}, told)
    names = record.get("names")
    if record.get("finished") is not True or not isinstance(names, list) or not isinstance(record.get("tried"), int):
        return None
    there = (folder / kind / _png(PurePosixPath(str(name))) for name in names for kind in ("images", "masks"))
    return record if names and all(path.is_file() for path in there) else None


def _clear(folder: Path, told: Mapping[str, object]) -> None:
    """Begin anew: what an earlier run left is removed, and whose the folder is gets noted first."""
    folder.mkdir(parents=True, exist_ok=True)
    write_note(folder, {**told, "finished": False})
    for name in _FOLDERS:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)


def _write(folder: Path, name: PurePosixPath, image: Pixels, found: Segmentation) -> None:
    paths = [below(folder / kind, PurePosixPath(_png(name))) for kind in _FOLDERS]
    write_image(paths[0], image)
    found.save(paths[1])
    write_image(paths[2].with_suffix(".jpg"), found.overlay(image))


def _png(name: PurePosixPath) -> str:
    return name.with_suffix(".png").as_posix()


def _opened(
    folder: Path, prompting: Prompting, names: Sequence[str], tried: int, *, reused: bool = False
) -> MarkedExamples:
    """Open what is kept, so that a run that goes on is shown exactly what the first one was."""
    queries = [PurePosixPath(name) for name in names]
    given = open_context([(folder / "images" / _png(name), folder / "masks" / _png(name)) for name in queries])
    called = prompting.names
    prompts = tuple(
        replace(prompt, names={i: called[i] for i in prompt.ids if i in called}) for prompt in given.prompts
    )
    masks = {name: mask for name, (_, mask) in zip(queries, given.pairs, strict=True)}
    return MarkedExamples(prompts, given.pairs, masks, tried, reused)


# --------------------------------------------------------------------------------------------- runners


def text_of(job: FolderJob) -> tuple[str, ...]:
    """Read the phrases that a job is marked by.

    Raises:
        ValueError: There are none.
    """
    phrases = job.marked_by.get("text")
    if not isinstance(phrases, list):
        raise ValueError("expected a job with a text to mark its images by, got one without")
    return tuple(map(str, phrases))


def refuse_context(context: object) -> None:
    """Refuse examples where a prompter marks every image: it would not look at them."""
    if context is not None:
        raise ValueError("expected no examples where the prompter marks every image, got some; leave them out")


class PromptedRunner:
    """Has a prompter mark every image, one after the other. waited: it waits for nobody.

    Args:
        prompter: Opened.
        text: What it is asked for; hints of an image correct what is found.
        outputs: Where results go.
    """

    def __init__(self, prompter: Prompter, text: Sequence[str], outputs: Outputs) -> None:
        self.waited = 0.0
        self._prompter, self._text, self._outputs = prompter, tuple(text), outputs

    def run(self, queries: Iterable[tuple[int, Query]], finish: Callable[[int, FileReport], None]) -> None:
        """Mark the queries and write their results. See `job.Runner`."""
        for number, query in queries:
            image = read(query)
            if isinstance(image, FileReport):
                finish(number, image)
                continue
            start = time.perf_counter()
            try:
                found = self.answer(image)
            except (ValueError, MemoryError, RuntimeError) as error:
                seconds = image.seconds + time.perf_counter() - start
                finish(number, failure(query, str(query), error, version=image.version, seconds=seconds))
                continue
            spent = replace(image, seconds=image.seconds + time.perf_counter() - start)
            finish(number, write(self._outputs, spent, found))

    def answer(self, image: DecodedQuery) -> Found:
        """Mark one image."""
        return Found(self._prompter.segment(image.image, hints=image.query.hints, text=self._text))


class RunnerWithExamples:
    """A runner that leaves images which are examples to their own masks: a prompter's are finer than our answers.

    Args:
        runner: For all others.
        masks: By the names of queries.
        outputs: Where results go.
    """

    def __init__(self, runner: Any, masks: Mapping[PurePosixPath, Path], outputs: Outputs) -> None:
        self._runner, self._masks, self._outputs = runner, masks, outputs

    @property
    def waited(self) -> float:
        """Seconds that the network waited for files so far."""
        return float(self._runner.waited)

    def run(self, queries: Iterable[tuple[int, Query]], finish: Callable[[int, FileReport], None]) -> None:
        """Segment the queries and write their results. See `job.Runner`."""
        self._runner.run(self._others(queries, finish), finish)

    def _others(
        self, queries: Iterable[tuple[int, Query]], finish: Callable[[int, FileReport], None]
    ) -> Iterator[tuple[int, Query]]:
        for number, query in queries:
            path = self._masks.get(query.name)
            if path is None:
                yield number, query
                continue
            image = read(query)
            if isinstance(image, FileReport):
                finish(number, image)
                continue
            try:
                found = _found(path, image.image)
            except (OSError, ValueError) as error:
                finish(number, failure(query, str(path), error, version=image.version, seconds=image.seconds))
                continue
            finish(number, write(self._outputs, image, Found(found)))


def _found(path: Path, image: Pixels) -> Segmentation:
    """Read a mask that a prompter made as an answer of full confidence."""
    opened = Prompt.open(image, path)
    palette = Palette.spread(opened.ids) if opened.palette is None else opened.palette
    return Segmentation(opened.mask, np.ones(opened.mask.shape, np.float32), palette)
