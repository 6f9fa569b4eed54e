"""Experiments run from a page."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ddi import RunWriter, page, read_experiment
from ddi.clone import repository


@pytest.fixture
def few(monkeypatch):
    """Three steps an epoch, and little validation."""
    monkeypatch.setattr(page.torch.cuda, "is_available", lambda: False)
    return {"epochs": 2, "overrides": ["setting.epoch_steps=3", "setting.validation=50"]}


def test_tiny_runs_all_arms_of_the_first_seed_and_is_kept_when_run_again(few, tmp_path, capsys):
    arms = {run.arm for run in read_experiment(repository() / "experiments" / "digits.toml")}
    found = page.from_page("tiny", 600, out=tmp_path, **few)
    assert {record.name for record in found} == {f"{arm}-seed0" for arm in arms}
    assert all(record.complete and len(record.metrics["robust"]) == 2 for record in found)
    capsys.readouterr()
    page.from_page("tiny", 600, out=tmp_path, **few)
    assert capsys.readouterr().out.count("complete, kept") == len(arms)


class Clock:
    """A timer that rings, for the arm under way, when that has logged so many rows."""

    def __init__(self, monkeypatch, rows):
        self.seconds, self.rows, self.left = [], rows, 0
        monkeypatch.setattr(page.threading, "Timer", self.timer)
        log = RunWriter.log

        def then_ring(record, **row):
            log(record, **row)
            self.left -= 1
            if not self.left:
                self.ring()

        monkeypatch.setattr(RunWriter, "log", then_ring)

    def timer(self, seconds, ring):
        self.seconds.append(seconds)
        self.left, self.ring = self.rows, ring
        return self

    def start(self):
        pass

    cancel = join = start


def test_the_clock_stops_an_arm_and_the_next_call_goes_on_with_the_same_numbers(few, tmp_path):
    """More epochs than there is time for: every arm gets a share, and what is cut goes on as if it
    had not been: from the last checkpoint, which is of the epoch before the row that rang.
    """
    long = few | {"epochs": 10**6, "minutes": 600}
    for call, expected in ((1, 3), (2, 5)):
        with pytest.MonkeyPatch.context() as patch:
            clock = Clock(patch, 3)
            found = page.from_page("tiny", out=tmp_path / "pieces", **long)
        assert [len(record.metrics["robust"]) for record in found] == [expected] * 6, call
        assert not any(record.complete for record in found)
        assert clock.seconds[0] <= 6000 and clock.seconds[5] > 20000  # what is left, divided
    with pytest.MonkeyPatch.context() as patch:
        Clock(patch, 5)
        whole = page.from_page("tiny", out=tmp_path / "whole", **long)
    for one, other in zip(found, whole, strict=True):
        for column in ("train_loss", "norm", "robust", "passes"):
            assert one.metrics[column].tolist() == other.metrics[column].tolist()


def test_a_reader_who_stops_it_stops_all_arms(few, monkeypatch, tmp_path):
    begun = []

    def stopped(runs, *_):
        begun.append(runs[0].arm)
        return 130

    monkeypatch.setattr(page.commands, "run", stopped)
    assert page.from_page("tiny", 600, out=tmp_path, **few) == [] and begun == ["pgd"]


def test_the_clock_and_the_reader_are_told_apart_and_neither_escapes():
    def forever():
        while True:
            time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what it starts with &
    try:
        assert page._within(0.05, forever) == (130, True)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert page._within(1000, lambda: os.kill(os.getpid(), signal.SIGINT)) == (130, False)
    assert page._within(1000, lambda: 7) == (7, False)


def test_another_thread_is_refused(few, tmp_path):
    """It could not be stopped; the main thread would be."""
    with ThreadPoolExecutor() as pool, pytest.raises(RuntimeError, match="main thread"):
        pool.submit(page.from_page, "tiny", out=tmp_path).result()


def test_what_is_asked_for_is_checked_before_anything_is_written(few, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="did you mean figure1c"):
        page.from_page("figure1", out=tmp_path / "out")
    with pytest.raises(ValueError, match="minutes"):
        page.from_page("tiny", 0, out=tmp_path / "out")
    monkeypatch.setenv("DDI_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Ways to get it"):
        page.from_page("figure1c", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_gpu_is_used_as_one_and_an_override_is_stronger(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(page.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(page.commands, "run", lambda runs, *_: seen.append(runs[0]) or 0)
    page.from_page("tiny", overrides=["kernels.precision=float32"], out=tmp_path)
    assert {run.kernels.channels_last for run in seen} == {True}
    assert {run.kernels.precision for run in seen} == {"float32"}
    page.from_page("tiny", out=tmp_path)
    assert seen[-1].kernels.precision == "attack-bf16" and seen[-1].attack.autocast
