"""Work spread over processes comes back whole, whatever becomes of them."""

from __future__ import annotations

import os

import pytest

from harness.util.parallel import spread

HERE = os.getpid()


def test_results_come_in_the_items_order():
    assert spread(lambda share: [10 * item for item in share], range(7)) == [0, 10, 20, 30, 40, 50, 60]
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
