"""Texts that occur more than once: in two groups they cancel, and a held-out copy shows nothing new."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

FEW_TEXTS = 10


def check_groups(texts: Mapping[str, Sequence[str]]) -> None:
    """Check that groups of texts can be compared. Warns about very few texts and about texts of several groups.

    Args:
        texts: group → texts.

    Raises:
        ValueError: two groups hold the same texts.
    """
    distinct = {name: set(members) for name, members in texts.items()}
    names = list(distinct)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            if distinct[name] == distinct[other]:
                raise ValueError(
                    f"{name} and {other} hold the same texts, so no feature can tell them apart. Check the sources."
                )
    found = Counter(text for members in distinct.values() for text in members)
    shared = sum(number > 1 for number in found.values())
    if shared:
        logger.warning(
            "%d of %d texts are in several of %s, where they count on each side. Leave them out.",
            *(shared, len(found), ", ".join(names)),
        )
    for name, members in distinct.items():
        if len(members) < FEW_TEXTS:
            logger.warning(
                "%s has only %d different texts. Features of so few often stand for something else that these texts "
                "share; give about 100.",
                *(name, len(members)),
            )


def warn_of_copies(texts: Iterable[str]) -> None:
    """Warn if some texts are copies of others, which no held-out part and no interval knows."""
    counts = Counter(texts)
    copies = counts.total() - len(counts)
    if copies:
        logger.warning(
            "%d of %d texts are copies of others. Intervals treat copies as new texts, and a held-out part may have "
            "copies of texts that are not held out, so results look better than they are. Leave the copies out.",
            *(copies, counts.total()),
        )


def warn_of_known(name: str, test: Sequence[str], known: Collection[str]) -> None:
    """Warn if a test holds texts that the features were found with."""
    seen = sum(text in known for text in test)
    if seen:
        logger.warning(
            "%d of the %d texts of the test %s were also used to find the features, so its results look better than "
            "they are.",
            *(seen, len(test), name),
        )
