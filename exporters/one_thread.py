"""torch on one thread, for work in thousands of small steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread.

    Its threads wait for each other by turning in circles, after every operator. Where other
    programs want the processors too, rewriting took 40 times as long with two threads as alone,
    and 3 times with one; alone both take the same.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
