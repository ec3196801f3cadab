"""Data sets: which images, in which order, with which labels, and what is refused."""

import csv
import time
from collections import Counter
from pathlib import Path

import pytest

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.images.dataset import make_dataset
from mnv4_deploy.models.weights import find_bundle, imagenet_labels, read_labels
from mnv4_deploy.tasks.classification.labels import Head
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from tests.astray import NO_FILES, TOO_LARGE
from tests.drift.classifiers import make_subject
from tests.time_limit import in_time

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "imagenet-cc-by"
PETS = ("cat", "hound, dog", "guinea_pig")


def subject(labels=PETS, num_classes=None, **fields):
    count = num_classes or len(labels)
    return make_subject(Path("/m/x.onnx"), labels=labels, num_classes=count, **fields)


def imagenet(shift=0):
    labels = (*(("background",) * shift), *imagenet_labels(1000))
    return subject(labels)


def open_dataset(data, head, *, limit=None, seed=0, labels_file=None):
    found = CLASSIFICATION.find_images(data, "evaluation", head, labels_file)
    return make_dataset(found, limit=limit, seed=seed)


def touch(root, names):
    """Files that are no images: listing must not open them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def flat(root, count=20):
    return touch(root, [f"{i:02}.jpg" for i in range(count)])


def labels_of(dataset):
    return {image.name: image.truth for image in dataset.images}


# Bundled


def test_bundled_images_of_a_cifar_head():
    bundle = find_bundle("hybrid-m")
    found = open_dataset("bundled", subject(bundle.labels))
    assert found.name == "hybrid-m-cifar10/evaluation" and found.labelled
    assert Counter(image.truth for image in found.images) == dict.fromkeys(range(10), 100)
    for image in found.images[::97]:
        assert image.name.startswith(bundle.labels[image.truth or 0] + "/")
        assert Path(image.path).samefile(Path(found.root) / image.name)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("known", [True, False])
def test_bundled_photographs_of_an_imagenet_head(shift, known):
    """TensorFlow's heads have a class more, in front."""
    head = imagenet(shift) if known else subject((), num_classes=1000 + shift)
    found = open_dataset("bundled", head)
    with (Path(found.root).parent / "labels.csv").open(newline="", encoding="utf-8") as file:
        truth = {row["file"]: int(row["imagenet_index"]) for row in csv.DictReader(file)}
    assert len(found.images) == 64
    for image in found.images:
        assert image.truth == truth[f"evaluation/{image.name}"] + shift


def test_other_heads_get_photographs_without_labels():
    found = open_dataset("bundled", subject())
    assert len(found.images) == 64 and not found.labelled


# Class folders


@pytest.mark.parametrize(
    ("folders", "head", "expected"),
    [
        (("Cat", "dog", "guinea pig"), subject(), (0, 1, 2)),
        (("dog", "cat"), subject(), (1, 0)),
        (("a", "b", "c"), subject(), (0, 1, 2)),
        (("0", "10", "2"), subject((), num_classes=12), (0, 10, 2)),
        (("n01440764", "n02172182"), imagenet(), (0, 305)),
        (("n01440764", "tench, Tinca tinca"), imagenet(), (0, 0)),
        (("goldfish", "dung beetle"), imagenet(1), (2, 306)),
        (("n01440764", "n02172182"), subject((), num_classes=1000), (0, 305)),
        (("photos",), subject(), (None,)),
    ],
)
def test_class_folders(tmp_path, folders, head, expected):
    for folder in folders:
        flat(tmp_path / folder)
    found = open_dataset(str(tmp_path), head)
    assert len(found.images) == 20 * len(folders)
    for folder, label in zip(folders, expected, strict=True):
        mine = {v for k, v in labels_of(found).items() if k.startswith(f"{folder}/")}
        assert mine == {label}
    assert found.labelled == (expected != (None,))


def test_loose_images_beside_class_folders_have_no_label(tmp_path):
    flat(tmp_path / "cat")
    touch(tmp_path, ["loose.png"])
    labels = labels_of(open_dataset(str(tmp_path), subject()))
    assert labels["loose.png"] is None and labels["cat/00.jpg"] == 0


@pytest.mark.parametrize(
    ("folders", "head", "complaint"),
    [
        (("cat", "horse"), subject(), "'horse' is none of the 3 classes"),
        (("cow", "horse"), subject(), "'cow' is none of the 3 classes"),
        (("0", "3"), subject((), num_classes=3), "'0' is none of the 3 classes"),
        (("n01440764", "n99999999"), imagenet(), "'n99999999' is none of the 1000"),
        (("crane", "goldfish"), imagenet(), "'crane' is none"),  # a bird and a machine
        (("9" * 200, "1"), subject((), num_classes=3), "is none of the 3"),
    ],
)
def test_folders_that_are_not_the_heads_classes(tmp_path, folders, head, complaint):
    for folder in folders:
        flat(tmp_path / folder)
    with pytest.raises(ImagesError, match=complaint):
        open_dataset(str(tmp_path), head)


