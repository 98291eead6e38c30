"""`incontext weights`: what there is, what is in a file, checks, other layouts, downloads."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from incontext.cli.options import decimals, weights_app
from incontext.options import Layout, StoredDtype


@weights_app.command("list")
def weights_list() -> None:
    """List the weights that have a name."""
    from incontext.network.registry import cached_path, registry

    entries = registry().values()
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        where = "on this machine" if cached_path(entry) else "to download"
        print(f"{entry.name:{width}}  {where:15}  {entry.licence}  {entry.description}")


@weights_app.command("info")
def weights_info(weights: Annotated[str, typer.Argument(metavar="NAME|PATH|KEY")] = "default") -> None:
    """Say what is in a file of weights, or in a prompt tensor. Nothing is downloaded."""
    from incontext.network.checkpoint import info
    from incontext.network.registry import cached_path, registry, resolve
    from incontext.prompt_tensor import PromptTensor, is_prompt_tensor

    entry = registry().get(weights)
    if entry is None and is_prompt_tensor(weights):
        _print_rows({"file": weights, **PromptTensor.load(weights).describe()})
        return
    if entry is not None:
        _print_rows({"name": entry.name, "about": entry.description, "source": entry.source, "licence": entry.licence})
        if cached_path(entry) is None:
            _print_rows(asdict(entry.config))
            print(f"not on this machine; fetch it with: incontext weights download {entry.name}")
            return
    found = info(resolve(weights))
    _print_rows(
        {
            "file": found.path,
            "layout": found.layout,
            "parameters": f"{found.parameters:,}",
            "dtype": found.dtype,
            "bytes": f"{found.bytes:,}",
            "sha256": found.sha256,
            **asdict(found.config),
            **found.metadata,
        }
    )


@weights_app.command("verify")
def weights_verify(weights: Annotated[str, typer.Argument(metavar="NAME|PATH")] = "default") -> None:
    """Check weights completely: every value, and named ones against their SHA-256."""
    from incontext.network.registry import verify

    found = verify(weights)
    print(f"{found.path}: {found.parameters:,} finite parameters, SHA-256 {found.sha256}")


@weights_app.command("convert")
def weights_convert(
    source: Annotated[str, typer.Argument(metavar="NAME|PATH")],
    target: Annotated[Path, typer.Argument(help="The file to write; for the layout of transformers, a folder.")],
    layout: Annotated[Layout, typer.Option("--layout", help="published: what the authors' code reads.")] = "incontext",
    dtype: Annotated[StoredDtype | None, typer.Option("--dtype", help="Default: the source's.")] = None,
) -> None:
    """Rewrite weights in another layout or precision."""
    from incontext.network.checkpoint import convert
    from incontext.network.registry import resolve

    written = convert(resolve(source), target, layout=layout, dtype=dtype)
    print(f"{written.path}: {written.layout}, {written.dtype}, {written.bytes:,} bytes, SHA-256 {written.sha256}")


@weights_app.command("average")
def weights_average(
    sources: Annotated[list[str], typer.Argument(metavar="NAME|PATH ...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    shares: Annotated[
        str | None, typer.Option("--shares", metavar="A,B,...", help="How much each counts. Default: all alike.")
    ] = None,
    dtype: Annotated[StoredDtype, typer.Option("--dtype")] = "float32",
) -> None:
    """Average weights: of a run and what it started from, say, which is often better than both."""
    from incontext.network.checkpoint import average
    from incontext.network.registry import resolve

    parts = None if shares is None else decimals("--shares", shares)
    written = average([resolve(source) for source in sources], out, shares=parts, dtype=dtype)
    print(f"{written.path}: {written.dtype}, {written.bytes:,} bytes, SHA-256 {written.sha256}")


@weights_app.command("download")
def weights_download(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Fetch named weights into the Hugging Face cache, and check them; or a backbone's, by "timm:NAME"."""
    from incontext.matching import names
    from incontext.network.registry import download

    print(names.download(name) if names.is_fetchable(name) else download(name))


def _print_rows(rows: dict[str, object]) -> None:
    for name, value in rows.items():
        text = str(value)
        print(f"{name + ':':15} {text if len(text) <= 200 else text[:200] + ' ...'}")
