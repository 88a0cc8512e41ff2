"""Which CT series belong to one acquisition, and which of them is scored. Plain values only.

Nothing heavier than the standard library is imported here, so that a PACS plugin can group the series
of a study by their tags without loading numpy or pydicom into the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from strokecore.reading.header_words import contrast_attributes, contrast_in_description, head_by_tags

ACQUISITION_WINDOW_S: Final = 600.0  # of one visit to the scanner: a repeat after motion joins it
DAY_S: Final = 86400.0

PREFERRED_THICKNESS_MM: Final = (3.0, 6.0)  # regional AUC is higher at 5 than at 1 mm: fneur.2023.1170955
THICKNESS_TOLERANCE_MM: Final = 0.01  # 2.999 mm is how some scanners write 3 mm
COVERAGE_STEP_MM: Final = 20.0  # series whose extents differ by less cover the same
NOISE_STEP_HU: Final = 0.5  # differences below this are not differences

CT_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE_STORAGES: Final = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
CT_STORAGES: Final = (CT_IMAGE_STORAGE, *ENHANCED_CT_IMAGE_STORAGES)

# Values of ImageType that are no stack of Hounsfield slices.
_LOCALIZER_WORDS: Final = frozenset({"LOCALIZER", "SCOUT", "SURVIEW", "REF_SURVIEW", "TOPOGRAM", "SCANOGRAM"})
_PROJECTION_WORDS: Final = frozenset(
    {"MIP", "MINIP", "PROJECTION IMAGE", "VRT", "SSD", "3D", "VOLUME RENDERING"}
    # of multi-frame images: PS3.3 C.8.16.1.4, C.8.16.2.1.3
    | {"MAXIMUM", "MINIMUM", "STD_DEVIATION", "SUBTRACTION", "MAX_IP", "MIN_IP"}
    | {"VOLUME_RENDER", "SURFACE_RENDER", "CURVED_MPR"}
)
_CONTRAST_FLAVORS: Final = frozenset({"POST_CONTRAST", "ANGIO"})  # PS3.3 C.8.16.1.3
_MAP_WORDS: Final = frozenset(
    {"IODINE", "EFFECTIVE_Z", "PERFUSION", "CBF", "CBV", "MTT", "TTP", "TMAX", "SCREEN SAVE", "SCREENSAVE"}
)

Kernel = Literal["soft", "sharp", "unknown"]
_SHARP_WORDS: Final = re.compile(r"BONE|EDGE|LUNG|SHARP|\bEAR\b|ULTRA|KNOCHEN|\bOS\b|OSSEUX|HUESO")
_SOFT_WORDS: Final = re.compile(r"SOFT|STAND|STD|STND|BRAIN|SMOOTH|CEREBR|HIRN|WEICH|PARENCH|NEURO")
# Siemens: letter(s) of the family, then the sharpness 10-99, then f/s/h/u ("H31s", "J40f", "Hr68f", "B70h").
# The manufacturer's brain kernels lie at 20-49; 50 and above are bone, inner ear and lung.
_SIEMENS: Final = re.compile(r"^(?:[HBJITUD]|HR|HC|HV|HP|BR|BV|BL|BF|QR|SA|UB|UR)\s?(\d\d)")
_SIEMENS_SHARPEST_SOFT: Final = 49
# Canon (Toshiba): FC20-29 and FC62-69 head, FC1-19 and FC41-49 body; the rest bone, lung and inner ear.
_CANON: Final = re.compile(r"^FC(\d\d?)")
_CANON_SHARP: Final = (range(30, 41), range(50, 62), range(70, 100))
# Philips: A, B, C smooth to standard, UA, UB, UC brain; D, E, L, Y*, S? edge-enhancing.
_PHILIPS_SOFT: Final = frozenset({"A", "B", "C", "UA", "UB", "UC", "IB"})
_PHILIPS_SHARP: Final = frozenset({"D", "E", "L", "YA", "YB", "YC", "YD", "EB", "EC", "ED"})


@dataclass(frozen=True)
class SeriesSummary:
    """What the tags of one series say, as far as the choice depends on it. Empty or None: not said.

    Attributes
    ----------
    acquisition_date: YYYYMMDD. acquisition_time_s: seconds since midnight.
    acquisition_number: None also when it differs between the instances of the series (some scanners
        count slices with it).
    orientation: ImageOrientationPatient, six direction cosines.
    image_type: values of ImageType, and of VolumeBasedCalculationTechnique where a multi-frame image has it.
    contrast_given: whether any attribute names a contrast agent or shows that one was given;
        contrast_attributes: keywords of those that do.
    extent_mm: length of the stack along its normal, slice thickness included; only for ranking.
    noise_hu: standard deviation of noise; only for ranking.
    """

    series_instance_uid: str
    study_instance_uid: str = ""
    sop_class_uid: str = ""
    modality: str = ""
    frame_of_reference_uid: str = ""
    acquisition_date: str = ""
    acquisition_time_s: float | None = None
    acquisition_number: int | None = None
    image_type: tuple[str, ...] = ()
    kernel: str = ""
    description: str = ""
    protocol: str = ""
    study_description: str = ""
    body_part: str = ""
    contrast_given: bool = False
    contrast_attributes: tuple[str, ...] = ()
    rescale_type: str = ""
    orientation: tuple[float, ...] = ()
    slice_thickness_mm: float | None = None
    slices: int = 0
    extent_mm: float | None = None
    noise_hu: float | None = None

    @property
    def is_ct(self) -> bool:
        """CT images of a scanner; a Secondary Capture with modality CT does not count.

        Without a SOP class the modality decides.
        """
        return self.modality == "CT" and (not self.sop_class_uid or self.sop_class_uid in CT_STORAGES)

    @property
    def is_localizer(self) -> bool:
        return bool(_LOCALIZER_WORDS & set(self.image_type))

    @property
    def tags_say_head(self) -> bool | None:
        return head_by_tags(self.body_part, self.description, self.protocol, self.study_description)


def summary_from_tags(tags: Mapping[str, str], slices: int = 0) -> SeriesSummary:
    r"""Summary from DICOM keywords to text, several values joined by a backslash as in the file.

    ``tags`` holds what is there; every unusable value counts as not said. This is the form in which
    Orthanc answers ``/series/{id}`` and orthanc_plugin/header.py reads a file; of a sequence, the meanings
    of its codes.
    """

    def text(keyword: str) -> str:
        value = tags.get(keyword)
        return value.strip(" \0") if isinstance(value, str) else ""

    def values(keyword: str) -> tuple[str, ...]:
        return tuple(part.strip(" \0").upper() for part in text(keyword).split("\\") if part.strip(" \0"))

    orientation = tuple(_number(part) for part in values("ImageOrientationPatient"))
    date, time_s = _acquisition_moment(text)
    contrast = contrast_attributes({k: v for k, v in tags.items() if isinstance(v, str)})
    number = _number(text("AcquisitionNumber"))
    return SeriesSummary(
        series_instance_uid=text("SeriesInstanceUID"),
        study_instance_uid=text("StudyInstanceUID"),
        sop_class_uid=text("SOPClassUID"),
        modality=text("Modality").upper(),
        frame_of_reference_uid=text("FrameOfReferenceUID"),
        acquisition_date=date,
        acquisition_time_s=time_s,
        acquisition_number=None if number is None else int(number),
        image_type=(*values("ImageType"), *values("VolumeBasedCalculationTechnique")),
        kernel=" ".join(values("ConvolutionKernel")),
        description=text("SeriesDescription"),
        protocol=text("ProtocolName"),
        study_description=text("StudyDescription"),
        body_part=text("BodyPartExamined") or text("AnatomicRegionSequence"),
        contrast_given=bool(contrast),
        contrast_attributes=contrast,
        rescale_type=text("RescaleType").upper(),
        orientation=tuple(o for o in orientation if o is not None) if None not in orientation else (),
        slice_thickness_mm=_number(text("SliceThickness")),
        slices=slices,
    )


def group_acquisitions(summaries: Iterable[SeriesSummary]) -> list[tuple[SeriesSummary, ...]]:
    """CT series that share study, frame of reference and acquisition time (within 10 minutes) or number.

    Series that are not CT images are left out. A series without a frame of reference stands alone. A
    series without an acquisition time joins the acquisition of its frame of reference with the same
    acquisition number; without a number too, the first one. The order does not depend on the input's.
    """
    ordered = sorted((s for s in summaries if s.is_ct), key=_moment_key)
    groups: list[list[SeriesSummary]] = []
    for series in ordered:
        home = next((g for g in groups if _belongs(series, g)), None)
        if home is None:
            groups.append([series])
        else:
            home.append(series)
    return [tuple(group) for group in groups]


def exclusion(series: SeriesSummary) -> tuple[str, str] | None:
    """Why the tags alone rule the series out: (code of docs/codes.md, reason); None when they do not."""
    kinds = set(series.image_type)
    if not series.is_ct:
        return "not_ct", "no CT images"
    if series.is_localizer:
        return "localizer_only", "localizer"
    if kinds & _PROJECTION_WORDS:
        return "not_hounsfield", "projection or rendering, not slices"
    if kinds & _MAP_WORDS or series.rescale_type not in ("", "HU", "HU_MOD"):
        return "not_hounsfield", "a map or picture, not Hounsfield units"
    if series.contrast_given or kinds & _CONTRAST_FLAVORS or contrast_in_description(series.description):
        return "contrast_agent", "contrast agent declared"
    if series.tags_say_head is False:
        return "not_head", "another body part"
    return None


def doubtful_exclusion(series: SeriesSummary) -> str | None:
    """The one attribute that excludes what all others call a native head CT, by its keyword; None otherwise.

    A body part left over from another protocol, or an agent that a scanner sets by default. The pixels then
    decide whether anybody should hear of it.
    """
    without = {"BodyPartExamined": replace(series, body_part="")}
    if series.rescale_type == "US":  # unspecified (PS3.3 C.11.1.1.2); any other word names what it is
        without["RescaleType"] = replace(series, rescale_type="")
    if len(series.contrast_attributes) == 1:
        without[series.contrast_attributes[0]] = replace(series, contrast_given=False)
    if exclusion(series) is None:
        return None
    return next((k for k, s in without.items() if s.tags_say_head and exclusion(s) is None), None)


def kernel_kind(kernel: str, description: str = "") -> Kernel:
    """Soft tissue or sharp (bone, lung) reconstruction, by manufacturers' kernel names.

    ``description`` decides where the kernel's name is missing or unknown.
    """
    name = kernel.upper().strip()
    if match := _SIEMENS.match(name):
        return "soft" if int(match[1]) <= _SIEMENS_SHARPEST_SOFT else "sharp"
    if match := _CANON.match(name):
        return "sharp" if any(int(match[1]) in r for r in _CANON_SHARP) else "soft"
    if name in _PHILIPS_SOFT:
        return "soft"
    if name in _PHILIPS_SHARP:
        return "sharp"
    for text in (name, description.upper()):
        if _SHARP_WORDS.search(text):
            return "sharp"
        if _SOFT_WORDS.search(text):
            return "soft"
    return "unknown"


def thickness_class(thickness_mm: float | None) -> int:
    """0: 3-6 mm; 1: thinner (can be averaged); 2: thicker, or not said."""
    low, high = PREFERRED_THICKNESS_MM
    if thickness_mm is None or thickness_mm > high + THICKNESS_TOLERANCE_MM:
        return 2
    return 0 if thickness_mm >= low - THICKNESS_TOLERANCE_MM else 1


def rank(series: SeriesSummary) -> tuple[int | str, ...]:
    """Sort key within an acquisition, best first: kernel, thickness, coverage, noise; the UID breaks ties."""
    kernel = ("soft", "unknown", "sharp").index(kernel_kind(series.kernel, series.description))
    coverage = -round((series.extent_mm or 0.0) / COVERAGE_STEP_MM)
    noise = round(series.noise_hu / NOISE_STEP_HU) if series.noise_hu is not None else 0
    return kernel, thickness_class(series.slice_thickness_mm), coverage, noise, series.series_instance_uid


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e12 else None  # also drops nan and infinities


def _acquisition_moment(text: Callable[[str], str]) -> tuple[str, float | None]:
    """Date and seconds since midnight from AcquisitionDateTime, else AcquisitionDate and AcquisitionTime.

    SeriesTime and ContentTime are not used: they tell when an image was reconstructed.
    """
    both = text("AcquisitionDateTime")
    date, time = (
        (both[:8], both[8:]) if len(both) >= 12 else (text("AcquisitionDate"), text("AcquisitionTime"))
    )
    date = date.replace(".", "")[:8]
    match = re.match(r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)?", time)
    time_s = int(match[1]) * 3600.0 + int(match[2]) * 60.0 + float(match[3] or 0) if match else None
    return (date if re.fullmatch(r"\d{8}", date) else ""), time_s


def _moment_key(series: SeriesSummary) -> tuple[bool, str, float, str]:
    time = series.acquisition_time_s
    return time is None, series.acquisition_date, time or 0.0, series.series_instance_uid


def _belongs(series: SeriesSummary, group: list[SeriesSummary]) -> bool:
    first = group[0]
    if not series.frame_of_reference_uid or (
        (series.study_instance_uid, series.frame_of_reference_uid)
        != (first.study_instance_uid, first.frame_of_reference_uid)
    ):
        return False
    apart = _seconds_between(series, first)
    if apart is not None:
        return apart <= ACQUISITION_WINDOW_S
    number = series.acquisition_number
    numbers = {s.acquisition_number for s in group} - {None}
    return number is None or not numbers or number in numbers


def _seconds_between(a: SeriesSummary, b: SeriesSummary) -> float | None:
    if a.acquisition_time_s is None or b.acquisition_time_s is None:
        return None
    apart = abs(a.acquisition_time_s - b.acquisition_time_s)
    if a.acquisition_date and b.acquisition_date:
        return apart if a.acquisition_date == b.acquisition_date else _across_days(a, b)
    return min(apart, DAY_S - apart)  # de-identified dates: 23:58 and 00:03 are five minutes apart


def _across_days(a: SeriesSummary, b: SeriesSummary) -> float | None:
    try:
        days = [datetime.strptime(s.acquisition_date, "%Y%m%d") for s in (a, b)]
    except ValueError:
        return None
    seconds = (days[0] - days[1]).total_seconds() + (a.acquisition_time_s or 0) - (b.acquisition_time_s or 0)
    return abs(seconds)