# Labels files


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("labels.csv", "file,label\n00.jpg,2\n01.jpg,0\n", (2, 0)),
        ("labels.csv", "\ufefffilename;class\n00.jpg;Dog\n01.jpg;cat\n", (1, 0)),
        ("labels.csv", "00.jpg,1\n01.jpg,2\n", (1, 2)),
        ("truth.csv", "author,label,file\nme,1,00.jpg\nyou,2,./01.jpg\n", (1, 2)),
        ("labels.txt", "00.jpg 1\n\n01.jpg  2\n", (1, 2)),
        ("labels.txt", "00.jpg guinea pig\n01.jpg hound, dog\n", (2, 1)),
        ("val.txt", "00 1\n01 2\n", (1, 2)),
        ("labels.txt", "00.jpg\t1\n01.jpg\t2\n", (1, 2)),
    ],
)
def test_labels_files(tmp_path, name, text, expected):
    (flat(tmp_path) / name).write_text(text, encoding="utf-8")
    labels = labels_of(open_dataset(str(tmp_path), subject()))
    assert (labels["00.jpg"], labels["01.jpg"]) == expected
    assert labels["02.jpg"] is None


@pytest.mark.parametrize("shift", [0, 1])
def test_imagenet_labels_files(tmp_path, shift):
    flat(tmp_path)
    (tmp_path / "labels.csv").write_text("file,imagenet_index,label\n00.jpg,305,7\n")
    assert labels_of(open_dataset(str(tmp_path), imagenet(shift)))["00.jpg"] == 305 + shift
    (tmp_path / "labels.csv").write_text("ImageId,PredictionString\n00,n02172182 1 2 30 40\n")
    assert labels_of(open_dataset(str(tmp_path), imagenet(shift)))["00.jpg"] == 305 + shift
    # An index without a name is the head's own.
    (tmp_path / "labels.csv").write_text("file,label\n00.jpg,305\n")
    assert labels_of(open_dataset(str(tmp_path), imagenet(shift)))["00.jpg"] == 305


def test_a_list_of_class_names_is_no_labels_file(tmp_path):
    for folder in ("cat", "dog"):
        flat(tmp_path / folder)
    (tmp_path / "labels.txt").write_text("\n".join(PETS))
    (tmp_path / "scores.csv").write_text("cat/00.jpg,0.93\n")
    labels = labels_of(open_dataset(str(tmp_path), subject()))
    assert labels["cat/00.jpg"] == 0 and labels["dog/00.jpg"] == 1


def test_a_given_labels_file_counts_before_what_is_found(tmp_path):
    flat(tmp_path / "images" / "cat")
    (tmp_path / "images" / "labels.csv").write_text("file,label\ncat/00.jpg,0\n")
    (tmp_path / "mine.txt").write_text("cat/00.jpg 2\n")
    given = str(tmp_path / "mine.txt")
    labels = labels_of(open_dataset(str(tmp_path / "images"), subject(), labels_file=given))
    assert labels["cat/00.jpg"] == 2 and labels["cat/01.jpg"] is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,label\n00.jpg,3\n", r"class 3 of '00\.jpg', but x\.onnx has 3 classes"),
        ("file,label\n00.jpg,-1\n", "class -1"),
        ("file,label\n00.jpg,cat\n01.jpg,horse\n", r"class 'horse' of '01\.jpg'.*guinea_pig"),
        ("file,label\n00.jpg," + "9" * 5000 + "\n", "does not know"),
        ("file,label\n00.jpg,\n", "class '' of"),
        ("file,label\n00.jpg,1\n00.jpg,2\n", "two classes, 1 and 2"),
        ("file,label\nother.jpg,1\n", "names none of the images.*'other.jpg'"),
        ("", "names none of the images"),
        ('file,label\n"00.jpg,1\n' + "x" * 200000, "cannot be read"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_labels_files_that_do_not_match(tmp_path, text, complaint):
    path = flat(tmp_path / "images").parent / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ImagesError, match=complaint) as caught:
        open_dataset(str(tmp_path / "images"), subject(), labels_file=str(path))
    assert len(str(caught.value)) < 6000


def test_missing_and_ambiguous_labels_files(tmp_path):
    flat(tmp_path)
    with pytest.raises(ImagesError, match="cannot be read"):
        open_dataset(str(tmp_path), subject(), labels_file=str(tmp_path / "gone.csv"))
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("file,label\n00.jpg,1\n")
    with pytest.raises(ImagesError, match=r"a\.csv, b\.csv.*--labels"):
        open_dataset(str(tmp_path), subject())


