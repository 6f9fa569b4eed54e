"""The README, as its reader uses it: every Python block runs, in order, on somebody's model."""

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import ddi

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


class TheirPGD:
    """An attack as torchattacks' are called: made of a model, images in and images out."""

    def __init__(self, model, eps, alpha, steps):
        self.model, self.eps = model, eps
        self.given = (alpha, steps)

    def __call__(self, images, labels):
        images = images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(self.model(images), labels)
        (gradient,) = torch.autograd.grad(loss, images)
        return (images + self.eps * gradient.sign()).clamp(0, 1).detach()


@pytest.fixture
def somebody():
    """A model with what a real one has (normalisation, BatchNorm, dropout), and a batch."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()]
    model = nn.Sequential(ddi.Normalize((0.5,) * 3, (0.25,) * 3), *layers, nn.Linear(6 * 36, 4))
    model.eval()
    x = torch.rand(32, 3, 8, 8)
    return model, x, model(x).argmax(1)  # all right until they are attacked


def test_the_diff_is_three_lines_more_and_both_sides_train(somebody):
    (diff,) = blocks("diff")
    lines = diff.splitlines()
    assert [line[0] for line in lines].count("+") == 3
    before = "\n".join(line[1:] for line in lines if line[0] != "+")
    after = "\n".join(line[1:] for line in lines if line[0] != "-")
    model, x, y = somebody
    model.train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for text in (before, after):
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(1)
        names = {"model": model, "loader": [(x, y)], "optimizer": optimizer}
        exec(text, names | {"torch": torch, "ddi": ddi})
        moved = torch.cat([(p - start[n]).flatten() for n, p in model.named_parameters()])
        assert moved.isfinite().all() and moved.norm() > 0
        assert model.training
    model.load_state_dict(start)
    torch.manual_seed(1)
    expected = ddi.descent_rule("single", normalize=True)(
        model, x, y, ddi.PGD(eps=8 / 255, alpha=2.5 / 255, steps=7)
    )
    assert abs(moved.norm() - 0.1) < 1e-6
    torch.testing.assert_close(moved, -0.1 * expected.gradient, rtol=1e-4, atol=1e-6)


def test_every_python_block_runs(somebody, tmp_path, monkeypatch, capsys):
    model, x, y = somebody
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torchattacks", SimpleNamespace(PGD=TheirPGD))
    names = {"model": model, "x": x, "y": y}
    code = blocks("python")
    assert len(code) >= 3
    for block in code:
        exec(block, names)
    theirs, ours = (float(n) for n in re.findall(r"([\d.]+) %", capsys.readouterr().out)[:2])
    assert ours < 100 and theirs < 100  # both attacks were taken, and hit
    own = (names["images"] - x).abs()
    assert 0 < own.max() <= 8 / 255 + 1e-6 and 0 <= names["images"].min()
    assert names["deltas"].shape == (10, *x.shape)
    assert names["found"].slope < 0 and abs(names["found"].direction.norm() - 1) < 1e-5
    gradients = names["gradients"]
    assert len(gradients) == 10
    w = gradients.T @ names["point"].weights.to(gradients)
    torch.testing.assert_close(w / w.norm(), -names["found"].direction, rtol=1e-4, atol=1e-5)
    assert ddi.read_record(tmp_path / "results" / "mine" / "ddi-seed0").complete


def test_files_that_are_named_are_there():
    table = README[README.index("## Where do I find") :]
    paths = [p for p in re.findall(r"`([\w./]+)`", table) if "/" in p or p.endswith(".md")]
    assert len(paths) >= 20
    assert not [
        path for path in paths if not (ROOT / path.replace("NN_name", "02_danskin")).exists()
    ]


def test_every_room_has_a_place_in_the_table():
    table = README[README.index("## Where do I find") :]
    rooms = {path.name for path in (ROOT / "ddi").glob("*.py")} - {"__init__.py"}
    assert not [room for room in rooms if f"`ddi/{room}`" not in table]


def test_the_description_of_the_package_has_no_link_to_a_file():
    text = runpy.run_path(str(ROOT / "setup.py"))["stripped"](README)
    assert "](" not in re.sub(r"\]\(https?://[^)]*\)", "", text) and "<img" not in text
    assert "descent.png" in README and "descent.png" not in text
    assert "](notebooks/" in README
    for heading in re.findall(r"^## .*$", README, re.MULTILINE):
        assert heading in text
