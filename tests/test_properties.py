"""Properties that hold for whatever comes: masks, outlines, windows, votes and the journal, by hypothesis."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from incontext.canvas.votes import Reading, elect, elect_windows
from incontext.canvas.windows import OVERLAP, Window, windows
from incontext.folder import JOURNAL_NAME, FileReport
from incontext.folder.journal import Journal, find_earlier
from incontext.images import rle
from incontext.images.masks import read_mask
from incontext.images.outlines import connected, fill, parts, rings
from incontext.images.write import encode_mask
from incontext.types import Palette

pytest.importorskip("hypothesis", reason="needs hypothesis, of the extra dev")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")

SIDES = st.integers(1, 24)
SIZES = st.tuples(SIDES, SIDES)


def ids(elements: st.SearchStrategy[int], sides: st.SearchStrategy[tuple[int, int]] = SIZES) -> Any:
    """Masks (H, W) uint8 of these ids."""
    return arrays.arrays(np.uint8, sides, elements=elements)


FEW_IDS, ALL_IDS = st.integers(0, 3), st.integers(0, 255)
FLAGS = arrays.arrays(np.bool_, SIZES)


# ------------------------------------------------------------------------------------------------ masks


@given(ids(ALL_IDS))
def test_a_mask_that_is_written_is_read_back(mask: npt.NDArray[np.uint8]) -> None:
    table = Palette.spread(range(1, 255)).table
    read = read_mask(Image.open(io.BytesIO(encode_mask(mask, table))))
    np.testing.assert_array_equal(read.ids, mask)
    assert read.colors is not None
    for i in set(np.unique(mask).tolist()) - {0}:
        np.testing.assert_array_equal(read.colors[i], table[i])


@given(ids(FEW_IDS, st.tuples(st.integers(1, 6), st.integers(1, 6))), st.randoms(use_true_random=False))
def test_colours_stand_for_ids_in_the_order_of_colours(mask: npt.NDArray[np.uint8], random: Any) -> None:
    """Each cell is 6 x 6 pixels, so that every colour is a main one."""
    large = np.kron(mask, np.ones((6, 6), np.uint8))
    colors = np.array([(0, 0, 0), *random.sample([(r, g, b) for r in (0, 255) for g in (0, 90) for b in (60, 200)], 3)])
    read = read_mask(colors[large].astype(np.uint8))
    shown = sorted({tuple(colors[i].tolist()) for i in np.unique(mask) if i})
    number = {color: i + 1 for i, color in enumerate(shown)}
    expected = np.array([0, *(number.get(tuple(color), 0) for color in colors[1:].tolist())], np.uint8)[large]
    np.testing.assert_array_equal(read.ids, expected)


@given(FLAGS)
def test_run_lengths_give_the_mask_back(selected: npt.NDArray[np.bool_]) -> None:
    encoded, size = rle.from_mask(selected), (selected.shape[0], selected.shape[1])
    assert encoded["size"] == list(size)
    for counts in (encoded["counts"], rle.runs(selected)):
        np.testing.assert_array_equal(rle.to_mask(counts, size), selected)


# --------------------------------------------------------------------------------------------- outlines


@given(FLAGS)
def test_outlines_filled_are_the_mask(selected: npt.NDArray[np.bool_]) -> None:
    outlines = rings(selected)
    np.testing.assert_array_equal(fill(outlines, (selected.shape[0], selected.shape[1])), selected)
    assert sum(area(ring) for ring in outlines) == np.count_nonzero(selected)


@given(FLAGS)
def test_parts_are_the_regions_with_their_holes(selected: npt.NDArray[np.bool_]) -> None:
    labels, found = connected(selected, diagonal=False), parts(selected)
    assert len(found) == labels.max(initial=0)
    size = (selected.shape[0], selected.shape[1])
    for number, part in enumerate(found, start=1):
        assert area(part.outer) > 0 > max((area(hole) for hole in part.holes), default=-1)
        np.testing.assert_array_equal(fill([part.outer, *part.holes], size), labels == number)


@given(ids(FEW_IDS), st.booleans())
def test_regions_are_those_that_scipy_finds_for_each_id(mask: npt.NDArray[np.uint8], diagonal: bool) -> None:
    from scipy import ndimage

    labels = connected(mask, diagonal=diagonal)
    assert np.array_equal(labels == 0, mask == 0)
    firsts = [int(np.flatnonzero(labels == number)[0]) for number in range(1, labels.max(initial=0) + 1)]
    assert firsts == sorted(firsts)
    structure = np.ones((3, 3)) if diagonal else None
    for i in set(np.unique(mask).tolist()) - {0}:
        expected, count = ndimage.label(mask == i, structure)
        pairs = {(int(a), int(b)) for a, b in zip(expected[mask == i], labels[mask == i], strict=True)}
        assert len(pairs) == count == len({b for _, b in pairs})


def area(ring: npt.NDArray[np.int32]) -> float:
    x, y = ring.T.astype(np.int64)
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


# ---------------------------------------------------------------------------------------------- windows


@given(st.tuples(st.integers(1, 900), st.integers(1, 900)), st.integers(16, 400))
def test_windows_cover_an_image_and_overlap(size: tuple[int, int], side: int) -> None:
    cut = windows(size, side)
    seen = np.zeros(size, np.int32)
    for window in cut:
        assert (window.height, window.width) == (min(side, size[0]), min(side, size[1]))
        part = window.of(seen)
        assert part.shape == (window.height, window.width), "inside of the image"
        part += 1
    assert seen.min() == 1 or len(cut) > 1
    assert seen.min() >= 1
    for axis, length in ((0, size[0]), (1, size[1])):
        starts = sorted({(window.top, window.left)[axis] for window in cut})
        assert starts[-1] == max(0, length - side)
        assert all(later - one <= side * (1 - OVERLAP) + 1 for one, later in pairwise(starts))


# ------------------------------------------------------------------------------------------------ votes


@st.composite
def votes(draw: Callable[..., Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What was read at a small size: ids and confidence."""
    found = draw(ids(FEW_IDS, st.tuples(st.integers(1, 9), st.integers(1, 9))))
    sure = draw(arrays.arrays(np.float32, found.shape, elements=st.floats(0, 1, width=32)))
    return torch.from_numpy(found.copy()), torch.from_numpy(sure.copy())


