"""Data: held once on a machine, the same pixels each time, augmented by the batch, every fault one line."""

import itertools
import json
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fed_rebel import datasets
from fed_rebel.datasets import glyphs100, images, own
from fed_rebel.datasets.augment import Crops, batch
from fed_rebel.datasets.images import Dataset, Form, Normalisation, Split

REAL = os.environ.get("FED_REBEL_DATA")  # the fixture `cache` takes it away
NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache directory of the test's own, whatever the machine has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FED_REBEL_DATA", raising=False)
    return tmp_path / "cache" / "fed-rebel"


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def arrays(number=3, side=32, seed=0, **changes):
    """The arrays of a sound .npz, two training images and one test image a class, save for the changes."""
    rng = np.random.default_rng(seed)
    sound = {
        "x_train": rng.integers(0, 256, (2 * number, side, side, 3), dtype=np.uint8),
        "y_train": np.arange(2 * number) % number,
        "x_test": rng.integers(0, 256, (number, side, side, 3), dtype=np.uint8),
        "y_test": np.arange(number),
    }
    return {name: value for name, value in (sound | changes).items() if value is not None}


def write_npz(path, **kwargs):
    np.savez(path, **arrays(**kwargs))
    return path


def write_folder(root, size=(40, 30)):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def fault(name, data_dir):
    """The one line with which loading fails."""
    with pytest.raises(ValueError, match=r"^\S") as raised:
        datasets.load(str(name), data_dir)
    line = str(raised.value)
    assert "\n" not in line
    return line


# Held once on a machine


def test_images_are_memory_mapped_and_labels_are_integers(data_dir):
    source = write_npz(data_dir / "mine.npz")
    dataset = datasets.load(str(source), data_dir)
    for split, name in ((dataset.train, "train"), (dataset.test, "test")):
        assert isinstance(split.images, np.memmap)
        assert split.images.mode == "r"
        assert Path(split.images.filename).is_relative_to(data_dir / "mapped")
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images, arrays()[f"x_{name}"])
        np.testing.assert_array_equal(split.labels, arrays()[f"y_{name}"])
    assert dataset.classes == ("0", "1", "2")
    assert dataset.flip


def test_one_object_a_process_and_converted_anew_when_the_source_changes(data_dir):
    source = write_npz(data_dir / "mine.npz")
    first = datasets.load(str(source), data_dir)
    assert datasets.load(str(source), data_dir) is first
    write_npz(source, seed=1)
    os.utime(source, ns=(1, 1))
    assert datasets.load(str(source), data_dir).fingerprint != first.fingerprint


def test_fingerprint_and_normalisation_are_of_the_data_and_kept(data_dir):
    source = write_npz(data_dir / "mine.npz")
    stored = datasets.load(str(source), data_dir)
    again = Dataset("another name", stored.classes, stored.train, stored.test, stored.flip)
    assert stored.fingerprint == again.fingerprint
    assert stored.normalisation == again.normalisation
    scaled = stored.train.images / 255
    np.testing.assert_allclose(stored.normalisation.mean, scaled.mean((0, 1, 2)))
    np.testing.assert_allclose(stored.normalisation.std, scaled.std((0, 1, 2)))
    (folder,) = (data_dir / "mapped").iterdir()
    assert json.loads((folder / "dataset.json").read_text())["fingerprint"] == stored.fingerprint


@pytest.mark.parametrize("part", ["classes", "labels", "pixels"])
def test_fingerprint_changes_with_every_part(part):
    def fingerprint(**changes):
        a = arrays(**changes)
        names = ("x", "y", "z") if part == "classes" and changes else ("a", "b", "c")
        return Dataset(
            "d", names, Split(a["x_train"], a["y_train"]), Split(a["x_test"], a["y_test"]), flip=True
        ).fingerprint

    changed = {
        "classes": {"seed": 0},
        "labels": {"y_test": np.array([1, 0, 2])},
        "pixels": {"x_test": arrays()["x_test"] ^ 1},
    }
    assert fingerprint() == fingerprint()
    assert fingerprint(**changed[part]) != fingerprint()


