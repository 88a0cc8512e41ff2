"""Every engine on the same slices: memory in its own process, then parity and times side by side here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from strokecore.bench.agreement import Agreement, agreement
from strokecore.bench.inputs import BenchSlices
from strokecore.bench.memory import Memory, measure_memory
from strokecore.bench.peak import Product, product
from strokecore.bench.rounds import take_turns
from strokecore.bench.settings import BenchSettings
from strokecore.bench.subjects import Running, Subject
from strokecore.bench.words import in_words, without_folders
from strokecore.errors import EngineError
from strokecore.learned.devices import gpus
from strokecore.learned.package import ModelPackage


@dataclass
class Line:
    """One engine in one precision and all that was found of it.

    Attributes
    ----------
    device, library: in its own words; None when it could not be opened.
    on_gpu: its device is one.
    product: name of the matrix product that stands for its peak, where there is one.
    seconds: of one call by its number of slices, in the order of the rounds.
    errors: by number of slices, where a call failed.
    error: why it could not be opened or run at all.
    """

    subject: Subject
    device: str | None = None
    library: str | None = None
    on_gpu: bool = False
    memory: Memory | None = None
    parity: Agreement | None = None
    product: str | None = None
    seconds: dict[int, list[float]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    error: str | None = None


@dataclass
class Measured:
    """All lines, the reference first, and the matrix products beside them.

    Attributes
    ----------
    product_seconds: of one product by its name and by the number of slices of the calls it took turns with.
    missing_products: why a device and precision has no peak, by the product's name.
    """

    lines: list[Line]
    products: dict[str, Product] = field(default_factory=dict)
    product_seconds: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    missing_products: dict[str, str] = field(default_factory=dict)


def measure_engines(
    package: ModelPackage,
    subjects: Sequence[Subject],
    slices: BenchSlices,
    settings: BenchSettings,
    threads: int,
    say: Callable[[str], None],
) -> Measured:
    """Memory, parity and times of ``subjects``, of which the first is the reference."""
    found = Measured([Line(subject) for subject in subjects])
    for line in found.lines:
        say(f"{line.subject.name}: memory, in a process of its own")
        try:
            line.memory = measure_memory(line.subject.to_dict(), package.folder, len(slices.slices), threads)
        except EngineError as error:
            line.error = without_folders(str(error))
    with ExitStack() as opened:
        engines = _open(found, package, threads, opened, say)
        _compare(found, engines, slices, package.lesion_threshold, say)
        _add_products(found, engines, threads)
        for number in settings.calls:
            say(f"{len(engines)} engines in turn, {number} slices")
            batch = slices.slices[:number]
            turns = {name: partial(engine.run, batch) for name, engine in engines.items()}
            _time(found, turns, number, settings)
    return found


def _open(
    found: Measured, package: ModelPackage, threads: int, opened: ExitStack, say: Callable[[str], None]
) -> dict[str, Running]:
    """The engines that could be opened in their own processes, by the subject's name."""
    engines = {}
    for line in found.lines:
        if line.error is None:
            say(f"{line.subject.name}: open")
            try:
                engine = line.subject.open(package, threads)
            except Exception as error:  # every engine's library raises its own
                line.error = in_words(error)
                continue
            opened.callback(engine.close)
            line.device, line.library = engine.device, engine.library
            line.on_gpu = any(gpu.name in engine.device for gpu in gpus())
            engines[line.subject.name] = engine
    return engines


def _compare(
    found: Measured,
    engines: dict[str, Running],
    slices: BenchSlices,
    threshold: float,
    say: Callable[[str], None],
) -> None:
    """Parity with the reference; an engine that cannot run a series is taken out."""
    reference = None
    for line in found.lines:
        engine = engines.get(line.subject.name)
        if engine is None:
            continue
        say(f"{line.subject.name}: parity")
        try:
            answer = engine.run(slices.slices)
        except Exception as error:
            line.error = in_words(error)
            del engines[line.subject.name]
            continue
        if line is found.lines[0]:
            reference = answer
        if reference is not None:
            line.parity = agreement(reference, answer, slices, threshold)


def _add_products(found: Measured, engines: Mapping[str, Running], threads: int) -> None:
    """One matrix product for each device and precision at work."""
    for line in found.lines:
        if line.subject.name not in engines:
            continue
        name = f"{'gpu' if line.on_gpu else 'cpu'} {line.subject.precision}"
        if name not in found.products and name not in found.missing_products:
            try:
                found.products[name] = product(line.on_gpu, line.subject.precision, threads)
            except EngineError as error:
                found.missing_products[name] = str(error)
        if name in found.products:
            line.product = name


def _time(
    found: Measured, turns: Mapping[str, Callable[[], object]], number: int, settings: BenchSettings
) -> None:
    """Engines and products in turn; the products have a name of their own among them."""
    products = {f"product {name}": one.run for name, one in found.products.items()}
    rounds = take_turns({**turns, **products}, settings.repeats, settings.seconds)
    for line in found.lines:
        name = line.subject.name
        if name in rounds.seconds:
            line.seconds[number] = rounds.seconds[name]
        elif name in rounds.errors:
            line.errors[number] = rounds.errors[name]
    for name in found.products:
        if times := rounds.seconds.get(f"product {name}"):
            found.product_seconds.setdefault(name, {})[number] = times
