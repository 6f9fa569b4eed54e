"""The analysis that experiments/ledger.md fixed, of the records that are there."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from ledger import Cell
from matplotlib.figure import Figure
from scipy import stats

from ddi import plots

Records = dict[str, dict[str, Any]]  # the records of one setting by the names of their cells

BASE, MARGIN, STEPS = "single-h0.1", 0.02, (0.1, 0.05, 0.02, 0.01)
SETTINGS = ("small-a", "small-b", "wide-a")
# comparisons of the equivalence test: better maximisers, and what they are compared with
BETTER = (
    ("strong-h0.1", BASE),
    ("single-h0.1-PGD-40", BASE),
    ("product-h0.1-PGD-40", "product-h0.1"),
)


def read(folder: Path) -> Records:
    """The complete records of a setting, in the order in which they were made."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return {r["cell"]["name"]: r for r in sorted(records, key=lambda r: r["cell"]["name"])}


def outcome(record: dict[str, Any], key: str = "phi_train") -> np.ndarray:
    """A value a seed."""
    return np.array(record["outcome"][key])


def probes(record: dict[str, Any], key: str) -> np.ndarray:
    """A measurement on the way, ``(probes, seeds)``; NaN where there was nothing to measure."""
    return np.array(record["probes"][key], dtype=float)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and its t interval."""
    mean, error = values.mean(), stats.sem(values)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * error
    return float(mean), float(mean - half), float(mean + half)


def two_sided(values: np.ndarray) -> float:
    """p value of the t test of mean 0."""
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979): the r-th smallest of n times n - r + 1, made increasing."""
    order = np.argsort(p)
    scaled = np.asarray(p)[order] * (len(p) - np.arange(len(p)))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted.tolist()


def equivalent(values: np.ndarray, margin: float = MARGIN) -> float:
    """p value of TOST: the larger of the tests against mean <= -margin and mean >= margin."""
    low = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    high = stats.ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(low, high))


def in_family(record: dict[str, Any]) -> bool:
    """Unit steps at equal path: all but the raw cells and that of equal passes."""
    cell = record["cell"]
    return not cell["raw"] and cell["steps"] == round(24 / cell["h"])


def by_step(records: Records, rule: str) -> dict[float, np.ndarray]:
    """Differences of a rule to ``single`` at the same step length, ``h -> (seeds,)``."""
    pairs = {h: (f"{rule}-h{h:g}", f"single-h{h:g}") for h in STEPS}
    here = {h: pair for h, pair in pairs.items() if all(name in records for name in pair)}
    return {h: outcome(records[a]) - outcome(records[b]) for h, (a, b) in here.items()}


# --------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(triple: tuple[float, float, float]) -> str:
    """A mean and its interval."""
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*triple)


def p_value(p: float) -> str:
    """A p value, short."""
    return f"{p:.2g}" if p >= 1e-4 else "< .0001"


def differences(records: Records) -> str:
    """Every cell: outcomes, paired difference to the base, adjusted p value."""
    others = [name for name in records if name != BASE]
    change = {name: outcome(records[name]) - outcome(records[BASE]) for name in others}
    family = [name for name in others if in_family(records[name])]
    adjusted = dict(zip(family, holm([two_sided(change[n]) for n in family]), strict=True))
    rows = []
    for name, record in sorted(records.items(), key=lambda item: outcome(item[1]).mean()):
        train, test = outcome(record), outcome(record, "phi_test")
        row = [name, f"{train.mean():.3f} ± {train.std(ddof=1):.3f}", f"{test.mean():.3f}"]
        row.append(shown(interval(change[name])) if name in change else "")
        row.append(p_value(adjusted[name]) if name in adjusted else "")
        rows.append(row)
    head = ["cell", "φ train (± sd)", "φ test", f"to {BASE} [95 %]", f"p, Holm of {len(family)}"]
    return table(head, rows)


