"""What an archive holds besides plain CT, made in memory: one case a kind, with the end that is right for it.

Used by the tests and by `benchmarks/series_kinds.py`, which publishes the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from ct_making import ROOT, dataset, file_bytes, header_rows, stack, to_bytes
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from osteo_ray.catalogue.assembly import assemble
from osteo_ray.catalogue.choice import choose
from osteo_ray.catalogue.config import IndexConfig

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One kind: `ends` are the states and codes of its catalogue rows, the open ones first."""

    group: str
    name: str
    files: Callable[[], list[bytes]]
    ends: tuple[str, ...]
    says: dict[str, Any] = field(default_factory=dict)  # columns of the first row
    rests_on: str = "tag"  # tag | words | geometry | pixels


@cache
def rows_of(case: Case) -> list[Row]:
    """The catalogue rows of a case, chosen among: first those that are open, then by series and split."""
    by_series: dict[tuple[str, str], list[Row]] = {}
    files = case.files()
    for r in header_rows(files):
        by_series.setdefault((r["study_uid"], r["series_uid"]), []).append(r)
    out: list[Row] = []
    contents = {f"mem://{i:05d}": _pixels(data) for i, data in enumerate(files)}
    for key in sorted(by_series):
        out += assemble(by_series[key], IndexConfig(), lambda a, b: contents[a["uri"]] == contents[b["uri"]])[0]
    choose(out, IndexConfig())
    return sorted(out, key=lambda r: r["state"] is not None)


def _pixels(data: bytes) -> bytes:
    return data[-512:]


def end_of(row: Row) -> str:
    """OPEN, or "STATE CODE"."""
    return "OPEN" if row["state"] is None else f"{row['state']} {row['code']}"


def _tags(**tags: Any) -> Callable[[], list[bytes]]:
    return lambda: _same_but_for_place(80, **tags)


def _same_but_for_place(n: int, start: int = 0, **tags: Any) -> list[bytes]:
    """n slices of one file's bytes from number `start` on, each with a UID and a position of its own."""
    first = file_bytes(1000, 1111.5, **tags)
    uid, z = f"{ROOT}.3.1001".encode(), b"1111.5"
    assert (first.count(uid), first.count(z)) == (2, 1)
    return [
        first.replace(uid, f"{ROOT}.3.{1001 + i}".encode()).replace(z, f"{2.0 * i:6.1f}".encode())
        for i in range(start, start + n)
    ]


_SECONDARY = ["DERIVED", "SECONDARY", "AXIAL", "VMI"]
SPECIAL = "EXCLUDED SPECIAL_RECON"


def _special(group: str, name: str, kind: str, rests_on: str = "words", **tags: Any) -> Case:
    return Case(group, name, _tags(**tags), (SPECIAL,), {"special": kind}, rests_on)


def _image_type(value: str, kind: str) -> Case:
    return _special("image type", value, kind, "tag", ImageType=["DERIVED", "PRIMARY", "AXIAL", value])


def _described(text: str, kind: str, charset: str = "ISO_IR 192") -> Case:
    return _special("description", text, kind, SpecificCharacterSet=charset, SeriesDescription=text)


def _plain(text: str, **tags: Any) -> Case:
    return Case("not special", text, _tags(SeriesDescription=text, **tags), ("OPEN",), {"special": None}, "words")


def _contrast(name: str, want: str, **tags: Any) -> Case:
    given = {"ContrastBolusAgent": None, "SpecificCharacterSet": "ISO_IR 192"} | tags
    return Case(
        "contrast", name, _tags(**given), ("OPEN",), {"contrast": want}, "words" if "Desc" in str(tags) else "tag"
    )


def _item(**tags: Any) -> Dataset:
    d = Dataset()
    for k, v in tags.items():
        setattr(d, k, v)
    return d


