"""The structured report: Comprehensive 3D SR, TID 1500 Measurement Report.

A container "Summary" stands before the images and measurements: headline, both scores, affected regions,
warnings, intended use, and references to the segments and to the Secondary Capture. Then the groups, in this
order:

- a suspected haemorrhage: contour, side, volume, place;
- each hemisphere: ASPECTS with its range as measurement uncertainty (TID 310), number of assessed regions,
volume of
  early ischaemic change;
- each region: site, laterality, affected or not, borderline, probability, attenuation, area;
- other hypodensity and old infarct: volume.

Every group is a planar one (TID 1410) with a contour on the slice that shows most of it, because OHIF walks
all groups and stays black as soon as one has no coordinates. What has no voxel to outline is said in words.
A region's contour is of the early change in it where it is affected, else of the region.

The image library names the slices that a contour or a picture shows; all slices are in the evidence.

What has no coded form (quality flags, engine, notes) stands as text in the report's Qualitative Evaluations
container.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    GraphicTypeValues,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementProperties,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard_codes
from pydicom.sr.coding import Code

from strokecore import identifiers as uids
from strokecore._version import __version__
from strokecore.anatomy.regions import REGION_NAMES, SIDES, RegionId, Side
from strokecore.arrays import BoolArray
from strokecore.flags import QualityFlag
from strokecore.reading.series import Series
from strokecore.reports.dicom import codes, inherit
from strokecore.reports.dicom.contour import region_contour
from strokecore.reports.dicom.instance import MANUFACTURER, MODEL_NAME, Stamp, finish
from strokecore.reports.marks import Volumes
from strokecore.reports.palette import MARKS
from strokecore.reports.picture import LEVELS, level_slice
from strokecore.reports.wording import (
    INTENDED_USE,
    NO_ALL_CLEAR,
    RESEARCH_USE,
    SUPERSEDES,
    affected_regions,
    decision,
    doubtful,
    flags,
    marked,
    statement,
    summary_line,
)
from strokecore.result import (
    HAEMORRHAGE,
    INFARCT,
    OLD_INFARCT,
    OTHER_HYPODENSITY,
    HaemorrhageInfo,
    ModelInfo,
    RegionFinding,
    Result,
    SourceMasks,
)

# Digits kept in numeric content items; a DS holds at most 16 characters (PS3.5 6.2)
DECIMALS: Final = 4

Group: TypeAlias = PlanarROIMeasurementsAndQualitativeEvaluations


@dataclass(frozen=True, eq=False)
class _Scan:
    """What contours are drawn on.

    ``references``: one for each slice; ``shown``: indices of the slices that the report shows, which grows.
    """

    series: Series
    masks: SourceMasks
    references: Sequence[Dataset]
    shown: set[int]

    def outline(self, mask: BoolArray) -> tuple[ImageRegion, float]:
        """Contour of [k, j, i] on its largest slice, and what it has there, mm2."""
        k = int(np.argmax([np.count_nonzero(plane) for plane in mask]))
        self.shown.add(k)
        source = self.references[k]
        frame = [source[inherit.FRAME].value] if inherit.FRAME in source else None
        row_mm, column_mm = self.series.pixel_spacing_mm
        region = ImageRegion(
            graphic_type=GraphicTypeValues.POLYLINE,
            graphic_data=region_contour(mask[k]),
            source_image=SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID, frame),
        )
        return region, float(np.count_nonzero(mask[k])) * row_mm * column_mm


def build(
    series: Series,
    result: Result,
    masks: SourceMasks,
    model: ModelInfo,
    stamp: Stamp,
    *,
    lesion: Dataset | None,
    segments: dict[int, int],
    regions: Dataset | None,
    captures: Sequence[Dataset] = (),
) -> Dataset:
    """The report of a scored or withheld ``result``; ``masks`` as marks.shown gives them.

    ``lesion``, ``regions`` and ``captures`` are the segmentation objects and the Secondary Captures, None or
    empty where none was written; ``segments`` gives the segment number in ``lesion`` of each value of
    ``masks.lesion``.
    """
    references = [inherit.reference(header, series.slice_thickness_mm) for header in series.datasets]
    scan = _Scan(series, masks, references, {level_slice(masks, level) for level in LEVELS})
    volumes = Volumes.of(series, masks)
    algorithm = _algorithm(model)
    groups: list[Group] = []
    unplaced: list[str] = []
    blood = masks.lesion == HAEMORRHAGE
    if result.haemorrhage is not None and blood.any():
        groups.append(_haemorrhage(result.haemorrhage, blood, scan, stamp))
    for side in SIDES:
        inside = np.isin(masks.regions, [RegionId(name, side).label for name in REGION_NAMES])
        if inside.any():
            groups.append(_hemisphere(result, side, inside, volumes, scan, algorithm, stamp))
        else:
            unplaced.append(f"ASPECTS {side} {result.aspects[side]}.")
    for finding in result.regions:
        if (masks.regions == _label(finding)).any():
            groups.append(_region(result, finding, scan, algorithm, stamp))
        else:
            unplaced.append(f"Region {finding.name} {finding.side}: {statement(result, finding)}.")
    for value, kind, volume in (
        (OTHER_HYPODENSITY, codes.LESION, volumes.other),
        (OLD_INFARCT, codes.INFARCT, volumes.old),
    ):
        if (masks.lesion == value).any():
            groups.append(_uncounted(value, kind, volume, scan, algorithm, stamp))
    report = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=standard_codes.DCM.Device,
                observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                    uid=uids.constant_uid("device"),
                    name="StrokeCore",
                    manufacturer_name=MANUFACTURER,
                    model_name=MODEL_NAME,
                    serial_number=__version__,
                ),
            )
        ),
        procedure_reported=codes.CT_OF_HEAD,
        imaging_measurements=groups,
        title=standard_codes.DCM.ImagingMeasurementReport,
        referenced_images=[references[k] for k in sorted(scan.shown)],
    )
    root = report[0]
    _name_frames(root, [references[k] for k in sorted(scan.shown)])
    root.ContentSequence.append(_statements(result, model, volumes, lesion, unplaced))
    _insert_summary(root, _summary(result, volumes, lesion, segments, captures))
    # highdicom copies and searches the tree that it is given, which takes longer than to build it; it gets
    # the trunk and the tree is put in its place afterwards
    tree, root.ContentSequence = root.ContentSequence, ContentSequence()
    written = [_evidence(dataset) for dataset in (lesion, regions, *captures) if dataset is not None]
    dataset = Comprehensive3DSR(
        evidence=[*_once(references), *written],
        content=report,
        series_instance_uid=stamp.series_uid("sr"),
        series_number=1,
        sop_instance_uid=stamp.instance_uid("sr"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[codes.private_scheme()],
    )
    dataset.ContentSequence = tree
    if result.supersedes and uids.is_key(result.supersedes):
        dataset.PredecessorDocumentsSequence = [_predecessor(series, dataset, result.supersedes)]
    return finish(dataset, series.datasets[0], stamp, "sr")


def _hemisphere(
    result: Result,
    side: Side,
    inside: BoolArray,
    volumes: Volumes,
    scan: _Scan,
    algorithm: AlgorithmIdentification,
    stamp: Stamp,
) -> Group:
    """``inside``: the side's regions [k, j, i]; they are what the score is of."""
    score = result.aspects[side]
    measurements = [Measurement(codes.ASSESSED_REGIONS, score.assessed, codes.REGION_COUNT_UNIT)]
    if result.status != "withheld":
        measurements.append(_volume_measurement(volumes.early[side], codes.EARLY_VOLUME))
    evaluations = []
    if score.score is None:
        evaluations = [QualitativeEvaluation(codes.ASPECTS, codes.INDETERMINATE)]
    else:
        doubt = None
        if score.range is not None:
            # TID 310 gives how far the value may lie to either side of it
            low, high = score.range
            doubt = MeasurementProperties(
                upper_measurement_uncertainty=max(0, high - score.score),
                lower_measurement_uncertainty=max(0, score.score - low),
            )
        measurements.insert(0, Measurement(codes.ASPECTS, score.score, codes.SCORE_UNIT, properties=doubt))
    return Group(
        tracking_identifier=_tracking(stamp, f"ASPECTS {side}"),
        referenced_region=scan.outline(inside)[0],
        finding_type=codes.ASPECTS,
        finding_sites=[FindingSite(codes.CEREBRAL_HEMISPHERE, codes.LATERALITY[side])],
        algorithm_id=algorithm,
        measurements=measurements,
        qualitative_evaluations=evaluations or None,
    )


