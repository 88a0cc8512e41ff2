"""The structured report: Comprehensive 3D SR, TID 1500 Measurement Report.

Groups, in this order:

- one TID 1410 group for a suspected haemorrhage: contour, volume, place;
- one TID 1410 group per affected region: a contour on its largest slice, because some viewers show
  nothing for references to segments (and highdicom refuses contour and segment in one group). They
  come first: OHIF opens a report at its first group and stays black where that has no contour;
- one TID 1411 group per infarcted side: its volume, referring to the segment;
- one TID 1501 group per hemisphere: ASPECTS with its range as measurement uncertainty (TID 310), number of
  assessed regions, infarct volume;
- one TID 1501 group per region: site, laterality, affected or not, borderline, probability, attenuation.

The image library names the slices that a contour or a picture shows; all slices are in the evidence.

What has no coded form (summary, quality flags, engine, notes) stands as text in the report's
Qualitative Evaluations container.
"""

from __future__ import annotations

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
    ImageRegion,
    Measurement,
    MeasurementProperties,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceImageForRegion,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard_codes
from pydicom.sr.coding import Code

from strokecore import identifiers as uids
from strokecore._version import __version__
from strokecore.anatomy.regions import SIDES, RegionId, Side
from strokecore.arrays import BoolArray
from strokecore.reading.series import Series
from strokecore.reports.dicom import codes, inherit
from strokecore.reports.dicom.contour import region_contour
from strokecore.reports.dicom.instance import MANUFACTURER, MODEL_NAME, Stamp, finish
from strokecore.reports.pages import RESEARCH_USE
from strokecore.reports.picture import LEVELS, level_slice
from strokecore.reports.wording import decision, doubtful, marked, other_volumes, summary_line
from strokecore.result import (
    HAEMORRHAGE,
    INFARCT,
    HaemorrhageInfo,
    ModelInfo,
    RegionFinding,
    Result,
    SourceMasks,
)

# Digits kept in numeric content items; a DS holds at most 16 characters (PS3.5 6.2)
DECIMALS: Final = 4

Group: TypeAlias = (
    MeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | VolumetricROIMeasurementsAndQualitativeEvaluations
)


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
) -> Dataset:
    """The report of a scored or withheld ``result``.

    ``lesion`` and ``regions`` are the segmentation objects, None where none was written; ``segments``
    gives the segment number in ``lesion`` of each value of ``masks.lesion``.
    """
    references = [inherit.reference(header, series.slice_thickness_mm) for header in series.datasets]
    algorithm = AlgorithmIdentification(name=model.name, version=model.version)
    groups: list[Group] = []
    shown = {level_slice(masks, level) for level in LEVELS}
    blood = masks.lesion == HAEMORRHAGE
    if result.haemorrhage is not None and blood.any():
        k, plane = _largest_slice(blood)
        shown.add(k)
        groups.append(_haemorrhage(result.haemorrhage, plane, references[k], stamp))
    for finding in result.regions:
        if marked(result, finding) and (masks.regions == _label(finding)).any():
            k, plane = _largest_slice(_shown(finding, masks))
            shown.add(k)
            groups.append(_contour(finding, plane, series, references[k], algorithm, stamp))
    if lesion is not None:
        groups += [
            _volume(result, side, lesion, segments[value], references[0], algorithm, stamp)
            for side, value in INFARCT.items()
            if value in segments
        ]
    groups += [_hemisphere(result, side, algorithm, stamp) for side in SIDES]
    groups += [_region(result, finding, algorithm, stamp) for finding in result.regions]
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
        referenced_images=[references[k] for k in sorted(shown)],
    )
    root = report[0]
    root.ContentSequence.append(_statements(result, model, lesion))
    # highdicom copies and searches the tree that it is given, which takes longer than to build it; it gets
    # the trunk and the tree is put in its place afterwards
    tree, root.ContentSequence = root.ContentSequence, ContentSequence()
    written = [_evidence(dataset) for dataset in (lesion, regions) if dataset is not None]
    dataset = Comprehensive3DSR(
        evidence=[*references, *written],
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
    return finish(dataset, series.datasets[0], stamp, "sr")


def _hemisphere(
    result: Result, side: Side, algorithm: AlgorithmIdentification, stamp: Stamp
) -> MeasurementsAndQualitativeEvaluations:
    score = result.aspects[side]
    measurements = [Measurement(codes.ASSESSED_REGIONS, score.assessed, codes.REGION_COUNT_UNIT)]
    if result.status != "withheld":
        measurements.append(_volume_measurement(result.infarct_volume_ml.get(side, 0.0)))
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
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(stamp, f"ASPECTS {side}"),
        finding_type=codes.ASPECTS,
        finding_sites=[FindingSite(codes.CEREBRAL_HEMISPHERE, codes.LATERALITY[side])],
        algorithm_id=algorithm,
        measurements=measurements,
        qualitative_evaluations=evaluations or None,
    )


