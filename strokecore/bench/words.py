"""Errors as a record may hold them: without the folders of this machine."""

from __future__ import annotations

import re
from typing import Final

from strokecore.errors import StrokeCoreError

# An absolute path up to its last name; "1/2" and "and/or" are none.
_FOLDERS: Final = re.compile(r"(?<![\w.)\]])/(?:[^\s/:'\",;()]+/)+")
_LONGEST: Final = 600


def in_words(error: BaseException) -> str:
    """An error's text, with its kind where it is not one of ours; see ``without_folders``."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return without_folders(text if isinstance(error, StrokeCoreError) else f"{kind}: {text}".rstrip(": "))


def without_folders(text: str) -> str:
    """``text`` with absolute paths cut to their last name, and not longer than a paragraph."""
    text = _FOLDERS.sub("", text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