def _region(
    result: Result, finding: RegionFinding, scan: _Scan, algorithm: AlgorithmIdentification, stamp: Stamp
) -> Group:
    if not finding.assessable or result.status == "withheld":
        answer = codes.INDETERMINATE
    elif finding.affected:
        answer = codes.PRESENT
    else:
        answer = codes.EQUIVOCAL if finding.borderline else codes.ABSENT
    evaluations = [QualitativeEvaluation(codes.EARLY_ISCHEMIC_CHANGE, answer)]
    if doubtful(result, finding):
        evaluations.append(QualitativeEvaluation(codes.BORDERLINE, codes.YES))
    region: BoolArray = scan.masks.regions == _label(finding)
    early: BoolArray = region & (scan.masks.lesion == INFARCT[finding.side])
    affected = marked(result, finding)
    outline, area = scan.outline(early if affected and early.any() else region)
    measurements = _region_measurements(result, finding)
    if affected:
        measurements.append(Measurement(codes.AREA, round(area, DECIMALS), codes.SQUARE_MILLIMETRE))
    group = Group(
        tracking_identifier=_tracking(stamp, f"Region {finding.name} {finding.side}"),
        referenced_region=outline,
        finding_type=codes.EARLY_ISCHEMIC_CHANGE,
        finding_sites=[_site(finding)],
        algorithm_id=algorithm,
        measurements=measurements or None,
        qualitative_evaluations=evaluations,
    )
    if finding.reason:
        group[0].ContentSequence.append(_text(codes.REASON, finding.reason))
    return group


