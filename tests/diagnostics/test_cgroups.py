"""Limits of control groups as Docker, Kubernetes, systemd and Slurm set them."""

import pytest

from protoseg_deploy.diagnostics.cgroups import CgroupLimits, read_limits
from tests.diagnostics.machines import machine

GIB = 2**30
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


def test_a_container_with_version_2(tmp_path):
    """In a namespace of its own the group is the root of what is mounted."""
    here = machine(
        tmp_path,
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {1 * GIB}\n",
        },
    )
    assert read_limits(here) == CgroupLimits(1.5, 4 * GIB, 2 * GIB)


def test_a_service_is_limited_by_the_slices_above_it_too(tmp_path):
    group = "sys/fs/cgroup/user.slice/job.service"
    here = machine(
        tmp_path,
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/user.slice/job.service\n",
            f"{group}/cpu.max": "max 100000\n",
            f"{group}/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/user.slice/memory.high": f"{6 * GIB}\n",
            "sys/fs/cgroup/user.slice/memory.current": f"{7 * GIB}\n",
        },
    )
    assert read_limits(here) == CgroupLimits(3.0, 6 * GIB, 0)


def test_without_limits_there_are_none(tmp_path):
    here = machine(
        tmp_path,
        {
            "proc/self/mountinfo": V2 + V1,
            "proc/self/cgroup": "4:memory:/\n1:cpu,cpuacct:/\n0::/\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "12\n",
        },
    )
    assert read_limits(here) == CgroupLimits()


@pytest.mark.parametrize("seen_as", ["/docker/0123", "/"])
def test_a_container_with_version_1(tmp_path, seen_as):
    """Docker mounts the container's group; the path in /proc is that of the host, and is not there."""
    mounts = V1.replace("0:29 / ", f"0:29 {seen_as} ").replace("0:32 / ", f"0:32 {seen_as} ")
    here = machine(
        tmp_path,
        {
            "proc/self/mountinfo": mounts,
            "proc/self/cgroup": "11:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n1:name=systemd:/docker/0123\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{1 * GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 2}\n",
        },
    )
    assert read_limits(here) == CgroupLimits(2.0, 2 * GIB, 2 * GIB - GIB // 2)


def test_a_group_below_the_mount_of_version_1(tmp_path):
    here = machine(
        tmp_path,
        {
            "proc/self/mountinfo": V1,
            "proc/self/cgroup": "4:memory:/slurm/job_7\n",
            "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory/slurm/memory.limit_in_bytes": f"{9 * GIB}\n",
        },
    )
    assert read_limits(here) == CgroupLimits(None, 3 * GIB, 3 * GIB)


@pytest.mark.parametrize("text", ["", "nonsense", "1:2\n::::\n0::/../../etc\n", "0::/\n" * 3])
@pytest.mark.parametrize("mounts", ["", "x - y", V2, " - cgroup2\n"])
def test_damaged_files_are_no_limits(tmp_path, text, mounts):
    files = {"proc/self/mountinfo": mounts, "proc/self/cgroup": text, "sys/fs/cgroup/cpu.max": "a b c\n"}
    assert read_limits(machine(tmp_path, files | {"sys/fs/cgroup/memory.stat": "odd"})) == CgroupLimits()


def test_other_systems_have_none(tmp_path):
    assert read_limits(machine(tmp_path, system="Darwin")) == CgroupLimits()