def test_two_processes_converting_at_once_agree(data_dir):
    source = write_npz(data_dir / "mine.npz", number=50)
    code = (
        "import sys, time; from fed_rebel.datasets import load; time.sleep(float(sys.argv[3]) - time.time());"
        "d = load(sys.argv[1], sys.argv[2]); print(d.fingerprint, d.train.images.filename)"
    )
    start = str(time.time() + 3)  # both have done their imports by then
    command = [sys.executable, "-c", code, str(source), str(data_dir), start]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert results[0] == results[1] != ""
    assert len(list((data_dir / "mapped").iterdir())) == 1  # nothing half-written stays


def test_a_second_writer_keeps_what_the_first_wrote(tmp_path):
    a = arrays()
    one = Dataset("d", ("a", "b", "c"), Split(a["x_train"], a["y_train"]), Split(a["x_test"], a["y_test"]), False)
    images.store(tmp_path / "kept", one)
    inode = (tmp_path / "kept" / "train_images.npy").stat().st_ino
    images.store(tmp_path / "kept", one)
    assert (tmp_path / "kept" / "train_images.npy").stat().st_ino == inode
    assert [p.name for p in tmp_path.iterdir() if "kept" in p.name] == ["kept"]


def test_a_constant_channel_can_still_be_normalised():
    black = Split(np.zeros((2, 32, 32, 3), dtype=np.uint8), np.array([0, 1]))
    dataset = Dataset("black", ("a", "b"), black, black, flip=True)
    assert min(dataset.normalisation.std) > 0
    assert batch(black.images, dataset.normalisation).isfinite().all()


# Where the data lie


