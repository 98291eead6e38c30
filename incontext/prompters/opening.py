"""Networks and processors of transformers, opened from a folder, whole or not at all.

Everything here reads local files: no network is asked, and no code that lies beside weights is run. Refuses to know
what the networks are for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from incontext.network.layouts import CheckpointError, first_line, some
from incontext.prompters.files import Files


def import_transformers() -> Any:
    """Import transformers, which takes seconds, or say how to get it.

    Raises:
        ValueError: It is not installed, or older than version 5.
    """
    how = "run: pip install 'incontext[prompters]'"
    try:
        import transformers
    except ImportError:
        raise ValueError(f"expected transformers to be installed for prompters and namers; {how}") from None
    version = str(transformers.__version__)
    if int(version.partition(".")[0]) < 5:
        raise ValueError(f"expected transformers 5 or newer for prompters and namers, got {version}; {how}")
    return transformers


def open_network(kind: str, files: Files, device: Any, *, renamed: Mapping[str, str] | None = None) -> Any:
    """Open a network in evaluation mode, in float32, without gradients.

    Args:
        kind: The class of transformers.
        files: Where it lies.
        device: A PyTorch device.
        renamed: Patterns of the file's names and what they are called in the network, where they differ.

    Raises:
        CheckpointError: A tensor is missing or of another shape, or the files are damaged; named in the message.
    """
    import torch

    transformers = import_transformers()
    with _quiet(transformers):
        try:
            network, found = getattr(transformers, kind).from_pretrained(
                files.folder,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
                key_mapping=None if renamed is None else dict(renamed),
            )
        except Exception as error:  # broken files make the library raise nearly anything
            raise CheckpointError(
                f"{files.folder}: expected the weights of a {kind}, got files that do not open ({first_line(error)})"
            ) from error
    missing = sorted(found["missing_keys"])
    misshapen = sorted(str(each[0] if isinstance(each, tuple) else each) for each in found["mismatched_keys"])
    for names, what in ((missing, "missing"), (misshapen, "of another shape")):
        if names:
            raise CheckpointError(
                f"{files.folder}: expected every tensor of a {kind}, got {len(names)} {what}: {some(names)}; "
                "fetch the files again, or name those of another model"
            )
    if found["error_msgs"]:
        raise CheckpointError(f"{files.folder}: expected the weights of a {kind}, got {found['error_msgs'][0]}")
    return network.to(device).eval().requires_grad_(False)


def open_processor(kind: str, files: Files) -> Any:
    """Open what turns images and words into a network's inputs.

    Args:
        kind: The class of transformers.
        files: Where its configuration and vocabulary lie.

    Raises:
        CheckpointError: Files are missing or damaged.
    """
    transformers = import_transformers()
    with _quiet(transformers):
        try:
            return getattr(transformers, kind).from_pretrained(files.folder, local_files_only=True)
        except Exception as error:  # as above
            raise CheckpointError(
                f"{files.folder}: expected what a {kind} needs (preprocessor_config.json, and the tokenizer's files "
                f"where there is one), got files that do not open ({first_line(error)})"
            ) from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep the library from telling on the terminal what is told here in one sentence."""
    logs = transformers.utils.logging
    before, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logs.CRITICAL)
    logs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logs.set_verbosity(before)
        if bars:
            logs.enable_progress_bar()
