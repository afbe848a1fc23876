"""The measure of the limits is itself measured: by histories whose sums are plain."""

from ai_task_processor.domain.amount import Amount
from tests.fakes.time import BEGINNING
from tests.simulation.spending import Request, Spending


class History:
    """Requests at given seconds."""

    def __init__(self) -> None:
        self.now = BEGINNING
        self.spending = Spending(lambda: self.now)

    def send(self, at: float, tokens: int) -> Request:
        self.now = BEGINNING + at
        return self.spending.send(Amount(tasks=1, tokens=tokens))

    def hear(self, at: float, request: Request, tokens: int) -> None:
        self.now = BEGINNING + at
        self.spending.hear(request, Amount(tasks=1, tokens=tokens))

    def most(self, key: str = "tokens_per_minute", *, rolling: bool = True) -> int:
        return self.spending.most(key, rolling=rolling)


def test_a_rolling_window_ends_a_length_after_it_began() -> None:
    history = History()
    for at, tokens in ((0, 5), (30, 3), (59.9, 4), (60, 1)):
        history.send(at, tokens)
    assert (history.most(), history.most("minute")) == (12, 3)
    history.send(89, 9)
    assert history.most() == 17


def test_a_fixed_window_ends_with_its_minute() -> None:
    history = History()
    until_the_minute = 60 - BEGINNING % 60
    history.send(until_the_minute - 1, 5)
    history.send(until_the_minute, 3)
    assert (history.most(rolling=False), history.most()) == (5, 8)


def test_what_was_reserved_too_much_counts_until_it_is_heard_of() -> None:
    history = History()
    first = history.send(0, 10)
    history.send(1, 10)
    assert history.most() == 20
    history.hear(2, first, 4)
    history.send(3, 7)
    assert history.most() == 21


def test_what_was_reserved_too_little_counts_from_when_it_is_written_down() -> None:
    history = History()
    first = history.send(0, 10)
    history.hear(2, first, 50)
    history.send(3, 1)
    assert history.most() == 11
    history.spending.settle(first)
    assert history.most() == 11, "nothing was let through meanwhile"
    history.send(4, 1)
    assert history.most() == 52
    history.send(61, 1)
    assert history.most() == 52
    history.send(61.5, 100)
    assert history.most() == 143, "what was over counts a minute from when it was heard of"
