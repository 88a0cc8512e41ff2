from __future__ import annotations

import strokecore


def test_the_public_names_are_these_and_can_be_imported() -> None:
    assert sorted(strokecore.__all__) == [
        "Refusal",
        "Result",
        "ScoringConfig",
        "Series",
        "StrokeCoreError",
        "__version__",
        "read_series",
        "score_folder",
    ]
    for name in strokecore.__all__:
        assert getattr(strokecore, name) is not None