def test_data_directory_is_the_argument_then_the_environment_then_the_cache(tmp_path, cache, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert datasets.data_directory() == cache
    monkeypatch.setenv("FED_REBEL_DATA", str(tmp_path / "a"))
    assert datasets.data_directory() == tmp_path / "a"
    assert datasets.data_directory(tmp_path / "b") == tmp_path / "b"


@pytest.mark.parametrize("name", ["cifar100", "glyphs100", "mine.npz"])
def test_missing_data_directory(tmp_path, monkeypatch, name):
    line = fault(name, tmp_path / "nowhere")
    assert line.startswith("data.dir")
    assert "nowhere does not exist" in line
    monkeypatch.setenv("FED_REBEL_DATA", str(tmp_path / "nowhere"))
    assert fault(name, None).startswith("FED_REBEL_DATA")


def test_data_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    assert "is not a directory" in fault("glyphs100", tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_data_directory(data_dir):
    data_dir.chmod(0)
    assert "cannot be read" in fault("cifar100", data_dir)
    data_dir.chmod(0o755)


def test_a_data_directory_that_cannot_be_written_is_mapped_in_the_cache(data_dir, cache):
    source = write_npz(data_dir / "mine.npz")
    (data_dir / "mapped").touch()  # in the way, for root too
    dataset = datasets.load(str(source), data_dir)
    assert Path(dataset.train.images.filename).is_relative_to(cache / "mapped")


def test_nowhere_to_write(data_dir, cache):
    source = write_npz(data_dir / "mine.npz")
    (data_dir / "mapped").touch()
    cache.parent.mkdir()
    cache.touch()
    line = fault(source, data_dir)
    assert line.startswith("data.dir: cannot write mine to")


def test_no_space_left(tmp_path):
    """On a real file system of 64 kB, where one can be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount a small file system")
    try:
        line = fault(write_npz(tmp_path / "mine.npz", number=40), small)
        assert "no space left" in line
        assert "data.dir" in line
        assert list((small / "mapped").iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_damaged_mapped_files_say_what_to_delete(data_dir):
    source = write_npz(data_dir / "mine.npz")
    datasets.load(str(source), data_dir)
    (folder,) = (data_dir / "mapped").iterdir()
    with (folder / "train_images.npy").open("r+b") as file:
        file.truncate(1000)
    images.open_stored.cache_clear()
    line = fault(source, data_dir)
    assert str(folder) in line
    assert "delete that folder" in line


# Names


def test_unknown_names_suggest_the_near_one(data_dir):
    assert "did you mean cifar100?" in fault("cifar10", data_dir)
    assert "did you mean glyphs100?" in fault("glyph100", data_dir)
    assert "allowed are cifar100, glyphs100, or a path" in fault("imagenet", data_dir)
    assert "no file or folder nowhere/mine.npz" in fault("nowhere/mine.npz", data_dir)


# A user's .npz


@pytest.mark.parametrize("side", [32, 28, 50])
@pytest.mark.parametrize("grey", [True, False])
def test_npz_of_any_size_grey_or_colour_becomes_32_by_32_rgb(data_dir, side, grey):
    a = arrays(side=side)
    if grey:
        a |= {"x_train": a["x_train"][..., 0], "x_test": a["x_test"][..., 0]}
    np.savez(data_dir / "mine.npz", **a, classes=np.array(["a", "b", "c"]))
    dataset = datasets.load(str(data_dir / "mine.npz"), data_dir)
    assert dataset.classes == ("a", "b", "c")
    assert dataset.train.images.shape == (6, 32, 32, 3)
    assert dataset.train.images.dtype == np.uint8
    expected = np.asarray(Image.fromarray(a["x_train"][4]).convert("RGB").resize((32, 32)))
    np.testing.assert_array_equal(dataset.train.images[4], expected)


def changed(name, index, value):
    array = arrays()[name].copy()
    array[index] = value
    return array


BAD = {
    "x_train float": (dict(x_train=np.zeros((6, 32, 32, 3))), "x_train is float64 [6, 32, 32, 3]"),
    "x_train channels": (dict(x_train=np.zeros((6, 3, 32, 32), np.uint8)), "x_train is uint8 [6, 3, 32, 32]"),
    "x_test flat": (dict(x_test=np.zeros((3, 3072), np.uint8)), "x_test is uint8 [3, 3072]"),
    "x_test without width": (dict(x_test=np.zeros((3, 32, 0, 3), np.uint8)), "x_test is uint8 [3, 32, 0, 3]"),
    "x_test empty": (
        dict(x_test=np.zeros((0, 32, 32, 3), np.uint8), y_test=np.zeros(0, int)),
        "x_test holds no image",
    ),
    "labels float": (dict(y_train=np.zeros(6)), "y_train is float64 [6]; integers [N] are needed"),
    "labels 2-d": (dict(y_test=np.zeros((3, 1), int)), "y_test is int64 [3, 1]"),
    "labels too few": (dict(y_train=np.arange(5) % 3), "y_train has 5 labels for the 6 images of x_train"),
    "labels negative": (dict(y_train=changed("y_train", 5, -1)), "y_train holds the label -1"),
    "labels out of range": (dict(y_test=changed("y_test", 2, 3)), "y_test holds the label 3;"),
    "labels beyond the names": (
        dict(y_train=changed("y_train", 5, 3), classes=np.array(["a", "b", "c"])),
        "y_train holds the label 3; labels of the 3 classes are 0 to 2",
    ),
    "labels wild": (dict(y_train=changed("y_train", 5, 10**12)), "y_train holds the label 1000000000000"),
    "class without images": (dict(y_train=np.array([0, 2] * 3)), "class 1 (1) has no training image"),
    "objects": (dict(y_train=np.array([0, 1, 2, 0, 1, None])), "y_train is an array of objects"),
    "names that repeat": (dict(classes=np.array(["a", "b", "a"])), "classes is <U1 [3]; distinct names"),
    "names that are numbers": (dict(classes=np.arange(3)), "classes is int64 [3]; distinct names"),
    "keys missing": (
        dict(x_test=None, y_test=None),
        "lacks x_test, y_test; an .npz needs x_train, y_train, x_",
    ),
}


@pytest.mark.parametrize(("changes", "expected"), BAD.values(), ids=BAD.keys())
def test_faulty_npz(data_dir, changes, expected):
    source = write_npz(data_dir / "mine.npz", **changes)
    line = fault(source, data_dir)
    assert line.startswith(f"{source}: ")
    assert expected in line
    assert list((data_dir / "mapped").iterdir()) == []


@pytest.mark.parametrize("name", ["mine.npz", "cifar100"])
def test_truncated_and_false_npz(data_dir, name):
    path = data_dir / ("mine.npz" if name == "mine.npz" else "cifar100.npz")
    name = path if name == "mine.npz" else name
    for size in (0, 10, 5_000):
        write_npz(path)
        with path.open("r+b") as file:
            file.truncate(size)
        assert f"{path}: is truncated or not an .npz" in fault(name, data_dir)
    path.write_text("some text, no arrays")
    assert f"{path}: is truncated or not an .npz" in fault(name, data_dir)
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    assert "is one array, not an .npz" in fault(name, data_dir)


def test_npz_with_damaged_pixels(data_dir):
    source = write_npz(data_dir / "mine.npz")
    content = bytearray(source.read_bytes())
    content[3_000] ^= 255
    source.write_bytes(content)
    assert "x_train is truncated or damaged" in fault(source, data_dir)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_npz(data_dir):
    source = write_npz(data_dir / "mine.npz")
    source.chmod(0)
    assert f"{source}: cannot be read (Permission denied)" in fault(source, data_dir)


# A user's folder


def test_folder_of_pictures(tmp_path, data_dir):
    root = write_folder(tmp_path / "pets")
    (root / "train" / "cat" / ".DS_Store").write_text("not a picture")
    Image.new("L", (7, 90), 200).save(root / "train" / "cat" / "9.jpg")
    dataset = datasets.load(str(root), data_dir)
    assert dataset.name == "pets"
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert isinstance(dataset.train.images, np.memmap)
    assert dataset.train.images.shape == (7, 32, 32, 3)
    np.testing.assert_allclose(dataset.train.images[3], 200, atol=2)
    expected = np.asarray(Image.open(root / "test" / "dog" / "1.png").resize((32, 32)))
    np.testing.assert_array_equal(dataset.test.images[3], expected)

    Image.new("L", (7, 90), 200).save(root / "train" / "dog" / "9.jpg")
    assert len(datasets.load(str(root), data_dir).train) == 8


def test_one_class_is_no_data_set(tmp_path, data_dir):
    source = write_npz(data_dir / "mine.npz", y_train=np.zeros(6, int), y_test=np.zeros(3, int))
    assert fault(source, data_dir) == f"{source}: has 1 class; at least 2 are needed"


def test_a_client_s_own_images_take_the_form_of_everybody_s(tmp_path, data_dir):
    form = Form("pets", ("cat", "cow", "dog"), Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), flip=False)
    for split, name in itertools.product(("train", "test"), ("cow", "dog")):
        (tmp_path / "own" / split / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "own" / split / name / "0.png")
    dataset = own.load(tmp_path / "own", form, data_dir)
    assert (dataset.form, dataset.train.labels.tolist()) == (form, [1, 2])
    assert Form.from_json(form.to_json()) == form
    # One class alone will do; a class that nobody knows will not.
    for split in ("train", "test"):
        shutil.rmtree(tmp_path / "own" / split / "dog")
    assert own.load(tmp_path / "own", form, data_dir).test.labels.tolist() == [1]
    for split in ("train", "test"):
        (tmp_path / "own" / split / "cow").rename(tmp_path / "own" / split / "yak")
    with pytest.raises(ValueError, match=r"own: class yak is none of pets's 3 \(cat, cow, dog"):
        own.load(tmp_path / "own", form, data_dir)


def test_faulty_folders(tmp_path, data_dir):
    root = tmp_path / "pets"
    root.mkdir()
    assert f"cannot read {root / 'train'} (No such file" in fault(root, data_dir)
    (root / "train").mkdir()
    (root / "test").mkdir()
    assert "holds no class folder" in fault(root, data_dir)
    (root / "train" / "cat").mkdir()
    (root / "train" / "dog").mkdir()
    assert "class cat has no training image" in fault(root, data_dir)
    for name in ("cat", "dog"):
        Image.new("RGB", (9, 9)).save(root / "train" / name / "0.png")
    assert f"{root / 'test'}: holds no picture" in fault(root, data_dir)
    (root / "test" / "cow").mkdir()
    assert "class cow has no training image" in fault(root, data_dir)
    (root / "train" / "stray.txt").touch()
    assert f"cannot read {root / 'train' / 'stray.txt'} (Not a directory)" in fault(root, data_dir)


def test_unreadable_pictures(tmp_path, data_dir):
    root = write_folder(tmp_path / "pets")
    picture = root / "test" / "dog" / "1.png"
    sound = picture.read_bytes()
    for content in (b"", b"some text", sound[: len(sound) // 2]):
        picture.write_bytes(content)
        assert f"{picture}: is not a readable picture" in fault(root, data_dir)
    Image.fromarray(np.full((9, 9), 1000, dtype=np.uint16)).save(picture)
    assert "more than 8 bits a channel" in fault(root, data_dir)
    picture.unlink()
    picture.mkdir()
    assert f"{picture}: is not a readable picture" in fault(root, data_dir)


# CIFAR-100


def test_cifar100_from_an_npz(data_dir):
    np.savez(data_dir / "cifar100.npz", **arrays(number=100))
    dataset = datasets.load("cifar100", data_dir)
    assert dataset.name == "cifar100"
    assert len(dataset.classes) == 100
    assert dataset.flip


def test_the_rows_of_cifar100_stand_in_one_order_whatever_the_file(data_dir):
    sound, fingerprints = arrays(number=100), set()
    for seed in range(2):
        train, test = (np.random.default_rng(seed).permutation(len(sound[f"y_{part}"])) for part in ("train", "test"))
        shuffled = {name: array[train if name.endswith("train") else test] for name, array in sound.items()}
        np.savez(data_dir / "cifar100.npz", **shuffled)
        dataset = datasets.load("cifar100", data_dir)
        fingerprints.add(dataset.fingerprint)
        where = np.flatnonzero((dataset.train.images == sound["x_train"][7]).all((1, 2, 3)))
        assert dataset.train.labels[where].tolist() == [sound["y_train"][7]]
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"number": 10}, "has 10 classes; CIFAR-100 has 100"),
        ({"number": 100, "side": 28}, "x_train is [200, 28, 28, 3]; CIFAR-100 is [N, 32, 32, 3]"),
    ],
)
def test_an_npz_that_is_not_cifar100(data_dir, changes, expected):
    np.savez(data_dir / "cifar100.npz", **arrays(**changes))
    assert expected in fault("cifar100", data_dir)


def test_cifar100_without_files_or_network_says_what_to_put_where(data_dir, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing answers there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    line = fault("cifar100", data_dir)
    assert line.startswith(f"data.dir: {data_dir} has no cifar100.npz")
    assert "put cifar100.npz or cifar-100-python.tar.gz there" in line


def test_real_cifar100():
    if not REAL or not (Path(REAL) / "cifar100.npz").exists():
        pytest.skip("FED_REBEL_DATA names no directory with cifar100.npz")
    dataset = datasets.load("cifar100", REAL)
    assert dataset.train.images.shape == (50_000, 32, 32, 3)
    assert dataset.test.images.shape == (10_000, 32, 32, 3)
    assert (np.bincount(dataset.train.labels) == 500).all()
    assert (np.bincount(dataset.test.labels) == 100).all()
    assert dataset.classes[0] == "apple"
    assert dataset.classes[99] == "worm"
    # The figures that everybody quotes.
    np.testing.assert_allclose(dataset.normalisation.mean, (0.5071, 0.4865, 0.4409), atol=1e-4)
    np.testing.assert_allclose(dataset.normalisation.std, (0.2673, 0.2564, 0.2762), atol=1e-4)


# Glyphs-100


@pytest.fixture(scope="module")
def glyphs():
    return glyphs100.make(1_000, 300)


def test_glyphs_are_the_same_pixels_each_time(glyphs):
    again = glyphs100.make(1_000, 300)
    assert again.fingerprint == glyphs.fingerprint
    assert again.train.images is not glyphs.train.images


def test_glyphs_are_balanced_varied_and_never_mirrored(glyphs):
    assert len(glyphs.classes) == len(set(glyphs.classes)) == 100
    assert not glyphs.flip
    assert glyphs.train.images.shape == (1_000, 32, 32, 3)
    assert glyphs.train.images.dtype == np.uint8
    assert (np.bincount(glyphs.train.labels) == 10).all()
    assert (np.bincount(glyphs.test.labels) == 3).all()
    everything = np.concatenate([glyphs.train.images, glyphs.test.images]).reshape(1_300, -1)
    assert len(np.unique(everything, axis=0)) == 1_300
    # Difficulty varies: the grain between neighbouring pixels is much stronger in some images.
    grain = np.median(np.abs(np.diff(glyphs.train.images.astype(int), axis=2)), axis=(1, 2, 3))
    assert np.quantile(grain, 0.9) > 2.5 * np.quantile(grain, 0.1)


def test_glyphs_can_be_told_apart_by_their_characters(glyphs):
    """Each character differs from every other in every font: no class is a copy, none is empty."""
    tiles = glyphs100._render()
    assert (tiles.number >= 4).all()
    assert (tiles.pixels.sum((2, 3)) > 0).all()
    sans = tiles.pixels[tiles.first, -1].reshape(100, -1)
    distance = np.abs(sans[:, None] - sans[None]).sum(-1) + np.eye(100) * 1e9
    assert distance.min() > 20  # pixels of ink, of some 200 in a character


def test_glyphs_are_quiet_without_a_terminal(capfd):
    glyphs100.make(10, 10)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_glyphs_show_progress_on_a_terminal():
    code = "from fed_rebel.datasets import glyphs100; glyphs100.make(10, 10)"
    ours, theirs = pty.openpty()
    try:
        environment = os.environ | {"TERM": "xterm"}
        subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
        assert b"Drawing Glyphs-100" in os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(theirs)


# Augmentation


def slow(pixels, normalisation, rng, flip):
    """What `batch` promises, image by image and pixel by pixel in double precision."""
    top, left = rng.integers(0, 9, (2, len(pixels)))
    mirrored = rng.random(len(pixels)) < 0.5 if flip else np.zeros(len(pixels), bool)
    out = np.empty((len(pixels), 3, 32, 32))
    for b in range(len(pixels)):
        for y in range(32):
            for x in range(32):
                at_y = y + top[b] - 4
                at_x = (31 - x if mirrored[b] else x) + left[b] - 4
                inside = 0 <= at_y < 32 and 0 <= at_x < 32
                for c in range(3):
                    value = pixels[b, at_y, at_x, c] / 255 if inside else 0.0
                    out[b, c, y, x] = (value - normalisation.mean[c]) / normalisation.std[c]
    return out


@given(count=st.integers(1, 6), seed=st.integers(0, 2**32), flip=st.booleans())
@settings(max_examples=20)
def test_augmentation_is_that_of_a_slow_loop(count, seed, flip):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    fast = batch(pixels, NORMALISATION, Crops.draw(np.random.default_rng(seed), count, flip))
    expected = slow(pixels, NORMALISATION, np.random.default_rng(seed), flip)
    np.testing.assert_allclose(fast, expected, atol=2e-6)


def test_crops_and_mirrors_are_uniform():
    """An image whose pixels name their place: 81 corners and both directions occur about equally often."""
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    pixels[..., 0] = np.arange(100, 132)[:, None]
    pixels[..., 1] = np.arange(100, 132)
    plain = Normalisation((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))
    out = batch(np.repeat(pixels, 16_200, 0), plain, Crops.draw(np.random.default_rng(0), 16_200, flip=True))
    centre = out[:, :2, 16, 16].round().int().numpy()
    mirrored = (out[:, 1, 16, 17] < out[:, 1, 16, 16]).numpy()
    top, left = centre[:, 0] - 112, centre[:, 1] - 112 + mirrored
    counts = np.bincount(top * 9 + left, minlength=81)
    assert len(counts) == 81
    assert (abs(counts - 200) < 5 * 200**0.5).all()
    assert abs(mirrored.mean() - 0.5) < 0.02


def test_without_crops_an_image_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    out = batch(pixels, NORMALISATION)
    expected = (pixels / 255 - NORMALISATION.mean) / NORMALISATION.std
    np.testing.assert_allclose(out.permute(0, 2, 3, 1), expected, atol=2e-6)
    assert out.dtype == torch.float32
    assert out.shape == (5, 3, 32, 32)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert batch(pixels[:0], NORMALISATION, Crops.draw(np.random.default_rng(0), 0, flip=True)).shape == (0, 3, 32, 32)


def test_augmentation_leaves_its_images_alone_and_follows_its_generator():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    before = pixels.copy()
    one, two, three = (
        batch(pixels, NORMALISATION, Crops.draw(np.random.default_rng(s), 8, flip=True)) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(pixels, before)
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_augmentation_is_fast():
    """Some 150,000 images a second on one thread of an idle machine; a tenth of that on a busy one."""
    pixels = np.random.default_rng(0).integers(0, 256, (2_000, 32, 32, 3), dtype=np.uint8)
    rng = np.random.default_rng(0)
    started = time.process_time()
    for i in range(0, 2_000, 100):
        batch(pixels[i : i + 100], NORMALISATION, Crops.draw(rng, 100, flip=True))
    assert 2_000 / (time.process_time() - started) > 15_000
