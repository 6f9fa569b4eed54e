"""The ledger's program: networks side by side are networks one by one, and runs resume."""

import json
from dataclasses import replace

import ledger
import ledger_dose as dose
import ledger_table as table
import numpy as np
import pytest
import torch
from scipy import stats

import ddi

SEEDS, IMAGES, M = (3, 4, 5), 7, 5


@pytest.fixture(scope="module")
def toy():
    """Three networks after some steps, seven images, five perturbations with repetitions."""
    data = ddi.digits().to(dtype=torch.float64)
    x, y = data.x_train[:IMAGES], data.y_train[:IMAGES]
    models = [ledger.network(6, seed) for seed in SEEDS]
    for model in models:
        for p in model.parameters():
            p.data *= 4  # far from linear, so that restarts end apart
    attack = ddi.PGD(0.2, 0.08, 3)
    draw = torch.Generator().manual_seed(0)
    deltas = torch.stack([attack.restarts(model, x, y, M, draw) for model in models], 1)
    deltas[3, :, 2] = deltas[1, :, 2]
    deltas[1:, :, 4] = deltas[0, :, 4]  # an image with nothing to choose
    stack = ledger.Stack(models)
    wide = x.repeat(len(SEEDS), 1, 1, 1), y.repeat(len(SEEDS))
    return models, stack, x, y, deltas, wide, ledger.Passes.of(stack, *wide, deltas.flatten(1, 2))


def one(gradient, network):
    """A network's part of a stacked gradient, flat in the order of its own parameters."""
    half = len(gradient) // 2
    parts = [
        (w[network].T, b[network]) for w, b in zip(gradient[:half], gradient[half:], strict=True)
    ]
    return torch.cat([v.flatten() for pair in parts for v in pair])


OPTIONS = {
    "single": {},
    "mean": {"m": M},
    "max": {"m": M},
    "ddi": {"m": M, "normalize": False},
    "product": {"m": M, "normalize": False},
    "bundle": {"m": M, "t": 0.7, "joint": False},
}


@pytest.mark.parametrize("rule", OPTIONS)
def test_a_stacked_step_is_the_rules_step(toy, rule):
    models, _, x, y, deltas, _, passes = toy
    weights, unsolved = ledger.choose(rule, passes, deltas.flatten(1, 2), 0.7)
    gradient = passes.gradient(weights)
    assert unsolved == 0
    for i, model in enumerate(models):
        given = iter(deltas[:, i])
        step = ddi.descent_rule(rule, **OPTIONS[rule])(model, x, y, lambda *_: next(given))  # noqa: B023
        error = (one(gradient, i) - step.gradient).norm()
        assert error < 1e-7 * step.gradient.norm()


def test_gram_matrices_and_lengths_are_those_of_per_sample_gradients(toy):
    models, _, x, y, deltas, _, passes = toy
    weights, _ = ledger.choose("perexample", passes, deltas.flatten(1, 2), 0.7)
    gradient = passes.gradient(weights)
    for i, model in enumerate(models):
        each = ddi.per_sample_gradients(model, x, y, deltas[:, i])
        rows = torch.randperm(M * IMAGES, generator=torch.Generator().manual_seed(i))[:20]
        flat = each.flatten(0, 1)[rows] / IMAGES
        torch.testing.assert_close(passes.gram(i, rows), flat @ flat.T, rtol=1e-10, atol=1e-14)
        joint = each.mean(1)
        torch.testing.assert_close(passes.joint_gram[i], joint @ joint.T, rtol=1e-10, atol=1e-14)
        units = each[0] / each[0].norm(dim=1, keepdim=True)
        torch.testing.assert_close(one(gradient, i), units.mean(0), rtol=1e-10, atol=1e-14)


def test_attacks_on_the_stack_are_attacks_on_its_networks(toy):
    models, stack, x, y, _, wide, _ = toy
    attack = ddi.PGD(0.2, 0.08, 7, random_start=False)
    together = attack(stack, *wide).unflatten(0, (len(SEEDS), -1))
    for model, found in zip(models, together, strict=True):
        torch.testing.assert_close(found, attack(model, x, y), rtol=0, atol=1e-12)


