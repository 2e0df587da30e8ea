"""HU of one slice: exact in every transfer syntax, with the fallback decoder equal to the first."""

from __future__ import annotations

import imagecodecs
import numpy as np
import openjpeg
import pytest
from ct_making import compressed, dataset, header_rows, pixels, series_of, stack, to_bytes
from pydicom.uid import RLELossless

from osteo_ray.dicom.codecs import DECODERS, FAMILY, codecs_present, decode_frame, split_frames
from osteo_ray.dicom.decode_guard import DecodeGuard
from osteo_ray.dicom.geometry import to_axial
from osteo_ray.dicom.sources import file_uri
from osteo_ray.dicom.stack import SliceStack, Stack, same_pixels, stored_to_hu
from osteo_ray.outcomes import Rejected

J = "1.2.840.10008.1.2.4."
LOSSLESS = {
    J + "57": lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16, predictor=4),
    J + "70": lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16, predictor=1),
    J + "80": imagecodecs.jpegls_encode,
    J + "90": lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True, level=0),
    J + "201": imagecodecs.htj2k_encode,
    J + "202": imagecodecs.htj2k_encode,
}
NATIVE = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"]
PLAIN = {"slope": 1.0, "intercept": 0.0, "padding": None, "padding_limit": None, "high_bit": None}


def rle(ds):
    ds.file_meta = None
    data = to_bytes(ds)
    import io

    import pydicom

    ds = pydicom.dcmread(io.BytesIO(data))
    ds.compress(RLELossless, encoding_plugin="pydicom")
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()


def opened(tmp_path, data: bytes, guard=None) -> SliceStack:
    path = tmp_path / "slice"
    path.write_bytes(data)
    rows = header_rows([data])
    for r in rows:
        r.update(uri=file_uri(path), z_mm=0.0)
    return SliceStack(rows, (rows[0]["rows"], rows[0]["cols"]), (0.8, 0.7), np.array([1.0, 0, 0, 0, 1, 0]), guard=guard)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("syntax", [*NATIVE, "big endian", *LOSSLESS, "rle"])
def test_every_lossless_syntax_gives_the_same_hu(tmp_path, syntax, signed):
    px = pixels(4, 40, 48) if signed else pixels(4, 40, 48).astype(np.uint16)
    if signed:
        px = px - np.int16(900)
    ds = dataset(0, px=px)
    if syntax == "big endian":
        ds.PixelData = px.astype(px.dtype.newbyteorder(">")).tobytes()
        data = to_bytes(ds, "1.2.840.10008.1.2.2")
    elif syntax == "rle":
        data = rle(ds)
    elif syntax in LOSSLESS:
        data = compressed(ds, [bytes(LOSSLESS[syntax](px.view(np.uint16)))], syntax)
    else:
        data = to_bytes(ds, syntax)
    s = opened(tmp_path, data)
    assert (s.decoded, s.bytes_read) == (0, 0)
    hu = s.hu(0)
    assert hu.dtype == np.int16
    np.testing.assert_array_equal(hu, px.astype(np.int32) - 1024)
    assert s.decoded == 1
    assert s.bytes_read > 0


def wavelet(px: np.ndarray, syntax: str) -> bytes:
    """A compressed slice whose codestream has the header's precision and sign: 12 bits, HTJ2K 16."""
    ds = dataset(0, px=px)
    ds.PixelRepresentation = int(px.dtype.kind == "i")
    if syntax == J + "90":
        ds.BitsStored, ds.HighBit = 12, 11
        return compressed(ds, [bytes(openjpeg.encode(px, bits_stored=12))], syntax)
    ds.BitsStored, ds.HighBit = 16, 15
    return compressed(ds, [bytes(imagecodecs.htj2k_encode(px))], syntax)


