"""The kinds of an ablation: control, TAGL and what is named on the command line."""

from __future__ import annotations

import dataclasses

import pytest

from strokecore.errors import UsageError
from trainer.loss.config import TaglConfig
from trainer.measure.variants import kinds_of


class TestKinds:
    def test_control_and_variants_differ_from_tagl_as_said(self) -> None:
        loss = TaglConfig(temperature=0.2)
        kinds = kinds_of(
            loss, ["coupling:w0=1", "territory:gate=territory,coupling_weight=0.5", "short:median_window=8"]
        )
        assert list(kinds) == ["control", "TAGL", "coupling", "territory", "short"]
        assert kinds["control"] == loss.as_control()
        assert kinds["TAGL"] is loss
        assert kinds["coupling"] == dataclasses.replace(loss, w0=1.0)
        assert kinds["territory"] == dataclasses.replace(loss, gate="territory", coupling_weight=0.5)
        assert kinds["short"].median_window == 8

    @pytest.mark.parametrize(
        ("variant", "told"),
        [
            ("w0=1", "NAME:key=value"),
            (":w0=1", "NAME:key=value"),
            ("a/b:w0=1", "NAME:key=value"),
            ("Control:w0=1", "taken"),
            ("x:w=1", "no setting of the loss"),
            ("x:w0", "no setting of the loss"),
            ("x:w0=much", "expected a number"),
            ("x:w0=2", "loss.w0"),
            ("x:gate=open", "loss.gate"),
        ],
    )
    def test_wrong_variants_are_refused(self, variant: str, told: str) -> None:
        with pytest.raises(UsageError, match=told):
            kinds_of(TaglConfig(), [variant])

    def test_a_recipe_that_is_the_control_has_nothing_to_compare(self) -> None:
        with pytest.raises(UsageError, match="nothing to compare"):
            kinds_of(TaglConfig.control(), [])