def test_lengths_of_steps():
    for h in (0.1, 0.01):
        cell = ledger.unit("single", h)
        sizes = torch.tensor([cell.size(k) for k in range(cell.steps)])
        assert cell.steps == round(24 / h) and (sizes[: cell.steps // 2] == h).all()
        assert (sizes.diff() <= 0).all() and sizes[cell.steps // 2] < h
        assert sizes[-1].item() == pytest.approx(h / 100)
        assert sizes.sum().item() == pytest.approx(14.56, rel=5e-3)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "FINAL", replace(ledger.FINAL, steps=2))
    monkeypatch.setattr(ledger, "PROBES", 4)
    data = ddi.digits().to(dtype=torch.float64)
    setting = ledger.Setting("toy", 6, (7, 8), (0, 6))
    cell = ledger.Cell("product", "product", 0.5, 8)
    through = ledger.run(setting, cell, data, tmp_path / "through", {})

    advance, count = ledger.Course.advance, iter(range(100))

    def dies(course):
        if next(count) == 5:
            raise KeyboardInterrupt
        advance(course)

    monkeypatch.setattr(ledger.Course, "advance", dies)
    with pytest.raises(KeyboardInterrupt):
        ledger.run(setting, cell, data, tmp_path / "pieces", {})
    assert not (tmp_path / "pieces" / "toy" / "product.json").exists()
    pieces = ledger.run(setting, cell, data, tmp_path / "pieces", {})
    assert next(count) == 5 + 1 + 4  # steps 4 to 7 after the interruption, not all eight
    seconds = [record.pop("cpu_seconds") for record in (through, pieces)]
    assert min(seconds) > 0 and pieces == through
    assert json.loads((tmp_path / "pieces" / "toy" / "product.json").read_text())["probes"]
    assert {len(values) for values in through["probes"].values()} == {4}
    falling = sum(100 ** (-k / 4) for k in (1, 2, 3, 4))
    assert through["path"] == pytest.approx([0.5 * (4 + falling)] * 2)


def test_shortfalls_are_those_of_the_rules_at_the_steps_own_starts():
    data = ddi.digits().to(dtype=torch.float64)
    setting = ledger.Setting("toy", 6, (7, 8), (0, 9))
    course = dose.Watched(setting, ledger.unit("single"), data)
    for p in course.stack.parameters():
        p.data *= 4  # far from linear, so that restarts end apart
    course.step = 5  # measured: in the middle of the first block
    before = course.stack.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    course.advance()
    seen = {key: values[0] for key, values in course.seen.items()}
    course.stack.load_state_dict(before)
    x, y = course.batch()
    deltas = course.attack(ledger.INNER["PGD-7"], x, y, 5, 5)
    for i in range(2):
        model = ledger.network(6, 7)
        for layer, (w, b) in zip((model[1], model[3]), course.stack.layers, strict=True):
            layer.weight.data, layer.bias.data = w[i].T.detach(), b[i, 0].detach()
        lengths = {}
        for rule in ("single", "product", "ddi"):
            given = iter(deltas[:, 9 * i : 9 * i + 9])
            each = {"method": "gram"} if rule == "product" else {}  # a weight an image
            make = ddi.descent_rule(rule, **OPTIONS[rule], **each)
            step = make(model, x[:9], y[:9], lambda *_: next(given))  # noqa: B023
            lengths[rule] = step.gradient.norm().item()
        assert lengths["single"] == pytest.approx(seen["norm"][i], rel=1e-5)
        for rule in ("product", "ddi"):
            expected = 1 - lengths[rule] / lengths["single"]
            assert seen[f"short_{rule}"][i] == pytest.approx(expected, abs=1e-5)
    assert 0.05 < max(seen["short_ddi"]) < max(seen["short_product"])


def test_an_image_is_robust_that_no_final_attack_moves(monkeypatch):
    data = ddi.digits().to(dtype=torch.float64)
    course = dose.Watched(
        ledger.Setting("toy", 6, (7, 8), (0, 9)), ledger.unit("single", 0.05), data
    )
    with torch.no_grad():
        for w in course.stack.weights:
            w.mul_(4)
    attacked = []

    def attack(self, _, x, y, m, key):
        """Three "perturbations", of which the second turns images into the next one."""
        deltas = torch.zeros(3, *x.shape, dtype=x.dtype)
        deltas[1] = x.roll(-1, 0) - x
        attacked.append((x, y))
        return deltas

    monkeypatch.setattr(dose.Watched, "attack", attack)
    monkeypatch.setattr(dose.Watched, "phi", lambda self, *_: torch.zeros(2))
    found = course.outcome()
    for part, (x, y) in zip(("train", "test"), attacked, strict=True):
        guess = course.stack(x).argmax(1)
        moved = course.stack(x.roll(-1, 0)).argmax(1)
        clean = (guess == y).view(2, -1).double().mean(1)
        robust = ((guess == y) & (moved == y)).view(2, -1).double().mean(1)
        assert found[f"clean_{part}"] == clean.tolist()
        assert found[f"robust_{part}"] == robust.tolist() != clean.tolist()


# --------------------------------------------------------------------------------------------------


def record(name, values, **cell):
    """A record with these outcomes and nothing special on the way."""
    cell = {"name": name, "rule": "", "raw": False, "h": 0.1, "steps": 240} | cell
    keys = ("phi", "norm", "change", "cosine", "two", "gap_median", "gap_least")
    probes = dict.fromkeys(keys, [[0.5] * 4] * 4)
    return {
        "cell": cell,
        "setting": {"seeds": [0] * 4},
        "outcome": {"phi_train": values, "phi_test": values},
        "probes": probes,
        "unsolved": 0,
    }


def test_holm_and_equivalence():
    # by hand: sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, made increasing
    assert table.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    values = np.array([0.010, 0.013, 0.017, 0.008, 0.012])
    low, high = stats.t.interval(0.9, 4, values.mean(), stats.sem(values))
    # TOST at .05 is the 90 % interval inside the margin: true and false on either side of its end
    assert table.equivalent(values, high * 1.001) < 0.05 < table.equivalent(values, high * 0.999)
    assert table.interval(values, 0.9) == pytest.approx((values.mean(), low, high))
    assert table.equivalent(-values, high * 1.001) < 0.05 < table.equivalent(-values, high * 0.999)


def test_the_family_is_unit_steps_at_equal_path():
    cells = [ledger.unit("product", 0.02), ledger.unit("strong"), ledger.PASSES]
    cells += [ledger.unit("single", inner="PGD-40"), ledger.raw("product", 0.3)]
    family = [table.in_family({"cell": ledger.asdict(cell)}) for cell in cells]
    assert family == [True, True, False, True, False]


def test_the_report_pairs_seeds_and_compares_equal_step_lengths(tmp_path):
    folder = tmp_path / "small-a"
    folder.mkdir()
    single, noise = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.01, -0.01, 0.02, -0.02])
    for h, gain in zip(table.STEPS, (0.4, 0.2, 0.1, 0.05), strict=True):
        cell = {"h": h, "steps": round(24 / h)}
        for rule, values in (
            ("single", single * (1 + h)),
            ("product", single * (1 + h) - gain + noise),
        ):
            made = record(f"{rule}-h{h:g}", values.tolist(), **cell)
            (folder / f"{rule}-h{h:g}.json").write_text(json.dumps(made))
    differences = table.by_step(table.read(folder), "product")
    assert {h: round(d.mean(), 6) for h, d in differences.items()} == {
        0.1: -0.4, 0.05: -0.2, 0.02: -0.1, 0.01: -0.05,
    }  # fmt: skip
    text = table.report(tmp_path)
    half = stats_t_half(noise)
    assert "| product-h0.1 | 2.350 ± 1.4" in text and "Holm of 7" in text
    assert f"-0.400 [{-0.4 - half:+.3f}, {-0.4 + half:+.3f}]" in text
    assert "| -0.350 [-0.350, -0.350] | 0.12 |" in text
    table.figure(table.read(folder))


