"""Which names are meant for others, but for a slip of the pen; pure."""

from collections.abc import Collection, Mapping


def misspelt(given: Collection[str], known: Collection[str]) -> Mapping[str, str]:
    """Those of the names ``given`` that are not ``known``, each with a known one from which one slip made it.

    A slip is a letter too many, too few, another one, or two that have changed places (Damerau's distance of 1; now
    and then of 2). Two names that are so close have a beginning of this sort in common: that they are equal when one
    letter or none is left out of each. Names of fewer than six letters are close to too many.
    """
    by_rest = {rest: name for name in known if len(name) >= _SHORTEST for rest in _rests(name)}
    found = ((name, _first(by_rest, name)) for name in sorted(given) if name not in known and len(name) >= _SHORTEST)
    return {name: meant for name, meant in found if meant}


_SHORTEST = 6


def _rests(name: str) -> set[str]:
    return {name} | {name[:place] + name[place + 1 :] for place in range(len(name))}


def _first(by_rest: Mapping[str, str], name: str) -> str:
    return next((by_rest[rest] for rest in sorted(_rests(name)) if rest in by_rest), "")