@pytest.mark.parametrize(("syntax", "signed"), [(J + "90", True), (J + "90", False), (J + "201", False)])
def test_a_coarse_slice_is_near_the_means_of_its_blocks(tmp_path, syntax, signed):
    y, x = np.mgrid[:61, :90] / 30.0
    smooth = np.rint(900 * np.sin(y) * np.cos(x) - 200 * signed + 1000 * (not signed))
    px = smooth.astype(np.int16 if signed else np.uint16)
    s = opened(tmp_path, wavelet(px, syntax))
    hu, pitch = s.coarse(0, 1.7)  # of 0.8 x 0.7 mm
    assert (hu.shape, pitch) == ((31, 45), (1.6, 1.4))
    blocks = (px.astype(float) - 1024)[:60].reshape(30, 2, 45, 2).mean((1, 3))
    np.testing.assert_allclose(hu[:30], blocks, atol=35)  # half a pixel aside: 30 to a pixel at the steepest
    read = s.bytes_read
    np.testing.assert_array_equal(s.axial(0), px.astype(np.int32) - 1024)
    assert (s.decoded, s.bytes_read) == (1, read), "one slice, read once"
    assert s.coarse(0, 0.9)[0].shape == (61, 90), "a pixel of two would be wider than that"
    with DecodeGuard() as guard:
        again = opened(tmp_path, wavelet(px, syntax), guard)
        np.testing.assert_array_equal(again.coarse(0, 1.7)[0], hu)


@pytest.mark.parametrize("syntax", [J + "201", J + "80", "raw"])
def test_a_slice_that_cannot_be_halved_is_decoded_in_full(tmp_path, syntax):
    px = pixels(4, 40, 48)
    if syntax == "raw":
        data = to_bytes(dataset(0, px=px))
    elif syntax == J + "80":
        data = compressed(dataset(0, px=px), [bytes(LOSSLESS[syntax](px.view(np.uint16)))], syntax)
    else:  # signed by its header, not by its codestream: what wraps around can't be averaged
        data = compressed(
            dataset(0, px=px - np.int16(900)), [bytes(LOSSLESS[syntax]((px - 900).view(np.uint16)))], syntax
        )
    s = opened(tmp_path, data)
    hu, pitch = s.coarse(0, 4.0)
    assert pitch == (0.8, 0.7)
    np.testing.assert_array_equal(hu, s.axial(0))


@pytest.mark.parametrize("syntax", [*LOSSLESS, "1.2.840.10008.1.2.5"])
def test_both_decoders_of_a_syntax_agree(syntax):
    px = pixels(5, 40, 48).view(np.uint16)
    if syntax in LOSSLESS:
        data = bytes(LOSSLESS[syntax](px))
    else:
        from pydicom.encaps import generate_frames

        out = rle(dataset(0, px=px.copy()))
        import io

        import pydicom

        data = next(generate_frames(pydicom.dcmread(io.BytesIO(out)).PixelData, number_of_frames=1))
    assert len(DECODERS[FAMILY[syntax]]) == 2
    for engine in (0, 1):
        a = decode_frame(data, syntax, px.shape, 16, engine=engine)
        np.testing.assert_array_equal(a.view(np.uint16), px)


def test_the_second_decoder_takes_over(monkeypatch):
    px = pixels(6).view(np.uint16)
    data = bytes(imagecodecs.jpegls_encode(px))

    def fails(*a):
        raise RuntimeError("no")

    monkeypatch.setitem(DECODERS, "jpegls", [("first", fails), DECODERS["jpegls"][1]])
    np.testing.assert_array_equal(decode_frame(data, J + "80", px.shape, 16), px)


def test_a_guarded_decoder_gives_the_same(tmp_path):
    px = pixels(7, 40, 48)
    data = compressed(dataset(0, px=px), [bytes(LOSSLESS[J + "90"](px.view(np.uint16)))], J + "90")
    with DecodeGuard() as guard:
        np.testing.assert_array_equal(opened(tmp_path, data, guard).hu(0), px - 1024)


