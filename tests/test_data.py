"""Data sets: what they hold, where they come from, and what may not pass for one."""

import dataclasses
import hashlib
import inspect
import urllib.error

import numpy as np
import pytest
import torch
from torchvision import datasets

from ddi import Dataset, cifar10, crop_and_flip, digits, load_data, mnist


def test_digits_are_what_they_say():
    data = digits()
    assert data.x_train.shape == (1400, 1, 8, 8) and data.x_test.shape == (397, 1, 8, 8)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert x.dtype == torch.float32 and x.min() == 0 and x.max() == 1
        assert y.dtype == torch.int64 and set(y.tolist()) == set(range(10)) and len(y) == len(x)
    every = torch.cat([data.x_train, data.x_test])
    assert len(every.unique(dim=0)) == 1797  # no image twice, so none both in training and test
    assert data.sha256() == digits().sha256()
    for part in ("x_train", "y_train", "x_test", "y_test"):  # and nothing of it is forgotten
        assert (
            dataclasses.replace(data, **{part: getattr(data, part).flip(0)}).sha256()
            != data.sha256()
        )
    assert data.to(dtype=torch.float64).x_test.dtype == torch.float64
    assert data.to(dtype=torch.float64).y_test.dtype == torch.int64


def test_pair_keeps_two_classes():
    data = digits()
    pair = data.pair(3, 8)
    assert len(pair.x_train) == ((data.y_train == 3) | (data.y_train == 8)).sum()
    assert pair.y_test.sum() == (data.y_test == 8).sum() and pair.classes == 2
    assert pair.sha256() != data.sha256()
    for bad in ((1, 1), (0, 10), (0, -1), (0, 1.0), (0, True)):
        with pytest.raises(ValueError, match="(zero and )?one must be"):
            data.pair(*bad)


def test_missing_mnist_names_three_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("DDI_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="(?s)download=True.*DDI_DATA.*digits"):
        mnist()


def test_mnist_reads_torchvisions_layout(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28)
    for stem in ("train", "t10k"):
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(
            np.array([2051, 2, 28, 28], ">i4").tobytes() + pixels.tobytes()
        )
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(
            np.array([2049, 2], ">i4").tobytes() + bytes([7, 1])
        )
    data = mnist(tmp_path)
    assert data.x_train.shape == (2, 1, 28, 28) and data.y_test.tolist() == [7, 1]
    torch.testing.assert_close(data.x_train[0, 0], torch.tensor(pixels[0]) / 255)


def write_npz(path, **changes):
    g = np.random.default_rng(0)
    arrays = {
        "x_train": g.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8),
        "y_train": np.array([0, 9, 3, 3]),
        "x_test": g.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8),
        "y_test": np.array([1, 2], dtype=np.uint8),
    } | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return arrays


def test_cifar10_reads_an_npz_from_a_folder_or_by_name(tmp_path, monkeypatch):
    arrays = write_npz(tmp_path / "cifar10.npz")
    monkeypatch.setenv("DDI_DATA", str(tmp_path))
    for data in (cifar10(), cifar10(tmp_path), cifar10(tmp_path / "cifar10.npz")):
        assert (
            data.x_train.shape == (4, 3, 32, 32)
            and data.classes == 10
            and data.y_test.tolist() == [1, 2]
        )
        assert data.y_test.dtype == torch.int64 and data.name == "cifar10"
        pixel = arrays["x_train"][1, 5, 7]
        torch.testing.assert_close(data.x_train[1, :, 5, 7], torch.tensor(pixel) / 255)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y_test": None}, "lacks .*y_test"),
        ({"x_train": np.zeros((4, 32, 32, 3))}, "x_train must be uint8"),
        ({"x_test": np.zeros((2, 5), dtype=np.uint8)}, "x_test must be uint8"),
        ({"y_train": np.array([1, 2])}, "y_train must be 4 labels"),
        ({"y_train": np.array([1.0, 2, 3, 4])}, "y_train must be 4 labels"),
        ({"y_test": np.array([-1, 2])}, "y_test must be 2 labels"),
        ({"y_test": np.array([[1], [2]])}, "y_test must be 2 labels"),
        ({"y_test": np.array([1, 10])}, "10 classes, got .* in 11"),
        ({"x_train": np.zeros((4, 3, 32, 32), np.uint8)}, "channels last, got"),
        ({"x_test": np.zeros((2, 28, 28), np.uint8)}, "agree in shape"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8)}, "x_test must be uint8"),
        (
            {f"x_{s}": np.zeros((n, 32, 32), np.uint8) for s, n in (("train", 4), ("test", 2))},
            r"must hold cifar10: images of \(3, 32, 32\)",
        ),
    ],
)
def test_impossible_npz_files_are_refused(tmp_path, changes, message):
    write_npz(tmp_path / "cifar10.npz", **changes)
    with pytest.raises(ValueError, match=message):
        cifar10(tmp_path)


