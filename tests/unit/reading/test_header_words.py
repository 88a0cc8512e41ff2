"""Free text in headers: head and contrast agent. Phrases, and rules that hold for whole kinds of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strokecore.reading.header_words import contrast_declared, contrast_in_description, head_by_tags

SETTINGS = settings(max_examples=400, deadline=None, derandomize=True)

NONE_VALUES = """
NONE|none|No|NON|N/A|n.a.|w/o|WITHOUT CONTRAST|-|--|0|ohne KM|o. KM|KEIN KM|keine|Kein Kontrastmittel|AUCUN
aucune injection|0 ML|0ml|0.0 ml
0,0 ML|.|?|SANS|sans injection|Sans produit de contraste|pas d'injection|NEANT|SIN CONTRASTE
sin medio de contraste|ninguno
No se administró contraste|senza mdc|Senza m.d.c.|nessuno|sem contraste|SEM CONTRASTE EV|nenhum
geen contrast|zonder contrast|bez kontrastu
Bez kontrastní látky|bez środka kontrastowego|brak|нет|без контраста|Без контрастного усиления|无|無
なし|造影剤なし
平扫|単純|없음|조영제 없음
NON CONTRAST|noncontrast|NATIVE|nativ|PLAIN|unenhanced|NCCT|NONE GIVEN|no i.v. contrast given|not applicable
CONTRAST: NONE|KM: nein|Unknown
FALSE|KM-|C-|contrast not given|Nicht verabreicht|NON INJECTE|S/ CONTRASTE|pre contrast|(none)|None.
未使用造影剂
No IV|No Contrast Used|SIN CIV|SMDC|SANS PC|SANS IV|IV-|W/O IV CONT|non contrasté|non iniettato|NEGATIVE
ZERO|0 CC|0 ml / 0 ml|0 mL IV|NO CE
NOCONTRAST|NO_CONTRAST|keine Angabe|k.A.|none (0 ml)|None/None|NIL GIVEN|no dye
No iv contrast was administered|sans contraste iodé
aucun produit injecté|não utilizado|niet gegeven|nie podano kontrastu|žádný kontrast|nepodán
контраст не вводился|без КУ|造影剤未使用
조영제 미사용|no iodinated contrast|NO CONTRAST - 0 ML|ohne/0 ml|NC
"""
AGENTS = """
CE|Omnipaque 350|APPLIED|IV|YES|Nonionic 300|NON IONIC|NON-IONIC|non ionic contrast|Iomeprol 400|W/WO|WITH
C+|+|NONE / OMNIPAQUE|NO REACTION|80 ML|50
KM|Kontrastmittel i.v.|avec|JA|OUI|SI|CONTRAST|ORAL & IV|NATIVE + KM|ohne und mit KM|WITHOUT REACTION
NON IODINATED|ISOVUE-300 / NONE|NOTIONAL
100CC OPTIRAY|有|造影|造影剤あり|да|с контрастом|NIOPAM 300|NILOTRAST|0.5 ML|1|Low osmolar non ionic
NO NAME 300
NONE, then 50 ml
NON IONIC IODINATED|LOCM|I.V.|NO. 5 OMNIPAQUE|ONE|Iohexol/none|CONTRAST: YES|+KM|N.I. CONTRAST|NI
NEIN, ULTRAVIST|no contraindication, 80 ml
0 ML OMNIPAQUE then 80|80 ML / 0 ML|TAK|ДА|kein Ioversol|non ionique|No iónico|não iônico
nicht ionisch|niejonowy|неионный|非离子型造影剂
非イオン性造影剤|비이온성 조영제|NON IODINATED CONTRAST|sans nom|Sin nombre|NONE LISTED BUT GIVEN
"""
CONTRAST_SERIES = """
CTA Head 0.75|Perfusion 4D|Head C+ 5mm|POST CONTRAST|with IV contrast|HEAD W/WO|HEAD W/WO CONTRAST
HEAD W & W/O|W+W/O|WITHOUT AND WITH IV CONTRAST|W AND WO
HEAD WO/W|Head W_WO|mit und ohne KM|ohne/mit KM|nativ und KM|NATIV + KM|vor und nach KM|Kopf KM 5mm
Kopf nach KM|sans et avec injection|AVEC/SANS|Crâne injecté
Crane avec injection|con y sin contraste|sin y con CIV|CRANEO CON CONTRASTE|senza e con mdc
Cranio dopo m.d.c.|sem e com contraste|Cranio com contraste
zonder en met contrast|hoofd na contrast|bez i z kontrastem|Głowa z kontrastem|po kontraście
Hlava po kontrastu|без и с контрастом|до и после контраста
Голова с контрастом|头颅增强|頭部造影|平扫+增强|単純+造影|조영|HEAD +C|Head W CONTRAST|HEAD W/CON|HEAD W/C
PRE/POST CONTRAST
Head enhanced|HEAD ULTRAVIST|HEAD IV+
CTA WITHOUT BONE|CTA ohne Knochen|ANGIO sans os|CTA W/O BONE|Sagittal angio without tilt|ALTERNATIVE CTA
EXPLAINED ANGIO|TWO PHASE CTA|arteriell|CT-A
Venös|fase arteriosa|NON IONIC CONTRAST|WITHOUT (1) AND WITH (2) CONTRAST|PRECISION CTA|灌注
W W/O|POST CON|Cerebro simple y contrastado|CRANEO S/C Y C/C|CRANE AV INJ|SPC/APC|cranio cmdc
cranio smdc e cmdc|Schädel n.KM|Kopf Nativ/KM
HEAD WITH|CTA HEAD W/O AND W|CIRCLE OF WILLIS|VPCT|Volume Perfusion CT|perfuzja|CTA头颈|头颅CTA|TSA injecté
phlébographie|temps veineux|m.KM
CM i.v. Kopf|NON CONTRAST AND CONTRAST|HEAD NON CON/CON|без/с контрастом|bez/z kontrastem
nativní a postkontrastní|W-W/O
"""
NATIVE_SERIES = """
HEAD WITHOUT CONTRAST|Plain before CTA|NCCT pre angio|HEAD 5MM||Head w/o|Head W/O CONTRAST 5mm|Kopf nativ
Kopf ohne KM|Kopf o.KM|NATIV vor CTA|native CTA
Crâne sans injection|Sans injection avant angio|Crane non injecté|TC cráneo sin contraste|simple sin CIV
TC encefalo senza mdc|Cranio basale|Cranio sem contraste
S/ CONTRASTE|Hersenen zonder contrast|Głowa bez kontrastu|Hlava nativně|Голова без контраста|Голова нативно
头颅平扫|頭部単純|뇌 비조영|HEAD INJURY
Head trauma IV ventricle|C-SPINE + HEAD|HEAD+C-SPINE|HEAD + C SPINE|HIGH CONTRAST BRAIN|NON-CON HEAD
Head pre contrast|CRANEO CON ANGULACION|TESTA CON FILTRO
STROKE WITHOUT TILT|Head C-|CT angio protocol NON CONTRAST|CTA NCCT phase|AXIAL 5CM|Hirn EDGE ENHANCED
PERFUSION no contrast|5 mm soft (enhanced conversion)|Head enhanced multi-frame|Head without iv con
HEAD NC|CRANE SS INJ|SPC|cranio smdc|CRANEO S/C|Kopf v. KM|with bone algorithm|mit Keilfilter|avec filtre os
CONE BEAM|Kontrolle nach Blutung
head contusion|control post TEC|Inj. head|SOFT MEDIUM|venous sinus|HEAD W WINDOW 80|W/BONE|s/p fall
c/o headache|nach Lyse|post thrombectomy
с костным фильтром|dopo trauma|PRECISE|sin contraste y ventana osea|sans artefact
"""


def phrases(text: str) -> list[str]:
    return [phrase for line in text.strip("\n").split("\n") for phrase in line.split("|")]


@pytest.mark.parametrize("text", phrases(NONE_VALUES))
def test_words_for_no_contrast(text: str) -> None:
    assert not contrast_declared(text)
    assert not contrast_in_description(text)


@pytest.mark.parametrize("text", phrases(AGENTS))
def test_words_for_contrast(text: str) -> None:
    assert contrast_declared(text)


@pytest.mark.parametrize("text", phrases(CONTRAST_SERIES))
def test_contrast_phases_named_in_the_description(text: str) -> None:
    assert contrast_in_description(text)
    assert contrast_declared(text)  # as an agent it is no word for none either


@pytest.mark.parametrize("text", phrases(NATIVE_SERIES))
def test_native_series_by_their_description(text: str) -> None:
    assert not contrast_in_description(text)


# (with, without, and, the agent): a language a row
LANGUAGES = [
    ("with", "without", "and", ("contrast", "IV contrast", "contrast agent")),
    ("w/", "w/o", "&", ("contrast", "IV contrast", "con")),
    ("mit", "ohne", "und", ("KM", "i.v. KM", "Kontrastmittel", "Kontrast")),
    ("avec", "sans", "et", ("injection", "contraste", "produit de contraste", "PDC")),
    ("con", "sin", "y", ("contraste", "medio de contraste", "contraste IV", "CIV")),
    ("con", "senza", "e", ("mdc", "m.d.c.", "mezzo di contrasto", "contrasto")),
    ("com", "sem", "e", ("contraste", "contraste EV", "meio de contraste")),
    ("met", "zonder", "en", ("contrast", "contrastmiddel", "i.v. contrast")),
    ("z", "bez", "i", ("kontrastem", "kontrastu")),
    ("s", "bez", "a", ("kontrastem", "kontrastní látky")),
    ("с", "без", "и", ("контрастом", "контраста", "контрастирования")),
]
NAMES = [
    "Omnipaque",
    "ULTRAVIST 370",
    "Iomeron400",
    "non ionic",
    "Gadovist",
    "Xenetix",
    "Iopamiro 300",
    "100 ml",
    "nonionic",
    "Telebrix",
]
PLACES = [
    "Head",
    "Kopf",
    "Crâne 5mm",
    "Cráneo",
    "Hoofd 3.0",
    "Głowa",
    "Голова",
    "STROKE H31s",
    "Schädel axial",
    "4/4 mm",
]
NATIVE_WORDS = [
    "NCCT",
    "nativ",
    "Plain",
    "unenhanced",
    "non contrast",
    "ohne KM",
    "sans injection",
    "sin contraste",
    "senza mdc",
]
TECHNIQUES = ["CTA", "CT angio", "Angiography", "Perfusion", "CTP", "CTV", "arterial phase"]
SPACE = st.sampled_from([" ", "  ", "_", ", ", " - "])
CASE = st.sampled_from([str.upper, str.lower, str])


@SETTINGS
@given(st.sampled_from(LANGUAGES), st.data(), CASE)
def test_one_phrase_never_says_both(
    language: tuple[str, str, str, tuple[str, ...]], data: st.DataObject, case: Callable[[str], str]
) -> None:
    """With is contrast, without is native, and both in one description is contrast: in every language."""
    has, lacks, joined, agents = language
    agent = data.draw(st.sampled_from(agents))
    place, space = data.draw(st.sampled_from(PLACES)), data.draw(SPACE)
    assert contrast_in_description(case(f"{place}{space}{has} {agent}"))
    assert contrast_declared(case(f"{has} {agent}"))
    assert not contrast_in_description(case(f"{place}{space}{lacks} {agent}"))
    assert not contrast_declared(case(f"{lacks} {agent}"))
    for both in (
        f"{has} {joined} {lacks} {agent}",
        f"{lacks} {joined} {has} {agent}",
        f"{lacks} {agent} {joined} {has} {agent}",
    ):
        assert contrast_in_description(case(f"{place}{space}{both}"))
        assert contrast_declared(case(both))


@SETTINGS
@given(st.sampled_from(LANGUAGES), st.sampled_from(["5mm", "XQ filter", "J40s", "3D"]), st.data(), CASE)
def test_with_something_else_takes_nothing_back(
    language: tuple[str, str, str, tuple[str, ...]],
    filtered: str,
    data: st.DataObject,
    case: Callable[[str], str],
) -> None:
    """Without contrast, with a bone filter, is without."""
    has, lacks, joined, agents = language
    agent = data.draw(st.sampled_from(agents))
    for text in (f"{lacks} {agent} {has} {filtered}", f"{lacks} {agent} {joined} {filtered}"):
        assert not contrast_in_description(case(text))


@SETTINGS
@given(st.text(max_size=400))
def test_any_text_is_answered(text: str) -> None:
    contrast_declared(text)
    contrast_in_description(text)
    head_by_tags(text, text)


@pytest.mark.parametrize(
    "word", ["NO ", "IV ", "de ", "contrast ", "0 ", "no de iv contrast ", "ohne und mit ", "W/O "]
)
def test_long_values_take_no_time(word: str) -> None:
    started = time.process_time()
    contrast_declared(word * 300 + "!x")
    contrast_declared(word * (60 // len(word)) + "x")
    contrast_in_description(word * (300 // len(word)) + "x")
    assert time.process_time() - started < 1.0


@SETTINGS
@given(st.sampled_from(NAMES), st.sampled_from(phrases(NONE_VALUES)), SPACE, CASE, st.booleans())
def test_none_is_a_whole_value_only(
    name: str, none: str, space: str, case: Callable[[str], str], first: bool
) -> None:
    """An agent stays one whatever word for none stands beside it."""
    assert contrast_declared(case(f"{name}{space}{none}" if first else f"{none}{space}{name}"))


@SETTINGS
@given(
    st.sampled_from(phrases(NONE_VALUES)),
    CASE,
    st.sampled_from(["{}", " {} ", "({})", "{}.", "[{}]", "{}\0"]),
)
def test_words_for_none_however_they_are_written(none: str, case: Callable[[str], str], frame: str) -> None:
    assert not contrast_declared(frame.format(case(none)))


@SETTINGS
@given(
    st.text(alphabet="abcdefgijklmpqrstuvxyzäé", min_size=4, max_size=12),
    st.sampled_from(["NO", "ohne", "sans", "NON", "without"]),
)
def test_a_negation_of_something_unknown_is_an_agent(word: str, negation: str) -> None:
    """The list of what counts as none is closed."""
    known = (
        "contr",
        "kontr",
        "inj",
        "enhan",
        "bolus",
        "agent",
        "given",
        "used",
        "opaci",
        "oral",
        "intraven",
        "endoven",
    )
    if not any(part in word for part in known):
        assert contrast_declared(f"{negation} x{word}")


@SETTINGS
@given(
    st.sampled_from(TECHNIQUES),
    st.sampled_from(NATIVE_WORDS),
    st.sampled_from(PLACES),
    st.permutations([0, 1, 2]),
    SPACE,
)
def test_a_technique_is_cancelled_by_a_native_word_only(
    technique: str, native: str, place: str, order: list[int], space: str
) -> None:
    words = [technique, native, place]
    assert not contrast_in_description(space.join(words[n] for n in order))
    for lacking in ("without bone", "ohne Knochen", "sans os", "w/o tilt", "alternative", "explained", "two"):
        words[1] = lacking
        assert contrast_in_description(space.join(words[n] for n in order))


def test_head_by_tags_is_evidence_only() -> None:
    assert head_by_tags("HEAD") is True
    assert head_by_tags("BRAIN") is True
    assert head_by_tags("Schädel") is True
    assert head_by_tags("NECK") is False
    assert head_by_tags("NECK", "HEAD 5MM") is None  # series description against body part: the pixels decide
    assert head_by_tags("CHEST", "Schädel nativ") is None
    assert head_by_tags("NECK", "Routine", "Head^Neck", "CT head and neck") is False
    assert head_by_tags("WHOLEBODY") is None
    assert head_by_tags("WHOLEBODY", "Head 5 mm") is True
    assert head_by_tags("WHOLE BODY", "Abdomen") is None
    assert head_by_tags("", "Routine", "Head^Stroke") is True
    assert head_by_tags("", "Abdomen") is None  # only BodyPartExamined can say no
    assert head_by_tags("XYZ") is None
    assert head_by_tags("HEAD", "C-Spine 2mm") is None  # the protocol's body part; the pixels decide
    assert head_by_tags("", "HWS", "Trauma", "CT head and cervical spine") is None
    assert head_by_tags("HEAD", "Head and neck") is True
