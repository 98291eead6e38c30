"""`incontext propose`: masks of everything in images."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import Strict, app, strictly, with_options
from incontext.options import LOADING, LoadOptions
from incontext.progress import ProgressLine
from incontext.words import counted

if TYPE_CHECKING:
    from incontext.folder import FolderJob, Query
    from incontext.images.ids import Pixels
    from incontext.proposals import AnswersClicks, Proposals


@app.command()
@strictly
@with_options(without=("min_presence",))
def propose(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Images, folders of them, or patterns, as `incontext segment` takes."),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for results; made if need be.")],
    points_per_side: Annotated[
        int, typer.Option("--points-per-side", min=1, help="Of the grid that is clicked on, so the square of it.")
    ] = 16,
    points_per_batch: Annotated[int, typer.Option("--points-per-batch", min=1, help="Clicks at a time.")] = 64,
    pred_iou_thresh: Annotated[
        float | None,
        typer.Option("--pred-iou-thresh", min=0.0, max=1.0, help="Drop masks that are expected to be worse."),
    ] = None,
    stability_score_thresh: Annotated[
        float | None,
        typer.Option(
            "--stability-score-thresh", min=0.0, max=1.0, help="Drop masks that change more with their threshold."
        ),
    ] = None,
    box_nms_thresh: Annotated[
        float, typer.Option("--box-nms-thresh", min=0.0, max=1.0, help="Of masks whose boxes overlap more, keep one.")
    ] = 0.7,
    min_mask_region_area: Annotated[
        int, typer.Option("--min-mask-region-area", min=0, help="Remove smaller specks and holes, in pixels.")
    ] = 64,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write NAME_overlay.jpg: the image under all masks.")
    ] = False,
    prompter: Annotated[
        str | None,
        typer.Option("--prompter", metavar="NAME|PATH", help="Another model answers: incontext prompters list."),
    ] = None,
    strict: Strict = False,
    loading: LoadOptions = LOADING,
) -> None:
    """Find masks of everything in images, which nobody has named, by a grid of clicks.

    Writes for each image NAME.json, its masks as COCO's run-length encodings, the surest first; and NAME.png, an
    indexed PNG of them, the smaller over the larger.
    """
    from incontext.folder import plan
    from incontext.folder.work import DecodedQuery, read

    job = plan(inputs, out, overlay=overlay)

    from incontext.proposals import PRED_IOU_THRESH, STABILITY_SCORE_THRESH
    from incontext.proposals import propose as find

    answers = _answering(prompter, loading)
    each = points_per_side**2
    failed, masks = list(job.skipped), 0
    with ProgressLine("clicks", each * len(job.queries)) as progress:
        for number, query in enumerate(job.queries):
            image = read(query)
            if not isinstance(image, DecodedQuery):
                failed.append(image)
                if strict:
                    raise ValueError(f"{image.error} (--strict)")
                progress.say(f"Skipped: {image.error}")
                continue
            found = find(
                answers,
                image.image,
                points_per_side=points_per_side,
                points_per_batch=points_per_batch,
                pred_iou_thresh=PRED_IOU_THRESH if pred_iou_thresh is None else pred_iou_thresh,
                stability_score_thresh=(
                    STABILITY_SCORE_THRESH if stability_score_thresh is None else stability_score_thresh
                ),
                box_nms_thresh=box_nms_thresh,
                min_mask_region_area=min_mask_region_area,
                on_points=partial(_went_on, progress, number * each),
            )
            write(job, query, image.image, found)
            masks += len(found)
            progress.say(f"{query.name}: {counted(len(found), 'mask')}")
    done = len(job.queries) - len(failed) + len(job.skipped)
    print(f"{done} of {counted(len(job.queries), 'image')} in {job.outputs.where}")
    lost = f", {len(failed)} failed" if failed else ""
    print(f"{counted(len(job.queries), 'image')}, {counted(masks, 'mask')}{lost}")
    if failed:
        raise typer.Exit(1)


def write(job: "FolderJob", query: "Query", image: "Pixels", found: "Proposals") -> None:
    """Write what was found in an image: JSON, an indexed PNG, and perhaps the image under it."""
    import numpy as np

    from incontext.images.write import encode_image, encode_mask
    from incontext.types import Palette, Segmentation

    outputs, ids = job.outputs, found.to_mask()
    palette = Palette.spread(np.unique(ids).tolist())
    if outputs.overlay:
        name = outputs.overlay_name(query.name, found.size)
        shown = Segmentation(ids, np.ones(ids.shape, np.float32), palette)
        outputs.put(name, encode_image(shown.overlay(image), name=name))
    name = outputs.mask_name(query.name)
    outputs.put(name, encode_mask(ids, palette.table, name=name))
    outputs.put(query.name.with_suffix(".json").as_posix(), found.to_bytes())


def _answering(prompter: str | None, loading: LoadOptions) -> "AnswersClicks":
    if prompter is None:
        from incontext.engine import load_with

        return load_with(loading)
    from incontext.prompting import open_prompter

    found = open_prompter(prompter, loading)
    if not found.takes_hints:
        raise ValueError(
            f"expected a prompter that answers clicks, got {prompter}; use one of the SAMs, such as sam2.1"
        )
    return found


def _went_on(progress: ProgressLine, before: int, done: int, _: int) -> None:
    progress.update(before + done)