@pytest.mark.parametrize(("fragments", "table"), [(1, True), (1, False), (3, True), (3, False)])
def test_frames_of_an_encapsulated_object(tmp_path, fragments, table):
    frames = [pixels(i, 40, 48) for i in range(4)]
    ds = dataset(0, px=frames[0], NumberOfFrames=4)
    coded = [bytes(imagecodecs.jpegls_encode(f.view(np.uint16))) for f in frames]
    s = opened(tmp_path, compressed(ds, coded, J + "80", fragments, table))
    assert s.n == 4
    for i in (2, 0, 3):
        np.testing.assert_array_equal(s.hu(i), frames[i] - 1024)
    assert s.decoded == 3
    once = s.bytes_read
    s.hu(1)
    assert s.bytes_read == once  # the element is read once for its frames


def test_split_frames_refuses_what_it_cannot_tell_apart():
    def frag(b):
        return b"\xfe\xff\x00\xe0" + len(b).to_bytes(4, "little") + b

    with pytest.raises(Rejected, match="BAD_FRAMES"):
        split_frames(frag(b"") + frag(b"ab") * 3, 2)
    with pytest.raises(Rejected, match="NO_FRAGMENTS"):
        split_frames(frag(b"") + b"\xfe\xff\xdd\xe0\0\0\0\0", 1)


# rule 11
@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, -1024, np.int16), (1, -1024.5, np.float32), (0.5, 0, np.float32), (2, 0, np.float32)],
)
def test_rescale(slope, intercept, dtype):
    raw = np.array([[0, 1, 2, 4095]], np.uint16)
    hu = stored_to_hu(
        raw, PLAIN | {"slope": slope, "intercept": intercept, "bits_stored": 12, "bits_allocated": 16, "signed": False}
    )
    assert hu.dtype == dtype
    np.testing.assert_array_equal(hu, (raw * np.float64(slope) + intercept).astype(dtype))


def test_values_beyond_int16_become_float_and_stay_exact():
    raw = np.array([[0, 40000, 65535]], np.uint16)
    item = PLAIN | {"bits_stored": 16, "bits_allocated": 16, "signed": False}
    np.testing.assert_array_equal(stored_to_hu(raw, item), np.array([[0, 40000, 65535]], np.float32))
    shifted = stored_to_hu(raw, item | {"intercept": -32768.0})
    assert shifted.dtype == np.int16
    np.testing.assert_array_equal(shifted, [[-32768, 7232, 32767]])


# rule 12
@pytest.mark.parametrize(
    ("padding", "limit", "want"),
    [
        (-2000, None, [-1024, -976, 24, 76]),
        (-2000, -1990, [-1024, -976, 24, 76]),
        (-2000, 1000, [-1024, -1024, -1024, 76]),
        (None, None, [-3024, -976, 24, 76]),
    ],
)
def test_padding_is_judged_on_stored_values(padding, limit, want):
    raw = np.array([[-2000, 48, 1000 + 48, 1100]], np.int16)
    raw[0, 2] = 1000 if limit == 1000 else 1048
    item = PLAIN | {
        "intercept": -1024.0,
        "bits_stored": 16,
        "bits_allocated": 16,
        "signed": True,
        "padding": padding,
        "padding_limit": limit,
    }
    got = stored_to_hu(raw.view(np.uint16), item)[0].tolist()
    assert got == (want if limit == 1000 else [want[0], -976, 24, 76])


def test_padding_written_unsigned_is_read_with_the_sign_of_the_pixels():
    ds = dataset(0)
    ds.add_new(0x00280120, "US", 63536)
    assert header_rows([to_bytes(ds)])[0]["padding"] == -2000


# rule 13
def test_monochrome1_changes_nothing(tmp_path):
    a = opened(tmp_path, to_bytes(dataset(0))).hu(0)
    np.testing.assert_array_equal(
        opened(tmp_path, to_bytes(dataset(0, PhotometricInterpretation="MONOCHROME1"))).hu(0), a
    )


# rule 14
def test_overlay_bits_are_cut_and_the_sign_extended():
    item = PLAIN | {"bits_stored": 12, "bits_allocated": 16, "high_bit": 11}
    raw = np.array([[0xF001, 0x0FFF, 0x0800, 0x07FF]], np.uint16)
    assert stored_to_hu(raw, item | {"signed": True})[0].tolist() == [1, -1, -2048, 2047]
    assert stored_to_hu(raw, item | {"signed": False})[0].tolist() == [1, 4095, 2048, 2047]
    high = item | {"high_bit": 15, "signed": False}
    assert stored_to_hu(np.array([[0x1230]], np.uint16), high)[0].tolist() == [0x123]