def _haemorrhage(found: HaemorrhageInfo, mask: BoolArray, scan: _Scan, stamp: Stamp) -> Group:
    laterality = codes.BOTH_SIDES if found.side == "both" else codes.LATERALITY[found.side]
    group = Group(
        tracking_identifier=_tracking(stamp, "Suspected haemorrhage"),
        referenced_region=scan.outline(mask)[0],
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_type=codes.HEMORRHAGE,
        finding_sites=[FindingSite(codes.BRAIN, laterality)],
        algorithm_id=AlgorithmIdentification(name=codes.HAEMORRHAGE_RULE, version=__version__),
        measurements=[_volume_measurement(found.ml)],
        qualitative_evaluations=[QualitativeEvaluation(codes.HEMORRHAGE, codes.SUSPECTED)],
    )
    group[0].ContentSequence.append(_text(codes.PLACE, found.place))
    return group


def _uncounted(
    value: int, kind: Code, volume: float, scan: _Scan, algorithm: AlgorithmIdentification, stamp: Stamp
) -> Group:
    """Marked tissue that no score counts."""
    chronic = [QualitativeEvaluation(codes.INFARCT, codes.CHRONIC)] if value == OLD_INFARCT else None
    group = Group(
        tracking_identifier=_tracking(stamp, MARKS[value].label),
        referenced_region=scan.outline(scan.masks.lesion == value)[0],
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_type=kind,
        finding_sites=[FindingSite(codes.BRAIN)],
        algorithm_id=algorithm,
        measurements=[_volume_measurement(volume)],
        qualitative_evaluations=chronic,
    )
    group[0].ContentSequence.append(_text(codes.SEGMENTATION_NOTE, MARKS[value].label))
    return group


def _algorithm(model: ModelInfo) -> AlgorithmIdentification:
    return AlgorithmIdentification(
        name=codes.ASPECTS_ALGORITHM,
        version=__version__,
        parameters=[f"engine {model.engine}, {model.precision}", f"model {model.name} {model.version}"],
    )


def _summary(
    result: Result,
    volumes: Volumes,
    lesion: Dataset | None,
    segments: dict[int, int],
    captures: Sequence[Dataset],
) -> ContainerContentItem:
    """What a reader needs, before everything else."""
    container = ContainerContentItem(
        name=codes.SUMMARY_HEADING, relationship_type=RelationshipTypeValues.CONTAINS
    )
    items = ContentSequence()
    items.append(_text(codes.SUMMARY, summary_line(result)))
    if result.status == "scored":
        items.append(_text(codes.AFFECTED_REGIONS, affected_regions(result)))
        items.append(_text(codes.EARLY_VOLUME, volumes.early_words))
        items.append(_text(codes.LIMITATION, NO_ALL_CLEAR))
    for flag in flags(result):
        if flag.severity != "info":
            items.append(_text(codes.QUALITY_FLAG, _flag_words(flag)))
    items.append(_text(codes.INTENDED_USE, f"{RESEARCH_USE}. Not for diagnosis. Unverified. {INTENDED_USE}"))
    if result.supersedes:
        items.append(_text(codes.SUPERSEDES, SUPERSEDES))
    for number in segments.values() if lesion is not None else ():
        items.append(_image(standard_codes.DCM.ReferencedSegment, lesion, number))
    for capture in captures:
        items.append(_image(standard_codes.DCM.BestIllustrationOfFinding, capture))
    container.ContentSequence = items
    return container


def _insert_summary(root: Dataset, summary: ContainerContentItem) -> None:
    """Before the image library, which fills a screen in what shows a report as text."""
    root.ContentSequence.insert(_place_of_library(root), summary)


def _place_of_library(root: Dataset) -> int:
    named = [item.ConceptNameCodeSequence[0].CodeValue for item in root.ContentSequence]
    return named.index(standard_codes.DCM.ImageLibrary.value)


def _predecessor(series: Series, dataset: Dataset, key: str) -> Dataset:
    """The report of the result that this one replaces; its identity follows from its key (identifiers.py)."""
    document = Dataset()
    document.ReferencedSOPClassUID = dataset.SOPClassUID
    document.ReferencedSOPInstanceUID = uids.output_uid(key, "sr")
    of_series = Dataset()
    of_series.SeriesInstanceUID = uids.output_uid(key, "sr-series")
    of_series.ReferencedSOPSequence = [document]
    of_study = Dataset()
    of_study.StudyInstanceUID = series.datasets[0].StudyInstanceUID
    of_study.ReferencedSeriesSequence = [of_series]
    return of_study


