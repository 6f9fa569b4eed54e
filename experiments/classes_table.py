"""The analysis that experiments/classes.md fixed, of the records that are there."""

from pathlib import Path
from typing import Any

import numpy as np
from ledger_table import (
    Records,
    equivalent,
    holm,
    interval,
    p_value,
    read,
    shown,
    table,
    two_sided,
)
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

BASE, METHODS = "balanced", ("bundle", "cfol", "hedge", "tilt", "cvar")
MARGIN, ALLOWANCE = 0.01, 0.01
MIXES = np.linspace(0, 1, 11)  # shares of the average in what a choice of cell maximises


def hits(record: dict[str, Any], part: str, key: str = "robust") -> tuple[Array, Array]:
    """Right answers and images by class, ``(seeds, classes)`` each."""
    outcome = record["outcome"]
    return np.array(outcome[f"{part}_{key}"], float), np.array(outcome[f"{part}_images"], float)


def average(record: dict[str, Any], part: str = "test", key: str = "robust") -> Array:
    """Accuracy, a value a seed."""
    right, of = hits(record, part, key)
    return right.sum(1) / of.sum(1)


def worst(record: dict[str, Any], part: str = "test") -> Array:
    """The least class accuracy, a value a seed."""
    right, of = hits(record, part)
    return (right / of).min(1)


def pooled(record: dict[str, Any], part: str = "test", without: int | None = None) -> Array:
    """Class accuracies over the images of all seeds, ``(classes,)``, but for one place's."""
    right, of = hits(record, part)
    kept = np.arange(len(of)) != (-1 if without is None else without)
    return np.asarray(right[kept].sum(0) / of[kept].sum(0))


def family(records: Records, method: str) -> list[str]:
    """The cells of a method: its own and the balanced one, the lenient limit of its rivals."""
    return [BASE] + [n for n, r in records.items() if r["cell"]["rule"] == method]


def complete(records: Records, method: str) -> bool:
    """Whether all six cells of a method are recorded, and the balanced one."""
    return BASE in records and len(family(records, method)) == 7


def front(records: Records, names: list[str]) -> list[str]:
    """The cell for every mix of worst class and average, chosen on the validation parts."""
    a = np.array([average(records[n], "validation").mean() for n in names])
    w = np.array([worst(records[n], "validation").mean() for n in names])
    return [names[int(np.argmax((1 - mix) * w + mix * a))] for mix in MIXES]


def front_value(records: Records, names: list[str]) -> Array:
    """F of every seed: mean over the mixes of what the chosen cells have on the test parts."""
    chosen = zip(MIXES, front(records, names), strict=True)
    values = [(1 - mix) * worst(records[n]) + mix * average(records[n]) for mix, n in chosen]
    return np.asarray(np.mean(values, 0))


def front_pooled(records: Records, chosen: list[str], without: int | None = None) -> float:
    """F of the cells of :func:`front`, with the pooled worst class in place of each seed's."""
    values = {}
    for name in set(chosen):
        a = np.delete(average(records[name]), [] if without is None else without).mean()
        values[name] = pooled(records[name], without=without).min(), a
    mixed = [
        (1 - mix) * values[n][0] + mix * values[n][1] for mix, n in zip(MIXES, chosen, strict=True)
    ]
    return float(np.mean(mixed))


def pooled_gap(records: Records, method: str, rival: str) -> tuple[float, float, float]:
    """Difference of two methods' pooled front values, with a 95 % jackknife interval over seeds."""
    count = len(records[BASE]["seeds"])
    chosen = [front(records, family(records, m)) for m in (method, rival)]
    ours, theirs = (
        np.array([front_pooled(records, names, k) for k in (None, *range(count))])
        for names in chosen
    )
    full, *rest = ours - theirs
    error = np.sqrt((count - 1) * np.var(rest))
    half = stats.t.ppf(0.975, count - 1) * error
    return float(full), float(full - half), float(full + half)


def strict(records: Records, names: list[str]) -> str:
    """The cell of the best worst class on the validation parts."""
    return max(names, key=lambda n: worst(records[n], "validation").mean())


def matched(records: Records, names: list[str]) -> str:
    """The same among those whose average is at least the balanced one's less the allowance."""
    bound = average(records[BASE], "validation").mean() - ALLOWANCE
    good = [n for n in names if average(records[n], "validation").mean() >= bound]
    return strict(records, good)


# --------------------------------------------------------------------------------------------------