def on_the_way(records: Records) -> str:
    """Secondary outcomes: mean over probes and seeds; gaps in the half of constant steps."""
    rows = []
    for name, record in records.items():
        rise, cosine = probes(record, "change") > 0, 1 - probes(record, "cosine")
        half = slice(0, len(rise) // 2)
        gap, least = probes(record, "gap_median")[half], probes(record, "gap_least")
        ties = least <= 1e-9  # NaN, where no image has two maximisers, is no tie
        cells = [f"{rise.mean():.2f}", f"{rise[half].mean():.2f}", f"{cosine.mean():.3f}"]
        cells += [
            f"{probes(record, 'two').mean():.2f}",
            f"{np.nanmean(np.log10(gap.clip(1e-16))):.2f}",
        ]
        cells += [f"{np.nanmin(least):.1e}", str(int(ties.sum())), str(record["unsolved"])]
        rows.append([name, *cells])
    head = ["cell", "φ rises", "first half", "1 − cosine", "two maximisers"]
    head += ["log10 median gap", "least gap", "exact ties", "unsolved"]
    return table(head, rows)


def near_ties(records: Records) -> str:
    """Least gaps of unit-step cells below each threshold; an atom at 0 would level off."""
    cells = [record for record in records.values() if not record["cell"]["raw"]]
    least = np.concatenate([probes(record, "gap_least").ravel() for record in cells])
    bounds = [10.0**-k for k in range(4, 12)]
    counts = [str(int((least <= bound).sum())) for bound in bounds]
    return table([f"of {len(least)}", *(f"≤ {b:.0e}" for b in bounds)], [["probes", *counts]])


def equivalence(records: Records) -> str:
    """TOST of what better maximisers change, and of what they change in product - single."""
    found = {
        f"{better} − {plain}": outcome(records[better]) - outcome(records[plain])
        for better, plain in BETTER
        if better in records and plain in records
    }
    if len(found) == len(BETTER):
        _, single, product = found.values()
        found["product − single, PGD-40 against PGD-7"] = product - single
    rows = []
    for name, values in found.items():
        p = equivalent(values)
        rows.append([name, shown(interval(values, 0.9)), p_value(p), "yes" if p < 0.05 else "no"])
    return table(["difference", "mean [90 %]", "p, TOST", f"within ± {MARGIN:g}"], rows)


def interaction(records: Records) -> str:
    """Rule − single against h, with the change from the longest to the shortest step."""
    rows = []
    for rule in ("product", "ddi", "bundle"):
        d = by_step(records, rule)
        row = [rule] + [shown(interval(d[h])) if h in d else "" for h in STEPS]
        if len(d) == len(STEPS):
            slope = np.polyfit(STEPS, np.array([d[h] for h in STEPS]), 1)[0]
            ratio = abs(d[0.01].mean()) / abs(d[0.1].mean())
            row += [shown(interval(d[0.1] - d[0.01])), f"{ratio:.2f}", shown(interval(slope))]
            rows.append(row)
        elif len(d) > 1:
            rows.append(row + [""] * 3)
    head = ["rule", *(f"D({h:g})" for h in STEPS)]
    return table([*head, "D(.1) − D(.01)", "ratio D(.01)/D(.1)", "slope in h"], rows)


def against_time(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Time of the flow at the probes, and phi there, both ``(probes, seeds)``.

    A step of length h along d takes the time h / ||d||; a block of steps is given its probe's norm.
    """
    norm, φ = probes(record, "norm"), probes(record, "phi")
    raw = Cell(**record["cell"]).raw
    spent = np.full_like(norm, 1.0) * block_sizes(record)[:, None] / (1.0 if raw else norm)
    return spent.cumsum(0) - spent / 2, φ


def block_sizes(record: dict[str, Any]) -> np.ndarray:
    """Step lengths (raw: rates), summed over the steps of each probe, ``(probes,)``."""
    cell, count = Cell(**record["cell"]), len(probes(record, "phi"))
    return np.array([cell.size(k) for k in range(cell.steps)]).reshape(count, -1).sum(1)


def at_equal_time(records: Records, name: str, base: str) -> np.ndarray:
    """Difference of phi at the last time that both cells reach, ``(seeds,)``."""
    (t, φ), (t0, φ0) = against_time(records[name]), against_time(records[base])
    last = np.minimum(t[-1], t0[-1])
    here, there = (
        np.array([np.interp(x, *pair) for x, *pair in zip(last, a.T, b.T, strict=True)])
        for a, b in ((t, φ), (t0, φ0))
    )
    return here - there


def equal_time(records: Records) -> str:
    """Directions at equal step length: at equal path, and at equal time of the flow."""
    rows = []
    for name, record in records.items():
        base = f"single-h{record['cell']['h']:g}"
        if not in_family(record) or base not in records or base == name:
            continue
        path = outcome(record) - outcome(records[base])
        time = at_equal_time(records, name, base)
        ends = [f"{against_time(records[n])[0][-1].mean():.0f}" for n in (name, base)]
        verdict = "yes" if equivalent(time) < 0.05 else "no"
        rows.append([name, *ends, shown(interval(path)), shown(interval(time)), verdict])
    head = ["cell", "its time", "single's time", "to single, equal path"]
    return table([*head, "equal time [95 %]", f"within ± {MARGIN:g}"], rows)


def raw_steps(records: Records) -> str:
    """Raw cells of equal rate and number of steps: product against single."""
    rows = []
    for name, record in records.items():
        base = name.replace("raw-product", "raw-single")
        if name.startswith("raw-product") and base in records:
            values, cell = outcome(record) - outcome(records[base]), record["cell"]
            row = [f"{cell['h']:g}", str(cell["steps"])]
            row += [f"{outcome(records[n]).mean():.3f}" for n in (base, name)]
            row += [shown(interval(values)), "yes" if equivalent(values) < 0.05 else "no"]
            rows.append(row)
    rows.sort(key=lambda row: (row[1], float(row[0])))
    head = ["rate", "steps", "raw single", "raw product", "difference [95 %]"]
    return table([*head, f"within ± {MARGIN:g}"], rows) if rows else ""


def gains(out: Path) -> dict[tuple[str, str], np.ndarray]:
    """By batch and rule: what the rule gains on single at the end, a value a seed."""
    found = {}
    for name in ("batch-8", "batch-64", "batch-512", *SETTINGS):
        records = read(out / name)
        for rule in ("ddi", "product"):
            if {BASE, f"{rule}-h0.1"} <= records.keys():
                found[name, rule] = outcome(records[BASE]) - outcome(records[f"{rule}-h0.1"])
    return found


def dose(out: Path, name: str, rule: str) -> dict[str, np.ndarray]:
    """At each probe, means over the networks: the rule's ``lead`` on single; 1 - ``cosine`` along
    single's run; and the rule's ``short``fall, 1 - ||d|| / ||g||, each on its own path.
    """
    single, other = (read(out / name)[cell] for cell in (BASE, f"{rule}-h0.1"))
    found = {"lead": probes(single, "phi") - probes(other, "phi")}
    found |= {"cosine": 1 - probes(single, "cosine")}
    found |= {"short": 1 - probes(other, "norm") / probes(single, "norm")}
    return {key: values.mean(1) for key, values in found.items()}


def doses(out: Path) -> str:
    """Lead at the end of constant steps and gain at the end, beside the mean doses until then."""
    rows = []
    for key, gain in gains(out).items():
        half = {k: v[: len(v) // 2] for k, v in dose(out, *key).items()}
        row = [f"{half['cosine'].mean():.4f}", f"{half['short'].mean():.4f}"]
        rows.append([*key, *row, f"{half['lead'][-1]:+.4f}", shown(interval(gain))])
    head = ["batch", "rule", "1 − cosine, first half", "shortfall, first half"]
    return table([*head, "lead after it", "gain at the end [95 %]"], rows) if rows else ""


def report(out: Path) -> str:
    """All tables of what is recorded, as Markdown."""
    parts = []
    for name in SETTINGS:
        records = read(out / name)
        if BASE not in records or len(records) < 2:
            continue
        seeds = len(records[BASE]["setting"]["seeds"])
        parts += [f"### {name}: {seeds} paired seeds, {len(records)} cells recorded"]
        parts += [differences(records), "Better maximisers (TOST):", equivalence(records)]
        parts += ["Direction against step length:", interaction(records)]
        parts += ["At equal time (addition 1):", equal_time(records)]
        raw = raw_steps(records)
        parts += ["Raw steps at equal rate:", raw] if raw else []
        parts += ["On the way:", on_the_way(records), "Least gap of a probe:", near_ties(records)]
    tuning = read(out / "tuning")
    if tuning:
        rates = [[name, f"{outcome(r).mean():.3f}"] for name, r in tuning.items()]
        parts += ["### Raw rates on the tuning seeds", table(["cell", "φ train"], rates)]
        parts += [raw_steps(tuning)]
    dosed = doses(out)
    parts += ["### Dose–response", dosed] if dosed else []
    return "\n\n".join(parts)


def figure(records: Records) -> Figure:
    """phi at the end against step length; at h = .1 along the path, and against the flow's time."""
    plots.use_style()
    fig, (ends, path, time) = plt.subplots(1, 3, figsize=(12.6, 3.8))
    names = {"single": "PGD normalised", "ddi": "DDi", "product": "product DDi", "bundle": "bundle"}
    for rule, method in names.items():
        style: dict[str, Any] = plots.METHODS[method] | {"label": method}
        cells = {h: records[f"{rule}-h{h:g}"] for h in STEPS if f"{rule}-h{h:g}" in records}
        if len(cells) > 1:
            mean, low, high = np.array([interval(outcome(r)) for r in cells.values()]).T
            ends.errorbar(list(cells), mean, [mean - low, high - mean], capsize=3, **style)
        if 0.1 in cells:
            clock, φ = (v.mean(1) for v in against_time(cells[0.1]))
            path.plot(10 * np.arange(len(φ)) + 5, φ, markevery=6, **style)
            time.plot(clock, φ, markevery=6, **style)
    ends.set(xscale="log", xlabel="step length h, equal path", ylabel="φ on the training images")
    ends.set_xticks(STEPS, [f"{h:g}" for h in STEPS])
    ends.minorticks_off()
    path.set(xlabel="unit step of length .1 (from 120 on falling)", ylabel="φ under 4 × PGD-40")
    time.set(xlabel="time of the flow, Σ h / ‖d‖", ylabel="φ under 4 × PGD-40")
    for ax in (ends, path, time):
        ax.legend()
    return fig


def show(out: Path, picture: Path | None = None) -> None:
    """Print the report and, given a file's name, draw the figure of the main setting."""
    print(report(out))
    if picture is not None:
        figure(read(out / SETTINGS[0])).savefig(picture, dpi=110)
