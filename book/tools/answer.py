"""The answer of the book as a table, for the README and the first page: every number from a record.

python book/tools/answer.py            prints it
python book/tools/answer.py --write    puts it between the marks in README.md and book/intro.md
"""

import re
import sys
from functools import cache
from pathlib import Path

import numpy as np

import ddi

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))
import ledger_table  # noqa: E402

MARKS = "<!-- answer: made by book/tools/answer.py -->\n", "<!-- end of the answer -->\n"
PAGES = {
    "README.md": "[{n}](notebooks/{file}.ipynb)",
    "book/intro.md": "{{ref}}`{n} <chapter-{n}>`",
}
CHAPTERS = {"03": "03_corollary", "11": "11_cifar10", "12": "12_ablations", "14": "14_ledger"}


ledger = cache(ledger_table.read)  # the cells of a setting's folder


def told(values: np.ndarray) -> str:
    """Mean ± standard deviation over seeds."""
    text = f"{values.mean():+.3f} ± {values.std(ddof=1):.3f}".replace("-", "−")
    return text.replace(" ", "\u00a0")  # a number is not broken over lines


def apart(cell: str, setting: str = "small-a") -> str:
    """Paired differences to one gradient in steps of .1."""
    cells = ledger(ROOT / "results" / "ledger" / setting)
    return told(ledger_table.outcome(cells[cell]) - ledger_table.outcome(cells[ledger_table.BASE]))


def first_steps(arm: str) -> np.ndarray:
    """Training loss of ResNet-18, mean of steps 201 to 300, a seed."""
    found = {
        r.config["setting"]["seed"]: r.metrics["train_loss"][-5:].mean()
        for r in ddi.read_records(ROOT / "results" / "resnet-start")
        if r.config["arm"] == arm
    }
    return np.array([found[seed] for seed in sorted(found)])


@cache
def rows() -> list[tuple[str, str, str, str]]:
    """Question, what was found, where and how far, chapter."""
    return [
        (
            "Does one gradient at a worst perturbation descend?",
            "At almost every θ. Where maximisers tie it need not.",
            "theorem and counterexamples",
            "03",
        ),
        *on_digits(),
        *on_the_network(),
    ]


def on_digits() -> list[tuple[str, str, str, str]]:
    """The rows of the ledger."""
    digits = "64 digits in every step, small network, 20 seeds, training images"
    return [
        (
            "At steps of equal length, does the direction matter?",
            f"Product direction {apart('product-h0.1')} nats, DDi\u00a0{apart('ddi-h0.1')}; one "
            f"gradient in steps five times shorter, same path, {apart('single-h0.02')}",
            f"{digits}; on test images the order is reversed",
            "14",
        ),
        (
            "Do better maximisers?",
            f"No: {apart('strong-h0.1')} nats",
            f"{digits}; PGD-7 is nearly exact there",
            "14",
        ),
        (
            "With batches drawn anew?",
            f"Hardly: product {apart('product-h0.1', 'batch-64')} nats, "
            f"DDi {apart('ddi-h0.1', 'batch-64')}",
            "batches of 64 of 1 400 digits, small network, 10 seeds",
            "14",
        ),
    ]


def on_the_network() -> list[tuple[str, str, str, str]]:
    """The rows of ResNet-18."""
    unit = first_steps("fast-normalised")
    same = abs(first_steps("ddi-fast") - unit).max()
    pgd, other = (
        ddi.read_record(ROOT / "results" / "figure1c" / f"{arm}-seed0").metrics["robust"]
        for arm in ("pgd", "pgd-normalised")
    )
    epochs = min(len(pgd), len(other))
    net = "ResNet-18 on CIFAR-10 (JPEG copies)"
    return [
        (
            "On the paper's network, what is DDi?",
            f"One normalised gradient, to {same:.4f} nats; plain training is "
            f"{told(first_steps('fast') - unit)} above both",
            f"{net}, single-step adversary, first 300 steps, {len(unit)} seeds",
            "12",
        ),
        (
            "Where does the fast rise of its Fig. 1c come from?",
            f"One normalised gradient has it: {other[epochs - 1]:.3f} robust accuracy against "
            f"{pgd[epochs - 1]:.3f}",
            f"{net}, PGD-7, epoch {epochs} of 200, 1 seed, validation; DDi not run beside it",
            "11",
        ),
    ]


def answer(page: str) -> str:
    """The table, with a page's kind of links."""
    lines = ["| question | found | where, and how far it goes | chapter |", "|---|---|---|---|"]
    for *cells, chapter in rows():
        link = PAGES[page].format(n=chapter, file=CHAPTERS[chapter])
        lines.append("| " + " | ".join([*cells, link]) + " |")
    return "\n".join(lines) + "\n"


def held(page: str) -> str:
    """What stands between the marks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.partition(MARKS[0])[2].partition(MARKS[1])[0]


def main() -> None:
    """Print, or write."""
    for page in PAGES:
        if "--write" in sys.argv:
            path = ROOT / page
            between = re.compile(re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1]), re.S)
            new = MARKS[0] + answer(page) + MARKS[1]
            path.write_text(between.sub(lambda _, new=new: new, path.read_text("utf-8")), "utf-8")
        else:
            print(answer(page))


if __name__ == "__main__":
    main()
