"""`incontext prompters`: what other models there are, checks, downloads."""

from pathlib import Path
from typing import Annotated

import typer

from incontext.cli.options import prompters_app


@prompters_app.command("list")
def prompters_list() -> None:
    """List the prompters and namers that have a name. Nothing is downloaded."""
    from incontext.prompters.files import cached_folder
    from incontext.prompters.registry import registry

    entries = registry().values()
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        where = "on this machine" if cached_folder(entry) else "to download"
        size = entry.size or "?"
        print(f"{entry.name:{width}}  {entry.kind:8}  {where:15}  {size:8}  {entry.terms}: {entry.does}")


@prompters_app.command("download")
def prompters_download(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Fetch the files of a prompter or namer into the Hugging Face cache, its licence said first."""
    from incontext.prompters.files import download

    print(download(name, say=print))


@prompters_app.command("verify")
def prompters_verify(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH|A+B")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The known image under the mask, to look at.")
    ] = None,
    text: Annotated[str, typer.Option("--text", help="What is looked for, where it reads text.")] = "a red disc",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
) -> None:
    """Open a prompter or namer completely, and have it mark or name a red disc on a green meadow.

    Random or foreign weights open too, if every tensor is there: look at the overlay, and at the IoU with the disc.
    """
    from incontext.images.write import write_image
    from incontext.prompters import load_namer, load_prompter
    from incontext.prompters.files import find_files
    from incontext.prompters.load import find_prompter, needs_segmenter
    from incontext.prompters.namer import FAMILIES
    from incontext.prompters.trial import iou_with_disc, marked_by, trial_image

    if "+" not in name and find_files(name).family in FAMILIES:
        with load_namer(name, device=device) as namer:
            image, disc = trial_image()
            ((said, score),) = namer.name(image, [disc], ["red disc", "dog", "car"], at_least=0.0)
            print(f"{name}: opened whole, SHA-256 {namer.sha256}; the red disc is named {said!r} ({score:.2f})")
        return
    segmenter = None
    if needs_segmenter(find_prompter(name)):
        from incontext.engine import load

        segmenter = load(device=device)
    with load_prompter(name, device=device, segmenter=segmenter) as prompter:
        image, disc = trial_image()
        found = marked_by(prompter, image, text)
        print(f"{name}: opened whole, SHA-256 {prompter.sha256}; IoU with the disc {iou_with_disc(found, disc):.2f}")
        if out is not None:
            write_image(out, found.overlay(image))
            print(f"{out}: the image under what was marked")
