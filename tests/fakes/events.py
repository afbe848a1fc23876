"""One of each event, for tests that must meet them all."""

from ai_task_processor.domain import events
from ai_task_processor.domain.events import Event

SAMPLES: tuple[Event, ...] = (
    events.Started(facts={"mode": "mock", "limits": ("20 a minute",)}),
    events.Running(),
    events.Warned("mock processing: the key is a placeholder"),
    events.LoopLagged(seconds=0.002),
    events.Stopping(reason="SIGTERM", grace=30.0),
    events.Stopped(unreported=3),
    events.Reopened(due=1, unreported=2, parked=0),
    events.StateLost(reason="state database postgresql://db/state cannot be reached", rest=0.1),
    events.StateRegained(),
    events.TokenObtained(expires_in=3600.0),
    events.TokenFailed(reason="connection refused", refused=False),
    events.ApiRequested(route="/api/ai-tasks/{id}", method="PATCH", status=200, seconds=0.02),
    events.PollPlanned(by=1_700_000_030.0),
    events.TurnElsewhere(),
    events.IntakePaused(),
    events.IntakeResumed(),
    events.PollFailed(reason="503", rest=2.0),
    events.Polled(listed=5, accepted=3, left_alone=1),
    events.TaskAccepted(task_id="t1", correlation_id="c1", type="text_embedding"),
    events.EntryUnusable(count=2, reason="no id"),
    events.TypeUnknown(type="summary", count=4),
    events.BatchStarted(type="text_embedding", key="nomic-embed-text", size=2),
    events.TaskStarted(task_id="t1", correlation_id="c1", type="text_embedding", key="nomic-embed-text"),
    events.TaskSettled(
        task_id="t1",
        correlation_id="c1",
        type="text_embedding",
        status="succeeded",
        seconds=0.123456,
        model="nomic-embed-text",
        provider="ollama",
        dimensions=768,
        tokens=5,
    ),
    events.BatchSettled(
        type="text_embedding", key="nomic-embed-text", size=2, succeeded=2, failed=0, deferred=0, seconds=0.2
    ),
    events.BatchSplit(type="text_embedding", key="nomic-embed-text", size=2, reason="400"),
    events.BatchCrashed(type="text_embedding", key="nomic-embed-text", size=2, traceback="Traceback …\nKeyError: 1"),
    events.ProviderCalled(
        provider="ollama", model="nomic-embed-text", outcome="succeeded", inputs=2, tokens=9, seconds=0.1
    ),
    events.Retried(provider="ollama", attempt=1, wait=0.5, reason="500"),
    events.ProviderWasPaused(provider="openai", until=1_700_000_300.0, reason="insufficient_quota"),
    events.ProviderResumed(provider="openai"),
    events.ConcurrencyChanged(provider="openai", at_once=2, reason="openai wants fewer requests"),
    events.FellBack(model="nomic-embed-text", fallback_model="text-embedding-3-small", inputs=2, reason="down"),
    events.CacheAnswered(provider="openai", model="text-embedding-3-small", hits=3, shared=2, misses=1),
    events.CacheFilled(entries=4, size=32_768, evicted=1),
    events.CacheDamaged(provider="openai", model="text-embedding-3-small", count=1),
    events.SpaceChanged(
        name="nomic-embed-text",
        dimensions=None,
        before="ollama nomic-embed-text 768",
        after="openai text-embedding-3-small 768",
    ),
    events.BreakerChanged(name="ollama", state="open", reason="5 failures"),
    events.EnsuringModels(provider="ollama", models=("nomic-embed-text",)),
    events.ModelDownloading(provider="ollama", model="nomic-embed-text", completed=10, total=100),
    events.ModelDownloaded(provider="ollama", model="nomic-embed-text"),
    events.ModelsReady(provider="ollama"),
    events.ModelsMissing(provider="ollama", reason="connection refused", rest=5.0),
    events.LimitReached(window="minute", limit=20, until=1_700_000_060.0),
    events.Reported(
        task_id="t1", correlation_id="c1", type="text_embedding", status="succeeded", receipt="taken", waited=0.5
    ),
    events.ReportPostponed(task_id="t1", correlation_id="c1", until=1_700_000_010.0, reason="500"),
    events.DeliveryHalted(until=1_700_000_010.0, reason="connection refused"),
    events.Parked(task_id="t1", correlation_id="c1", reason="400: result too long"),
    events.ClaimLost(task_id="t1", correlation_id="c1", receipt="conflict"),
)