def test_equal_time_is_the_clock_of_the_flow():
    def course(cell, norm, shift):
        made = record(cell.name, [0.0] * 4) | {"cell": ledger.asdict(cell)}
        sizes = np.array([cell.size(k) for k in range(cell.steps)]).reshape(24, -1).sum(1)
        spent = sizes / norm
        middle = np.cumsum(spent) - spent / 2
        made["probes"] = {
            "norm": [[norm] * 4] * 24,
            "phi": [[shift + 5 - t / 20] * 4 for t in middle],
        }
        return made, middle[-1]

    single, end = course(ledger.unit("single"), 0.4, 0.0)
    product, later = course(ledger.unit("product", 0.02), 0.2, 0.01)
    assert later == pytest.approx(2 * end, rel=0.05)  # half the norm, twice the time
    records = {"single-h0.1": single, "product-h0.02": product}
    sizes = table.block_sizes(single)  # ten steps of .1, and in the end of about .001
    assert sizes[0] == pytest.approx(1) and 0.01 < sizes[-1] < 0.013 and len(sizes) == 24
    assert sizes.sum() == pytest.approx(14.5, rel=0.01)
    time, _ = table.against_time(single)
    assert time[-1] == pytest.approx(end) and time.shape == (24, 4)
    difference = table.at_equal_time(records, "product-h0.02", "single-h0.1")
    assert difference == pytest.approx(0.01, abs=1e-9)
    raw, _ = course(ledger.timed("single", 0.25), 1.0, 0.0)
    raw["probes"]["norm"] = [[9.0] * 4] * 24  # a raw step of rate r takes the time r
    assert table.against_time(raw)[0][-1] == pytest.approx(120 * 0.607, rel=0.01)


def test_doses_and_leads_are_told_probe_by_probe(tmp_path):
    def write(folder, name, **more):
        made = record(name, [1.0, 2.0, 3.0, 4.0])
        made["probes"] |= {key: [[v] * 4 for v in values] for key, values in more.items()}
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{name}.json").write_text(json.dumps(made))

    write("small-a", "single-h0.1", phi=[5, 4, 3, 2], cosine=[0.99, 0.97, 0.5, 0.5], norm=[4] * 4)
    write("small-a", "product-h0.1", phi=[5, 3.5, 2.25, 1.5], cosine=[0] * 4, norm=[4, 3, 2, 1])
    found = table.dose(tmp_path, "small-a", "product")
    assert found["lead"] == pytest.approx([0, 0.5, 0.75, 0.5])
    assert found["cosine"] == pytest.approx([0.01, 0.03, 0.5, 0.5])
    assert found["short"] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert "| small-a | product | 0.0200 | 0.1250 | +0.5000 | +0.000" in table.doses(tmp_path)


def stats_t_half(values):
    """Half of the 95 % interval of four values: the t quantile with three degrees is 3.1824."""
    return 3.182446 * values.std(ddof=1) / 2
