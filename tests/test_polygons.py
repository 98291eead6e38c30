"""Regions and their outlines: exact rings, parts with holes, connected regions, and rings filled by two rules."""

import numpy as np
import pytest

from incontext.images import outlines


def random_masks() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    masks = [generator.random(generator.integers(1, 30, 2)) < generator.random() for _ in range(60)]
    large = np.kron(masks[0], np.ones((50, 70))) > 0
    return [*masks, np.ones((1000, 3), bool), np.zeros((7, 900), bool), large]


def area(ring: np.ndarray) -> float:
    x, y = ring.T.astype(int)
    return 0.5 * float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def filled(rings: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Even-odd filling: each upright side of a ring flips all pixels to its right."""
    flips = np.zeros((shape[0], shape[1] + 1), int)
    for ring in rings:
        for (x, y), (other_x, other_y) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            assert (x == other_x) != (y == other_y)
            if x == other_x:
                flips[min(y, other_y) : max(y, other_y), x] += 1
    return flips.cumsum(axis=1)[:, :-1] % 2 == 1


@pytest.mark.parametrize(
    ("rows", "areas"),
    [
        ([[0, 0], [0, 0]], []),
        ([[1]], [1]),
        ([[1, 1], [1, 1]], [4]),
        ([[1, 0], [0, 1]], [1, 1]),
        ([[0, 1], [1, 0]], [1, 1]),
        ([[1, 1, 1], [1, 0, 1], [1, 1, 1]], [9, -1]),
        ([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], [16, -2]),
        ([[0, 1, 0], [1, 0, 1], [0, 1, 0]], [1, 1, 1, 1]),
    ],
)
def test_rings_by_hand(rows: list[list[int]], areas: list[int]) -> None:
    assert [area(ring) for ring in outlines.rings(np.array(rows, bool))] == areas


def test_a_ring_has_only_corners() -> None:
    selected = np.zeros((20, 30), bool)
    selected[3:9, 5:25] = True
    (ring,) = outlines.rings(selected)
    assert ring.tolist() == [[5, 3], [25, 3], [25, 9], [5, 9]]


def test_rings_of_random_masks_fill_to_the_mask() -> None:
    for selected in random_masks():
        rings = outlines.rings(selected)
        assert sum(area(ring) for ring in rings) == selected.sum()
        np.testing.assert_array_equal(filled(rings, selected.shape), selected)
        np.testing.assert_array_equal(outlines.fill(rings[::-1], selected.shape), selected)


def test_parts_own_their_holes() -> None:
    selected = np.zeros((9, 20), bool)
    selected[0:9, 0:9] = True
    selected[2:7, 2:7] = False
    selected[4, 4] = True  # an island in a lake
    selected[1:4, 11:19] = True
    selected[2, (12, 14, 16)] = False
    holes = {tuple(part.outer[0].tolist()): len(part.holes) for part in outlines.parts(selected)}
    assert holes == {(0, 0): 1, (4, 4): 0, (11, 1): 3}


def test_parts_of_random_masks() -> None:
    """Each part alone fills to a region that is connected by edges, and all of them to the mask."""
    for selected in random_masks():
        together = np.zeros(selected.shape, int)
        for part in outlines.parts(selected):
            assert area(part.outer) > 0
            assert all(area(hole) < 0 for hole in part.holes)
            alone = outlines.fill([part.outer, *part.holes], selected.shape)
            assert outlines.connected(alone, diagonal=False).max() == 1
            together += alone
        np.testing.assert_array_equal(together, selected)


@pytest.mark.parametrize("diagonal", [False, True])
def test_connected_equals_flooding(diagonal: bool) -> None:
    """Against a slow flood fill, on masks of several ids."""
    generator = np.random.default_rng(1)
    steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a or b) and (diagonal or not (a and b))]
    for _ in range(40):
        ids = generator.integers(0, generator.integers(2, 4), generator.integers(1, 14, 2))
        expected, number = np.zeros(ids.shape, int), 0
        for start in zip(*np.nonzero(ids), strict=True):
            if expected[start]:
                continue
            number += 1
            waiting = [start]
            while waiting:
                y, x = waiting.pop()
                if 0 <= y < ids.shape[0] and 0 <= x < ids.shape[1] and ids[y, x] == ids[start] and not expected[y, x]:
                    expected[y, x] = number
                    waiting += [(y + a, x + b) for a, b in steps]
        np.testing.assert_array_equal(outlines.connected(ids, diagonal=diagonal), expected)


def test_a_spiral_is_one_region() -> None:
    """Long chains are what joins runs slowly, or not at all."""
    spiral = np.zeros((201, 201), bool)
    for inset in range(0, 100, 2):
        spiral[inset, max(0, inset - 2) : 201 - inset] = True
        spiral[inset : 201 - inset, 200 - inset] = True
        spiral[200 - inset, inset : 201 - inset] = True
        spiral[inset + 2 : 201 - inset, inset] = True
    assert outlines.connected(spiral, diagonal=False).max() == 1
    assert len(outlines.parts(spiral)) == 1


def as_coco(ring: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    selected = np.zeros(size, bool)
    found, top, left = outlines.filled_as_coco(ring, (size[0], size[1]))
    selected[top : top + found.shape[0], left : left + found.shape[1]] = found
    return selected


def random_rings(count: int, size: tuple[int, int], reach: float) -> list[np.ndarray]:
    generator = np.random.default_rng(2)
    return [
        generator.uniform(-reach, 1 + reach, (generator.integers(3, 12), 2)) * (size[1], size[0]) for _ in range(count)
    ]


@pytest.mark.parametrize("reach", [0, 0.6])
def test_sub_pixel_rings_are_filled_by_centres(reach: float) -> None:
    """Against counting, for each centre, the edges that cross the ray to its left."""
    size = (23, 31)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    for ring in random_rings(30, size, reach):
        inside = np.zeros(size, bool)
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            crosses = (y0 <= y) != (y1 <= y)
            inside ^= crosses & (x0 + (x1 - x0) * (y - y0) / (y1 - y0) <= x)
        np.testing.assert_array_equal(outlines.fill([ring], size), inside)


def test_a_ring_outside_fills_nothing() -> None:
    far = np.array([[100.5, 100], [1e6, 100], [1e6, 1e7]])
    assert not outlines.fill([far, -far], (5, 6)).any()
    assert not outlines.fill([], (5, 6)).any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize("reach", [0, 0.6])
def test_cocos_rule_equals_pycocotools(reach: float) -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is an outside check, not a dependency")
    small, large = (37, 52), (900, 1300)
    rings = [(ring, small) for ring in random_rings(150, small, reach)]
    rings += [(np.rint(ring / 2 + 600), large) for ring in random_rings(30, large, 0)]
    for ring, size in rings:
        (expected,) = coco.frPyObjects([ring.reshape(-1).tolist()], *size)
        np.testing.assert_array_equal(as_coco(ring, size), coco.decode(expected).astype(bool))


def test_both_rules_give_exact_rings_back() -> None:
    """What is written as a polygon is read as the same pixels by whoever uses either rule."""
    for selected in random_masks():
        for part in outlines.parts(selected):
            alone = outlines.fill([part.outer], selected.shape)
            np.testing.assert_array_equal(as_coco(part.outer, selected.shape), alone)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps are taken some at a time, with the same result."""
    size = (37, 52)
    rings = random_rings(5, size, 0.3)
    expected = [(outlines.fill([ring], size), as_coco(ring, size)) for ring in rings]
    monkeypatch.setattr(outlines, "_MOST_STEPS", 7)
    for ring, (by_centres, by_coco) in zip(rings, expected, strict=True):
        np.testing.assert_array_equal(outlines.fill([ring], size), by_centres)
        np.testing.assert_array_equal(as_coco(ring, size), by_coco)