# Folders as such, and choice


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    flat(tmp_path / "few", 15)
    for name, complaint in (("gone", "does not exist"), ("empty", "no images"), ("few", "has 15")):
        with pytest.raises(ImagesError, match=complaint):
            open_dataset(str(tmp_path / name), subject())
    with pytest.raises(ImagesError, match="15 images are too few"):
        open_dataset("bundled", subject(), limit=15)


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_neither_an_image_nor_labels(tmp_path, name):
    (tmp_path / "data").mkdir()
    root = flat(tmp_path / "data")
    NO_FILES[name](root / "x.jpg")
    (root / "pipe").unlink(missing_ok=True)
    NO_FILES[name](root / "labels.csv")
    with in_time():
        found = open_dataset(str(root), subject())
        with pytest.raises(ImagesError, match=r"labels\.csv"):
            open_dataset(str(root), subject(), labels_file=str(root / "labels.csv"))
    assert len(found.images) == 20 and not found.labelled


@pytest.mark.parametrize("name", TOO_LARGE)
def test_labels_files_have_a_limit(tmp_path, name):
    (tmp_path / "data").mkdir()
    root = flat(tmp_path / "data")
    TOO_LARGE[name](root / "labels.csv")
    with in_time():
        assert not open_dataset(str(root), subject()).labelled
        with pytest.raises(ImagesError, match=r"labels\.csv"):
            open_dataset(str(root), subject(), labels_file=str(root / "labels.csv"))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_labels_files_of_every_system(tmp_path, ending):
    (tmp_path / "data").mkdir()
    root = flat(tmp_path / "data")
    text = ending.join(["\ufefffile;label", "00.jpg;cat", "01.jpg;guinea_pig", ""])
    (root / "truth.csv").write_bytes(text.encode())
    labels = labels_of(open_dataset(str(root), subject()))
    assert (labels["00.jpg"], labels["01.jpg"], labels["02.jpg"]) == (0, 2, None)


def test_choice_is_even_nested_and_repeatable(tmp_path):
    flat(tmp_path / "cat", 60)
    flat(tmp_path / "dog", 30)
    everything = open_dataset(str(tmp_path), subject())
    names = [image.name for image in everything.images]
    assert names == sorted(names) and len(names) == 90
    forty = open_dataset(str(tmp_path), subject(), limit=40)
    assert Counter(image.truth for image in forty.images) == {0: 20, 1: 20}
    assert open_dataset(str(tmp_path), subject(), limit=40) == forty
    assert open_dataset(str(tmp_path), subject(), limit=20).images == forty.images[:20]
    assert open_dataset(str(tmp_path), subject(), limit=500).images[:40] == forty.images
    assert open_dataset(str(tmp_path), subject(), limit=40, seed=1).images != forty.images


def test_choice_is_even_over_the_classes_of_a_labels_file(tmp_path):
    flat(tmp_path, 60)
    rows = [f"{i:02}.jpg {0 if i < 50 else 1}" for i in range(60)]
    (tmp_path / "val.txt").write_text("\n".join(rows))
    chosen = open_dataset(str(tmp_path), subject(), limit=20)
    assert Counter(image.truth for image in chosen.images) == {0: 10, 1: 10}


def test_many_images_list_fast(tmp_path):
    """None of these opens: a reader that tried would fail. 0.2 ms of CPU time each is ample."""
    ids = [wnid for wnid, _ in read_labels(1000)][:50]
    touch(tmp_path, [f"{wnid}/{i:03}.JPEG" for wnid in ids for i in range(100)])
    started = time.process_time()
    found = open_dataset(str(tmp_path), imagenet())
    assert time.process_time() - started < 1.0
    assert len(found.images) == 5000 and found.images[-1].truth == 49


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the labelled photographs are not here")
def test_labelled_photographs():
    with (PHOTOGRAPHS / "labels.csv").open(newline="", encoding="utf-8") as file:
        truth = {row["file"]: int(row["imagenet_index"]) for row in csv.DictReader(file)}
    assert labels_of(open_dataset(str(PHOTOGRAPHS), imagenet())) == truth
    shifted = labels_of(open_dataset(str(PHOTOGRAPHS), imagenet(1)))
    assert shifted == {name: index + 1 for name, index in truth.items()}


def test_a_head_knows_its_classes_by_every_unambiguous_name():
    head = Head.of(imagenet())
    for index, (wnid, label) in enumerate(read_labels(1000)):
        assert head.find(wnid) == index
        if list(imagenet_labels(1000)).count(label) == 1:
            assert head.find(label) == index
    assert head.find("Tinca_tinca") == 0 and head.find("crane") is None
    assert head.find("nonsense") is None
