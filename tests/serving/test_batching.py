"""The batcher: what is computed together, in which order, and what becomes of requests that fail or are given up."""

import asyncio
import threading
import time

import numpy as np
import pytest

from protoseg_deploy.serving.batching import Batcher
from protoseg_deploy.serving.requests import RequestError


class Network:
    """Gives the first channel as the class map; notes its batches, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.poison: int | None = None

    def __call__(self, images, outputs):
        self.may_run.wait(20)
        self.batches.append(images[:, 0, 0, 0].tolist())
        if self.poison is not None and self.poison in self.batches[-1]:
            raise ArithmeticError(f"image {self.poison}")
        return dict.fromkeys(outputs, images[..., 0])


def image(number: int, height: int = 4, width: int = 6, count: int = 1) -> np.ndarray:
    return np.full((count, height, width, 3), number, np.uint8)


def run(scenario, network: Network, *, max_batch: int = 4, delay_s: float = 0.0, queue: int = 100, **pixels: int):
    async def main():
        batcher = Batcher([network], max_batch=max_batch, delay_s=delay_s, queue=queue, **pixels)
        try:
            return await scenario(batcher)
        finally:
            network.may_run.set()
            await batcher.close()

    return asyncio.run(main())


async def busy(batcher: Batcher, network: Network) -> asyncio.Task:
    """A request that keeps the network busy until it may run."""
    network.may_run.clear()
    task = asyncio.create_task(batcher.submit(image(255, 2, 2), ["a"]))
    while not batcher.computing:
        await asyncio.sleep(0)
    return task


def test_waiting_requests_are_computed_together_and_get_their_own_answers() -> None:
    network = Network()

    async def scenario(batcher):
        first = await busy(batcher, network)
        tasks = [asyncio.create_task(batcher.submit(image(number), ["a"])) for number in range(10)]
        await asyncio.sleep(0)
        network.may_run.set()
        answers = await asyncio.gather(*tasks)
        await first
        return answers

    answers = run(scenario, network)
    assert network.batches == [[255], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [int(outputs["a"][0, 0, 0]) for outputs, _ in answers] == list(range(10))
    assert [timing.batch for _, timing in answers] == [4] * 8 + [2] * 2


def test_only_images_of_one_size_and_with_the_same_outputs_share_a_batch() -> None:
    network = Network()

    async def scenario(batcher):
        first = await busy(batcher, network)
        wanted = [
            (1, (4, 6), ["a"]),
            (2, (6, 4), ["a"]),
            (3, (4, 6), ["a", "b"]),
            (4, (4, 6), ["a"]),
            (5, (6, 4), ["a"]),
        ]
        tasks = [asyncio.create_task(batcher.submit(image(n, *size), outputs)) for n, size, outputs in wanted]
        await asyncio.sleep(0)
        network.may_run.set()
        answers = await asyncio.gather(*tasks)
        await first
        return answers

    answers = run(scenario, network, max_batch=8)
    assert network.batches == [[255], [1, 4], [2, 5], [3]]
    assert [outputs["a"].shape for outputs, _ in answers] == [(1, 4, 6), (1, 6, 4), (1, 4, 6), (1, 4, 6), (1, 6, 4)]
    assert answers[2][0].keys() == {"a", "b"}


def test_a_request_of_several_images_is_never_split() -> None:
    network = Network()

    async def scenario(batcher):
        first = await busy(batcher, network)
        tasks = [asyncio.create_task(batcher.submit(image(n, count=n), ["a"])) for n in (3, 2, 1, 9)]
        await asyncio.sleep(0)
        network.may_run.set()
        answers = await asyncio.gather(*tasks)
        await first
        return answers

    answers = run(scenario, network)
    assert network.batches == [[255], [3, 3, 3, 1], [2, 2], [9] * 9]
    assert [outputs["a"][:, 0, 0].tolist() for outputs, _ in answers] == [[3] * 3, [2] * 2, [1], [9] * 9]


def test_large_images_are_not_computed_together_where_pixels_are_limited() -> None:
    network = Network()

    async def scenario(batcher):
        first = await busy(batcher, network)
        sizes = [(4, 6)] * 3 + [(8, 8)] * 3
        tasks = [asyncio.create_task(batcher.submit(image(n, *size), ["a"])) for n, size in enumerate(sizes)]
        await asyncio.sleep(0)
        network.may_run.set()
        await asyncio.gather(first, *tasks)

    run(scenario, network, max_pixels=50)
    assert network.batches == [[255], [0, 1], [2], [3], [4], [5]]


def test_a_batch_waits_for_others_as_long_as_it_is_told_to() -> None:
    network = Network()

    async def scenario(batcher):
        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(batcher.submit(image(number), ["a"])))
            await asyncio.sleep(0.001)
        return await asyncio.gather(*tasks)

    run(scenario, network, delay_s=30.0)
    assert network.batches == [[0, 1, 2, 3]], "full before its time was over"
    run(scenario, network, delay_s=30.0, max_batch=2)
    assert network.batches[1:] == [[0, 1], [2, 3]]


def test_a_lonely_request_is_answered_when_the_delay_is_over() -> None:
    network = Network()

    async def scenario(batcher):
        return await asyncio.wait_for(batcher.submit(image(7), ["a"]), 20)

    run(scenario, network, delay_s=0.05)
    assert network.batches == [[7]]


def test_a_full_queue_refuses_and_a_given_up_request_leaves_its_place() -> None:
    network = Network()

    async def scenario(batcher):
        first = await busy(batcher, network)
        tasks = [asyncio.create_task(batcher.submit(image(number), ["a"])) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as refused:
            await batcher.submit(image(9), ["a"])
        assert refused.value.kind == "busy"
        tasks[1].cancel()
        await asyncio.sleep(0)
        network.may_run.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await first
        await batcher.submit(image(10), ["a"])

    run(scenario, network, queue=3)
    assert network.batches == [[255], [0, 2], [10]]


def test_large_images_fill_the_queue_sooner_and_one_may_always_wait() -> None:
    network = Network()

    async def scenario(batcher):
        first = await busy(batcher, network)
        waiting = asyncio.create_task(batcher.submit(image(1), ["a"]))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="are waiting for this model") as refused:
            await batcher.submit(image(2), ["a"])
        assert refused.value.kind == "busy"
        network.may_run.set()
        await asyncio.gather(first, waiting)

    run(scenario, network, queue=3, queue_pixels=1)
    assert network.batches == [[255], [1]]


def test_one_poisonous_request_does_not_spoil_its_neighbours() -> None:
    network = Network()
    network.poison = 1

    async def scenario(batcher):
        first = await busy(batcher, network)
        tasks = [asyncio.create_task(batcher.submit(image(number), ["a"])) for number in range(3)]
        await asyncio.sleep(0)
        network.may_run.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        return found

    good, bad, also_good = run(scenario, network)
    assert isinstance(bad, ArithmeticError)
    assert [int(outputs["a"][0, 0, 0]) for outputs, _ in (good, also_good)] == [0, 2]
    assert network.batches == [[255], [0, 1, 2], [0], [1], [2]]


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    network = Network()

    async def scenario(batcher):
        first = await busy(batcher, network)
        tasks = [asyncio.create_task(batcher.submit(image(number), ["a"])) for number in range(6)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="unloaded"):
            await batcher.submit(image(9), ["a"])
        network.may_run.set()
        await closing
        return await asyncio.gather(first, *tasks)

    answers = run(scenario, network)
    assert [int(outputs["a"][0, 0, 0]) for outputs, _ in answers] == [255, 0, 1, 2, 3, 4, 5]


def test_closing_does_not_wait_for_requests_that_may_join() -> None:
    network = Network()

    async def scenario(batcher):
        tasks = [asyncio.create_task(batcher.submit(image(number), ["a"])) for number in range(2)]
        await asyncio.sleep(0.01)
        await asyncio.wait_for(batcher.close(), 60)
        return await asyncio.gather(*tasks)

    run(scenario, network, delay_s=3600.0)
    assert network.batches == [[0, 1]]


def test_instances_compute_at_the_same_time() -> None:
    """Each waits until both are at work: one after the other they would wait in vain."""
    together = threading.Barrier(2, timeout=20)

    def instance(images, outputs):
        together.wait()
        return dict.fromkeys(outputs, images[..., 0])

    async def scenario():
        batcher = Batcher([instance, instance], max_batch=1, delay_s=0.0, queue=10)
        found = await asyncio.gather(*(batcher.submit(image(number), ["a"]) for number in range(4)))
        await batcher.close()
        return found

    answers = asyncio.run(scenario())
    assert [int(outputs["a"][0, 0, 0]) for outputs, _ in answers] == list(range(4))


def test_the_time_in_the_queue_is_told_apart_from_that_in_the_network() -> None:
    network = Network()

    async def scenario(batcher):
        first = await busy(batcher, network)
        task = asyncio.create_task(batcher.submit(image(1), ["a"]))
        await asyncio.sleep(0)
        held_up = time.perf_counter()
        await asyncio.sleep(0.05)
        held_up = time.perf_counter() - held_up
        network.may_run.set()
        (_, of_first), (_, timing) = await asyncio.gather(first, task)
        return held_up, of_first, timing

    held_up, of_first, timing = run(scenario, network)
    assert timing.queue_s >= held_up
    assert of_first.compute_s >= held_up
