"""A context out of what a user names, without a command line."""

from pathlib import Path

import numpy as np
import pytest

from incontext.examples import PromptWarning, open_context
from incontext.images.write import write_image, write_mask
from incontext.types import Palette

TABLE = Palette.spread([1, 2]).table


def example(folder: Path, name: str, *, marked: bool = True) -> tuple[Path, Path]:
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 2 * marked
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    write_image(folder / "images" / f"{name}.png", np.full((8, 8, 3), 90, np.uint8))
    write_mask(folder / "masks" / f"{name}.png", mask, TABLE)
    return folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"


def test_pairs_and_a_folder_are_one_context(tmp_path: Path) -> None:
    pair, _ = example(tmp_path / "one", "a"), example(tmp_path / "set", "b")
    given = open_context([pair], tmp_path / "set")
    assert [prompt.ids for prompt in given.prompts] == [(2,), (2,)]
    assert given.context == given.prompts
    assert given.pairs[0] == pair
    assert set(given.masks) == {pair[1], tmp_path / "set" / "masks" / "b.png"}


def test_prompts_that_mark_nothing_are_left_out_and_told(tmp_path: Path) -> None:
    example(tmp_path, "a")
    _, empty = example(tmp_path, "b", marked=False)
    with pytest.warns(PromptWarning, match="left out 1 prompt whose mask marks nothing: ") as told:
        given = open_context(source=tmp_path)
    assert len(given.prompts) == 1
    assert empty in given.masks  # which is no query either
    assert str(empty) in str(told[0].message)


def test_nothing_is_a_context_only_where_that_may_be(tmp_path: Path) -> None:
    assert open_context(needed=False).context == ()
    with pytest.raises(ValueError, match="expected at least one prompt, got none"):
        open_context()
    with pytest.raises(ValueError, match="expected local files as prompts, got an address"):
        open_context(source=Path("s3://bucket/examples"))
    with pytest.raises(FileNotFoundError):
        open_context(prompt_tensors=[tmp_path / "none.safetensors"])