def enhanced(
    n: int = 90,
    rescale_type: str = "HU",
    frame_type: Callable[[int], str] = lambda i: "NONE",
    acquisition: Callable[[int], int] | None = None,
    z: Callable[[int], float] = lambda i: 2.0 * i,
    usage: dict[str, Any] | None = None,
    converted: dict[str, Any] | None = None,
    **tags: Any,
) -> list[bytes]:
    """One Enhanced CT object of n frames; with `converted`, one that was made of single slices with these tags."""
    ds = dataset(0)
    px = np.stack([np.full((16, 16), 100 + i, np.int16) for i in range(n)])
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del ds[tag]
    del ds.ContrastBolusAgent
    for keyword in converted or ():
        ds.pop(keyword, None)
    ds.SOPClassUID, ds.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.2.1", n
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared = _item(
        PixelMeasuresSequence=Sequence([_item(PixelSpacing=[20.0, 17.5], SliceThickness=2.0)]),
        PlaneOrientationSequence=Sequence([_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelValueTransformationSequence=Sequence(
            [_item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType=rescale_type)]
        ),
    )
    if usage is not None:
        shared.ContrastBolusUsageSequence = Sequence([_item(**usage)])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for i in range(n):
        f = _item(
            PlanePositionSequence=Sequence([_item(ImagePositionPatient=[-100, -120, z(i)])]),
            CTImageFrameTypeSequence=Sequence([_item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", frame_type(i)])]),
        )
        if acquisition is not None:
            f.FrameContentSequence = Sequence([_item(FrameAcquisitionNumber=acquisition(i))])
        if converted:
            f.UnassignedPerFrameConvertedAttributesSequence = Sequence([_item(**converted)])
        frames.append(f)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.PixelData = px.tobytes()
    for k, v in tags.items():
        setattr(ds, k, v)
    return [to_bytes(ds)]


def _agent(meaning: str = "Iohexol") -> Sequence:
    return Sequence([_item(CodeValue="C-B0317", CodingSchemeDesignator="SRT", CodeMeaning=meaning)])


def _two(first: dict[str, Any], second: dict[str, Any], offset: float = 1.3) -> Callable[[], list[bytes]]:
    """Two acquisitions of 90 slices under one series UID, `offset` mm apart."""
    return lambda: [
        *(file_bytes(i, 2.0 * i, **first) for i in range(90)),
        *(file_bytes(200 + i, 2.0 * i + offset, **second) for i in range(90)),
    ]


_OTHER = {"PatientName": "Roe^Ann", "PatientSex": "M", "PatientAge": "071Y"}


def _end_to_end(first: dict[str, Any], second: dict[str, Any]) -> list[bytes]:
    """Two stretches of 80 slices, one above the other, as the stations of one scan are."""
    return [*_same_but_for_place(80, **first), *_same_but_for_place(80, 80, **second)]


CHOSEN_OF_TWO = ("OPEN", "EXCLUDED NOT_CHOSEN")


def _small_and_whole() -> list[bytes]:
    spine: dict[str, Any] = {"SeriesInstanceUID": f"{ROOT}.7", "PixelSpacing": [11.0, 11.0], "SliceThickness": 2.0}
    return [
        *(file_bytes(i, 2.0 * i, SliceThickness=5.0) for i in range(90)),
        *(file_bytes(200 + i, 2.0 * i, **spine) for i in range(90)),
    ]


CASES: tuple[Case, ...] = (
    Case("plain", "a plain series", _tags(), ("OPEN",), {"special": None, "contrast": "none"}),
    # ---- units
    *(
        _special("rescale type", unit, kind, "tag", RescaleType=unit)
        for unit, kind in (
            ("HU*", "other units"),
            ("US", "other units"),
            ("HU_MOD", "virtual non-contrast"),
            ("MGML", "material"),
            ("Z_EFF", "effective atomic number"),
            ("ED", "electron density"),
            ("EDW", "electron density"),
            ("PCT", "material"),
        )
    ),
    Case("rescale type", "HU", _tags(RescaleType="HU"), ("OPEN",), {"special": None, "rescale_type": "HU"}),
    _special(
        "rescale type",
        "absent, and nothing speaks for CT",
        "unknown units",
        "tag",
        KVP=None,
        ConvolutionKernel=None,
        Manufacturer="Unknown manufacturer",
    ),
    # ---- image types of the standard
    *(
        _image_type(v, k)
        for v, k in (
            ("VMI", "virtual mono-energetic"),
            ("MAT_SPECIFIC", "material"),
            ("MAT_REMOVED", "material"),
            ("MAT_FRACTIONAL", "material"),
            ("MAT_MODIFIED", "material"),
            ("MAT_VALUE_BASED", "material"),
            ("EFF_ATOMIC_NUM", "effective atomic number"),
            ("ELECTRON_DENSITY", "electron density"),
            ("ENERGY_PROP_WT", "dual-energy blend"),
            ("SUBTRACTION", "subtraction"),
            ("MAXIMUM", "intensity projection"),
        )
    ),
    Case("image type", "DERIVED, SECONDARY, VMI", _tags(ImageType=_SECONDARY), (SPECIAL,)),
    # ---- makers' names
    *(
        _described(text, kind)
        for text, kind in (
            ("Calcium Suppression 25 Index[HU*]", "calcium-suppressed"),
            ("CaSupp 40", "calcium-suppressed"),
            ("钙抑制 25", "calcium-suppressed"),
            ("MonoE 70keV[HU]", "virtual mono-energetic"),
            ("Mono+ 40 keV", "virtual mono-energetic"),
            ("ABD 55.0 keV", "virtual mono-energetic"),
            ("MONO70", "virtual mono-energetic"),
            ("Monochromatic image", "virtual mono-energetic"),
            ("monoenergetisch 70", "virtual mono-energetic"),
            ("DE_Abd 1.5 Q30f M_0.6", "dual-energy blend"),
            ("GSI Abd", "spectral result"),
            ("SBI", "spectral result"),
            ("Iodine no Water[mg/ml]", "material"),
            ("Iodine Density[mg/ml]", "material"),
            ("MD Iodine(Water)", "material"),
            ("Water(HAP)", "material"),
            ("Iodine", "material"),
            ("碘基图", "material"),
            ("ヨード密度", "material"),
            ("Z Effective", "effective atomic number"),
            ("Rho/Z", "effective atomic number"),
            ("Electron Density", "electron density"),
            ("相対 電子密度", "electron density"),
            ("VNC", "virtual non-contrast"),
            ("Virtual Unenhanced", "virtual non-contrast"),
            ("virtuell nativ", "virtual non-contrast"),
            ("虚拟平扫", "virtual non-contrast"),
            ("仮想単純", "virtual non-contrast"),
            ("VNCa", "virtual non-calcium"),
            ("DE Bone Marrow", "virtual non-calcium"),
            ("LSPINE iMAR", "metal-reduced"),
            ("L-SPINE 1.25 MAR", "metal-reduced"),
            ("O-MAR Body", "metal-reduced"),
            ("SEMAR", "metal-reduced"),
            ("Smart MAR", "metal-reduced"),
            ("Metallartefaktreduktion", "metal-reduced"),
            ("Perfusion 4D", "perfusion"),
            ("CBF", "perfusion"),
            ("灌注", "perfusion"),
            ("Bone Subtraction", "subtraction"),
            ("Synthetic CT", "synthetic from MR"),
            ("MRCAT Pelvis", "synthetic from MR"),
            ("sCT from MR", "synthetic from MR"),
            ("MVCT", "megavoltage"),
            ("CBCT", "cone-beam"),
            ("DynaCT Body", "cone-beam"),
            ("umap", "attenuation map"),
            ("AX MIP 10mm", "intensity projection"),
            ("MonoPlus", "virtual mono-energetic"),
            ("Knochenmarködem", "virtual non-calcium"),
            ("Elektronendichte", "electron density"),
            ("Réduction d'artéfacts métalliques", "metal-reduced"),
            ("CT sintético", "synthetic from MR"),
        )
    ),
    _special("kernel", "Sd36f", "direct density", ConvolutionKernel="Sd36f"),
    _special("device", "Varian On-Board Imager", "cone-beam", Manufacturer="Varian Medical Systems"),
    _special("device", "XVI", "cone-beam", Manufacturer="ELEKTA", ManufacturerModelName="XVI"),
    _special("device", "TomoTherapy", "megavoltage", Manufacturer="Accuray", ManufacturerModelName="TomoTherapy HD"),
    _special("device", "O-arm", "cone-beam", Manufacturer="Medtronic", ManufacturerModelName="O-arm"),
    _special("device", "Planmed Verity", "cone-beam", Manufacturer="Planmed", ManufacturerModelName="Verity"),
    _special("protocol", "CBCT Pelvis", "cone-beam", ProtocolName="CBCT Pelvis"),
    *(
        Case("tube voltage", f"{kvp} kVp", _tags(KVP=kvp), ("EXCLUDED KVP_OUT_OF_RANGE",))
        for kvp in (40, 6000)
    ),
    Case("tube voltage", "70 kVp", _tags(KVP=70), ("OPEN",), {"kvp": 70}),
    Case("tube voltage", "0 kVp", _tags(KVP=0), ("OPEN",), {"kvp": None}),
    # ---- words that are no names
    _plain("12 MAR 2021"),
    _plain("2021 MAR 12"),
    _plain("12 mars 2021"),
    _plain("IODINE 350"),
    _plain("MARY'S KNEE"),
    _plain("monitor"),
    _plain("Bone 2.0"),
    _plain("BONE MARROW BIOPSY"),
    _plain("HAP 2.5"),
    _plain("a protocol of two energies", ProtocolName="GSI Abdomen"),
    _plain("agent IODINE 350", ContrastBolusAgent="IODINE 350"),
    # ---- contrast
    _contrast("nothing", "unknown"),
    _contrast("an empty agent", "unknown", ContrastBolusAgent=""),
    _contrast("an empty agent, route and volume", "unknown", ContrastBolusAgent="", ContrastBolusRoute=""),
    _contrast("volume 0", "unknown", ContrastBolusVolume=0),
    _contrast("agent", "contrast", ContrastBolusAgent="OMNIPAQUE 350"),
    _contrast("agent sequence", "contrast", ContrastBolusAgentSequence=_agent()),
    _contrast("an empty agent sequence", "unknown", ContrastBolusAgentSequence=Sequence([])),
    _contrast("route alone", "contrast", ContrastBolusAgent="", ContrastBolusRoute="IV"),
    _contrast("by mouth alone", "unknown", ContrastBolusAgent="ORAL", ContrastBolusRoute="ORAL"),
    _contrast("by mouth and vein", "contrast", ContrastBolusAgent="ORAL & IV"),
    _contrast("volume alone", "contrast", ContrastBolusVolume=90),
    _contrast("dose alone", "contrast", ContrastBolusTotalDose=90),
    _contrast("start time alone", "contrast", ContrastBolusStartTime="101500"),
    _contrast("agent NONE", "none", ContrastBolusAgent="NONE"),
    _contrast("agent NO IV CONTRAST", "none", ContrastBolusAgent="NO IV CONTRAST"),
    _contrast("agent 0 ml", "none", ContrastBolusAgent="0 ml"),
    _contrast("agent not known", "unknown", ContrastBolusAgent="UNKNOWN"),
    _contrast("agent whose name holds letters of another word", "contrast", ContrastBolusAgent="IOPROMID"),
    _contrast("agent says no, route says IV", "unknown", ContrastBolusAgent="NO", ContrastBolusRoute="IV"),
    _contrast("agent, and a phase", "portal", ContrastBolusAgent="OMNI", SeriesDescription="Abd portal venous"),
    _contrast("agent, described as native", "contrast", ContrastBolusAgent="OMNI", SeriesDescription="Abd nativ"),
    _contrast("study with contrast", "contrast", StudyDescription="CT ABD/PELVIS W CONTRAST"),
    _contrast("study without contrast", "none", StudyDescription="CT ABD/PELVIS WO CONTRAST"),
    _contrast("study with and without", "unknown", StudyDescription="CT ABD W/WO CONTRAST"),
    *(
        _contrast(text, want, SeriesDescription=text)
        for text, want in (
            ("ABD/PELVIS W CONTRAST", "contrast"),
            ("Abdomen w/o contrast", "none"),
            ("W AND W/O CONTRAST", "unknown"),
            ("C+ 2mm", "contrast"),
            ("mit KM", "contrast"),
            ("ohne KM", "none"),
            ("Thorax/Abdomen venös", "portal"),
            ("Spätphase", "delayed"),
            ("avec injection", "contrast"),
            ("sans injection", "none"),
            ("temps portal", "portal"),
            ("con contraste", "contrast"),
            ("sin contraste", "none"),
            ("fase venosa", "portal"),
            ("con mdc", "contrast"),
            ("senza mdc", "none"),
            ("fase arteriosa", "arterial"),
            ("增强", "contrast"),
            ("平扫", "none"),
            ("动脉期", "arterial"),
            ("造影", "contrast"),
            ("単純", "none"),
            ("門脈相", "portal"),
            ("비조영", "none"),
            ("без контраста", "none"),
            ("late plate", "delayed"),
            ("plate", "unknown"),
            ("w/o contrast", "none"),
            ("post contrast", "contrast"),
            ("C-", "none"),
            ("C(+)", "contrast"),
            ("w IV contrast, no oral contrast", "contrast"),
            ("without oral contrast", "unknown"),
            ("contrast: none", "none"),
            ("fără contrast", "none"),
            ("ilman varjoainetta", "none"),
        )
    ),
    _contrast("GB 18030: 平扫", "none", SpecificCharacterSet="GB18030", SeriesDescription="平扫"),
    _contrast("ISO 2022: 造影", "contrast", SpecificCharacterSet=["", "ISO 2022 IR 87"], SeriesDescription="造影"),
    # ---- Enhanced CT
    Case("enhanced", "plain", lambda: enhanced(), ("OPEN",), {"special": None, "contrast": "unknown"}),
    Case(
        "enhanced",
        "agent sequence",
        lambda: enhanced(ContrastBolusAgentSequence=_agent()),
        ("OPEN",),
        {"contrast": "contrast"},
    ),
    Case(
        "enhanced",
        "agent given in the portal phase",
        lambda: enhanced(usage={"ContrastBolusAgentAdministered": "YES", "ContrastBolusAgentPhase": "PORTAL_VENOUS"}),
        ("OPEN",),
        {"contrast": "portal"},
    ),
    Case(
        "enhanced",
        "agent not given in these frames",
        lambda: enhanced(
            usage={"ContrastBolusAgentAdministered": "NO"}, ContrastBolusAgentSequence=_agent()
        ),
        ("OPEN",),
        {"contrast": "none"},
    ),
    Case("enhanced", "rescale type of the frames", lambda: enhanced(rescale_type="EDW"), (SPECIAL,)),
    Case(
        "enhanced",
        "frames of which half are mono-energetic",
        lambda: enhanced(180, frame_type=lambda i: "VMI" if i >= 90 else "NONE", z=lambda i: 2.0 * (i % 90)),
        ("OPEN", SPECIAL),
    ),
    Case(
        "enhanced",
        "frames of two acquisitions",
        lambda: enhanced(180, acquisition=lambda i: 1 + i // 90, z=lambda i: 2.0 * (i % 90) + (i // 90) * 0.7),
        CHOSEN_OF_TWO,
        rests_on="geometry",
    ),
    Case(
        "enhanced",
        "made of single slices, which had 80 kVp, a kernel and agent",
        lambda: enhanced(converted={"KVP": 80, "ConvolutionKernel": "B60s", "ContrastBolusAgent": "OMNIPAQUE"}),
        ("OPEN",),
        {"kvp": 80.0, "convolution_kernel": "B60s", "contrast": "contrast"},
    ),
    Case(
        "enhanced",
        "made of single slices, which were mono-energetic",
        lambda: enhanced(converted={"SeriesDescription": "Mono+ 40 keV"}),
        (SPECIAL,),
        {"special": "virtual mono-energetic"},
    ),
    Case(
        "enhanced",
        "the object is mono-energetic, its frames say nothing",
        lambda: enhanced(ImageType=["DERIVED", "PRIMARY", "VOLUME", "VMI"]),
        (SPECIAL,),
    ),
    Case(
        "enhanced",
        "a maximum intensity projection, by its technique",
        lambda: enhanced(VolumeBasedCalculationTechnique="MAX_IP"),
        (SPECIAL,),
    ),
    # ---- acquisitions under one series UID
    *(
        Case("acquisitions", f"two {name}", _two(a, b), CHOSEN_OF_TWO, rests_on="geometry")
        for name, a, b in (
            ("acquisition numbers", {"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
            ("acquisition UIDs", {"AcquisitionUID": "1.2.3"}, {"AcquisitionUID": "1.2.4"}),
            ("tube voltages", {"KVP": 120}, {"KVP": 100}),
            ("kernels", {"ConvolutionKernel": "STANDARD"}, {"ConvolutionKernel": "BONE"}),
            ("contrast phases", {"ContrastBolusAgent": "NONE"}, {"ContrastBolusAgent": "OMNIPAQUE"}),
            ("image types", {}, {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "OTHER"]}),
            ("thicknesses", {"SliceThickness": 2.0}, {"SliceThickness": 4.0}),
        )
    ),
    Case(
        "acquisitions",
        "two scans that no tag tells apart",
        _two({"InstanceNumber": 1}, {"InstanceNumber": 1}),
        ("EXCLUDED IRREGULAR_SPACING",),
        rests_on="geometry",
    ),
    Case(
        "acquisitions",
        "two scans that their numbering tells apart",
        _two({}, {}),
        CHOSEN_OF_TWO,
        {"n_slices": 90},
        "geometry",
    ),
    Case(
        "acquisitions",
        "two scans half a step apart",
        _two({}, {}, 1.0),
        CHOSEN_OF_TWO,
        {"n_slices": 90, "spacing_z_median_mm": 2.0},
        "geometry",
    ),
    Case(
        "acquisitions",
        "positions rounded to 0.1 mm",
        lambda: [file_bytes(i, round(1.25 * i, 1)) for i in range(140)],
        ("OPEN",),
        {"n_slices": 140},
        "geometry",
    ),
    Case(
        "acquisitions",
        "stations of two tube voltages",
        lambda: [file_bytes(i, KVP=120 if i < 60 else 80) for i in range(90)],
        ("OPEN",),
        {"n_slices": 90, "kvp": None},
    ),
    Case(
        "acquisitions",
        "stations with and without agent",
        lambda: [file_bytes(i, ContrastBolusAgent="NONE" if i < 60 else "OMNIPAQUE") for i in range(90)],
        ("OPEN",),
        {"n_slices": 90, "contrast": "unknown"},
    ),
    Case(
        "acquisitions",
        "half of the slices without a frame of reference",
        lambda: [file_bytes(i, FrameOfReferenceUID=f"{ROOT}.4" if i % 2 else None) for i in range(90)],
        ("OPEN",),
        {"n_slices": 90},
    ),
    Case(
        "acquisitions",
        "three stations end to end",
        lambda: [file_bytes(i, AcquisitionNumber=1 + i // 40, KVP=120) for i in range(120)],
        ("OPEN",),
        {"n_slices": 120},
        "geometry",
    ),
    Case(
        "acquisitions",
        "stations that share a slice's width",
        lambda: [file_bytes(i, 2.0 * i - (1.0 if i >= 60 else 0.0), AcquisitionNumber=1 + i // 60) for i in range(120)],
        ("OPEN",),
        {"n_slices": 120},
        "geometry",
    ),
    Case(
        "acquisitions",
        "an acquisition number a slice",
        lambda: [file_bytes(i, AcquisitionNumber=i + 1) for i in range(90)],
        ("OPEN",),
        {"n_slices": 90},
        "geometry",
    ),
    Case(
        "acquisitions",
        "every slice doubled with the same pixels",
        lambda: stack(90) + [file_bytes(300 + i, 2.0 * i, px=_px(i)) for i in range(90)],
        ("OPEN",),
        {"n_slices": 90, "n_copies_dropped": 90, "n_duplicate_positions": 0},
        "pixels",
    ),
    Case(
        "acquisitions",
        "one slice doubled with other pixels",
        lambda: [*stack(90), file_bytes(300, 10.0)],
        ("EXCLUDED Q_DUP_SLICES",),
        {"n_duplicate_positions": 1},
        "pixels",
    ),
    Case(
        "acquisitions",
        "a frame of reference a slice",
        lambda: [file_bytes(i, FrameOfReferenceUID=f"{ROOT}.4.{i + 1}") for i in range(90)],
        ("OPEN",),
        {"n_slices": 90},
        "geometry",
    ),
    # ---- headers that can't be true
    Case("header", "pixels of 0.7 um", _tags(PixelSpacing=[7e-4, 7e-4]), ("QUARANTINED BAD_SPACING",)),
    Case("header", "pixels of 70 cm", _tags(PixelSpacing=[700, 700]), ("QUARANTINED BAD_SPACING",)),
    Case(
        "header",
        "modality CT, stored as magnetic resonance",
        lambda: stack(90, SOPClassUID="1.2.840.10008.5.1.4.1.1.4"),
        ("EXCLUDED Q_MODALITY",),
    ),
    # ---- patients
    Case(
        "patients",
        "two under one study UID",
        lambda: stack(90)
        + [
            file_bytes(300 + i, 2.0 * i, PatientID="P-2", SeriesInstanceUID=f"{ROOT}.7")
            for i in range(90)
        ],
        ("OPEN", "OPEN"),
    ),
    Case(
        "patients",
        "two under one series UID",
        lambda: stack(90) + [file_bytes(300 + i, 2.0 * i, PatientID="P-2") for i in range(90)],
        ("OPEN", "OPEN"),
    ),
    Case(
        "patients",
        "the same images under two",
        lambda: stack(90) + stack(90, PatientID="P-2"),
        ("QUARANTINED PATIENT_CLASH", "QUARANTINED PATIENT_CLASH"),
    ),
    Case(
        "patients",
        "two without a number under one series UID",
        lambda: _end_to_end({"PatientID": None}, {"PatientID": None, **_OTHER}),
        ("OPEN", "OPEN"),
        {"n_slices": 80, "patient_key": None},
    ),
    Case(
        "patients",
        "two without a number under one study UID",
        lambda: _end_to_end({"PatientID": ""}, {"PatientID": "", **_OTHER, "SeriesInstanceUID": f"{ROOT}.7"}),
        ("OPEN", "OPEN"),
    ),
    Case(
        "patients",
        "two without a number, told apart by name alone",
        lambda: _end_to_end({"PatientID": ""}, {"PatientID": "", "PatientName": "Roe^Ann"}),
        ("OPEN", "OPEN"),
    ),
    Case(
        "patients",
        "one without a number, whose name is written in two ways",
        lambda: _end_to_end({"PatientID": ""}, {"PatientID": "", "PatientName": "DOE^JANE^^"}),
        ("OPEN",),
        {"n_slices": 160},
    ),
    Case(
        "patients",
        "two under one number and series UID",
        lambda: _end_to_end({}, _OTHER),
        ("QUARANTINED PATIENT_CLASH", "QUARANTINED PATIENT_CLASH"),
    ),
    Case(
        "patients",
        "two under one word for no number",
        lambda: _end_to_end({"PatientID": "ANON"}, {"PatientID": "ANON", **_OTHER}),
        ("OPEN", "OPEN"),
        {"n_slices": 80, "patient_key": None},
    ),
    Case(
        "patients",
        "two under one number and study UID",
        lambda: _end_to_end({}, {**_OTHER, "SeriesInstanceUID": f"{ROOT}.7"}),
        ("OPEN", "OPEN"),
    ),
    Case(
        "patients",
        "one under two names",
        lambda: _end_to_end({}, {"PatientName": "Roe^Jane"}),
        ("OPEN",),
        {"n_slices": 160},
    ),
    Case(
        "patients",
        "one whose birth date and sex some images leave out",
        lambda: _end_to_end({"PatientBirthDate": "19550301"}, {"PatientSex": None, "PatientAge": None}),
        ("OPEN",),
        {"n_slices": 160},
    ),
    # ---- no patients
    *(
        Case("no patient", name, _tags(**tags), ("EXCLUDED NOT_A_PATIENT",), rests_on=rests_on)
        for name, tags, rests_on in (
            ("species", {"PatientSpeciesDescription": "Canis lupus familiaris"}, "tag"),
            ("species, coded", {"PatientSpeciesCodeSequence": Sequence([_item(CodeValue="448771007")])}, "tag"),
            ("neutered", {"PatientSexNeutered": "ALTERED"}, "tag"),
            ("breed", {"PatientBreedDescription": "Beagle"}, "tag"),
            ("quality control", {"QualityControlImage": "YES"}, "tag"),
            ("body part phantom", {"BodyPartExamined": "PHANTOM"}, "tag"),
            ("Catphan 604", {"SeriesDescription": "Catphan 604"}, "words"),
            ("Daily QA", {"StudyDescription": "Daily QA"}, "words"),
            ("post-mortem CT", {"StudyDescription": "Post-mortem CT"}, "words"),
        )
    ),
    *(
        Case("no patient", f"a patient: {name}", _tags(**tags), ("OPEN",))
        for name, tags in (
            ("species human", {"PatientSpeciesDescription": "Homo sapiens"}),
            ("species human, coded", {"PatientSpeciesCodeSequence": Sequence([_item(CodeValue="337915000")])}),
            ("an empty species", {"PatientSpeciesDescription": "", "PatientSexNeutered": ""}),
            ("no quality control", {"QualityControlImage": "NO"}),
            ("on a calibration phantom", {"SeriesDescription": "L-SPINE QCT PHANTOM"}),
        )
    ),
    # ---- field of view
    Case(
        "field of view",
        "a spine reconstruction beside the body",
        _small_and_whole,
        CHOSEN_OF_TWO,
        {"slice_thickness_mm": 5.0},
    ),
    Case(
        "field of view",
        "a small reconstruction circle",
        _tags(ReconstructionDiameter=180),
        ("OPEN",),
        {"field_of_view_mm": 180.0},
    ),
)  # fmt: skip


def _px(i: int) -> np.ndarray:
    from ct_making import pixels

    return pixels(i)