def _region(
    result: Result, finding: RegionFinding, algorithm: AlgorithmIdentification, stamp: Stamp
) -> MeasurementsAndQualitativeEvaluations:
    if not finding.assessable or result.status == "withheld":
        answer = codes.INDETERMINATE
    elif finding.affected:
        answer = codes.PRESENT
    else:
        answer = codes.EQUIVOCAL if finding.borderline else codes.ABSENT
    evaluations = [QualitativeEvaluation(codes.EARLY_ISCHEMIC_CHANGE, answer)]
    if doubtful(result, finding):
        evaluations.append(QualitativeEvaluation(codes.BORDERLINE, codes.YES))
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(stamp, f"Region {finding.name} {finding.side}"),
        finding_type=codes.EARLY_ISCHEMIC_CHANGE,
        finding_sites=[_site(finding)],
        algorithm_id=algorithm,
        measurements=_region_measurements(result, finding) or None,
        qualitative_evaluations=evaluations,
    )
    if finding.reason:
        group[0].ContentSequence.append(_text(codes.REASON, finding.reason))
    return group


def _haemorrhage(
    found: HaemorrhageInfo, plane: BoolArray, source: Dataset, stamp: Stamp
) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    laterality = codes.BOTH_SIDES if found.side == "both" else codes.LATERALITY[found.side]
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(stamp, "Suspected haemorrhage"),
        referenced_region=_outline(plane, source),
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_type=codes.HEMORRHAGE,
        finding_sites=[FindingSite(codes.BRAIN, laterality)],
        algorithm_id=AlgorithmIdentification(name=codes.HAEMORRHAGE_RULE, version=__version__),
        measurements=[_volume_measurement(found.ml)],
        qualitative_evaluations=[QualitativeEvaluation(codes.HEMORRHAGE, codes.SUSPECTED)],
    )
    group[0].ContentSequence.append(_text(codes.PLACE, found.place))
    return group


def _contour(
    finding: RegionFinding,
    plane: BoolArray,
    series: Series,
    source: Dataset,
    algorithm: AlgorithmIdentification,
    stamp: Stamp,
) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    row_mm, column_mm = series.pixel_spacing_mm
    area = float(np.count_nonzero(plane)) * row_mm * column_mm
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(stamp, f"Contour {finding.name} {finding.side}"),
        referenced_region=_outline(plane, source),
        finding_type=codes.EARLY_ISCHEMIC_CHANGE,
        finding_sites=[_site(finding)],
        algorithm_id=algorithm,
        measurements=[Measurement(codes.AREA, round(area, DECIMALS), codes.SQUARE_MILLIMETRE)],
        qualitative_evaluations=[QualitativeEvaluation(codes.EARLY_ISCHEMIC_CHANGE, codes.PRESENT)],
    )


def _outline(plane: BoolArray, source: Dataset) -> ImageRegion:
    return ImageRegion(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=region_contour(plane),
        source_image=SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID),
    )


def _shown(finding: RegionFinding, masks: SourceMasks) -> BoolArray:
    """The infarct inside a region, bool [k, j, i]; the whole region where no voxel is marked."""
    region: BoolArray = masks.regions == _label(finding)
    infarct: BoolArray = region & (masks.lesion == INFARCT[finding.side])
    return infarct if infarct.any() else region


def _largest_slice(shown: BoolArray) -> tuple[int, BoolArray]:
    """Index of the slice of [k, j, i] that shows most, and its mask [j, i]."""
    k = int(np.argmax([np.count_nonzero(plane) for plane in shown]))
    return k, shown[k]


