from http import HTTPStatus
from itertools import product

import pytest

from ai_task_processor.server.problems import Problem
from ai_task_processor.server.tasks import Answer, Change, Standing, State, changed

VECTOR, OTHER = Answer(vector=b"\0\0\x80?"), Answer(json="[2]")
OPEN = [Standing("t", State.PENDING), Standing("t", State.IN_PROGRESS)]
DONE = [Standing("t", State.SUCCEEDED, VECTOR), Standing("t", State.FAILED, error="bad"), Standing("t", State.FAILED)]
CHANGES = [
    Change(State.PENDING),
    Change(State.IN_PROGRESS),
    Change(State.SUCCEEDED, VECTOR),
    Change(State.SUCCEEDED, OTHER),
    Change(State.FAILED, error="bad"),
    Change(State.FAILED),
]


@pytest.mark.parametrize(("standing", "change"), [*product(OPEN, CHANGES)])
def test_an_open_task_takes_every_change(standing: Standing, change: Change) -> None:
    assert changed(standing, change) == Standing("t", change.state, change.answer, change.error)


@pytest.mark.parametrize(("standing", "change"), [*product(DONE, CHANGES[1:])])
def test_a_finished_task_takes_only_what_it_has(standing: Standing, change: Change) -> None:
    if (standing.state, standing.answer, standing.error) == (change.state, change.answer, change.error):
        assert changed(standing, change) is standing
    else:
        with pytest.raises(Problem) as problem:
            changed(standing, change)
        assert problem.value.status is HTTPStatus.CONFLICT


@pytest.mark.parametrize("standing", DONE)
def test_a_finished_task_can_be_set_back_and_forgets_its_outcome(standing: Standing) -> None:
    assert changed(standing, Change(State.PENDING)) == Standing("t", State.PENDING)


def test_only_embeddings_must_be_embeddings() -> None:
    change = Change(State.SUCCEEDED, OTHER, not_an_embedding="result: is none")

    assert changed(Standing("summary", State.PENDING), change).answer == OTHER
    with pytest.raises(Problem, match="is none") as problem:
        changed(Standing("text_embedding", State.PENDING), change)
    assert problem.value.status is HTTPStatus.UNPROCESSABLE_ENTITY
