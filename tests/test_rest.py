"""Models and data."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from ddi import (
    MLP,
    Normalize,
    ResNet18,
    SmallNet,
    cifar10,
    crop_and_flip,
    digits,
    load_data,
    mnist,
)

# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["celu", "relu", "elu"])
@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_models_take_images_and_return_logits(activation, norm):
    x = torch.rand(4, 1, 8, 8)
    for model in (MLP(64, 10, (16, 24), activation, norm), SmallNet(1, 10, activation, norm)):
        assert model(x).shape == (4, 10)
        kinds = {type(m) for m in model.modules()}
        assert {"celu": nn.CELU, "relu": nn.ReLU, "elu": nn.ELU}[activation] in kinds
        assert (nn.GroupNorm in kinds) == (norm == "group")
        assert bool(kinds & {nn.BatchNorm1d, nn.BatchNorm2d}) == (norm == "batch")


def test_sizes():
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert 55_000 < count(SmallNet(3)) < 65_000
    assert count(MLP(64, 10, (256, 256))) == 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10
    assert count(MLP(64, 10, ())) == 650
    assert SmallNet(3)(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_resnet18_has_the_papers_size_and_shape(norm):
    model = ResNet18(norm=norm, activation="relu").eval()
    if norm != "none":
        assert sum(p.numel() for p in model.parameters()) == 11_173_962
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert model(x).shape == (2, 10)
        assert nn.Sequential(*list(model)[:-3])(x).shape == (2, 512, 4, 4)
    assert (
        len([m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)])
        == 17
    )
    assert ResNet18(in_channels=1, classes=3)(torch.rand(1, 1, 32, 32)).shape == (1, 3)


def test_normalize_is_a_layer():
    x = torch.rand(2, 3, 4, 4)
    layer = Normalize((0.5, 0.4, 0.3), (0.2, 0.1, 1.0))
    torch.testing.assert_close(layer(x)[:, 1], (x[:, 1] - 0.4) / 0.1)
    assert not list(layer.parameters()) and len(layer.state_dict()) == 2


@pytest.mark.parametrize(
    "options, name", [({"activation": "gelu"}, "activation"), ({"norm": "layer"}, "norm")]
)
def test_unknown_switches_are_refused(options, name):
    for kind in (MLP, SmallNet, ResNet18):
        with pytest.raises(ValueError, match=name):
            kind(**options)


# --------------------------------------------------------------------------------------------------


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
    for bad in ((1, 1), (0, 10)):
        with pytest.raises(ValueError, match="zero and one"):
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
    with pytest.raises(ValueError, match="allow_pickle"):
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
    for count in (0, 1400, 1.5):
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
