"""The pipeline as drawn: three stages around the journal, and what wakes them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct

from ai_task_processor.domain.ports import Leases, Processor, RateLimiter, Reporter, TaskSource
from ai_task_processor.pipeline.delivery import Delivery
from ai_task_processor.pipeline.dispatch import Dispatch, DispatchSettings
from ai_task_processor.pipeline.gate import Gate, Gated
from ai_task_processor.pipeline.intake import Intake, IntakeSettings
from ai_task_processor.pipeline.renewal import Renewal
from ai_task_processor.pipeline.retention import Retention
from ai_task_processor.pipeline.run import Bell, Lane, Pipeline
from ai_task_processor.processors.text_embedding import model_of
from ai_task_processor.providers.models import MAX_REQUEST_TOKENS
from ai_task_processor.settings import Settings
from ai_task_processor.wiring.engines import Bench, least
from ai_task_processor.wiring.state import State


class Parts(Struct, frozen=True):
    """What the stages work with; ``batch_sizes`` say how many texts for a model make a good request now."""

    state: State
    limiter: RateLimiter
    processors: Mapping[str, Processor]
    source: TaskSource
    leases: Leases
    reporter: Reporter
    gate: Gate
    batch_sizes: Sequence[Callable[[str], int]] = ()


class Flow(Struct, frozen=True):
    """The pipeline; ``poll_now`` has the Task API polled at once, ``wake`` lets stages that rest look again.

    ``begin`` is to be awaited before it runs.
    """

    pipeline: Pipeline
    begin: Callable[[], Awaitable[None]]
    poll_now: Callable[[], None]
    wake: Callable[[], None]


def make_flow(bench: Bench, parts: Parts, *, glance: float) -> Flow:
    """The flow as drawn: intake wakes dispatch, dispatch wakes delivery, and intake because there is room again."""
    intake, dispatch, delivery = _intake(bench, parts), _dispatch(bench, parts), _delivery(bench, parts)
    gated = Gated(intake, parts.gate, turn=parts.state.turn, clock=bench.clock, observer=bench.observer)
    retention = Retention(bench.settings.retention_seconds, journal=parts.state.journal, clock=bench.clock)
    renewal = _renewal(bench, parts)
    fetched, settled, room = Bell(), Bell(), Bell()
    look_for_tasks = min(glance, parts.state.glance)

    def poll_now() -> None:
        intake.poll_now()
        room.ring()

    def wake() -> None:
        fetched.ring()
        room.ring()

    pipeline = Pipeline(
        inner=[
            Lane("intake", gated, room, wakes=(fetched,), drops=True),
            Lane("retention", retention, Bell(), drops=True),
            Lane("renewal", renewal, Bell(), drops=True),
            *(
                Lane(f"dispatch {number}", dispatch, fetched, wakes=(settled, room), longest_rest=look_for_tasks)
                for number in range(bench.settings.concurrency_limit)
            ),
        ],
        outer=[
            Lane(f"delivery {number}", delivery, settled, longest_rest=glance)
            for number in range(bench.settings.delivery_concurrency)
        ],
    )
    return Flow(pipeline, renewal.let_go, poll_now, wake)


def _intake_settings(settings: Settings) -> IntakeSettings:
    return IntakeSettings(
        interval=settings.polling_interval_seconds,
        fetch_limit=settings.fetch_limit,
        hold_limit=settings.hold_limit,
        keep_unknown=settings.unknown_task_types == "fail",
        least=least(settings),
    )


def _intake(bench: Bench, parts: Parts) -> Intake:
    intake = Intake(
        _intake_settings(bench.settings),
        source=parts.source,
        journal=parts.state.journal,
        processors=parts.processors,
        limiter=parts.limiter,
        clock=bench.clock,
        observer=bench.observer,
        randomness=bench.randomness,
        turn=parts.state.turn,
    )
    bench.adjustments.append(lambda changed: intake.adjust(_intake_settings(changed)))
    return intake


def _renewal(bench: Bench, parts: Parts) -> Renewal:
    return Renewal(
        bench.settings.claim_lease_seconds,
        journal=parts.state.journal,
        leases=parts.leases,
        clock=bench.clock,
        observer=bench.observer,
        turn=parts.state.turn,
        lets_go=not bench.settings.claim_tasks,
    )


def _dispatch(bench: Bench, parts: Parts) -> Dispatch:
    settings = bench.settings
    return Dispatch(
        DispatchSettings(
            batch_size=settings.batch_size,
            max_attempts=settings.max_attempts,
            announce=settings.claim_tasks,
            batch_tokens=MAX_REQUEST_TOKENS,
            least=least(settings),
        ),
        journal=parts.state.journal,
        processors=parts.processors,
        limiter=parts.limiter,
        reporter=parts.reporter,
        clock=bench.clock,
        observer=bench.observer,
        randomness=bench.randomness,
        most=lambda key: min([settings.batch_size, *(size(model_of(key)) for size in parts.batch_sizes)]),
    )


def _delivery(bench: Bench, parts: Parts) -> Delivery:
    return Delivery(
        journal=parts.state.journal,
        reporter=parts.reporter,
        clock=bench.clock,
        observer=bench.observer,
        randomness=bench.randomness,
    )
