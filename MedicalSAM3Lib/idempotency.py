"""A request that is sent twice, because its answer got lost, is done once: the client gives it a key."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass

from pydantic import BaseModel

from MedicalSAM3Lib.refusals import Refused

MOST_KEYS = 10_000
LONGEST_KEY = 200


@dataclass(slots=True)
class _Done:
    body: bytes
    name: str
    touched: float


class Keys:
    """Which key of which owner led to what."""

    def __init__(self) -> None:
        self._done: OrderedDict[tuple[str, str, str], _Done] = OrderedDict()

    def recall(self, owner: str, route: str, key: str | None, request: BaseModel) -> str | None:
        """The name of what an earlier request with this key made; None if there was none, or there is no key.

        Raises:
            Refused: 409 "key_reused": the earlier request was another one; 422 "key": it is too long.
        """
        if not key:
            return None
        if len(key) > LONGEST_KEY:
            raise Refused(
                422, "key", f"Expected an Idempotency-Key of at most {LONGEST_KEY} characters, got a longer one."
            )
        done = self._done.get((owner, route, key))
        if done is None:
            return None
        if done.body != _digest(request):
            raise Refused(
                409, "key_reused", "Expected a new Idempotency-Key for a new request; this one was used before."
            )
        done.touched = time.monotonic()
        return done.name

    def remember(self, owner: str, route: str, key: str | None, request: BaseModel, name: str) -> None:
        """Write down what a request made."""
        if key:
            self._done[(owner, route, key)] = _Done(_digest(request), name, time.monotonic())
            while len(self._done) > MOST_KEYS:
                self._done.popitem(last=False)

    def forget_before(self, oldest: float) -> None:
        """Forget keys that were last used before a monotonic time (s)."""
        for key in [key for key, done in self._done.items() if done.touched < oldest]:
            del self._done[key]


def _digest(request: BaseModel) -> bytes:
    return hashlib.sha256(request.model_dump_json().encode()).digest()