def test_data_sets_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DDI_DATA", str(tmp_path))
    x, y = np.zeros((4, 2, 2), dtype=np.uint8), np.arange(4)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for name in ("mine", str(tmp_path / "mine.npz")):
        assert load_data(name).name == "mine" and load_data(name).classes == 4
    assert load_data("digits").name == "digits"
    with pytest.raises(FileNotFoundError, match="no .*others.npz"):
        load_data("others")


def test_pickles_are_never_loaded(tmp_path):
    write_npz(tmp_path / "cifar10.npz", y_test=np.array([{}, {}], dtype=object))
    with pytest.raises(ValueError, match="never loaded"):
        cifar10(tmp_path)


def test_held_out_images_are_a_partition_of_the_training_set():
    data = digits()
    rest, x, y = data.hold_out(200, seed=3)
    assert len(rest.x_train) == 1200 and len(x) == len(y) == 200
    assert torch.equal(rest.x_test, data.x_test)
    both = torch.cat([rest.x_train, x]).flatten(1)
    assert torch.equal(both.unique(dim=0), data.x_train.flatten(1).unique(dim=0))
    index = [(data.x_train == image).flatten(1).all(1).nonzero().item() for image in x[:20]]
    assert data.y_train[index].tolist() == y[:20].tolist()
    assert torch.equal(data.hold_out(200, seed=3)[1], x) and not torch.equal(
        data.hold_out(200, seed=4)[1], x
    )
    for seed in (-1, 1.5, None):
        with pytest.raises(ValueError, match="seed must be"):
            data.hold_out(200, seed)
    assert torch.equal(data.hold_out(200)[1], data.hold_out(200, 0)[1])
    for count in (0, 1400, 1.5, True, "5"):
        with pytest.raises(ValueError, match="count"):
            data.hold_out(count)


def test_augmentation_is_a_crop_of_the_padded_image_perhaps_mirrored():
    x = torch.rand(40, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    got = crop_and_flip(x, 2, torch.Generator().manual_seed(1))
    assert got.shape == x.shape
    padded, seen = torch.nn.functional.pad(x, [2] * 4), set()
    for image, whole in zip(got, padded, strict=True):
        crops = {(i, j): whole[:, i : i + 6, j : j + 5] for i in range(5) for j in range(5)}
        fits = [
            (*at, f)
            for at, c in crops.items()
            for f in (0, 1)
            if torch.equal(c.flip(2) if f else c, image)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert (
        len(seen) > 15
        and {f for *_, f in seen} == {0, 1}
        and {i for i, *_ in seen} == set(range(5))
    )
    assert torch.equal(crop_and_flip(x, 2, torch.Generator().manual_seed(1)), got)
    kept = crop_and_flip(x, 0, torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(kept, x, strict=True))
    with pytest.raises(ValueError, match="x must"):
        crop_and_flip(x[0])


def test_the_split_of_the_digits_is_pinned():
    data = digits()
    assert data.y_train[:12].tolist() == [6, 5, 5, 7, 9, 9, 8, 4, 6, 8, 6, 0]
    assert data.sha256() == "03d23a443cd9110d2e4373c0dd067bcfd1a1e4487cbae0c4aa0675f885076712"


def test_half_of_the_images_are_mirrored_and_crops_have_four_pixels_by_default():
    """One bright pixel shows where each image went."""
    x = torch.zeros(4000, 1, 16, 17)
    x[:, :, 8, 6] = 1
    got = crop_and_flip(x, generator=torch.Generator().manual_seed(0))
    row, column = got.flatten(1).argmax(1) // 17, got.flatten(1).argmax(1) % 17
    assert set(row.tolist()) == set(range(4, 13))
    assert abs(torch.bincount(row)[4:].double() / 4000 - 1 / 9).max() < 0.03
    left = crop_and_flip(x, 0, torch.Generator().manual_seed(0)).flatten(1).argmax(1) % 17 == 6
    assert abs(left.double().mean() - 0.5) < 0.04
    assert set(column.tolist()) == set(range(2, 15))  # 6 and, mirrored, 10, each within 4
    assert inspect.signature(crop_and_flip).parameters["padding"].default == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": torch.rand(2, 8, 8)}, "x must be"),
        ({"x": torch.rand(0, 1, 8, 8)}, "x must be"),
        ({"x": np.zeros((2, 1, 8, 8))}, "x must be .*NumPy"),
        ({"padding": -1}, "padding must be"),
        ({"padding": 2.5}, "padding must be"),
        ({"generator": 0}, "generator must be"),
    ],
)
def test_impossible_augmentations_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        crop_and_flip(**({"x": torch.rand(2, 1, 8, 8)} | changes))


