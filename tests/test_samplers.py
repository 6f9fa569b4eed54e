"""The classes of a batch: laws of the draws, CFOL's estimate, and runs with a sampler."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_trainer import ATTACK, QUICK, SHORT, WEAK, Stop, counted, dropping, fresh, same, stopping
from torch import nn

from ddi import PGD, SAM, Rule, Sampler, digits, read_experiment, read_record, train
from ddi.samplers import Draws

CFOL = Sampler("cfol", gamma=0.3, eta=0.02)
LABELS = torch.tensor([2, 0, 1, 2, 2, 0, 2, 1, 2, 2])  # 2, 2 and 6 images


def uneven(sampler=CFOL, weights=(1.5, -0.5, 0.2)):
    draws = Draws(sampler, LABELS, 3)
    draws.weights = torch.tensor(weights, dtype=torch.float64)
    return draws


def run(folder, sampler=CFOL, model=None, setting=SHORT, rule=None, **options):
    rule = rule or Rule("single")
    model = model or fresh()
    return train(model, digits(), rule, ATTACK, setting, folder, sampler=sampler, **options)


def test_the_probabilities_are_a_mix_of_uniform_and_softmax():
    draws = uneven()
    w = np.exp([1.5, -0.5, 0.2])
    np.testing.assert_allclose(draws.chances, 0.3 / 3 + 0.7 * w / w.sum(), rtol=1e-12)
    np.testing.assert_allclose(uneven(Sampler("balanced")).chances, 1 / 3, rtol=1e-15)
    assert (uneven(weights=(0.0, 0.0, 1e6)).chances >= 0.1 - 1e-15).all()


@pytest.mark.parametrize("sampler", [CFOL, Sampler("balanced")], ids=lambda s: s.name)
def test_classes_are_drawn_by_their_probabilities_and_images_uniformly_within(sampler):
    draws, size = uneven(sampler), 60_000
    chosen = draws.batch(size, torch.Generator().manual_seed(0))
    expected = draws.chances[LABELS] / LABELS.bincount()[LABELS]
    np.testing.assert_allclose(chosen.bincount(minlength=10) / size, expected, atol=0.008)


def test_the_estimate_of_the_errors_is_unbiased():
    """The exact expectation of a batch of one image: over the class, then over its images."""
    wrong = torch.tensor([1, 1, 0, 1, 0, 0, 0, 0, 0, 1], dtype=torch.bool)
    gains = torch.zeros(3, dtype=torch.float64)
    for i, c in enumerate(LABELS.tolist()):
        draws = uneven()
        before, chance = draws.weights.clone(), draws.chances[c] / (LABELS == c).sum()
        draws.follow(wrong[[i]], LABELS[[i]])
        gains += chance * (draws.weights - before)
    error = [wrong[LABELS == c].double().mean().item() for c in range(3)]
    np.testing.assert_allclose(gains, 0.02 * np.array(error), rtol=1e-12)


def test_a_batch_counts_as_its_images_one_by_one_at_the_same_probabilities():
    draws = uneven()
    p, before = draws.chances, draws.weights.clone()
    draws.follow(torch.tensor([True, True, False, True]), torch.tensor([2, 2, 0, 1]))
    np.testing.assert_allclose(draws.weights - before, 0.02 * np.array([0, 1, 2]) / p.numpy())


def test_an_epoch_with_cfol_by_hand(tmp_path):
    """Two perturbations an image: it counts once, if one of them is misclassified."""
    rule, lr = Rule("mean", m=2), 0.05
    setting = replace(SHORT, epochs=1, weight_decay=0.0, lr=lr)
    got = run(tmp_path / "run", rule=rule, setting=setting)
    model, (part, x, y) = fresh(), digits().hold_out(300)
    batches, attacks = (torch.Generator().manual_seed(s) for s in (0, 10**6))
    torch.randperm(1100, generator=batches)
    draws = Draws(CFOL, part.y_train, 10)
    w = torch.zeros(10, dtype=torch.float64)
    for _ in range(11):
        draws.weights = w
        i = draws.batch(100, batches)
        a, b = part.x_train[i], part.y_train[i]
        deltas = ATTACK.restarts(model, a, b, 2, attacks)
        p = 0.03 + 0.7 * w.softmax(0)
        wrong = (model(a + deltas[0]).argmax(1) != b) | (model(a + deltas[1]).argmax(1) != b)
        w = w + torch.stack([0.02 * wrong[b == c].sum() / p[c] for c in range(10)])
        model.zero_grad()
        loss = sum(nn.functional.cross_entropy(model(a + d), b) for d in deltas) / 2
        loss.backward()
        with torch.no_grad():
            for q in model.parameters():
                q -= lr * q.grad
    for one, two in zip(got.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    row = read_record(tmp_path / "run").row("last")
    assert row["passes"] == 11 * (2 * 2 + 2)
    expected = 0.03 + 0.7 * w.softmax(0)
    assert expected.max() > 1.2 * expected.min()
    np.testing.assert_allclose([row[f"p_{c}"] for c in range(10)], expected, rtol=1e-3)
    delta = PGD(0.1, 0.025, 20)(got, x, y, torch.Generator().manual_seed(0))
    stands = (got(x).argmax(1) == y) & (got(x + delta).argmax(1) == y)
    each = [stands[y == c].double().mean().item() for c in range(10)]
    np.testing.assert_allclose([row[f"robust_{c}"] for c in range(10)], each, atol=0.06)
    assert row["robust_worst"] == min(row[f"robust_{c}"] for c in range(10))


@pytest.mark.parametrize("calls, every", [(27, 2), (60, None)])
def test_an_interrupted_run_with_a_sampler_is_the_uninterrupted_one(tmp_path, calls, every):
    options = {"setting": QUICK, "evaluation": WEAK, "checkpoint_every": every}
    model, passes = counted(dropping())
    whole = run(tmp_path / "whole", model=model, **options)
    with pytest.raises(Stop):
        run(tmp_path / "run", model=stopping(dropping(), calls), **options)
    model, again = counted(dropping())
    torch.manual_seed(99)
    assert same(whole, run(tmp_path / "run", model=model, **options))
    assert 0 < len(again) < len(passes) - calls / 2
    one, two = (read_record(tmp_path / name).metrics for name in ("whole", "run"))
    assert one["p_0"][-1] != one["p_0"][0]
    for key in one.keys() - {"seconds"}:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_balanced_batches_cost_no_pass(tmp_path):
    passes = {}
    for name, sampler in {"none": None, "balanced": Sampler("balanced"), "cfol": CFOL}.items():
        model, seen = counted(fresh())
        run(tmp_path / name, sampler, model, replace(SHORT, epochs=1))
        passes[name] = [size for size in seen if size == 100]
    assert len(passes["balanced"]) == len(passes["none"]) == len(passes["cfol"]) - 11


def test_a_run_with_a_sampler_is_read_from_a_file_and_from_its_record(tmp_path):
    (tmp_path / "a.toml").write_text(
        """data = "digits"
