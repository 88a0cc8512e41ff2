from __future__ import annotations

import pytest
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword

from strokecore.config import ScoringConfig
from strokecore.errors import Refusal
from strokecore.reading.patient import age_years, check_patient


def header(**values: str) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        tag = tag_for_keyword(name)
        assert tag is not None
        dataset.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE))
    return dataset


@pytest.mark.parametrize(
    ("values", "years"),
    [
        ({"PatientAge": "065Y"}, 65.0),
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientAge": "9Y"}, 9.0),
        ({"PatientAge": "09y"}, 9.0),
        ({"PatientAge": "9"}, None),
        ({"PatientBirthDate": "2000.01.01", "StudyDate": "2009.01.01"}, 9.0),
        ({"PatientBirthDate": "20000101", "StudyDate": "20200101"}, 20.0),
        ({"PatientBirthDate": "20200101", "StudyDate": "20000101"}, None),
        ({"PatientBirthDate": "19000000", "StudyDate": "20000101"}, None),
        ({"PatientAge": ""}, None),
        ({}, None),
    ],
)
def test_age(values: dict[str, str], years: float | None) -> None:
    found = age_years(header(**values))
    assert found == (None if years is None else pytest.approx(years, abs=0.01))


def test_a_child_is_refused_without_naming_the_age() -> None:
    with pytest.raises(Refusal) as caught:
        check_patient(header(PatientAge="009Y"), ScoringConfig())
    assert caught.value.code == "under_age"
    assert not caught.value.ineligible
    assert "9" not in caught.value.message


def test_a_site_can_lower_the_limit() -> None:
    assert check_patient(header(PatientAge="009Y"), ScoringConfig(minimum_age_years=0)) == ()


def test_an_unknown_age_is_said_and_does_not_refuse() -> None:
    assert [f.code for f in check_patient(header(), ScoringConfig())] == ["age_unknown"]
    assert check_patient(header(PatientAge="018Y"), ScoringConfig()) == ()
