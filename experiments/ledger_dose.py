"""How much shorter than one gradient the directions are, at the same weights, probe by probe.

    python experiments/ledger_dose.py         # runs what is not recorded yet

Addition 2 of experiments/ledger.md. Writes results/ledger/dose/<setting>/<cell>.json: what
experiments/ledger.py records of the cell, the shortfalls 1 - ||d|| / ||g_1|| at every probe, and
accuracies at the end.
"""

import ledger
import torch
from ledger import Course, Passes, choose
from torch import Tensor

import ddi


class Watched(Course):
    """A course that measures shortfalls before each probed step, and accuracies at its end."""

    def probe(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Also the shortfalls of the product and of DDi, at the step's own starts; ``(S,)``."""
        inner = ledger.INNER[self.cell.inner]
        deltas = self.attack(inner, x, y, ledger.M, self.step)
        passes, norms = Passes.of(self.stack, x, y, deltas), {}
        for rule in ("single", "ddi", "product"):
            weights, unsolved = choose(rule, passes, deltas, 0.0)
            self.unsolved += unsolved
            parts = passes.gradient(weights)
            norms[rule] = torch.stack([g.square().sum((1, 2)) for g in parts]).sum(0).sqrt()
        short = {f"short_{r}": 1 - norms[r] / norms["single"] for r in ("ddi", "product")}
        return super().probe(x, y) | short

    @torch.no_grad()
    def right(self, x: Tensor, y: Tensor) -> Tensor:
        """Which images every network puts in their class, ``(S, B)``."""
        return (self.stack(x).argmax(1) == y).view(self.stack.count, -1)

    def outcome(self) -> dict[str, list[float]]:
        """Also the share of images in their class: clean, and under all of the final attacks."""
        found, s = super().outcome(), self.stack.count
        data = {"train": (self.x[:512], self.y[:512]), "test": (self.data.x_test, self.data.y_test)}
        for number, (name, (x, y)) in enumerate(data.items()):
            x, y = x.repeat(s, 1, 1, 1), y.repeat(s)
            key = 3_000_000 + number
            deltas = self.attack(ledger.FINAL, x, y, ledger.FINAL_RESTARTS, key)
            clean = self.right(x, y)
            kept = torch.stack([self.right(x + delta, y) for delta in deltas]).all(0) & clean
            found[f"clean_{name}"] = clean.double().mean(1).tolist()
            found[f"robust_{name}"] = kept.double().mean(1).tolist()
        return found


def main() -> None:
    """Run the cells of addition 2 that are not recorded yet."""
    torch.set_num_threads(1)
    data = ddi.digits().to(dtype=torch.float64)
    out, source = ledger.ROOT / "results/ledger/dose", ddi.provenance(data, dtype=torch.float64)
    eight, sixty_four, _ = ledger.DOSES
    for setting in (ledger.MAIN, sixty_four, eight, *ledger.REPLICATIONS):
        ledger.run(setting, ledger.unit("single"), data, out, source, Watched)
    ledger.run(ledger.MAIN, ledger.unit("product"), data, out, source, Watched)


if __name__ == "__main__":
    main()