def _volume(
    result: Result,
    side: Side,
    lesion: Dataset,
    segment: int,
    source: Dataset,
    algorithm: AlgorithmIdentification,
    stamp: Stamp,
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(stamp, f"Infarct {side}"),
        referenced_segment=ReferencedSegment(
            sop_class_uid=lesion.SOPClassUID,
            sop_instance_uid=lesion.SOPInstanceUID,
            segment_number=segment,
            source_series=SourceSeriesForSegmentation(source.SeriesInstanceUID),
        ),
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_type=codes.INFARCT,
        finding_sites=[FindingSite(codes.CEREBRAL_HEMISPHERE, codes.LATERALITY[side])],
        algorithm_id=algorithm,
        measurements=[_volume_measurement(result.infarct_volume_ml.get(side, 0.0))],
    )


def _statements(result: Result, model: ModelInfo, lesion: Dataset | None) -> ContainerContentItem:
    container = ContainerContentItem(
        name=codes.QUALITATIVE_EVALUATIONS, relationship_type=RelationshipTypeValues.CONTAINS
    )
    items = ContentSequence()
    items.append(_text(codes.SUMMARY, summary_line(result)))
    items.append(_text(codes.INTENDED_USE, f"{RESEARCH_USE}. Not for diagnosis. Unverified."))
    for flag in result.quality:
        words = f"{flag.severity.upper()} {flag.code}: {flag.message} {flag.remedy}".strip()
        items.append(_text(codes.QUALITY_FLAG, words))
    engine = (
        f"Engine {model.engine}, precision {model.precision}, model {model.name} {model.version}, "
        f"sha256 {model.sha256}; fallbacks: {'; '.join(model.fallbacks) or 'none'}"
    )
    items.append(_text(codes.ENGINE, engine))
    if decision(result):
        items.append(_text(codes.REGION_CUT, decision(result)))
    if other_volumes(result):
        items.append(_text(codes.SEGMENTATION_NOTE, f"{'; '.join(other_volumes(result)).capitalize()}."))
    if lesion is None:
        words = "Nothing was segmented, so no segmentation of findings was written."
        items.append(_text(codes.SEGMENTATION_NOTE, words))
    if result.series is not None:
        items.append(_text(codes.SERIES_CHOICE, result.series.chosen_because))
    if result.supersedes:
        items.append(_text(codes.SUPERSEDES, result.supersedes))
    container.ContentSequence = items
    return container


def _region_measurements(result: Result, finding: RegionFinding) -> list[Measurement]:
    withheld = result.status == "withheld"
    values = (
        (codes.PROBABILITY, finding.probability, codes.NO_UNIT),
        (codes.INVOLVED_FRACTION, None if withheld else finding.involved_fraction, codes.NO_UNIT),
        (codes.MEAN_ATTENUATION, finding.mean_hu, codes.HOUNSFIELD),
        (codes.ATTENUATION_DIFFERENCE, finding.contralateral_difference_hu, codes.HOUNSFIELD),
    )
    measured = [
        Measurement(name, round(float(value), DECIMALS), unit)
        for name, value, unit in values
        if value is not None
    ]
    return measured if withheld else [*measured, _volume_measurement(finding.volume_ml)]


def _volume_measurement(volume_ml: float) -> Measurement:
    return Measurement(codes.VOLUME, round(float(volume_ml), DECIMALS), codes.MILLILITRE)


def _site(finding: RegionFinding) -> FindingSite:
    return FindingSite(codes.REGION_SITE[finding.name], codes.LATERALITY[finding.side])


def _label(finding: RegionFinding) -> int:
    return RegionId(finding.name, finding.side).label


def _tracking(stamp: Stamp, name: str) -> TrackingIdentifier:
    return TrackingIdentifier(uid=uids.output_uid(stamp.key, f"tracking {name}"), identifier=name)


def _text(name: Code, words: str) -> TextContentItem:
    return TextContentItem(name=name, value=words, relationship_type=RelationshipTypeValues.CONTAINS)


def _evidence(dataset: Dataset) -> Dataset:
    """The identity of an object of ours, as far as a report refers to it."""
    return inherit.reference(dataset)
