"""References from an output to what it was made of."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset


def references_to(sources: Sequence[Dataset]) -> list[Dataset]:
    """Items of a Source Image or Source Instance Sequence; what has no identity is left out."""
    items: dict[str, Dataset] = {}
    for source in sources:
        if "SOPInstanceUID" not in source or "SOPClassUID" not in source:
            continue
        # all frames of an Enhanced CT image: the instance once, without frame numbers
        item = items.setdefault(str(source.SOPInstanceUID), Dataset())
        item.ReferencedSOPClassUID = source.SOPClassUID
        item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    return list(items.values())
