"""What free text in CT headers says about body part and contrast agent. Plain strings only.

A header is evidence, not proof: a word that is not known says nothing (None), and the pixels decide.
Contrast is the exception. An agent is taken for none only where the whole value says so, word for word
from closed lists; whatever else stands there is an agent, because an enhanced head that is scored is worse
than a native one that is not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

# Words for the head in the languages scanners are set to, matched inside longer values ("NEUROCRANE").
_HEAD: Final = re.compile(
    r"HEAD|BRAIN|SKULL|CRAN|CEREB|CEPHAL|NEURO|STROKE|KOPF|SCH[AÄ]DEL|HIRN|T[EÊ]TE|CABEZA|CABE[CÇ]A|TESTA"
    r"|HOOFD"
    r"|G[LŁ]OW|MOZEK|HLAVA|ГОЛОВ|МОЗГ|頭|头|脑|脳|머리|뇌"
)
# Body parts (PS3.16 Annex L) that hold no brain; "HEADNECK" and the like are matched by _HEAD first.
_NOT_HEAD: Final = re.compile(
    r"CHEST|THORAX|LUNG|HEART|CARDIAC|CORONARY|ABDOM|PELVIS|LIVER|KIDNEY|SPINE|NECK|SHOULDER|CLAVICLE|ARM\b"
    r"|ELBOW"
    r"|FOREARM|WRIST|HAND|HIP\b|FEMUR|LEG\b|KNEE|TIBIA|ANKLE|FOOT|EXTREMITY|BREAST|STERNUM|AORTA|COLON"
    r"|CERVICAL|LUMBAR|\bHWS\b|\bBWS\b|\bLWS\b"
)

# Attributes of the Contrast/Bolus module (PS3.3 C.7.6.4) that can name an agent or show that one was given.
CONTRAST_NUMBERS: Final = (
    "ContrastBolusVolume",
    "ContrastBolusTotalDose",
    "ContrastFlowRate",
    "ContrastFlowDuration",
    "ContrastBolusIngredientConcentration",
)
CONTRAST_TIMES: Final = ("ContrastBolusStartTime", "ContrastBolusStopTime")
CONTRAST_SEQUENCES: Final = ("ContrastBolusAgentSequence", "ContrastBolusAdministrationRouteSequence")
# Of the Contrast/Bolus Usage functional group of multi-frame images (PS3.3 C.7.6.16.2.12): YES, POST_CONTRAST
CONTRAST_USAGE: Final = (
    "ContrastBolusAgentAdministered",
    "ContrastBolusAgentDetected",
    "ContrastBolusAgentPhase",
)
CODE_SEQUENCES: Final = ("AnatomicRegionSequence", *CONTRAST_SEQUENCES)
_CONTRAST_WORDS: Final = (
    "ContrastBolusAgent",
    "ContrastBolusIngredient",
    "ContrastBolusRoute",
    *CONTRAST_SEQUENCES,
    *CONTRAST_USAGE,
)
CONTRAST_KEYWORDS: Final = (*_CONTRAST_WORDS, *CONTRAST_NUMBERS, *CONTRAST_TIMES)

# --- the words of the contrast agent, as _words() leaves them: capitals without accents and punctuation ---

# The thing itself; the second list holds abbreviations that mean something else where they stand alone
# (CM centimetres, IV the fourth ventricle, C a cervical vertebra).
_NOUN: Final = (
    r"(?:CONTRAST\w*|KONTRAS[TC]\w*|KM|MDC|PDC|CIV|INJ(?!UR)\w*|INYEC\w*|INIE[ZT]\w*|BOLUS\w*|OPACIFI\w*"
    r"|ENHANC\w*|КОНТРАСТ\w*|УСИЛЕНИ\w*|БОЛЮС\w*)"
)
_SHORT_NOUN: Final = (
    r"(?:CON|CONTR?|KONTR?|CE|CM|MC|MK|SK|KL|PC|IV|EV|CV|CIV|C(?! ?S)|DYE|AGENTS?|MEDIA|MEDIUM|JOD|IODE?"
    r"|IODINE|YODO|IODIO"
    r"|КВ|РКВ|РКС|КУ|КС)"
)
# What may stand between a negation and the thing: articles, routes, "medium".
_FILL: Final = (
    r"(?:ANY|THE|OF|DE|DU|DES|D|DEL|DELLA|DI|DA|DO|DEM|EL|LA|LE|LO|IL|UN|UNA|EIN|EINEM|VON|VAN|A|ORAL\w*"
    r"|INTRAVEN\w*|ENDOVEN\w*"
    r"|IV|EV|PRODUITS?|PRODUTO|MEDIO|MEZZO|MEIO|SUBSTANCIA|SUSTANCIA|AGENTE?|SRODKA|SRODEK|LATKY|LATKA"
    r"|MITTEL|MIDDEL|SE"
    r"|В|ВЕЩЕСТВ\w*|ПРЕПАРАТ\w*|СРЕДСТВ\w*|ВНУТРИВЕНН\w*)"
)
_NEGATION: Final = (
    r"(?:NO|NON(?! IOD)|NOT|NIL|WITHOUT|WO|OHNE|[SO](?= KM)|SS(?= (?:INJ|CONTR|PC|PDC|IV))|KEIN\w{0,2}|NICHT"
    r"|SANS|AUCUNE?|PAS|SIN|NINGUN[AO]?|SENZA"
    r"|NESSUN[AO]?|SEM|NENHUMA?"
    r"|NAO|GEEN|ZONDER|NIET|BEZ|BRAK|NIE|NE|ZADN\w{1,3}|ZADEN|БЕЗ|НЕТ|НЕ)"
)
_BEFORE: Final = r"(?:PRE|BEFORE|VOR|V(?= KM)|AVANT|ANTES|PRIMA|VOOR|PRZED|PRED|ДО)"
_GIVEN: Final = (
    r"(?:GIVEN|USED|WAS|IS|HAS|BEEN|ANGABEN?|INIETTATO|GEGEVEN|ADMINISTERED|INJECTED|APPLIED|REQUIRED|NEEDED"
    r"|GEGEBEN|VERABREICHT|VERWENDET|APPLIZIERT"
    r"|ADMINISTRE|UTILISE"
    r"|INJECTE|ADMINISTRADO|ADMINISTRO|UTILIZADO|USADO|APLICADO|SOMMINISTRATO|UTILIZZATO|USATO|TOEGEDIEND"
    r"|GEBRUIKT"
    r"|PODANO|PODANY|PODANA|PODAN|APPLICABLE|AVAILABLE|SPECIFIED|KNOWN|ВВОДИЛ\w{2,4}|ВВЕДЕНО?"
    r"|ПРИМЕНЯЛ\w{2,4}|ИСПОЛЬЗОВАЛ\w{2,4})"
)
# Says "none" or says nothing, alone.
_NOTHING: Final = (
    rf"(?:{_NEGATION}|NONE|N|NA|NC|KA|NEG|NEGATIV\w?|NOCONTRAST|NEPODAN\w?|NULL|NOTHING|ZERO|FALSE|UNKNOWN"
    rf"|UNSPECIFIED|UNDEFINED|NEIN|NICHTS|UNBEKANNT"
    rf"|NEANT|RIEN|INCONNU"
    r"|NADA|DESCONOCIDO|NIENTE|SCONOSCIUTO|DESCONHECIDO|NEE|ONBEKEND|NIEZNANY|NENI|NEZNAMY|НИКАК\w{2}"
    r"|НЕИЗВЕСТНО|ОТСУТСТВУЕТ"
    r"|無し?|无|没有|沒有|なし|ナシ|ない|未使用|不使用|使用せず|미사용|없음|없다|무|안함)"
)
_PLAIN: Final = (
    r"(?:(?:NCCT|NECT|NCCTH?|NC|SPC|SMDC|PLAIN|NATIV\w{0,3}|NATIF|UNENHANCED|NON ?(?:CON\w*|CE|ENHANC\w*|KM)"
    r"|UNKONTRASTIERT|НАТИВН\w*|NATYWN\w*|BASALE|BLANCO|BEZKONTRAST\w*|БЕСКОНТРАСТ\w*)(?![A-ZА-Я])"
    r"|平扫|平掃|単純|單純|普通扫描|(?:無|无|没有?|未|不|非)(?:注射|使用|用)?(?:造影[剤剂劑]?"
    r"|增[强強]|对比剂|對比劑)"
    r"|造影[剤剂劑]? ?(?:なし|ナシ|無し?|无|前|不使用|未使用|使用せず)|增[强強]前"
    r"|[비무]조영\w*|조영(?:제)? ?(?:없음|없이|안함|미사용|전|무))"
)
_NEGATED: Final = re.compile(
    rf"\b{_NEGATION}(?: (?:{_FILL}|{_GIVEN}|IOD\w+))*(?: (?:{_NOUN}"
    rf"|{_SHORT_NOUN}))(?: {_FILL})*(?: {_NOUN})*(?: {_GIVEN})?\b"
    rf"|\b{_BEFORE}(?: {_FILL})* ?(?:{_NOUN}|CON|KM|CE)\b"
    rf"|\b(?:{_NOUN}|IV)(?: {_NOUN})* (?:NONE|NEIN|KEIN\w{{0,2}}|AUCUNE?|NINGUN[AO]?|NESSUN[AO]?|NENHUMA?"
    rf"|GEEN|BRAK|НЕТ|(?:NOT|NICHT|NIE|NON|НЕ) {_GIVEN})\b"
)
_NATIVE: Final = re.compile(rf"(?<!\w){_PLAIN}|\bNATIVE\b")
_NONE: Final = (
    rf"(?:{_NOTHING}(?: (?:{_FILL}|{_NOUN}(?: IOD\w+)?|IOD\w+ {_NOUN}|{_SHORT_NOUN}|{_GIVEN}))*"
    rf"|(?:(?:{_NOUN}|{_SHORT_NOUN}|{_FILL}) )+{_NOTHING}(?: {_GIVEN})?"
    rf"|{_BEFORE}(?: {_FILL})* ?(?:{_NOUN}|CON|KM|CE)"
    rf"|(?:NATIVE|{_PLAIN})(?: (?:CT|SCAN|STUDY|EXAM|{_GIVEN}))?"
    r"|(?>0+(?: 0+)*) ?(?:(?:ML|CC|CM3|MG|G|MMOL|MGI|МЛ)\b)?(?: (?:IV|EV))?)"
)
_NONE_VALUE: Final = re.compile(rf"{_NONE}(?: {_NONE})*")
_LONGEST_NONE: Final = 100  # characters; ContrastBolusAgent holds 64

# With and without, before and after: (with, without, and), a language a row.
_PAIRS: Final = (
    (r"W|WITH", r"WO|WITHOUT", r"AND|OR|THEN|N"),
    (r"MIT|M", r"OHNE|O", r"UND|ODER|DANN|U"),
    (r"AVEC", r"SANS", r"ET|OU|PUIS"),
    (r"CON", r"SIN", r"Y|O|E|LUEGO"),
    (r"CON", r"SENZA", r"E|ED|O|POI"),
    (r"COM", r"SEM", r"E|OU"),
    (r"MET", r"ZONDER", r"EN|OF"),
    (r"ZE?", r"BEZ", r"I|A|ORAZ|LUB"),
    (r"SE?", r"BEZ", r"A|I|NEBO"),
    (r"СО?", r"БЕЗ", r"И|ИЛИ"),
    (r"POST|AFTER", r"PRE|BEFORE", r"AND|OR|THEN|N"),
    (r"NACH", r"VOR", r"UND|ODER"),
    (r"APRES", r"AVANT", r"ET|PUIS"),
    (r"DESPUES|DEPOIS|TRAS|APOS", r"ANTES", r"Y|E"),
    (r"DOPO", r"PRIMA", r"E|ED"),
    (r"NA", r"VOOR", r"EN"),
    (r"PO", r"PRZED|PRED", r"I|A"),
    (r"ПОСЛЕ", r"ДО", r"И"),
)


def _both(has: str, lacks: str, joined: str) -> str:
    noun = rf"(?: {_FILL})* (?:{_NOUN}|{_SHORT_NOUN})\b"
    link = rf"(?: (?:{joined}|[+]))*"
    return (
        rf"\b(?:{has})(?:{noun})*{link} (?:{lacks})\b|\b(?:{lacks}){link} (?:{has})(?= |$)"
        # "without contrast with bone" is without
        rf"|\b(?:{lacks})(?:{noun})+{link} (?:{has})(?={noun}|$)"
    )


_WITH_AND_WITHOUT: Final = re.compile(
    "|".join([*(_both(*pair) for pair in _PAIRS), r"\bWWO\b", r"\bSPC APC\b", r"\bSMDC \w CMDC\b"])
)

# The word contrast where it is about the picture, or about its windows.
_TECHNICAL: Final = re.compile(
    r"\b(?:(?:HIGH|LOW|SOFT|TISSUE|IMPROVED|OPTIMI[SZ]ED|GR[AE]Y WHITE|HOHER|NIEDRIGER|HAUT|ALTO|BAJO"
    r"|BAIXO) [CK]ONTRAST\w*"
    r"|[CK]ONTRAST\w* (?:RESOLUTION|FILTER|RATIO|WINDOW)"
    r"|(?:HEAD|BRAIN|SKULL) INJ|INJ (?:HEAD|BRAIN|SKULL)|(?:EDGE|DETAIL|NOISE|STRUCTURE) ENHANC\w*"
    # the kind of image, not the head: what converters add
    r"|ENHANCED (?:CONVERSION|MULTI ?FRAME))"
)
_ENHANCED: Final = re.compile(
    rf"\b(?:{_NOUN}|CE|CECT)\b|\b(?:W|WITH|POST|AFTER) (?:IV )?(?:{_SHORT_NOUN}|IV)\b"
    rf"|\bPOST ?(?:[CK]ON(?:TR?)?|KM|INJ|GAD)(?!US|UR|TROL)\w*"
    r"|\bCON$|\bAND CON\b|\b(?:APC|CMDC|CM IV|IV CM|S KL)\b|\b(?:WITH|AVEC|MIT)$"
    r"|\b(?:AVEC|APRES|MIT|NACH|MET) (?:IV|KM|PC|PDC|CM)\b|\bCON (?:MC|MK|IV|EV|CM)\b|\bCOM (?:IV|EV|CM)\b"
    r"|\b(?:OMNIPAQUE|ULTRAVIST|ISOVUE|VISIPAQUE|OPTIRAY|XENETIX|IOMERON|IMERON|IOPAMIRO\w*|SOLUTRAST"
    r"|ACCUPAQUE|HEXABRIX"
    r"|IO(?:HEXOL|PROMIDE?|PAMIDOL|MEPROL|DIXANOL|VERSOL|BITRIDOL)\w*)\b"
    r"|造影|增强|增強|强化|強化|对比剂|對比劑|조영"
)
# Techniques that need an agent. The native scan of such a protocol carries their names too.
_TECHNIQUE: Final = re.compile(
    r"(?<![A-Z])V?P?CT ?[AVP](?![A-Z])|\bV?PCT\b|ANGIO|WILLIS|\bTSA\b|PHLEBO|FLEBO|PERFU[SZ]|\bCB[FV]\b"
    r"|\bMTT\b|\bTMAX\b|\bARTERI(?:AL|EL|OS)\w*|\bVENOUS(?! SINUS)"
    r"|\bVENOE?S(?!US?\b)\w*|\bVEINEU\w*|VENOGR"
    r"|MONITORING|\b(?:LATE|DELAYED|PORTAL|EARLY) (?:PHASE|VENOUS)|SPA(?:E)?TPHASE|TETNICZ|ZYLN|TEPENN|ZILN"
    r"|АНГИО|ПЕРФУЗ|АРТЕРИАЛ|ВЕНОЗН|灌注|灌流|관류|血管|혈관|动脉期|動脈相|静脉期|静脈相"
)


def head_by_tags(body_part: str, *descriptions: str) -> bool | None:
    """True: a head; False: clearly another body part; None: the header does not say.

    ``descriptions`` go from the series to the visit. Only ``body_part`` can say False. It often is the
    protocol's, though: a series described as a cervical spine under body part HEAD is left to the pixels,
    and so is one described as a head under NECK. A whole body has a head.
    """
    part = body_part.upper()
    if not _HEAD.search(part) and _NOT_HEAD.search(part):
        return None if _HEAD.search("".join(descriptions[:1]).upper()) else False
    for text in (*descriptions[:1], body_part, *descriptions[1:]):
        text = text.upper()
        if _HEAD.search(text):
            return True
        if _NOT_HEAD.search(text):
            return None
    return None


def contrast_declared(agent: str) -> bool:
    """Whether ContrastBolusAgent names an agent; empty or a word for "none" is no agent."""
    words = _words(agent)
    return bool(words) and not (len(words) <= _LONGEST_NONE and _NONE_VALUE.fullmatch(words))


def contrast_evidence(tags: Mapping[str, str]) -> bool:
    """Whether the attributes of the Contrast/Bolus module show that an agent was given."""
    return bool(contrast_attributes(tags))


def contrast_attributes(tags: Mapping[str, str]) -> tuple[str, ...]:
    r"""The keywords of the Contrast/Bolus module that show that an agent was given.

    ``tags``: DICOM keywords to text as in ``summary_from_tags``; a sequence is its codes' meanings, joined by
    a backslash. Each attribute counts for itself: a volume beside the agent "NONE" is a volume.
    """

    def parts(keyword: str) -> list[str]:
        return tags.get(keyword, "").split("\\")

    return (
        *(k for k in _CONTRAST_WORDS if any(map(contrast_declared, parts(k)))),
        *(k for k in CONTRAST_NUMBERS if any(map(_some, parts(k)))),
        *(k for k in CONTRAST_TIMES if contrast_declared(re.sub(r"[0:. \0]", "", tags.get(k, "")))),
    )


def contrast_in_description(series_description: str) -> bool:
    """Whether the description of the series (never of the study or protocol) says it is a contrast phase.

    With and without is no native phase. A technique that needs an agent (CTA, perfusion) says that one was
    given, unless the same description says explicitly that the series is without: "without bone" does not.
    """
    words = _words(series_description)
    if _WITH_AND_WITHOUT.search(words):
        return True
    words = _TECHNICAL.sub(" ", words)
    rest = _NATIVE.sub(" ", _NEGATED.sub(" ", words))
    return bool(_ENHANCED.search(rest)) or (rest == words and bool(_TECHNIQUE.search(rest)))


def _some(amount: str) -> bool:
    """Whether a volume, dose, flow or duration is more than none; a word for "none" is none."""
    number = re.match(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?", amount.strip(" \0"))
    return float(number[0].replace(",", ".")) > 0 if number else contrast_declared(amount)


def _words(text: str) -> str:
    """``text`` in capitals, without accents, its signs as words and all other punctuation as spaces."""
    folded = unicodedata.normalize("NFKD", text.replace("ß", "ss")).upper().replace("Ł", "L")
    text = unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", folded)).replace("_", " ")
    text = re.sub(r"\b([A-Z])\.(?=[A-Z]\b|\s|$)", r"\1", text)  # "i.v." and "K.M."
    text = re.sub(r"\bW ?/ ?O(?:UT)?\b", "WITHOUT", text)
    text = re.sub(r"\bW ?/", "W ", text)
    text = re.sub(r"\bN ?/ ?A\b", "NA", text)
    text = re.sub(r"\bS ?/ ?(?=CONTR|MDC|INJ|INY)", "SEM ", text)
    text = re.sub(r"\bC ?/ ?(?=CONTR|MDC|INJ|INY)", "COM ", text)
    text = text.replace("&", " AND ")
    if re.search(r"\bS ?/ ?C\b", text):
        text = re.sub(r"\bC ?/ ?C\b", "COM CONTRASTE", re.sub(r"\bS ?/ ?C\b", "SEM CONTRASTE", text))
    # "C+", "+ KM", "IV-"; but "head+C-spine"
    noun = rf"(?:C(?![ /-]*(?:S\b|SP))|KM|IV|CE|CM|{_NOUN})"
    text = re.sub(rf"\b{noun} ?\+|\+ ?{noun}\b", " POST CONTRAST ", text)
    text = re.sub(
        rf"\b{noun}-+(?=\s|$|[.,;:/()\]\0])|(?<!\S)-(?:C(?![ /-]*(?:S\b|SP))|KM|IV)\b", " NATIVE ", text
    )
    return " ".join(re.sub(r"[^\w+]", " ", text.replace("+", " + ")).split())