def _statements(
    result: Result, model: ModelInfo, volumes: Volumes, lesion: Dataset | None, unplaced: Sequence[str]
) -> ContainerContentItem:
    container = ContainerContentItem(
        name=codes.QUALITATIVE_EVALUATIONS, relationship_type=RelationshipTypeValues.CONTAINS
    )
    items = ContentSequence()
    for words in unplaced:
        items.append(_text(codes.NOT_OUTLINED, words))
    for flag in flags(result):
        items.append(_text(codes.QUALITY_FLAG, _flag_words(flag)))
    engine = (
        f"Engine {model.engine}, precision {model.precision}, model {model.name} {model.version}, "
        f"sha256 {model.sha256}; fallbacks: {'; '.join(model.fallbacks) or 'none'}"
    )
    items.append(_text(codes.ENGINE, engine))
    if decision(result):
        items.append(_text(codes.REGION_CUT, decision(result)))
    if volumes.uncounted_words:
        items.append(_text(codes.SEGMENTATION_NOTE, f"{'; '.join(volumes.uncounted_words)}."))
    if lesion is None:
        words = "No segmentation of findings was written."
        items.append(_text(codes.SEGMENTATION_NOTE, words))
    if result.series is not None:
        items.append(_text(codes.SERIES_CHOICE, result.series.chosen_because))
    if result.supersedes:
        items.append(_text(codes.SUPERSEDES_KEY, result.supersedes))
    container.ContentSequence = items
    return container


def _region_measurements(result: Result, finding: RegionFinding) -> list[Measurement]:
    # nothing that is 0 in a sound region: viewers write every number beside its contour
    affected = marked(result, finding)
    values = (
        (codes.PROBABILITY, finding.probability, codes.NO_UNIT),
        (codes.INVOLVED_FRACTION, finding.involved_fraction if affected else None, codes.NO_UNIT),
        (codes.MEAN_ATTENUATION, finding.mean_hu, codes.HOUNSFIELD),
        (codes.ATTENUATION_DIFFERENCE, finding.contralateral_difference_hu, codes.HOUNSFIELD),
    )
    measured = [
        Measurement(name, round(float(value), DECIMALS), unit)
        for name, value, unit in values
        if value is not None
    ]
    return [*measured, _volume_measurement(finding.volume_ml)] if affected else measured


def _volume_measurement(volume_ml: float, name: Code = codes.VOLUME) -> Measurement:
    return Measurement(name, round(float(volume_ml), DECIMALS), codes.MILLILITRE)


def _site(finding: RegionFinding) -> FindingSite:
    return FindingSite(codes.REGION_SITE[finding.name], codes.LATERALITY[finding.side])


def _label(finding: RegionFinding) -> int:
    return RegionId(finding.name, finding.side).label


def _tracking(stamp: Stamp, name: str) -> TrackingIdentifier:
    return TrackingIdentifier(uid=uids.output_uid(stamp.key, f"tracking {name}"), identifier=name)


def _text(name: Code, words: str) -> TextContentItem:
    return TextContentItem(name=name, value=words, relationship_type=RelationshipTypeValues.CONTAINS)


def _image(name: Code, image: Dataset, segment: int | None = None) -> ImageContentItem:
    return ImageContentItem(
        name=name,
        referenced_sop_class_uid=image.SOPClassUID,
        referenced_sop_instance_uid=image.SOPInstanceUID,
        referenced_segment_numbers=segment,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def _flag_words(flag: QualityFlag) -> str:
    return f"{flag.severity.upper()} {flag.code}: {flag.message} {flag.remedy}".strip()


def _name_frames(root: Dataset, shown: Sequence[Dataset]) -> None:
    """In the image library, which highdicom fills in order: which frame of its image a slice is."""
    library = root.ContentSequence[_place_of_library(root)]
    entries = (
        i for group in library.ContentSequence for i in group.ContentSequence if i.ValueType == "IMAGE"
    )
    for entry, image in zip(entries, shown, strict=True):
        if inherit.FRAME in image:
            entry.ReferencedSOPSequence[0].ReferencedFrameNumber = image[inherit.FRAME].value


def _once(references: Sequence[Dataset]) -> list[Dataset]:
    """Each image once: the slices of an Enhanced CT image are its frames."""
    return list({str(image.SOPInstanceUID): image for image in reversed(references)}.values())[::-1]


def _evidence(dataset: Dataset) -> Dataset:
    """The identity of an object of ours, as far as a report refers to it."""
    return inherit.reference(dataset)
