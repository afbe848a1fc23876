"""Two providers as one: the second helps out when the first is away, or has no such model."""

from collections.abc import Sequence
from typing import TypeAlias

from ai_task_processor.domain.errors import BreakerOpen, NotNow, ProviderPaused, ProviderRejected, ProviderUnavailable
from ai_task_processor.domain.events import FellBack
from ai_task_processor.domain.ports import EmbeddingProvider, Embeddings, Observer
from ai_task_processor.providers.checks import Usual, usual_length
from ai_task_processor.providers.models import gives, known

AWAY = (ProviderUnavailable, BreakerOpen, ProviderPaused)
"""What makes the second provider step in; a limit is no reason, for it is the user's own."""

Away: TypeAlias = ProviderUnavailable | BreakerOpen | ProviderPaused


class Hybrid:
    """``primary`` first.

    When it is away, ``fallback`` is asked for ``fallback_model`` with the number of dimensions that the primary would
    have given; with ``fallback_model`` None, or one that cannot give that number, or while that number is not
    known, the tasks wait for the primary. A model that the primary does not serve is the fallback's, under its own
    name.
    """

    def __init__(
        self,
        primary: EmbeddingProvider,
        fallback: EmbeddingProvider,
        *,
        fallback_model: str | None,
        observer: Observer,
        usual: Usual = usual_length,
    ) -> None:
        self._primary = primary
        self._fallback = fallback
        self._fallback_model = fallback_model
        self._observer = observer
        self._usual = usual

    @property
    def name(self) -> str:
        """One word for the two; an answer names the one that gave it."""
        return "hybrid"

    def serves(self, model: str) -> bool:
        """What either serves."""
        return self._primary.serves(model) or self._fallback.serves(model)

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """Embed with whichever can; raises what the two raise."""
        if not self._primary.serves(model):
            return await self._fallback.embed(texts, model=model, dimensions=dimensions)
        try:
            return await self._primary.embed(texts, model=model, dimensions=dimensions)
        except AWAY as away:
            return await self._fall_back(texts, model, dimensions, away)

    async def _fall_back(self, texts: Sequence[str], model: str, dimensions: int | None, away: Away) -> Embeddings:
        wanted = dimensions or self._usual(model)
        if self._fallback_model is None or wanted is None or not gives(self._fallback_model, wanted):
            raise away
        try:
            answer = await self._fallback.embed(
                texts, model=self._fallback_model, dimensions=_asked_for(self._fallback_model, wanted)
            )
        except ProviderRejected as error:
            if not error.every_input and len(texts) > 1:
                raise  # to be split: the others can be done
            raise away from error  # what the substitute cannot do, the primary perhaps can
        except ProviderUnavailable as error:
            error.own_fault = error.own_fault or _at_fault(away)
            raise
        except NotNow as error:
            raise _more_telling(away, error) from away
        self._observer(FellBack(model=model, fallback_model=self._fallback_model, inputs=len(texts), reason=str(away)))
        return answer


def _asked_for(model: str, wanted: int) -> int | None:
    """Its own length need not be asked for: not every server takes the question."""
    facts = known(model)
    return None if facts and facts.dimensions == wanted else wanted


def _more_telling(away: Away, error: NotNow) -> Away | NotNow:
    """What says that the inputs are at fault; else what waits less long."""
    if isinstance(away, ProviderUnavailable):
        return away if away.own_fault else error
    return away if away.until < error.until else error


def _at_fault(away: Away) -> bool:
    """Whether the first serves others meanwhile: then its failure counts, whatever becomes of the second."""
    return isinstance(away, ProviderUnavailable) and away.own_fault
