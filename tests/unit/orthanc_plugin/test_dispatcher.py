"""orthanc_plugin/dispatcher.py: an error while a study is handled is named and costs only its study."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orthanc_plugin.dispatcher import Dispatcher
from orthanc_plugin.orthanc_api import OrthancError
from orthanc_plugin.scoring import Scoring
from orthanc_plugin.terminal_states import Tally
from tests.unit.orthanc_plugin.fakes import FakeOrthanc, make_settings


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (OrthancError(500, "PUT /series"), "orthanc_error", "PUT /series: HTTP 500"),
        (ValueError("the patient is DOE^JANE"), "plugin_error", "ValueError at"),
    ],
)
def test_an_error_is_named_and_the_next_study_handled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, code: str, detail: str
) -> None:
    handled: list[str] = []

    def handle(study: str) -> None:
        handled.append(study)
        if study == "bad":
            raise error
        dispatcher.stop()

    tally = Tally()
    dispatcher = Dispatcher(
        FakeOrthanc().api,
        make_settings(tmp_path),
        cast(Scoring, cast(Any, SimpleNamespace(handle=handle))),
        tally,
        threading.Event(),
        0,
        lambda number: None,
    )
    dispatcher.study_wanted("bad")
    dispatcher.study_wanted("good")
    with caplog.at_level(logging.ERROR, "orthanc_plugin"):
        dispatcher._handle_studies()
    assert handled == ["bad", "good"]
    assert tally.last_error == code
    assert f"{code}: {detail}" in caplog.text
    assert "JANE" not in caplog.text
