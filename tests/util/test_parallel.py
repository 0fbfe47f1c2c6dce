"""Work spread over processes comes back whole, whatever becomes of them."""

from __future__ import annotations

import os
import threading

import pytest

from harness.util.parallel import spread

HERE = os.getpid()


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """Work is given away, whatever machine this is and whatever threads other tests left."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def test_results_come_in_the_items_order():
    assert spread(lambda share: [10 * item for item in share], range(7)) == [0, 10, 20, 30, 40, 50, 60]
    assert len(set(spread(lambda share: [os.getpid()] * len(share), range(7)))) > 1, "no other process worked"
    assert spread(lambda share: list(share), []) == []


def test_the_share_of_a_process_that_ends_is_worked_on_here():
    def work(share):
        if os.getpid() != HERE:
            os._exit(9)
        return [os.getpid() for _ in share]

    assert set(spread(work, range(5))) == {HERE}


def test_an_error_is_raised_here():
    def work(share):
        return [1 // item for item in share]

    with pytest.raises(ZeroDivisionError):
        spread(work, [1, 0])
