"""How a rule tells that it is broken."""

from __future__ import annotations


class RuleBrokenError(AssertionError):
    """The backend breaks a rule of the contract; the message says what was seen."""


def require(held: object, message: str) -> None:
    """Break the rule with `message` unless `held` is true."""
    __tracebackhide__ = True
    if not held:
        raise RuleBrokenError(message)


def require_same(seen: bytes, sent: bytes, what: str) -> None:
    """Break the rule unless both are equal; tells the first place where they part."""
    __tracebackhide__ = True
    if seen == sent:
        return
    common = min(len(seen), len(sent))
    place = next((at for at in range(common) if seen[at] != sent[at]), common)
    around = slice(max(0, place - 20), place + 20)
    raise RuleBrokenError(
        f"{what}: {len(sent)} bytes were sent and {len(seen)} arrived; they part at byte {place}: "
        f"{sent[around]!r} became {seen[around]!r}"
    )
