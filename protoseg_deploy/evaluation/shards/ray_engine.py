"""Shards as tasks of a Ray cluster: Ray decides where and when, the same function predicts them."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.evaluation.shards.local_engine import Setup, described, rebuilt
from protoseg_deploy.evaluation.shards.notes import ShardNotes
from protoseg_deploy.evaluation.shards.rows import ShardResult
from protoseg_deploy.evaluation.shards.spec import ShardSpec
from protoseg_deploy.evaluation.shards.stores import open_store
from protoseg_deploy.evaluation.shards.worker import predict_shard
from protoseg_deploy.extras import require_library
from protoseg_deploy.time_limit import limit_calls

_CONNECT_HINT = "`ray status` tells whether it runs. With token authentication it needs its RAY_AUTH_TOKEN here too."
_WAITING_A_WORKER = 2
"""Tasks handed to Ray for every one that can run: its workers never wait for this process."""


def run_ray(
    spec: ShardSpec,
    shards: Sequence[int],
    *,
    address: str | None,
    workers: int | None,
    gpu: bool,
    finished: Callable[[ShardResult], object],
    setup: Setup | None = None,
) -> None:
    """Predict shards on a Ray cluster. Every machine of it has this program, and sees runtime, images and results.

    Ray's own retries are off: a task whose process dies is handed out again with what is known of its death.

    Args:
        spec: what is predicted; one task takes as many CPUs as it has threads.
        shards: in the order in which they are handed out.
        address: of the cluster, such as ``auto`` or ``ray://head:10001``; None: one is started on this machine.
        workers: the most tasks at a time; None: as many as the cluster takes.
        gpu: each task takes a GPU.
        finished: called with every shard that is done, in the order of their ends.
        setup: see `Setup`.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
        ProtosegError: of a task, see `predict_shard`; or tasks keep dying in one shard.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require_library("ray", "ray", "--engine ray needs")
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, address)
    threads = spec.threads or 1
    task = ray.remote(max_retries=0, num_cpus=threads, num_gpus=int(gpu))(_predict)
    at_once = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    waiting, running = deque(shards), dict[Any, int]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once * (1 if workers else _WAITING_A_WORKER):
                shard = waiting.popleft()
                running[task.remote(spec, shard, setup)] = shard
            (done, *_), _ = ray.wait(list(running))
            shard = running.pop(done)
            try:
                kind, content = ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                how = "killed for memory" if isinstance(error, ray.exceptions.OutOfMemoryError) else "a crash"
                ShardNotes(open_store(spec.out), shard).record_death(how)
                waiting.appendleft(shard)
                continue
            except ray.exceptions.RayError as error:
                raise ProtosegError(
                    f"Ray cannot run shard {shard}: {next(iter(str(error).splitlines()), '')}"
                ) from None
            if kind == "error":
                raise rebuilt(content)
            finished(content)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"address": "local", "include_dashboard": False}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"no Ray cluster at {address or 'this machine'}: {reason}", _CONNECT_HINT) from None


_is_set_up = False


def _predict(spec: ShardSpec, shard: int, setup: Setup | None) -> tuple[str, Any]:
    """The task."""
    global _is_set_up
    try:
        limit_calls(spec.call_limit_s)
        if setup is not None and not _is_set_up:
            setup()
        _is_set_up = True
        return "done", predict_shard(spec, shard)
    except Exception as error:
        return "error", described(error)
