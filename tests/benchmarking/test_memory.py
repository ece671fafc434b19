"""Peak memory of work whose needs are known by counting."""

import subprocess
import sys

import torch
from torch.utils.checkpoint import checkpoint

from protoseg_deploy.benchmarking.memory import peak_memory_bytes

CPU = torch.device("cpu")
ROW = 1000 * 4


def test_what_is_freed_does_not_count_twice():
    def one_after_another():
        for _ in range(10):
            torch.ones(1000)

    assert peak_memory_bytes(one_after_another, CPU) == ROW
    assert peak_memory_bytes(lambda: [torch.ones(1000) for _ in range(10)], CPU) == 10 * ROW


def test_views_and_changes_in_place_cost_nothing():
    before = torch.ones(1000)
    assert peak_memory_bytes(lambda: before[10:].view(-1, 10).add_(1), CPU) == 0
    assert peak_memory_bytes(lambda: torch.ones(1000).view(10, 100).t().mul_(2)[3:], CPU) == ROW


def test_what_autograd_keeps_counts_until_it_is_used():
    start = torch.ones(1000, requires_grad=True)

    def chain(value):
        for _ in range(5):
            value = value.exp()
        return value

    def plain():
        chain(start).sum().backward()

    def recomputed():
        value = start
        for _ in range(4):
            value = checkpoint(chain, value, use_reentrant=False)
        value.sum().backward()

    kept = peak_memory_bytes(plain, CPU)
    assert 5 * ROW <= kept <= 9 * ROW
    assert peak_memory_bytes(recomputed, CPU) < 13 * ROW


def test_the_peak_of_a_process_stays_when_memory_is_freed_and_is_its_own():
    megabytes = 200
    code = (
        "import torch; from protoseg_deploy.benchmarking.memory import process_peak_bytes as peak\n"
        f"cpu = torch.device('cpu'); before = peak(cpu); torch.ones({megabytes} * 2**20, dtype=torch.uint8)\n"
        "print(before, peak(cpu))"
    )
    held = torch.ones(900 * 2**20, dtype=torch.uint8)  # a large parent is not counted
    before, after = map(int, subprocess.check_output([sys.executable, "-c", code]).split())
    assert after < held.numel()
    assert megabytes * 0.9 < (after - before) / 2**20 < megabytes * 1.2
