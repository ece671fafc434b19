"""Cores, memory, shared memory, disks."""

from pathlib import Path

import pytest

from protoseg_deploy.diagnostics.cgroups import CgroupLimits
from protoseg_deploy.diagnostics.resources import (
    Space,
    core_finding,
    default_batch_bytes,
    disk_findings,
    memory_finding,
    shared_memory_finding,
    space_of,
)
from protoseg_deploy.recipe import Train
from tests.diagnostics.machines import machine

GIB = 2**30
MEMORY = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n"


@pytest.mark.parametrize(
    ("quota", "threads", "state"),
    [
        (None, None, "ok"),
        (8.0, None, "ok"),
        (1.5, None, "problem"),
        (1.5, "2", "ok"),
        (1.5, "8", "problem"),
        (1.5, "many", "problem"),
    ],
)
def test_a_quota_below_the_cores(tmp_path, quota, threads, state):
    here = machine(tmp_path, environment={"OMP_NUM_THREADS": threads} if threads else {}, logical_cores=64)
    finding = core_finding(here, CgroupLimits(cpus=quota))
    assert finding.state == state
    assert "8 of 64 logical cores" in finding.fact
    assert finding.fix == ("export OMP_NUM_THREADS=1" if state == "problem" else "")
    assert finding.details["quota_cores"] == quota


def test_memory_of_the_machine_and_of_the_container(tmp_path):
    here = machine(tmp_path, {"proc/meminfo": MEMORY})
    assert memory_finding(here, CgroupLimits()).fact == "8.0 GiB of 16.0 GiB free"
    roomy = memory_finding(here, CgroupLimits(memory_bytes=12 * GIB, memory_free_bytes=3 * GIB))
    assert roomy.state == "ok"
    tight = memory_finding(here, CgroupLimits(memory_bytes=4 * GIB, memory_free_bytes=GIB))
    assert tight.state == "problem"
    assert "may use 4.0 GiB, 1.0 GiB of it are left" in tight.fact
    assert "--memory" in tight.fix
    unlimited = memory_finding(here, CgroupLimits(memory_bytes=999 * GIB, memory_free_bytes=0))
    assert unlimited.state == "ok", "a limit above what there is limits nothing"


def test_little_memory_is_a_problem_and_an_unknown_one_is_not(tmp_path):
    little = machine(tmp_path, {"proc/meminfo": MEMORY.replace("8388608", "1048576")})
    assert memory_finding(little, CgroupLimits()).state == "problem"
    assert memory_finding(machine(tmp_path / "other"), CgroupLimits()).state == "ok"


def test_shared_memory_of_a_docker_container(tmp_path):
    here, batch = machine(tmp_path), 12 * 2**20
    small = Space(64 * 2**20, 64 * 2**20, None, True)
    finding = shared_memory_finding(here, small, batch, 8)
    assert finding.state == "problem"
    assert finding.details["needed_bytes"] == batch * 34
    assert finding.fix.startswith("docker run --shm-size=1g")
    assert shared_memory_finding(here, small, batch, 0).state == "ok", "two batches fit"
    assert shared_memory_finding(here, Space(GIB, GIB, None, True), batch, 8).state == "ok"
    assert shared_memory_finding(here, Space(0, 0, None, True), batch, 8).state == "ok", "a size of 0 is no limit"
    assert shared_memory_finding(here, None, batch, 1).state == "problem"
    assert shared_memory_finding(machine(tmp_path, system="Darwin"), None, batch, 8).state == "ok"


def test_the_default_batch_is_that_of_recipes():
    spec = Train()
    images = spec.batch_labeled * 4 + spec.batch_unlabeled * (4 + 6)
    assert default_batch_bytes(spec.crop, spec.batch_labeled, spec.batch_unlabeled) == spec.crop**2 * images


@pytest.mark.parametrize(
    ("space", "state", "said"),
    [
        (Space(50 * GIB, 99 * GIB, 10**6, True), "ok", "50.0 GiB free"),
        (Space(50 * GIB, 99 * GIB, None, True), "ok", "50.0 GiB free"),
        (Space(GIB, 99 * GIB, 10**6, True), "problem", "1.0 GiB free"),
        (Space(50 * GIB, 99 * GIB, 12, True), "problem", "room for 12 more files"),
        (Space(50 * GIB, 99 * GIB, 10**6, False), "problem", "cannot be written"),
        (None, "problem", "cannot be looked at"),
    ],
)
def test_disks(space, state, said):
    (finding,) = disk_findings({"cache folder": Path("/cache")}, lambda path: space)
    assert finding.state == state
    assert said in finding.fact
    assert bool(finding.fix) == (state == "problem")


def test_a_folder_that_is_not_there_is_on_the_disk_of_the_one_above(tmp_path):
    space = space_of(tmp_path / "not" / "there")
    assert space is not None
    assert space.writable
    assert 0 < space.free_bytes <= space.total_bytes