# rule 18: x to the left, y to posterior; a mark at the patient's left front has to land at row 0, last column
@pytest.mark.parametrize(
    "iop",
    [
        [1, 0, 0, 0, 1, 0],
        [-1, 0, 0, 0, -1, 0],
        [1, 0, 0, 0, -1, 0],
        [-1, 0, 0, 0, 1, 0],
        [0, 1, 0, 1, 0, 0],
        [0, 1, 0, -1, 0, 0],
        [0, -1, 0, 1, 0, 0],
    ],
    ids=["supine", "prone", "mirrored up", "mirrored left", "turned", "decubitus left", "decubitus right"],
)
def test_axial_view_comes_from_the_orientation_alone(iop):
    v = np.array(iop, float)
    rows, cols = 6, 4
    r, c = np.mgrid[:rows, :cols]
    left = c * v[0] + r * v[3]  # patient coordinates of every pixel
    back = c * v[1] + r * v[4]
    turn = to_axial(v)
    assert np.all(np.diff(turn(left), axis=1) > 0)
    assert np.all(np.diff(turn(back), axis=0) > 0)


@pytest.mark.parametrize("feet_first", [False, True])
def test_z_grows_toward_the_head(tmp_path, feet_first):
    iop = [-1, 0, 0, 0, 1, 0] if feet_first else [1, 0, 0, 0, 1, 0]
    r = series_of(stack(80, ImageOrientationPatient=iop))[0]
    z = [i["position"][2] for i in r["instances"]]
    assert z == sorted(z)
    assert r["instances"][0]["z_mm"] < r["instances"][-1]["z_mm"]


def test_spacing_follows_the_turn():
    items = [{"z_mm": 0.0, "sop_uid": "1", "frame": 0, "uri": "x"}]
    straight = SliceStack(items, (4, 4), (0.8, 0.7), np.array([1.0, 0, 0, 0, 1, 0]))
    assert straight.axial_spacing_mm == (0.8, 0.7)
    turned = SliceStack(items, (4, 4), (0.8, 0.7), np.array([0.0, 1, 0, -1, 0, 0]))
    assert turned.axial_spacing_mm == (0.7, 0.8)
    assert isinstance(turned, Stack)


def test_a_row_without_geometry_says_so():
    r = series_of(stack(80, PixelSpacing=None))[0]
    with pytest.raises(ValueError, match=r"BAD_SPACING|slice positions|pixel_spacing"):
        SliceStack.from_row(r)


def test_a_slice_that_is_not_there(tmp_path):
    with pytest.raises(IndexError, match="slice 5"):
        opened(tmp_path, to_bytes(dataset(0))).hu(5)


def test_a_file_that_went_away_is_an_outcome(tmp_path):
    s = opened(tmp_path, to_bytes(dataset(0)))
    (tmp_path / "slice").unlink()
    with pytest.raises(Rejected, match="UNREADABLE") as e:
        s.hu(0)
    assert e.value.outcome.stage == "decode"


def test_same_pixels_compares_what_is_seen_not_how_it_is_stored(tmp_path):
    px = pixels(3, 40, 48)
    files = [
        to_bytes(dataset(0, px=px)),
        compressed(dataset(0, px=px), [bytes(imagecodecs.jpegls_encode(px.view(np.uint16)))], J + "80"),
        to_bytes(dataset(0, px=px + np.int16(1))),
    ]
    rows = header_rows(files)
    for i, (r, data) in enumerate(zip(rows, files, strict=True)):
        (tmp_path / str(i)).write_bytes(data)
        r["uri"] = file_uri(tmp_path / str(i))
    assert same_pixels(rows[0], rows[1])
    assert not same_pixels(rows[0], rows[2])


def test_doctor_lists_the_codecs():
    assert codecs_present()["imagecodecs jpegls"].startswith("charls")
