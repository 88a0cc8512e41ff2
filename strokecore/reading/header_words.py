"""What free text in CT headers says about body part and contrast agent. Plain strings only.

A header is evidence, not proof: a word that is not known says nothing (None), and the pixels decide.
"""

from __future__ import annotations

import re
from typing import Final

# Words for the head in the languages scanners are set to, matched inside longer values ("NEUROCRANE").
_HEAD: Final = re.compile(
    r"HEAD|BRAIN|SKULL|CRAN|CEREB|CEPHAL|NEURO|STROKE|KOPF|SCH[AÄ]DEL|HIRN|T[EÊ]TE|CABEZA|CABE[CÇ]A|TESTA|HOOFD"
    r"|G[LŁ]OW|MOZEK|HLAVA|ГОЛОВ|МОЗГ|頭|头|脑|脳|머리|뇌"
)
# Body parts (PS3.16 Annex L) that hold no brain; "HEADNECK" and the like are matched by _HEAD first.
_NOT_HEAD: Final = re.compile(
    r"CHEST|THORAX|LUNG|HEART|CARDIAC|CORONARY|ABDOM|PELVIS|LIVER|KIDNEY|SPINE|NECK|SHOULDER|CLAVICLE|ARM\b|ELBOW"
    r"|FOREARM|WRIST|HAND|HIP\b|FEMUR|LEG\b|KNEE|TIBIA|ANKLE|FOOT|EXTREMITY|BREAST|STERNUM|AORTA|COLON"
    r"|WHOLE ?BODY|CERVICAL|LUMBAR|\bHWS\b|\bBWS\b|\bLWS\b"
)

# Some scanners fill the mandatory-if-used attribute with a word for "none".
_NO_CONTRAST: Final = re.compile(
    r"^(?:NO(?:NE|N)?\b.*|N/?A|NIL|W/?O\b.*|WITHOUT\b.*|OHNE\b.*|SANS\b.*|SIN\b.*|SENZA\b.*|NATIVE?|PLAIN|UNENHANCED"
    r"|-+|0|\?+|FALSE|UNKNOWN)$"
)
_CONTRAST_SERIES: Final = re.compile(
    r"\bCTA\b|\bCTV\b|\bCTP\b|ANGIO|PERFUS|\bC\+|\+C\b|\bCE\b|POST[ -]?CON|\bWITH (?:IV )?CONTRAST"
    r"|ARTERIAL|VENOUS|\bBOLUS|BOLUS ?TRACK|MONITORING|\bMIT KM\b"
)
_NATIVE_SERIES: Final = re.compile(
    r"NON[ -]?(?:IV |I )?CON|NCCT|\bNECT\b|W/?O\b|WITHOUT|PLAIN|NATI[VF]|UNENHANCED|PRE[ -]?CON"
)


def head_by_tags(body_part: str, *descriptions: str) -> bool | None:
    """True: a head; False: clearly another body part; None: the header does not say.

    ``descriptions`` go from the series to the visit. Only ``body_part`` can say False. It often is the
    protocol's, though: a series described as a cervical spine under body part HEAD is left to the pixels.
    """
    part = body_part.upper()
    if not _HEAD.search(part) and _NOT_HEAD.search(part):
        return False
    for text in (*descriptions[:1], body_part, *descriptions[1:]):
        text = text.upper()
        if _HEAD.search(text):
            return True
        if _NOT_HEAD.search(text):
            return None
    return None


def contrast_declared(agent: str) -> bool:
    """Whether ContrastBolusAgent names an agent; empty or a word for "none" is no agent."""
    value = agent.upper().strip()
    return bool(value) and not _NO_CONTRAST.match(value)


def contrast_in_description(series_description: str) -> bool:
    """Whether the description of the series (never of the study or protocol) says it is a contrast phase."""
    text = series_description.upper()
    return bool(_CONTRAST_SERIES.search(text)) and not _NATIVE_SERIES.search(text)
