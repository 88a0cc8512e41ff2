"""A simulated non-contrast head CT: the demo's patient, the tests' patient and the studies' cases.

``random_spec`` draws a patient and an acquisition from a seed, ``simulate`` makes the arrays and
``write_sample`` a DICOM series with the truth in a folder beside it. docs/simulator.md says what is and
is not realistic.
"""

from strokecore.simulate.domain import CONFOUNDERS, random_person_spec, training_fields, unseen_fields
from strokecore.simulate.head import SimulatedHead, simulate, write_sample
from strokecore.simulate.spec import (
    SIMULATOR_VERSION,
    TEST_SEEDS,
    TUNE_SEEDS,
    VALIDATE_SEEDS,
    SampleSpec,
    parse_affected,
    random_affected,
    random_spec,
    simulator_sha256,
)
from strokecore.simulate.study import write_study

__all__ = [
    "CONFOUNDERS",
    "SIMULATOR_VERSION",
    "TEST_SEEDS",
    "TUNE_SEEDS",
    "VALIDATE_SEEDS",
    "SampleSpec",
    "SimulatedHead",
    "parse_affected",
    "random_affected",
    "random_person_spec",
    "random_spec",
    "simulate",
    "simulator_sha256",
    "training_fields",
    "unseen_fields",
    "write_sample",
    "write_study",
]
