"""Examples by a prompter, as `segment --text` has it: what is asked, what does not go together, how it goes."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import typer

from incontext.options import DEFAULTS, LoadOptions, SegmentOptions
from incontext.progress import ProgressLine
from incontext.words import counted

if TYPE_CHECKING:
    from incontext.examples import GivenContext
    from incontext.folder import FolderJob, Query
    from incontext.prompting import Prompting
    from incontext.types import Prompt

_USUAL_EXAMPLES: Final = "4"


@dataclass(frozen=True)
class Marking:
    """A prompter for a folder. count: images that it marks as examples for the others; None is all images."""

    prompting: "Prompting"
    count: int | None


def prompting_of(prompter: str | None, text: list[str] | None, min_score: float | None) -> "Prompting | None":
    """Read which prompter marks, and for what; None where neither is said.

    Raises:
        ValueError: Something is missing, or cannot be used.
    """
    if prompter is None and not text:
        if min_score is not None:
            raise ValueError("expected --prompter and --text beside --min-score, got neither")
        return None
    if prompter is None:
        raise ValueError("expected --prompter with --text, got none; incontext prompters list shows them")
    if not text:
        raise ValueError('expected --text with --prompter, such as --text "a red car", got none')
    from incontext.prompting import Prompting

    return Prompting(prompter, tuple(text), min_score)


def marking_of(
    prompter: str | None, text: list[str] | None, min_score: float | None, examples: str | None
) -> Marking | None:
    """Read what is said of a prompter; None where nothing is.

    Raises:
        ValueError: Something is missing, or cannot be used.
    """
    prompting = prompting_of(prompter, text, min_score)
    if prompting is None:
        if examples is not None:
            raise ValueError("expected --prompter and --text beside --examples, got neither")
        return None
    told = _USUAL_EXAMPLES if examples is None else examples
    if told != "all" and not (told.isascii() and told.isdigit() and int(told) > 0):
        raise ValueError(f"expected --examples as all or a number of at least 1, got {told!r}")
    return Marking(prompting, None if told == "all" else int(told))


def refuse_unmarkable(marking: Marking, given: "GivenContext", options: SegmentOptions, *, watch: bool) -> None:
    """Refuse what does not go with a prompter that marks.

    Raises:
        ValueError: Something does not.
    """
    if marking.count is not None and watch:
        raise ValueError("expected --examples all with --watch, as examples are chosen among images that are there")
    if marking.count is not None:
        return
    if given.context:
        raise ValueError("expected no examples with --examples all, as the prompter does not look at them; got some")
    if options != DEFAULTS:
        usual = DEFAULTS.plain()
        changed = [name for name, value in options.plain().items() if value != usual[name]]
        told = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ValueError(f"expected no {told} with --examples all, as that is for our own network")


def mark_some(
    marking: Marking, job: "FolderJob", loading: LoadOptions, *, resume: bool, keep: bool
) -> "tuple[FolderJob, tuple[Prompt, ...]]":
    """Have the prompter mark its examples, if it is to, and tell how it goes; return the job, and the examples.

    Raises:
        typer.Exit: Ctrl-C ended it, with status 130.
    """
    from incontext.folder import EXAMPLES, mark_examples

    prompting = marking.prompting
    job = replace(job, marked_by=prompting.describe(), names={**prompting.names, **job.names})
    if marking.count is None:
        return job, ()
    tried = found = 0
    with ProgressLine("examples", marking.count) as progress:

        def tell(query: "Query", is_found: bool) -> None:
            nonlocal tried, found
            tried, found = tried + 1, found + is_found
            progress.update(found)
            if not is_found:
                progress.say(f"{query.name}: the prompter finds nothing here; trying another image")

        try:
            made = mark_examples(prompting, job, marking.count, loading, resume=resume, keep=keep, on_image=tell)
        except KeyboardInterrupt:
            progress.say(f"Stopped after {counted(found, 'example')}; the same command begins them anew.")
            raise typer.Exit(130) from None
    nothing = f"; nothing found in {made.tried - len(made.prompts)} more" if made.tried > len(made.prompts) else ""
    if not keep:
        print(f"{counted(len(made.prompts), 'example')} by {prompting.prompter}{nothing}")
    else:
        again = " of an earlier run" if made.reused else ""
        where = job.outputs.out / EXAMPLES
        print(f"{counted(len(made.prompts), 'example')} by {prompting.prompter}{again} in {where}{nothing}")
    return replace(job, marked=made.masks, prompt_files=(*job.prompt_files, *made.files)), made.prompts
