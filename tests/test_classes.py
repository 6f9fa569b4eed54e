"""The program of the experiment over classes: its rules, its draws, its analysis."""

import json
from pathlib import Path

import classes
import classes_table as table
import numpy as np
import pytest
import torch
from scipy import stats

import ddi

SEEDS = (3, 4)


@pytest.fixture(scope="module")
def parts():
    """All digits, split for two seeds, in float64."""
    data = ddi.digits().to(dtype=torch.float64)
    both = torch.cat([data.x_train, data.x_test]), torch.cat([data.y_train, data.y_test])
    return classes.Parts(*both, seeds=SEEDS)


@pytest.fixture
def course(parts):
    """Makes the course of a cell, in float64."""

    def make(rule, *parameters):
        torch.set_default_dtype(torch.float64)
        try:
            return classes.Course(classes.Cell("test", 0.15, rule, *parameters), parts)
        finally:
            torch.set_default_dtype(torch.float32)

    return make


@pytest.fixture
def problem():
    """Losses, Gram matrices and scores of three networks."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 10, 25, generator=draw, dtype=torch.float64)
    losses = 2 * torch.rand(3, 10, generator=draw, dtype=torch.float64)
    return losses, ddi.gram_matrix(rows), torch.randn(3, 10, generator=draw).double()


@pytest.mark.parametrize(
    ("rule", "value"), [("bundle", 0.7), ("tilt", 0.4), ("cvar", 3), ("minnorm", 0.0)]
)
def test_weights_are_the_best_of_their_problem(problem, rule, value):
    losses, gram, scores = problem
    p = classes.weights(rule, value, losses, gram, scores)
    assert (p >= 0).all() and (p.sum(1) - 1).abs().max() < 1e-12

    def objective(q):  # (n, 3, 10)
        square = torch.einsum("nsi,sij,nsj->ns", q, gram, q)
        mean = (q * losses).sum(-1)
        if rule == "tilt":
            return mean - value * torch.special.xlogy(q, 10 * q).sum(-1)
        capped = torch.where((q <= 1 / value + 1e-9).all(-1), mean, -1e9) if value else mean
        return {"bundle": mean - value / 2 * square, "minnorm": -square, "cvar": capped}[rule]

    draw = torch.Generator().manual_seed(1)
    others = torch.rand(4000, 3, 10, generator=draw, dtype=torch.float64).log().neg()
    others = others / others.sum(-1, keepdim=True)
    best = objective(p[None])[0]
    for near in (1.0, 0.1, 0.01):  # far away, and close to the answer
        assert (objective(p + near * (others - p)) <= best + 1e-9).all()


def test_hedge_follows_its_scores_and_the_others_are_even(problem):
    losses, gram, scores = problem
    hedge = classes.weights("hedge", 0.3, losses, gram, scores)
    expected = scores.exp() / scores.exp().sum(1, keepdim=True)
    assert (hedge - expected).abs().max() < 1e-12
    for rule in ("plain", "balanced", "cfol"):
        assert (classes.weights(rule, 0.3, losses, gram, scores) == 0.1).all()
    with pytest.raises(ValueError, match="rule must be"):
        classes.weights("max", 0.3, losses, gram, scores)


def test_parts_are_disjoint_and_of_their_size(parts):
    assert not torch.equal(parts.train[0].sort().values, parts.train[1].sort().values)
    for train, validation, test in zip(parts.train, parts.validation, parts.test, strict=True):
        assert [len(train), len(validation), len(test)] == [1000, 300, 497]
        assert torch.equal(torch.cat([train, validation, test]).sort().values, torch.arange(1797))


def test_draws_are_uniform_in_the_classes_asked_for(parts):
    classes_of = torch.arange(10).repeat(2, 4000)
    draw = torch.Generator().manual_seed(2)
    index = parts.draw(classes_of, torch.rand(2, 40_000, generator=draw, dtype=torch.float64))
    assert torch.equal(parts.y[index], classes_of)
    for train, drawn in zip(parts.train, index, strict=True):
        threes = train[parts.y[train] == 3]
        counts = torch.bincount(drawn[parts.y[drawn] == 3], minlength=1797)[threes]
        assert counts.sum() == 4000 and stats.chisquare(counts.numpy()).pvalue > 1e-6
    last = parts.draw(classes_of, torch.full((2, 40_000), 1 - 1e-16, dtype=torch.float64))
    assert torch.equal(parts.y[last], classes_of)
    every = parts.draw(None, torch.rand(2, 40_000, generator=draw, dtype=torch.float64))
    counts = torch.bincount(every[0], minlength=1797)[parts.train[0]]
    assert counts.sum() == 40_000 and stats.chisquare(counts.numpy()).pvalue > 1e-6


@pytest.mark.parametrize(("rule", "sharpness"), [("tilt", 1 / 0.3), ("hedge", 0.3)])
def test_a_step_follows_the_gradient_of_the_weighted_class_losses(
    course, parts, monkeypatch, rule, sharpness
):
    """The gradient that Adam gets is that of sum p_c L_c at the weights of this very batch."""
    mine = course(rule, 0.3)
    monkeypatch.setattr(mine.adam, "step", lambda: None)
    index = mine.batch(classes._random(SEEDS[0], 1))
    draw = classes._random(SEEDS[0], 1)
    torch.rand(index.shape, generator=draw, dtype=torch.float64)
    x, y = parts.x[index.flatten()], parts.y[index.flatten()]
    delta = mine.attack.restarts(mine.stack, x, y, 1, draw, batch_size=len(x))[0]
    mine.advance(0)
    losses = ddi.cross_entropy(mine.stack(x + delta), y).view(2, 10, 6).mean(2)
    p = (sharpness * losses.detach()).softmax(1)
    wanted = torch.autograd.grad((p * losses).sum(), list(mine.stack.parameters()))
    for parameter, gradient in zip(mine.stack.parameters(), wanted, strict=True):
        assert (parameter.grad - gradient).abs().max() < 1e-12


def test_bandit_draws_by_its_odds_and_pays_by_them(course, parts):
    mine = course("cfol", 0.01, 0.4)
    mine.scores = torch.linspace(-1, 1, 10).double().repeat(2, 1)
    mine.scores[1] *= -2
    odds = mine.chances.clone()
    assert (odds >= 0.04).all() and (odds.sum(1) - 1).abs().max() < 1e-12
    counts = torch.zeros(2, 10)
    for key in range(300):
        drawn = parts.y[mine.batch(classes._random(5, key))]
        counts += classes.by_class(torch.ones_like(drawn), drawn)
    for row, p in zip(counts.numpy(), odds.numpy(), strict=True):
        assert stats.chisquare(row, p * row.sum()).pvalue > 1e-6
    index, before = mine.batch(classes._random(5, 0)), mine.scores.clone()
    x, y = parts.x[index.flatten()], parts.y[index.flatten()]
    mine.feed(x, y)
    wrong = (mine.stack(x).argmax(1) != y).view(2, -1)
    assert 0 < wrong.sum() < wrong.numel()
    for s in range(2):
        for c in range(10):
            errors = int((wrong[s] & (y.view(2, -1)[s] == c)).sum())
            paid = mine.scores[s, c] - before[s, c]
            assert abs(paid - 0.01 * errors / odds[s, c]) < 1e-12


def test_outcome_counts_right_answers(course, parts, monkeypatch):
    mine = course("balanced")
    monkeypatch.setattr(classes, "RESTARTS", 1)
    found = mine.outcome()
    for part in ("validation", "test"):
        index = getattr(parts, part)
        images = np.array(found[f"{part}_images"])
        assert np.array_equal(images, [np.bincount(parts.y[row], minlength=10) for row in index])
        right = mine.stack(parts.x[index.flatten()]).argmax(1).view(index.shape) == parts.y[index]
        assert np.array_equal(np.sum(found[f"{part}_clean"], 1), right.sum(1).numpy())
        assert (np.array(found[f"{part}_robust"]) <= found[f"{part}_clean"]).all()


def test_what_is_recorded_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(classes, "Course", None)  # running would fail
    cell = next(classes.cells())
    path = tmp_path / "eps0.15" / f"{cell.name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({}), encoding="utf-8")
    assert "recorded" in classes.run(cell, tmp_path)
    assert len(classes.left("", tmp_path)) == len(list(classes.cells())) - 1 == 65
    assert all(c.rule == "bundle" for c in classes.left("eps0.1/bundle", tmp_path))


# --- analysis -------------------------------------------------------------------------------------


def planted(name, rule, validation, test):
    """A record of three seeds and two classes from class accuracies (3, 2) of 100 images each."""
    outcome = {}
    for part, share in (("validation", validation), ("test", test)):
        outcome[f"{part}_robust"] = (100 * np.array(share)).tolist()
        outcome[f"{part}_images"] = np.full((3, 2), 100).tolist()
    return {"cell": {"name": name, "rule": rule}, "outcome": outcome, "seeds": [0, 1, 2]}


@pytest.fixture
def records():
    """Validation and test disagree: what is chosen on one is reported on the other."""
    base = [[0.9, 0.3]] * 3  # average .6, worst .3
    fair = [[0.6, 0.5]] * 3  # .55, .5
    lucky = [[0.2, 0.2]] * 3
    noisy = [[0.8, 0.4], [0.4, 0.8], [0.6, 0.6]]
    made = [
        planted("balanced", "balanced", base, base),
        planted("bundle-1", "bundle", fair, noisy),
        planted("bundle-2", "bundle", lucky, [[1.0, 1.0]] * 3),
    ]
    return {r["cell"]["name"]: r for r in made}


def test_cells_are_chosen_on_validation_and_reported_on_test(records):
    names = table.family(records, "bundle")
    assert names == ["balanced", "bundle-1", "bundle-2"]
    # (1 - m) .3 + m .6 against (1 - m) .5 + m .55: the balanced cell from m = .8 on
    chosen = table.front(records, names)
    assert chosen[:8] == ["bundle-1"] * 8 and chosen[9:] == ["balanced"] * 2
    assert table.strict(records, names) == "bundle-1"
    assert table.matched(records, names) == "balanced"  # .55 is less than .6 - .01
    worst, mixes = np.array([0.4, 0.4, 0.6]), table.MIXES
    wanted = [
        np.mean(
            [
                (1 - m) * (w if n == "bundle-1" else 0.3) + m * 0.6
                for m, n in zip(mixes, chosen, strict=True)
            ]
        )
        for w in worst
    ]
    assert np.allclose(table.front_value(records, names), wanted, rtol=0, atol=1e-12)


def test_pooling_takes_away_the_noise_of_the_minimum(records):
    assert np.allclose(table.worst(records["bundle-1"]), [0.4, 0.4, 0.6])
    assert np.allclose(table.pooled(records["bundle-1"]), [0.6, 0.6])
    assert np.allclose(table.pooled(records["bundle-1"], without=0), [0.5, 0.7])
    mean, low, high = table.pooled_gap(records, "bundle", "cvar")
    ours, base = (table.front(records, table.family(records, m)) for m in ("bundle", "cvar"))
    full, *left = (
        table.front_pooled(records, ours, k) - table.front_pooled(records, base, k)
        for k in (None, 0, 1, 2)
    )
    assert abs(mean - full) < 1e-12 and low < mean < high
    error = np.sqrt(2 / 3 * np.sum((np.array(left) - np.mean(left)) ** 2))
    assert abs(high - mean - stats.t.ppf(0.975, 2) * error) < 1e-12


def test_every_recorded_cell_is_complete():
    root = Path(__file__).parents[1] / "results" / "classes"
    for eps in classes.EPSILONS:
        records = table.read(root / f"eps{eps:g}")
        assert set(records) == {c.name for c in classes.cells() if c.eps == eps}
        for record in records.values():
            assert tuple(record["seeds"]) == classes.SEEDS and record["steps"] == classes.STEPS
            assert np.array(record["outcome"]["test_robust"]).shape == (len(classes.SEEDS), 10)