def small(**changes):
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    parts = {"name": "a", "x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2]}
    return Dataset(**(parts | {"classes": 4} | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "^name must be"),
        ({"name": 3}, "^name must be"),
        ({"classes": 0}, "^classes must be"),
        ({"classes": 3}, "^y_train must be class labels from 0 to 2, got values from 0 to 3"),
        ({"x_train": np.zeros((4, 1, 8, 8))}, "^x_train must be .*NumPy"),
        ({"x_train": torch.zeros(4, 1, 8, 8).byte()}, "^x_train must be .*uint8"),
        ({"x_test": torch.zeros(0, 1, 8, 8)}, "^x_test must be a non-empty"),
        ({"x_test": torch.zeros(2, 1, 4, 4)}, "^x_test must be of shape"),
        ({"x_test": torch.zeros(2, 1, 8, 8).double()}, "^x_test must be .*float32"),
        ({"y_train": torch.arange(3)}, "^y_train must be class labels"),
        ({"y_train": torch.arange(4)[:, None]}, "^y_train must be class labels"),
        ({"y_test": torch.tensor([0, -1])}, "^y_test must be class labels from 0"),
        ({"y_test": torch.zeros(2)}, "^y_test must be class labels"),
        ({"y_test": torch.zeros(2, device="meta").long()}, "one device"),
    ],
)
def test_a_data_set_checks_its_tensors(changes, words):
    with pytest.raises(ValueError, match=words):
        small(**changes)


def test_a_data_set_moves_as_a_whole():
    data = small(classes=np.int64(4))
    assert type(data.classes) is int
    half = data.to("cpu", torch.float16)
    assert (half.x_train.dtype, half.x_test.dtype, half.y_train.dtype) == (
        torch.float16, torch.float16, torch.int64
    )  # fmt: skip
    for device in ("gpu", 3.5, "cuda:99"):
        with pytest.raises(ValueError, match="device must be"):
            data.to(device)
    for dtype in (torch.int64, "float32"):
        with pytest.raises(ValueError, match="dtype must be"):
            data.to(dtype=dtype)
    with pytest.raises(ValueError, match="zero and one must have images in y_test"):
        small(y_test=torch.tensor([0, 0])).pair(1, 2)


def test_the_hash_is_of_shapes_and_bytes():
    data = small()
    digest = hashlib.sha256()
    for t in (data.x_train, data.y_train, data.x_test, data.y_test):
        digest.update(repr(tuple(t.shape)).encode() + t.numpy().tobytes())
    assert data.sha256() == digest.hexdigest() == data.to(dtype=torch.float64).sha256()


@pytest.mark.parametrize("content", ["half", "page", "empty", "array", "folder"])
def test_a_damaged_file_is_named_and_nothing_unsafe_is_advised(tmp_path, content):
    path = tmp_path / "cifar10.npz"
    write_npz(path)
    if content == "folder":
        path.unlink()
        path.mkdir()
    elif content == "array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    else:
        whole = path.read_bytes()
        path.write_bytes(
            {"half": whole[: len(whole) // 2], "page": b"<html>404", "empty": b""}[content]
        )
    for read in (lambda: load_data(str(path)), lambda: cifar10(tmp_path)):
        with pytest.raises(ValueError, match="cannot be read") as caught:
            read()
        assert str(path) in str(caught.value) and caught.value.__suppress_context__
        assert "pickle" not in str(caught.value)


def test_a_flipped_bit_inside_an_npz_is_noticed(tmp_path):
    path = tmp_path / "mine.npz"
    write_npz(path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="cannot be read"):
        load_data(str(path))


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tmp_path / "mine.npz")
    write_npz(tmp_path / "cifar10.npz")
    assert load_data("~/mine.npz").name == "mine" and cifar10("~").name == "cifar10"
    monkeypatch.setenv("DDI_DATA", "~")
    assert load_data("mine").name == "mine" and cifar10().name == "cifar10"
    monkeypatch.setenv("DDI_DATA", "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="under data"):
        cifar10()


@pytest.mark.parametrize("error", [RuntimeError("no\nat all"), urllib.error.URLError("no")])
def test_without_a_network_the_download_fails_in_words(tmp_path, monkeypatch, error):
    def offline(*args, **options):
        assert options["download"]
        raise error

    for name, read in (("MNIST", mnist), ("CIFAR10", cifar10)):
        monkeypatch.setattr(datasets, name, offline)
        with pytest.raises(
            FileNotFoundError, match="could not be downloaded .*Without a"
        ) as caught:
            read(tmp_path, download=True)
        said = str(caught.value)
        assert "download=True" not in said and "\n" not in said
        assert f"(root; {type(error).__name__}: {str(error).splitlines()[0]})" in said
        monkeypatch.setenv("DDI_DATA", str(tmp_path))
        with pytest.raises(FileNotFoundError, match="could not be downloaded"):
            load_data(name.lower(), download=True)


def test_damaged_files_of_torchvisions_layout_are_named(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{stem}-{kind}-ubyte").write_bytes(b"\x00\x00\x08\x01" + bytes(3))
    with pytest.raises((ValueError, FileNotFoundError), match=f"mnist .*{tmp_path}"):
        mnist(tmp_path)


@pytest.mark.parametrize("name", [5, None, "", b"digits"])
def test_impossible_names_are_refused(name):
    with pytest.raises(ValueError, match="name must be"):
        load_data(name)


def test_impossible_roots_are_refused():
    for read in (mnist, cifar10):
        with pytest.raises(ValueError, match="root must be"):
            read(5)
        with pytest.raises(ValueError, match="download must be"):
            read(download="no")
        options = inspect.signature(read).parameters
        assert [p.default for p in options.values()] == [None, False]
