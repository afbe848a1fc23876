"""The tasks that are offered to the daemon, and how each of them must end."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np

from ai_task_processor.providers.mock import mock_vector

SMALL, LARGE = "text-embedding-3-small", "text-embedding-3-large"
STRANGER = "text-embedding-of-nobody"
SPACES: tuple[tuple[str, int | None], ...] = ((SMALL, None), (SMALL, 64), (SMALL, 64), (LARGE, 96))

TOO_MANY_TOKENS = 8_200
REFUSED = "unspeakable"
"""A word that the provider refuses."""

SHARE_OF_FAULTS = 0.08
SHARE_OF_REPEATS = 0.08

Payment: TypeAlias = tuple[str, int | None, str]
"""What is paid for: model, dimensions, text."""


@dataclass(frozen=True)
class Offer:
    """A task as the Task API lists it; ``fault`` are words of the error that it must fail with, empty: it succeeds."""

    document: dict[str, Any]
    fault: str = ""

    @property
    def id(self) -> str:
        return str(self.document["_id"])

    @property
    def payment(self) -> Payment:
        content = self.document["content"]
        return (content["model"], content.get("dimensions"), content["text"])

    def is_right_end(self, body: dict[str, Any]) -> bool:
        """Whether ``body`` tells what this task must end with: its own vector to the last bit, or its own fault."""
        if self.fault:
            return body["state"] == "failed" and body["result"] is None and self.fault in body["error"]
        if body["state"] != "succeeded" or not isinstance(body["result"], list):
            return False
        model, dimensions, text = self.payment
        return np.array(body["result"], dtype="<f4").tobytes() == mock_vector(text, model, dimensions)


class Offers:
    """Makes tasks; every text of them contains ``marker``, which nothing else does."""

    def __init__(self, chance: random.Random, marker: str) -> None:
        self.all: dict[str, Offer] = {}
        self._chance = chance
        self._marker = marker
        self._born = datetime.now(UTC)

    def make(self) -> Offer:
        lot = self._chance.random()
        if lot < SHARE_OF_FAULTS:
            offer = self._faulty()
        elif lot < SHARE_OF_FAULTS + SHARE_OF_REPEATS and self.all:
            offer = self._offer(self._chance.choice(list(self.all.values())).document["content"])
            offer = Offer(offer.document, self._fault_of_repeat(offer))
        else:
            offer = self._offer(self._content(self._text()))
        self.all[offer.id] = offer
        return offer

    def _fault_of_repeat(self, repeated: Offer) -> str:
        content = repeated.document["content"]
        return next(offer.fault for offer in self.all.values() if offer.document["content"] == content)

    def _faulty(self) -> Offer:
        long = f"{self._text()} {'word ' * TOO_MANY_TOKENS}".strip()
        return self._chance.choice(
            (
                self._offer(self._content("  "), "content.text is empty"),
                self._offer(self._content([self._text()]), "content.text must be a string"),
                self._offer(self._content(long), f"has {len(long.split())} tokens"),
                self._offer(self._content(f"{self._text()} {REFUSED}"), "refuses the input"),
                self._offer({"text": self._text(), "model": STRANGER}, "does not have the model"),
            )
        )

    def _content(self, text: object) -> dict[str, object]:
        model, dimensions = self._chance.choice(SPACES)
        return {"text": text, "model": model} | ({"dimensions": dimensions} if dimensions else {})

    def _text(self) -> str:
        return f"{self._marker} number {len(self.all)}: {self._chance.randbytes(8).hex()}"

    def _offer(self, content: dict[str, object], fault: str = "") -> Offer:
        number = len(self.all)
        born = (self._born + timedelta(milliseconds=number)).isoformat(timespec="milliseconds")
        return Offer({"_id": f"{number:024x}", "content": content, "createdAt": born}, fault)
