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
NOTE = (
    "*Differences* are to one gradient, with steps of the same length unless the row says "
    "otherwise, in robust loss (nats; guessing among ten classes is 2.30): negative is better; ± "
    "is the standard deviation over paired seeds. *Product*: every image has its own mix of "
    "perturbations. *DDi*: Danskin's descent direction, one mix for the whole batch."
)
CHAPTERS = {"03": "03_corollary", "11": "11_cifar10", "12": "12_ablations", "14": "14_ledger"}


ledger = cache(ledger_table.read)  # the cells of a setting's folder


def told(values: np.ndarray) -> str:
    """Mean ± standard deviation over seeds."""
    text = f"{values.mean():+.3f} ± {values.std(ddof=1):.3f}".replace("-", "−")
    return text.replace(" ", "\u00a0")  # a number is not broken over lines


def differences(cell: str, setting: str = "small-a") -> np.ndarray:
    """Paired differences to one gradient in steps of .1."""
    cells = ledger(ROOT / "results" / "ledger" / setting)
    return ledger_table.outcome(cells[cell]) - ledger_table.outcome(cells[ledger_table.BASE])


def apart(cell: str, setting: str = "small-a") -> str:
    """The same, told."""
    return told(differences(cell, setting))


def tested(cell: str) -> str:
    """The mean robust loss of the same networks on test images."""
    cells = ledger(ROOT / "results" / "ledger" / "small-a")
    return f"{ledger_table.outcome(cells[cell], 'phi_test').mean():.2f}"


def first_steps(arm: str, column: str = "train_loss", last: int = 5) -> np.ndarray:
    """Training loss of ResNet-18, mean of steps 201 to 300, a seed; or another column."""
    found = {
        r.config["setting"]["seed"]: r.metrics[column][-last:].mean()
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
            "At almost every θ where it is not zero. Where maximisers tie it need not.",
            "theorem and counterexamples; an exact maximiser, a loss that is smooth in θ",
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
            f"{digits}. On test images the order of the losses is reversed: "
            f"{tested('single-h0.1')} for one gradient, {tested('product-h0.1')} for the product, "
            f"{np.log(10):.2f} for guessing; accuracy is alike",
            "14",
        ),
        (
            "Do better maximisers?",
            f"No: {apart('strong-h0.1')} nats",
            f"{digits}. PGD-7 is nearly exact there",
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
    reached = " and ".join(
        f"{first_steps(arm, 'robust', 1).mean():.2f}" for arm in ("fast-normalised", "fast")
    )
    net = "ResNet-18 (CELU, GroupNorm) on CIFAR-10 (JPEG copies)"
    return [
        (
            "On the paper's network, what is DDi?",
            f"One normalised gradient, to {same:.4f} nats; raw FAST is "
            f"{told(first_steps('fast') - unit)} above both",
            f"{net}, single-step adversary, two perturbations, training loss of steps 201 to 300 "
            f"(robust accuracy then {reached}; guessing has 0.10), {len(unit)} seeds",
            "12",
        ),
        (
            "Where does the fast rise of its Fig. 1c come from?",
            f"One normalised gradient has it: {other[epochs - 1]:.3f} robust accuracy against "
            f"{pgd[epochs - 1]:.3f}",
            f"{net}, PGD-7, epoch {epochs} of 200, 1 seed, validation, the paper's rate for both; "
            "DDi not run beside it",
            "11",
        ),
    ]


def advice() -> str:
    """What follows for whoever trains with PGD, and what it rests on."""
    most = differences("product-h0.1", "batch-64")
    low = -ledger_table.interval(most)[1]
    return (
        "**If you train with PGD**: keep one perturbation an image, and try its gradient "
        '*normalised*, with a learning rate of its own (`ddi.descent_rule("single", '
        "normalize=True)`). Several gradients cost two to ten times as much a step, and with "
        f"batches drawn anew they bought at most {low:.3f} nats in the ledger (upper end of the "
        "95\u00a0% interval of the mean), and less than a point of robust accuracy on CIFAR-10 "
        "(small network). Normalised steps were ahead without momentum and BatchNorm; in forty "
        "steps on digits raw PGD was ahead with BatchNorm, and with momentum its lag shrank "
        "(chapter 12). Nothing here says what a normalised step does for the *final* robust "
        "accuracy of a large network.\n"
    )


def answer(page: str) -> str:
    """The advice and the table, with a page's kind of links."""
    lines = [
        advice(),
        "| question | found | where, and how far it goes | chapter |",
        "|---|---|---|---|",
    ]
    for *cells, chapter in rows():
        link = PAGES[page].format(n=chapter, file=CHAPTERS[chapter])
        lines.append("| " + " | ".join([*cells, link]) + " |")
    return "\n".join([*lines, "", NOTE]) + "\n"


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
