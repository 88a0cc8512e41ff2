"""The node's figures for Prometheus. Numbers, codes and states only: nothing of patients.

``prometheus-client`` is in the virtual environment, Orthanc's interpreter is the system's. It is pure Python,
so it is taken from there; where it is missing everything but this works.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthanc_plugin.health import OK
from orthanc_plugin.terminal_states import Buckets

if TYPE_CHECKING:
    from orthanc_plugin.rest import Node

_LIBRARY = "prometheus_client"


class Missing(Exception):
    """The package is not installed."""


def exposition(node: Node, status: dict[str, Any]) -> tuple[bytes, str]:
    """(what Prometheus reads, its content type). ``status``: what /strokecore/status says. Raises Missing."""
    library = _library(node.settings.python if node.settings else None)
    registry = library.CollectorRegistry()
    registry.register(_Collector(library, node, status))
    return library.generate_latest(registry), library.CONTENT_TYPE_LATEST


def _library(python: str | None) -> Any:
    """The package from this interpreter or from the environment of the program ``python``."""
    sites = [] if python is None else sorted(Path(python).parent.parent.glob("lib/python3*/site-packages"))
    kept = list(sys.path)
    try:
        sys.path.extend(str(site) for site in sites)  # behind everything else, and only for this
        importlib.import_module(f"{_LIBRARY}.core")
        return sys.modules[_LIBRARY]
    except ImportError as error:
        raise Missing from error
    finally:
        sys.path[:] = kept


class _Collector:
    """The figures as they are when Prometheus asks: nothing is counted twice."""

    def __init__(self, library: Any, node: Node, status: dict[str, Any]) -> None:
        self._library = library
        self._node = node
        self._status = status

    def collect(self) -> Iterator[Any]:
        node, status, core = self._node, self._status, self._library.core
        counts = node.tally.figures()

        def gauge(name: str, text: str, value: float) -> Any:
            return core.GaugeMetricFamily(f"strokecore_{name}", text, value=value)

        def labelled(family: Any, values: dict[str, float]) -> Any:
            for label, value in values.items():
                family.add_metric([label], value)
            return family

        info = core.InfoMetricFamily("strokecore", "Version of the plugin.", value={"version": node.version})
        yield info
        yield gauge(
            "ready", "1 when the engine serves and the folders can be written.", status["state"] == "ready"
        )
        yield gauge("healthy", "1 when the health is ok.", status["health"] == OK)
        condition = core.GaugeMetricFamily(
            "strokecore_condition", "1 for each code of the health.", labels=["code"]
        )
        yield labelled(condition, {c["code"]: 1.0 for c in status["codes"]})
        yield gauge("workers", "Acquisitions that can be scored at once.", status["workers"])
        yield gauge("studies_busy", "Studies being worked on.", status["busy"])
        yield gauge("studies_waiting", "Studies waiting for a look.", status["queue"])
        oldest = status["oldest_waiting_s"] or 0.0
        yield gauge(
            "oldest_waiting_seconds", "How long the first complete study has waited; 0 for none.", oldest
        )
        series = core.GaugeMetricFamily(
            "strokecore_series", "CT series known by their state.", labels=["state"]
        )
        yield labelled(series, node.ledger.counts())
        reached = core.CounterMetricFamily(
            "strokecore_states", "Terminal states reached since the start.", labels=["state"]
        )
        yield labelled(reached, counts.states)
        errors = core.CounterMetricFamily(
            "strokecore_errors", "Errors since the start, by code.", labels=["code"]
        )
        yield labelled(errors, counts.errors)
        text = "Duration of scorer processes."
        yield self._histogram("strokecore_scorer_seconds", text, counts.scorer)
        text = "From the last slice to the first stored result of an acquisition."
        yield self._histogram("strokecore_result_seconds", text, counts.results)

    def _histogram(self, name: str, text: str, buckets: Buckets) -> Any:
        return self._library.core.HistogramMetricFamily(
            name, text, buckets=buckets.cumulated(), sum_value=buckets.total
        )