[model]
name = "MLP"
[setting]
epochs = 1
batch_size = 100
validation = 300
augment = false
[attack]
steps = 1
[arms.plain]
[arms.even]
sampler = { name = "balanced" }
[arms.cfol]
sampler = { name = "cfol", gamma = 0.25, eta = "1/100" }"""
    )
    runs = read_experiment(tmp_path / "a.toml")
    samplers = [None, Sampler("balanced"), Sampler("cfol", gamma=0.25, eta=0.01)]
    assert [one.sampler for one in runs] == samplers
    for one in runs[1:]:
        one.train(digits(), tmp_path)
        (again,) = read_experiment(one.folder(tmp_path) / "config.toml")
        assert again.sampler == one.sampler
    with pytest.raises(FileExistsError, match="sampler"):
        fields = {**vars(runs[2]), "sampler": Sampler("cfol", gamma=0.25, eta=0.02)}
        type(runs[2])(**fields).train(digits(), tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "hedge"}, "name must be one of"),
        ({"name": "cfol", "gamma": 0}, "gamma must be greater than 0"),
        ({"name": "cfol", "gamma": 1.5}, "gamma must be a finite number"),
        ({"name": "cfol", "eta": -1}, "eta must be"),
        ({"name": "balanced", "gamma": 0.5}, "gamma must be left out"),
        ({"name": "balanced", "eta": 0.5}, "eta must be left out"),
    ],
)
def test_impossible_samplers_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Sampler(**options)


def test_what_cannot_be_drawn_from_is_refused_before_anything_is_written(tmp_path):
    data = digits()
    for sampler, change, words in (
        (CFOL, {"y_train": data.y_train.clamp(max=8)}, r"every class, got none of \[9\]"),
        ("cfol", {}, "sampler must be a ddi Sampler"),
    ):
        broken = type(data)(**{**vars(data), **change})
        with pytest.raises(ValueError, match=words):
            train(fresh(), broken, Rule("single"), ATTACK, SHORT, tmp_path / "a", sampler=sampler)
    assert not (tmp_path / "a").exists()


def test_sam_attacks_twice_and_the_errors_at_the_weights_count(tmp_path):
    """The second attack of a step is at other weights: it is passed over."""
    one = replace(SHORT, epochs=1, epoch_steps=1, validation=300)
    wide = SAM(Rule("single"), rho=5.0)
    chances = []
    for name, rule in {"plain": Rule("single"), "sam": wide}.items():
        run(tmp_path / name, rule=rule, setting=one, evaluation=WEAK)
        chances.append([read_record(tmp_path / name).row("last")[f"p_{c}"] for c in range(10)])
    np.testing.assert_allclose(chances[0], chances[1], rtol=1e-12)
    assert max(chances[0]) > 0.1001
