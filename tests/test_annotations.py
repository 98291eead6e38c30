"""What all annotation formats share: ids and names, things, masks as images, telling formats apart, prompts."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from labels import CATEGORIES, annotation, areas, coco, hard_masks, results, write_images, write_json
from PIL import Image

from incontext.annotations import FORMATS, Categories, Labelled, Result, Thing, open_labels
from incontext.annotations.agree import agreed, renumbered
from incontext.annotations.core import paint, things_of
from incontext.annotations.exports import folders_for, writable, write_all
from incontext.annotations.instances import split
from incontext.annotations.joining import relative_name
from incontext.annotations.values import checked_size, is_number, size_of_image
from incontext.examples import PromptWarning, gather, open_prompts, read_empty
from incontext.images.masks import read_mask
from incontext.training.sets import read_set

# ------------------------------------------------------------------------------------------------- ids and names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat", "dog"], {1: "cat", 2: "dog"}),
        (["7", "3"], {3: "3", 7: "7"}),
        (["254"], {254: "254"}),
        (["0", "1"], {1: "0", 2: "1"}),
        (["255", "1"], {1: "255", 2: "1"}),
        (["3", "3"], {1: "3", 2: "3"}),
        (["3", "cat"], {1: "3", 2: "cat"}),
        ([], {}),
    ],
)
def test_listed_names_are_counted_or_are_ids(names: list[str], expected: dict[int, str]) -> None:
    categories = Categories.listed(names)
    assert dict(categories.names) == expected
    assert list(categories.names) == sorted(expected)


def test_categories_keep_colours_that_can_be_told_apart() -> None:
    own = Categories({5: "a", 2: "b"}, {5: (9, 9, 9), 2: (1, 2, 3)})
    assert own.palette.ids.tolist() == [0, 2, 5]
    assert own.palette.colors.tolist() == [[0, 0, 0], [1, 2, 3], [9, 9, 9]]
    for colors in ({5: (9, 9, 9), 2: (9, 9, 9)}, {5: (0, 0, 0), 2: (9, 9, 9)}, {5: (9, 9, 9)}, {}):
        spread = Categories({5: "a", 2: "b"}, colors).palette.colors
        assert spread.tolist() == [[0, 0, 0], [255, 255, 255], [255, 0, 0]]
    for names in ({0: "x"}, {255: "x"}):
        with pytest.raises(ValueError, match=r"ids in 1\.\.254"):
            Categories(names)
    with pytest.raises(ValueError, match="at most 254 categories, got 255"):
        Categories.listed(map(str, range(255)))


def test_names_agree_or_are_counted_anew() -> None:
    same, maps = agreed([Categories({1: "cat"}), Categories({3: "dog", 1: "cat"}, {3: (1, 2, 3)})])
    assert (dict(same.names), dict(same.colors)) == ({1: "cat", 3: "dog"}, {3: (1, 2, 3)})
    assert maps == [{1: 1}, {1: 1, 3: 3}]
    anew, maps = agreed([Categories({1: "dog"}, {1: (1, 2, 3)}), Categories({1: "cat", 9: "dog"})])
    assert (dict(anew.names), dict(anew.colors)) == ({1: "dog", 2: "cat"}, {1: (1, 2, 3)})
    assert maps == [{1: 1}, {1: 2, 9: 1}]
    ignored = Thing(0, np.ones((1, 1), bool), 0, 1, is_ignored=True)
    image = Labelled(PurePosixPath("a"), (1, 2), Path("f"), lambda: [Thing(9, np.ones((1, 1), bool), 0, 0), ignored])
    assert renumbered(image, maps[1]).mask().tolist() == [[1, 255]]
    many = [Categories({i: f"{part}{i}" for i in range(1, 200)}) for part in "ab"]
    with pytest.raises(ValueError, match="at most 254 categories in all annotations together, got 398"):
        agreed(many)


def test_one_name_under_two_ids_is_one_id() -> None:
    """Ids differ from file to file where names are listed; what is called the same is the same."""
    names, maps = agreed([Categories({1: "cat", 2: "dog"}), Categories({3: "cat"})])
    assert dict(names.names) == {1: "cat", 2: "dog"}
    assert maps == [{1: 1, 2: 2}, {3: 1}]


# ------------------------------------------------------------------------------------------------------- things


def test_things_are_cut_to_their_boxes() -> None:
    selected = np.zeros((5, 6), bool)
    selected[1:3, 2:5] = True
    thing = Thing.cut(4, selected, top=10, left=20)
    assert thing is not None
    assert (thing.box, thing.area, thing.selected.shape) == ((22, 11, 3, 2), 6, (2, 3))
    assert np.argwhere(thing.whole((40, 40)))[[0, -1]].tolist() == [[11, 22], [12, 24]]
    assert Thing.cut(4, selected * False) is None


def test_masks_are_things_and_things_masks() -> None:
    for mask in hard_masks().values():
        things = things_of(mask, {1: 0.25})
        np.testing.assert_array_equal(paint(things, mask.shape), mask)
        np.testing.assert_array_equal(paint(split(things), mask.shape), mask)
        assert [t.category for t in things] == [i % 255 for i in np.unique(mask) if i]
        assert all(thing.confidence == (0.25 if thing.category == 1 else None) for thing in things)


def test_connected_parts_are_things_of_their_own() -> None:
    mask = np.zeros((8, 12), np.uint8)
    mask[0:2, 0:2] = mask[2:4, 2:4] = 7  # touch at a corner: one thing
    mask[6:8, 5:8] = 7
    mask[0, 11] = 7
    mask[5, 0] = 255
    things = things_of(mask, {7: 0.5})
    assert areas(split(things)) == [(7, 8), (7, 1), (7, 6), (0, 1)]
    assert areas(split(things, smallest=2)) == [(7, 8), (7, 6), (0, 1)]
    assert {thing.confidence for thing in split(things)} == {0.5, None}
    assert len(np.unique(paint(split(things), mask.shape, "instances"))) == 5


# --------------------------------------------------------------------------------------------------- small things


@pytest.mark.parametrize(
    "text", ["../a.png", "a/../../b", "/a", "\\a", "C:/a.png", "", " ", ".", "a\0b", None, 3, ["a"]]
)
def test_names_that_lead_out_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        relative_name(text)


def test_names_that_stay_inside_are_kept() -> None:
    assert [str(relative_name(text)) for text in ("a/b.png", "a\\b.png", "./ä 1.jpg", "a..b")] == [
        "a/b.png",
        "a/b.png",
        "ä 1.jpg",
        "a..b",
    ]


def test_numbers_and_sizes() -> None:
    refused = [True, None, "1", float("nan"), float("inf"), 10**400, [1]]
    assert [is_number(value) for value in (1, -1.5, 0)] + [is_number(value) for value in refused] == [True] * 3 + [
        False
    ] * 7
    assert checked_size(3.0, 4) == (3, 4)
    for height in (0, -1, 1.5, None, "3", 10**9):
        with pytest.raises(ValueError, match="expected"):
            checked_size(height, 4)


def test_the_size_of_an_image_that_lies(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 3)).save(tmp_path / "lies.jpg", exif=exif)
    assert size_of_image(tmp_path / "lies.jpg") == (7, 3)
    (tmp_path / "no.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match="cannot be read"):
        size_of_image(tmp_path / "no.jpg")


# --------------------------------------------------------------------------------------------------- masks as files


def export(out: Path, kinds: str, every: list[Result], categories: Categories = CATEGORIES) -> list[str]:
    formats, told = writable(kinds.split(",")), list[str]()
    folders = folders_for(formats, out, apart=len(formats) > 1)
    assert write_all(every, formats, folders, categories, on_problem=told.append) == len(every)
    return told


def test_indexed_masks_come_back_with_their_colours(tmp_path: Path) -> None:
    masks = hard_masks()
    assert export(tmp_path, "indexed", results(masks)) == []
    for name, mask in masks.items():
        file = read_mask((tmp_path / name).with_suffix(".png"))
        np.testing.assert_array_equal(file.ids, mask)
        assert file.colors is not None
        np.testing.assert_array_equal(file.colors, CATEGORIES.palette.table)


def test_an_image_for_each_class(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2], [255, 3, 254]], np.uint8)
    export(tmp_path, "classes", results({"s/a.jpg": mask}))
    found = {p.relative_to(tmp_path).as_posix(): np.asarray(Image.open(p)).tolist() for p in tmp_path.rglob("*.png")}
    assert found == {
        "cat/s/a.png": [[0, 255, 0], [128, 0, 0]],
        "dog, wet/s/a.png": [[0, 0, 255], [128, 0, 0]],
        "Straße_2/s/a.png": [[0, 0, 0], [128, 255, 0]],
        "sky/s/a.png": [[0, 0, 0], [128, 0, 255]],
    }


def test_classes_get_folders_that_any_disk_can_hold(tmp_path: Path) -> None:
    names = {1: "Cat", 2: "cat", 3: "../..", 4: "", 5: "a" * 300, 6: "con:x", 7: ".hidden"}
    mask = np.arange(8, dtype=np.uint8)[None]
    export(tmp_path, "classes", results({"a.png": mask}), Categories(names))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["1_Cat", "2_cat", "3____", "4_", "a" * 100, "con_x", "_hidden"]
    )
    assert len(list(tmp_path.rglob("a.png"))) == 7


def test_an_id_for_each_object(tmp_path: Path) -> None:
    mask = np.array([[1, 0, 1, 0, 2], [0, 0, 0, 0, 255]], np.uint8)
    every = [Result(PurePosixPath("a.jpg"), mask, split(things_of(mask)))]
    export(tmp_path, "objects", every)
    assert read_mask(tmp_path / "a.png").ids.tolist() == [[1, 0, 2, 0, 3], [0, 0, 0, 0, 255]]


def test_what_a_format_cannot_hold_is_left_out_of_it_alone(tmp_path: Path) -> None:
    mask = np.zeros((2, 600), np.uint8)
    mask[0, ::2] = 1
    every = [Result(PurePosixPath(name), mask, split(things_of(mask))) for name in ("a.png", "b.png")]
    told = export(tmp_path, "objects,indexed", every)
    assert [sentence.partition(":")[0] for sentence in told] == ["a.png", "b.png"]
    assert "left out of objects: expected at most 254 objects" in told[0]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")) == [
        "indexed/a.png",
        "indexed/b.png",
    ]


def test_images_that_differ_in_their_suffix_do_not_overwrite_each_other(tmp_path: Path) -> None:
    masks = {name: np.full((2, 3), i, np.uint8) for i, name in enumerate(("s/a.jpg", "s/a.png", "a.png"), start=1)}
    told = export(tmp_path, "indexed,coco,labelme", results(masks))
    assert [sentence.partition(": expected")[0] for sentence in told] == [
        "s/a.png: left out of indexed",
        "s/a.png: left out of labelme",
    ]
    assert len(open_labels(tmp_path / "coco")) == 3
    assert read_mask(tmp_path / "indexed" / "s" / "a.png").ids.tolist() == [[1, 1, 1]] * 2
    assert read_mask(tmp_path / "indexed" / "a.png").ids.tolist() == [[3, 3, 3]] * 2


@pytest.mark.parametrize("names", [[], ["coco", "coco"], ["json"], ["davis"]])
def test_formats_that_cannot_be_written_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        writable(names)


# ------------------------------------------------------------------------------------------- telling formats apart


def test_formats_have_names_of_their_own_and_say_what_they_are() -> None:
    names = [each.name for each in FORMATS]
    assert len(set(names)) == len(names)
    for each in FORMATS:
        assert each.about
        assert (each.read is None) == (each.recognises is None)
        assert each.read or each.write


def test_a_folder_with_one_annotation_file_is_that_file(tmp_path: Path) -> None:
    write_json(tmp_path / "notes.json", {"anything": 1})
    (tmp_path / "broken.json").write_text("{")
    write_json(tmp_path / "annotations" / "x.json", coco())
    labels = open_labels(tmp_path)
    assert (labels.path, labels.format, len(labels)) == (tmp_path / "annotations" / "x.json", "coco", 1)
    write_json(tmp_path / "y.json", coco())
    with pytest.raises(
        ValueError, match=r"one kind of annotations, got 2: .*y\.json \(coco\), .*x\.json \(coco\); name"
    ):
        open_labels(tmp_path)


def test_many_large_files_are_not_read_to_see_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_json(tmp_path / f"{name}.json", coco())
    monkeypatch.setattr("incontext.annotations.known._LARGE", 10)
    monkeypatch.setattr("incontext.annotations.core.read_json", lambda _: pytest.fail("a large file was read"))
    with pytest.raises(ValueError, match="expected one annotation file, got 3; name the file meant"):
        open_labels(tmp_path)


def test_what_is_no_annotation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_labels(tmp_path / "no")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="got something else, such as a pipe"):
        open_labels(tmp_path / "pipe.json")
    (tmp_path / "a.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(ValueError, match=r"expected annotations, got something else; understood are .*coco \(COCO"):
            open_labels(path)


# ----------------------------------------------------------------------------------------------------- as prompts


def labelled_set(folder: Path, count: int = 4) -> Path:
    """A COCO set of images; the first shows nothing, the last is missing."""
    images = [{"id": n, "file_name": f"p{n}.png", "height": 6, "width": 8} for n in range(count + 1)]
    rows = [annotation(id=n, image_id=n, category_id=3 if n % 2 else 5) for n in range(1, count + 1)]
    write_images(folder / "images", {f"p{n}.png": np.zeros((6, 8)) for n in range(count)})
    return write_json(folder / "instances.json", coco(images=images, annotations=rows))


@pytest.mark.parametrize("given", ["file", "folder"])
def test_annotations_are_prompts_with_names(tmp_path: Path, given: str) -> None:
    file = labelled_set(tmp_path)
    with pytest.warns(PromptWarning, match=r"left out 1 image without a file: p4\.png"):
        files = gather(source=file if given == "file" else tmp_path)
    opened = open_prompts(files)
    assert dict(opened.names) == {3: "cat", 5: "dog"}
    assert [prompt.ids for prompt in opened.prompts] == [(3,), (5,), (3,)]
    assert [(image.name, mask) for image, mask in opened.pairs] == [(f"p{n}.png", file) for n in (1, 2, 3)]
    assert [image.name for image, _ in opened.empty] == ["p0.png"]
    assert read_empty(opened.empty[0], longest=4).shape == (3, 4, 3)
    for prompt in opened.prompts:
        assert prompt.palette is not None
        assert prompt.palette.ids.tolist() == [0, 3, 5]
        assert int((prompt.mask > 0).sum()) == 12


def test_an_annotation_file_stands_for_a_mask(tmp_path: Path) -> None:
    file = labelled_set(tmp_path)
    image = tmp_path / "images" / "p2.png"
    opened = open_prompts(gather([(image, file)]))
    assert (opened.pairs, dict(opened.names)) == (((image, file),), {5: "dog"})
    with pytest.raises(ValueError, match="expected a mask that marks something"):
        open_prompts(gather([(tmp_path / "images" / "p0.png", file)]))
    Image.new("RGB", (6, 8)).save(tmp_path / "p2.png")
    with pytest.raises(ValueError, match=r"instances\.json: p2\.png: expected a mask of the image's size 6 x 8"):
        open_prompts(gather([(tmp_path / "p2.png", file)]))
    Image.new("RGB", (6, 8)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"expected labels of .*other\.png, found none among those of 5 images"):
        gather([(tmp_path / "other.png", file)])
    with pytest.raises(FileNotFoundError, match="no such file"):
        gather([(tmp_path / "missing.png", file)])


def test_a_file_of_one_image_stands_for_its_mask_whatever_the_image_is_called(tmp_path: Path) -> None:
    file = write_json(tmp_path / "one.json", coco())
    Image.new("RGB", (8, 6)).save(tmp_path / "renamed.jpg")
    assert open_prompts(gather([(tmp_path / "renamed.jpg", file)])).prompts[0].ids == (3, 5)


def test_names_of_several_files_mean_the_same(tmp_path: Path) -> None:
    """One file calls 3 a cat, the other 5: as prompts both are cats."""
    first = write_json(tmp_path / "1.json", coco(annotations=[annotation()]))
    kinds = [{"id": 3, "name": "dog"}, {"id": 5, "name": "cat"}]
    other = coco(
        categories=kinds, annotations=[annotation(), annotation(category_id=5, segmentation=[[5, 0, 8, 0, 8, 2]])]
    )
    second = write_json(tmp_path / "2.json", other)
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    a, b = open_prompts(gather([(tmp_path / "a.png", first), (tmp_path / "a.png", second)])).prompts
    assert (a.mask[0, 0], b.mask[0, 0], b.mask[0, 7]) == (1, 2, 1)


def test_context_files_name_annotations(tmp_path: Path) -> None:
    labelled_set(tmp_path)
    rows = [{"image": f"images/p{n}.png", "mask": "instances.json"} for n in (1, 2)]
    context = write_json(tmp_path / "c.json", {"format": "incontext context 1", "prompts": rows})
    opened = open_prompts(gather(source=context))
    assert [prompt.ids for prompt in opened.prompts] == [(3,), (5,)]


def test_masks_go_before_annotation_files_that_lie_beside_them(tmp_path: Path) -> None:
    labelled_set(tmp_path)
    mask = np.zeros((6, 8), np.uint8)
    mask[2:, 2:] = 9
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "p1.png")
    with pytest.warns(PromptWarning, match="3 images without a mask"):
        opened = open_prompts(gather(source=tmp_path))
    assert [prompt.ids for prompt in opened.prompts] == [(9,)]


def test_annotations_without_images_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "i.json", coco(annotations=[annotation(category_id=0), annotation()]))
    with pytest.raises(ValueError, match=r"the images that it names in their folder, found none of a\.png \(.*categ"):
        gather(source=tmp_path)
    write_json(tmp_path / "i.json", coco(annotations=[annotation(image_id=0)]))
    with pytest.raises(ValueError, match=r"found none of them, as it names none \(.*1 image without annotations"):
        gather(source=tmp_path)


def test_training_reads_annotations(tmp_path: Path) -> None:
    labelled_set(tmp_path / "set")
    with pytest.warns(UserWarning, match="1 of 5 images are not there"):
        read = read_set(tmp_path / "set", shorter_side=256)
    assert (len(read.images), set(read.by_id)) == (4, {3, 5})
    assert [sorted(np.unique(mask).tolist()) for mask in read.masks] == [[0], [0, 3], [0, 5], [0, 3]]
    with pytest.raises(FileNotFoundError):
        read_set(tmp_path / "no")