def cells(records: Records) -> str:
    """Every cell: test average, worst class, pooled worst class, clean, seconds."""
    rows = []
    for name, r in sorted(records.items(), key=lambda item: -worst(item[1]).mean()):
        a, w = interval(average(r)), interval(worst(r))
        row = [name, *("{:.3f} [{:.3f}, {:.3f}]".format(*v) for v in (a, w))]
        row += [f"{pooled(r).min():.3f} (class {pooled(r).argmin()})"]
        rows.append([*row, f"{average(r, key='clean').mean():.3f}", f"{r['cpu_seconds']:.0f}"])
    head = ["cell", "average [95 %]", "worst class [95 %]", "pooled worst class", "clean", "CPU s"]
    return table(head, rows)


def primary(every: dict[str, Records]) -> str:
    """Front values: bundle minus each rival, with Holm over rivals and radii, and TOST."""
    rows, values = [], []
    for radius, records in every.items():
        for rival in METHODS[1:]:
            if complete(records, "bundle") and complete(records, rival):
                ours, theirs = (front_value(records, family(records, m)) for m in ("bundle", rival))
                values.append(ours - theirs)
                rows.append([radius, rival, f"{ours.mean():.3f}", f"{theirs.mean():.3f}"])
    adjusted = holm([two_sided(v) for v in values])
    for row, v, p in zip(rows, values, adjusted, strict=True):
        row += [shown(interval(v)), p_value(p), p_value(equivalent(v, MARGIN))]
    head = ["ε", "rival", "F(bundle)", "F(rival)", "bundle − rival [95 %]"]
    return table([*head, f"p, Holm of {len(rows)}", f"p, TOST ± {MARGIN:g}"], rows)


def secondary(every: dict[str, Records]) -> str:
    """Chosen cells and paired differences at the matched average and at the strict end."""
    rows = []
    for radius, records in every.items():
        for method in METHODS:
            if not complete(records, method) or not complete(records, "bundle"):
                continue
            for place, choose in (("matched", matched), ("strict", strict)):
                ours, theirs = (
                    records[choose(records, family(records, m))] for m in ("bundle", method)
                )
                row = [radius, method, place, theirs["cell"]["name"]]
                row += [f"{worst(theirs).mean():.3f}", f"{average(theirs).mean():.3f}"]
                for of in (worst, average):
                    gap = of(ours) - of(theirs)
                    row.append(shown(interval(gap)) if method != "bundle" else "")
                rows.append(row)
    head = ["ε", "method", "at", "cell", "worst class", "average"]
    return table([*head, "bundle − it, worst [95 %]", "bundle − it, average [95 %]"], rows)


def noise_free(every: dict[str, Records]) -> str:
    """Addition 1: pooled front values, bundle minus each rival."""
    rows = [
        [radius, rival, shown(pooled_gap(records, "bundle", rival))]
        for radius, records in every.items()
        for rival in METHODS[1:]
        if complete(records, "bundle") and complete(records, rival)
    ]
    return table(["ε", "rival", "bundle − rival, pooled F [95 %, jackknife]"], rows)


def against_balanced(every: dict[str, Records]) -> str:
    """Every method's front value, and min-norm's and plain's worst class, minus balanced's."""
    rows = []
    for radius, records in every.items():
        for method in METHODS:
            if complete(records, method):
                gap = front_value(records, family(records, method)) - front_value(records, [BASE])
                rows.append([radius, f"{method}, F", shown(interval(gap))])
        for name in ("minnorm", "plain"):
            if name in records and BASE in records:
                gap = worst(records[name]) - worst(records[BASE])
                rows.append([radius, f"{name}, worst class", shown(interval(gap))])
    return table(["ε", "what", "minus balanced [95 %]"], rows)


def show(out: Path) -> None:
    """Print all tables of what is recorded, as Markdown."""
    every = {folder.name[3:]: read(folder) for folder in sorted(out.glob("eps*"), reverse=True)}
    every = {radius: records for radius, records in every.items() if records}
    print("### Front values\n\n" + primary(every))
    print("\n### Against balanced batches\n\n" + against_balanced(every))
    print("\n### Front values by the pooled worst class (addition 1)\n\n" + noise_free(every))
    print("\n### Matched average, strict end\n\n" + secondary(every))
    for radius, records in every.items():
        seeds = len(next(iter(records.values()))["seeds"])
        print(f"\n### ε = {radius}: {seeds} paired seeds, {len(records)} cells recorded\n")
        print(cells(records))
