"""References from an output to what it was made of."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset


def references_to(sources: Sequence[Dataset]) -> list[Dataset]:
    """Items of a Source Image or Source Instance Sequence; what has no identity is left out."""
    items = []
    for source in sources:
        if "SOPInstanceUID" not in source or "SOPClassUID" not in source:
            continue
        item = Dataset()
        item.ReferencedSOPClassUID = source.SOPClassUID
        item.ReferencedSOPInstanceUID = source.SOPInstanceUID
        items.append(item)
    return items
