"""Which leader each worker follows, and what the supervisors of workers and leaders tell of them.

    Following     gives workers to leaders; keeps as many slots of each leader in the schedule as its workers need
    OfWorkers     a worker fails or goes: its leader is told
    OfLeaders     a leader fails or goes: its units go to others, and so do its workers

A leader leads the workers of its own node where it can.
"""

from __future__ import annotations

from typing_extensions import override

from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.leaders import (
    Followers,
    choose_leader,
    leader_of,
    next_move,
    slots_of,
    weight_of,
)
from distmeta.runtime.policy.schedule import Schedule
from distmeta.runtime.ray.leader_group import LeaderGroup
from distmeta.runtime.ray.supervisor import Assigner
from distmeta.runtime.ray.worker_group import WorkerGroup
from distmeta.runtime.ray.worker_handle import WorkerHandle


class Following:
    """Gives workers to leaders.

    Args:
        schedule: Of units over the leaders' slots.
        workers: The workers.
        leaders: The leaders.
    """

    def __init__(self, schedule: Schedule, workers: WorkerGroup, leaders: LeaderGroup) -> None:
        self._schedule, self._worker_group, self._leader_group = schedule, workers, leaders

    def place(self) -> None:
        """Give each worker without a leader to one, and move one worker if leaders have too different numbers."""
        followers, workers = self._followers(), self._worker_group.workers
        started = [worker for worker in workers if worker.state in ("starting", "ready")]
        for worker in started:
            if worker.state != "ready" or worker.leader is not None:
                continue
            index = choose_leader(worker.node_id, followers, len(started))
            if index is None:
                return
            worker.leader = index
            followers[index] = Followers(followers[index].node, followers[index].num_workers + 1)
            self._leader_group.adopt(self._leader_group.workers[index], worker)
        # Those that start now may make the numbers equal, each on its own node.
        move = next_move(followers) if all(worker.state == "ready" for worker in started) else None
        if move is not None:
            near = followers[move[1]].node
            led = [worker for worker in workers if worker.leader == move[0]]
            moved = max(led, key=lambda worker: (worker.node_id == near, worker.index))
            self._leader_group.release(self._leader_group.workers[move[0]], moved.index)
        self._number_slots(followers)

    def leader_of(self, worker: int) -> WorkerHandle | None:
        """The leader of a worker."""
        index = self._worker_group.workers[worker].leader
        return None if index is None else self._leader_group.workers[index]

    def release(self, worker: int) -> None:
        """Have a worker's leader give it back when it has finished its shard."""
        if leader := self.leader_of(worker):
            self._leader_group.release(leader, worker)

    def lose_worker(self, worker: int) -> None:
        """Have a worker's leader forget it."""
        if leader := self.leader_of(worker):
            self._leader_group.remove(leader, worker)
            self._worker_group.workers[worker].leader = None
            self._number_slots(self._followers())

    def slots(self, leader: int) -> list[int]:
        """The slots of a leader in the schedule."""
        return [slot for slot in self._schedule.all_workers if leader_of(slot) == leader]

    def lose_leader(self, leader: int) -> int:
        """Have a leader's units computed by others, who take its workers as well. Returns the number of units."""
        requeued = sum(self._schedule.remove_worker(slot) for slot in self.slots(leader))
        self._leader_group.workers[leader].state = "backoff"
        for each in self._worker_group.workers:
            if each.leader == leader:
                each.leader = None
        self.place()
        return requeued

    def _followers(self) -> dict[int, Followers]:
        """The leaders that are ready, and how many workers they have."""
        counts = {leader.index: 0 for leader in self._leader_group.workers}
        for worker in self._worker_group.workers:
            if worker.leader is not None:
                counts[worker.leader] += 1
        return {
            leader.index: Followers(leader.node_id, counts[leader.index])
            for leader in self._leader_group.workers
            if leader.state == "ready"
        }

    def _number_slots(self, followers: dict[int, Followers]) -> None:
        """Have as many slots of each leader in the schedule as it needs for its workers."""
        slots = set(self._schedule.workers)
        for index, leader in followers.items():
            needed = set(slots_of(index, leader.num_workers))
            weight = weight_of(leader.num_workers)
            for slot in sorted(needed - slots):
                self._schedule.add_worker(slot, str(index), weight)
            for slot in sorted(needed & slots):
                self._schedule.weigh(slot, weight)
            # One that is not needed any more stays while there are others: its unit is being computed.
            for slot in () if needed else sorted(slot for slot in slots if leader_of(slot) == index):
                self._schedule.remove_worker(slot)


class OfWorkers(Assigner):
    """Tells leaders what the supervisor of the workers decides."""

    def __init__(self, following: Following) -> None:
        self._following = following

    @override
    def failed(self, worker: int, key: ShardKey, now: float, exclude: int | None) -> bool:
        return False  # its leader has assigned the shard again

    @override
    def drain_worker(self, worker: int) -> list[ShardKey]:
        self._following.release(worker)
        return []

    @override
    def is_busy(self, worker: int) -> bool:
        return self._following.leader_of(worker) is not None

    @override
    def remove_worker(self, worker: int) -> int:
        self._following.lose_worker(worker)
        return 0


class OfLeaders(Assigner):
    """Tells the schedule of units what the supervisor of the leaders decides."""

    def __init__(self, following: Following, schedule: Schedule) -> None:
        self._following, self._schedule = following, schedule

    @override
    def failed(self, worker: int, key: ShardKey, now: float, exclude: int | None) -> bool:
        return False

    @override
    def drain_worker(self, worker: int) -> list[ShardKey]:
        for slot in self._following.slots(worker):
            self._schedule.drain_worker(slot)
        return []

    @override
    def is_busy(self, worker: int) -> bool:
        return any(self._schedule.is_busy(slot) for slot in self._following.slots(worker))

    @override
    def remove_worker(self, worker: int) -> int:
        return self._following.lose_leader(worker)
