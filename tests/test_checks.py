"""What may come in, and the words for what may not."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ddi import _checks


def refused(check, *args, **options):
    with pytest.raises(ValueError) as caught:
        check(*args, **options)
    return str(caught.value)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.float64(0.25), np.int64(1)])
def test_numbers_come_back_as_plain_python(value):
    assert type(_checks.finite("a", value)) is float and _checks.finite("a", value) == float(value)


@pytest.mark.parametrize(
    "value", [True, np.True_, "1", None, 1j, torch.tensor(1.0), np.array(1.0), [1], 10**400]
)
def test_what_only_looks_like_a_number_is_none(value):
    assert refused(_checks.finite, "a", value).startswith("a must be a finite number, got ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf, np.float32("nan")])
def test_numbers_are_finite(value):
    refused(_checks.finite, "a", value)


def test_bounds_are_inside_or_outside_as_said():
    assert _checks.finite("a", 0, 0.0, 1.0) == 0 and _checks.finite("a", 1, 0.0, 1.0) == 1
    assert _checks.non_negative("a", 0) == 0
    assert refused(_checks.finite, "a", 1.5, 0.0, 1.0).startswith(
        "a must be a finite number with 0 <= a <= 1, got 1.5"
    )
    assert "a finite number > 0, got 0" in refused(_checks.positive, "a", 0)
    assert "a finite number >= 0, got -1" in refused(_checks.non_negative, "a", -1)
    refused(_checks.finite, "a", 0, 0.0, 1.0, strict=True)
    refused(_checks.finite, "a", 1, 0.0, 1.0, strict=True)


def test_integers():
    assert type(_checks.integer("a", np.int8(3))) is int and _checks.integer("a", -3) == -3
    assert _checks.positive_int("a", 1) == 1 and _checks.positive_int("a", 4, 4) == 4
    for value in (True, 3.0, "3", None, np.float32(3), torch.tensor(3)):
        refused(_checks.integer, "a", value)
    assert "an integer >= 1, got 0" in refused(_checks.positive_int, "a", 0)
    assert "an integer from 1 to 4, got 5" in refused(_checks.positive_int, "a", 5, 4)
    assert "an integer <= 4, got 5" in refused(_checks.integer, "a", 5, high=4)
    assert refused(_checks.positive_int, "a", -(10**5000)).startswith("a must be an integer")


def test_flags_words_functions_and_instances():
    assert _checks.flag("a", np.True_) is True
    for value in ("false", 0, 1, None):
        refused(_checks.flag, "a", value)
    assert _checks.one_of("a", "b", ("b", "c")) == "b"
    assert refused(_checks.one_of, "a", "d", ("b", "c")) == 'a must be one of "b", "c", got \'d\''
    refused(_checks.one_of, "a", [], {"b": 1})
    assert _checks.choice("a", "b", {"b": 7}) == 7
    assert _checks.function("a", len) is len
    for value in (3, "len", int, None):
        refused(_checks.function, "a", value)
    assert refused(_checks.instance, "a", 3, torch.Generator).startswith("a must be a torch Gen")
    assert refused(_checks.instance, "a", 3, str) == "a must be a str, got 3"


@pytest.mark.parametrize("value", [(0, 1), [0, 1], (np.float32(0), np.int64(1))])
def test_intervals_become_pairs_of_floats(value):
    got = _checks.interval("box", value)
    assert got == (0.0, 1.0) and type(got) is tuple and {type(v) for v in got} == {float}
    assert _checks.interval("box", None) is None


@pytest.mark.parametrize(
    "value", [(1, 0), (0, 0), (0, float("inf")), (0, True), (0, 1, 2), "01", 3, (None, 1), ()]
)
def test_impossible_intervals_are_refused(value):
    assert "box must be None or (low, high)" in refused(_checks.interval, "box", value)


def test_tensors_are_dense_real_floats_of_the_right_shape():
    x = torch.rand(2, 3)
    assert _checks.float_tensor("x", x) is x and _checks.float_tensor("x", x, shape=(2, 3)) is x
    others = (x.numpy(), x.tolist(), x.long(), x > 0, x.to(torch.complex64), x.to("meta"), None)
    for value in (*others, x.to_sparse()):
        assert "x must be a floating-point tensor, got" in refused(_checks.float_tensor, "x", value)
    assert "shape (3, 2), got a tensor of float32 and shape (2, 3)" in refused(
        _checks.float_tensor, "x", x, shape=(3, 2)
    )
    refused(_checks.float_tensor, "x", x[:0])
    assert "at least 3 axes" in refused(_checks.float_tensor, "x", x, 3)
    assert "at least 1 axis" in refused(_checks.float_tensor, "x", x[0, 0])
    for bad in (torch.nan, torch.inf, -torch.inf):
        y = x.clone()
        y[1, 1] = bad
        assert refused(_checks.float_tensor, "x", y) == (
            "x must be finite, got NaN or infinite entries"
        )
        assert _checks.float_tensor("x", y, all_finite=False) is y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-0.424, 2.821), (0.0, 255.0), (1000.0, 1001.0)])
def test_images_may_leave_the_box_by_the_rounding_of_their_dtype_only(dtype, box):
    low, high = torch.tensor(box, dtype=dtype)
    x = torch.stack([low, high]).repeat(2, 1)
    _checks.images("x", x, box)
    x[0, 0] = low - low.abs() * torch.finfo(dtype).eps
    x[1, 1] = high + high.abs() * torch.finfo(dtype).eps
    assert _checks.images("x", x, box) is x
    room = torch.finfo(dtype).eps * max(abs(v) for v in box)
    for edge, sign in ((0, -1), (1, 1)):
        y = x.clone()
        y[0, edge] = (low, high)[edge] + sign * 16 * room
        message = refused(_checks.images, "x", y, box)
        shown = float(re.search(r"got a value of (\S+)$", message).group(1))
        assert shown == y[0, edge].item() and not box[0] <= shown <= box[1]
        assert _checks.images("x", y) is y


def test_labels_are_int64_one_a_sample_in_range():
    y = torch.tensor([0, 2])
    assert _checks.labels("y", y, 2) is y and _checks.labels("y", y, 2, 3) is y
    for value in (y[:, None], y.int(), y.double(), y[:1], y.numpy(), [0, 2], y.to("meta")):
        words = refused(_checks.labels, "y", value, 2)
        assert "y must be class labels, an int64 tensor of shape (2,)" in words
    assert "from 0 to 1, got values from 0 to 2" in refused(_checks.labels, "y", y, 2, 2)
    assert "from 0, got values from -1 to 1" in refused(_checks.labels, "y", y - 1, 2)
    assert _checks.batch_of("y", y.double(), 2).dtype == torch.float64
    for value in (y[:1], [0, 2], torch.tensor(1), None):
        refused(_checks.batch_of, "y", value, 2)


def test_logits_devices_and_generators():
    z = torch.rand(2, 3)
    assert _checks.logits(z, 2) is z
    for value in ((z, z), z[0], z[:1], z.long(), None, z[..., None]):
        assert "the model's output must be" in refused(_checks.logits, value, 2)
        assert ".logits" not in refused(_checks.logits, value, 2)
    held = SimpleNamespace(logits=z)
    assert "(2, C): the .logits of what it returns now, got" in refused(_checks.logits, held, 2)
    _checks.one_device(x=z, y=z, m=3)
    assert refused(_checks.one_device, x=z, y=z.to("meta")) == (
        "x and y must be on one device, got x on cpu, y on meta"
    )
    source = torch.Generator()
    assert _checks.random_source("generator", source, z.device) is source
    assert _checks.random_source("generator", None, z.device) is None
    refused(_checks.random_source, "generator", 3, z.device)
    assert "on cuda like the images, got one on cpu" in refused(
        _checks.random_source, "generator", source, torch.device("cuda")
    )
    assert _checks.device("device", "cpu") == torch.device("cpu")
    for value in ("gpu", "", None, 1.5, "cuda:99"):
        assert "device must be a device that torch can use" in refused(
            _checks.device, "device", value
        )


def test_a_model_that_does_not_fit_is_told_apart_from_one_that_fails():
    x = torch.rand(2, 4)
    model = nn.Linear(4, 3)
    assert _checks.network("model", model) is model and _checks.answer(model, x).shape == (2, 3)
    assert "model must be initialised, got the lazy weight" in refused(
        _checks.network, "model", nn.LazyLinear(3)
    )
    refused(_checks.network, "model", nn.Linear)
    refused(_checks.network, "model", None)
    assert "(torch.float32, cpu), got torch.float64 on cpu" in refused(
        _checks.answer, model, x.double()
    )
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        _checks.answer(model, x[:, :3])
    assert caught.value.__notes__ == ["(raised by the model, for images of shape (2, 3))"]
    with torch.inference_mode():
        made = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    assert "outside torch.inference_mode" in refused(
        _checks.answer, made, x.clone().requires_grad_(True)
    )


class Unprintable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(2, 3), "a tensor of float32 and shape (2, 3)"),
        (torch.zeros(2, device="meta"), "a tensor of float32 and shape (2,) on meta"),
        (np.zeros(2), "a NumPy array of float64 and shape (2,)"),
        ((torch.zeros(1), 3), "a tuple of 2: a tensor of float32 and shape (1,), 3"),
        (nn.ReLU(), "the module ReLU"),
        ("a\nb", r"'a\nb'"),
        (None, "None"),
    ],
)
def test_values_are_shown_in_a_few_words(value, words):
    assert _checks.shown(value) == words


def test_no_message_is_longer_than_a_line_or_two():
    assert _checks.shown(Unprintable()).endswith(" of type Unprintable")
    for value in ("x" * 10**5, list(range(10**5)), 10**9999, {"a": "b" * 10**4}):
        assert len(_checks.shown(value)) < 200