@given(votes(), SIZES)
def test_an_election_invents_no_id_and_no_certainty(
    read: tuple[torch.Tensor, torch.Tensor], size: tuple[int, int]
) -> None:
    found, sure = elect(*read, size)
    assert found.shape == sure.shape == size
    assert set(np.unique(found).tolist()) <= set(torch.unique(read[0]).tolist())
    assert 0 <= sure.min() <= sure.max() <= max(float(read[1].max()), 1e-6) + 1e-6
    again, _ = elect(read[0].flip(1), read[1].flip(1), size)
    ties = sure < 1e-5
    np.testing.assert_array_equal(found[~ties], again[:, ::-1][~ties], err_msg="left and right are alike")


@given(votes(), SIZES)
def test_where_all_agree_all_is_that(read: tuple[torch.Tensor, torch.Tensor], size: tuple[int, int]) -> None:
    same, sure = elect(torch.full_like(read[0], 7), torch.full_like(read[1], 0.5), size)
    assert set(same.ravel().tolist()) == {7}
    np.testing.assert_allclose(sure, 0.5, atol=1e-6)


@given(votes(), SIZES)
def test_one_window_over_all_is_no_window(read: tuple[torch.Tensor, torch.Tensor], size: tuple[int, int]) -> None:
    whole, lead = elect_windows([Reading(Window(0, 0, *size), *read)], size)
    plain, sure = elect(*read, size)
    if tuple(read[0].shape) != size:
        np.testing.assert_allclose(lead, sure, atol=1e-4)
        clear = sure > 1e-3
        np.testing.assert_array_equal(whole[clear], plain[clear])


# ---------------------------------------------------------------------------------------------- journal

# As the gate for names lets them through: without control characters, separators and drives.
NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\:"), min_size=1, max_size=8
).filter(lambda name: name.strip() and name not in {".", ".."})
REPORTS = st.builds(
    FileReport,
    query=NAMES,
    mask=st.none() | NAMES,
    ids=st.none() | st.lists(st.integers(1, 254), max_size=3).map(tuple),
    areas=st.none() | st.dictionaries(st.integers(1, 254), st.integers(0, 10**8), max_size=2),
    seconds=st.floats(0, 100),
    error=st.none() | st.text(max_size=20),
)


@given(st.lists(st.tuples(st.integers(0, 5), REPORTS), max_size=8), st.data())
def test_a_journal_that_was_cut_anywhere_goes_on_from_its_whole_lines(
    written: list[tuple[int, FileReport]], data: st.DataObject
) -> None:
    job = {"weights": "tiny"}
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        with Journal(out, job, None) as journal:
            head = (out / JOURNAL_NAME).stat().st_size
            ends = [head]
            for number, report in written:
                journal.add(number, report)
                ends.append((out / JOURNAL_NAME).stat().st_size)
        cut = data.draw(st.integers(head, ends[-1]), label="bytes that were written before the kill")
        with (out / JOURNAL_NAME).open("r+b") as stream:
            stream.truncate(cut)
        whole = [each for each, end in zip(written, ends[1:], strict=True) if end <= cut]
        earlier = find_earlier(out, job)
        assert earlier is not None
        assert earlier.was_killed
        assert list(earlier.lines()) == [report.to_line() for _, report in whole]
        numbers = iter([number for number, _ in whole])
        last = dict(whole)
        with Journal(out, job, earlier) as journal:
            assert journal.keep(lambda _: next(numbers)) == len(last)
            assert {number: journal.read(number) for number in range(6) if number in journal} == last
            more = FileReport(query="later", error="none")
            journal.add(5, more)
            assert journal.read(5) == more
