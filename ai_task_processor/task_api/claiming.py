"""Tasks that the Task API gives to us alone, for as long as it has a route for that."""

from collections.abc import Iterator, Sequence

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.ports import Wish
from ai_task_processor.domain.task import Page
from ai_task_processor.task_api.answers import RouteMissing
from ai_task_processor.task_api.client import TaskApiClient
from ai_task_processor.task_api.features import Feature, Features
from ai_task_processor.task_api.source import ApiTaskSource, understood
from ai_task_processor.task_api.wire import claim_body

LARGEST_RENEWAL = 50_000
MOST_RENEWED = 5_000
"""Bytes of ids in one request, and how many they may be: Express takes 100 kB unless it is told otherwise."""


class ClaimingSource:
    """Claims tasks where that is possible, and lists them where it is not.

    See :class:`~ai_task_processor.domain.ports.TaskSource` and :class:`~ai_task_processor.domain.ports.Leases`. Tasks
    are claimed for ``lease_seconds`` by ``worker``, a name that no other has.
    """

    def __init__(
        self,
        client: TaskApiClient,
        features: Features,
        *,
        worker: str,
        lease_seconds: int,
        clock: Clock,
    ) -> None:
        self._client = client
        self._features = features
        self._listed = ApiTaskSource(client, clock=clock)
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._clock = clock

    async def fetch(self, wish: Wish) -> Page:
        """Claim as many new tasks as are wished for, or list what is.

        Not every 404 comes from the API itself: only while it lists tasks is it believed that it does not give them.
        """
        try:
            if await self._features.has(Feature.CLAIM):
                return await self._claim(wish)
        except RouteMissing as error:
            page = await self._listed.fetch(wish)
            self._features.lack(Feature.CLAIM, str(error))
            return page
        return await self._listed.fetch(wish)

    async def used(self) -> bool:
        """Whether tasks are claimed."""
        try:
            return await self._features.has(Feature.CLAIM)
        except RouteMissing:
            return False

    async def renew(self, task_ids: Sequence[str]) -> None:
        """Renew the leases of those of the tasks that we still have."""
        try:
            for portion in portions_of(task_ids):
                await self._client.claim(self._body(0, portion))
        except RouteMissing:
            return  # whether it is lost, the next fetch will find out

    async def _claim(self, wish: Wish) -> Page:
        """Nothing is left out of what is claimed, however much that is: it is ours alone."""
        claimed_at = self._clock.now()
        body = await self._client.claim(self._body(wish.count(claims=True)))
        return await understood(body, claimed_at, types=wish.types, claimed=True)

    def _body(self, limit: int, renew: Sequence[str] = ()) -> bytes:
        return claim_body(limit, worker=self._worker, lease_seconds=self._lease_seconds, renew=renew)


def portions_of(task_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The ids in order, in portions that fit into one request."""
    begin = size = 0
    for position, task_id in enumerate(task_ids):
        more = len(task_id.encode()) + len('"",')
        if size + more > LARGEST_RENEWAL or position - begin == MOST_RENEWED:
            yield task_ids[begin:position]
            begin, size = position, 0
        size += more
    if begin < len(task_ids):
        yield task_ids[begin:]
