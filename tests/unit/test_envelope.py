"""The envelope: what is written, what is accepted, and what is refused before it costs anything."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from icechunk.errors import ErrorKind, FormatError
from icechunk.format import envelope
from icechunk.format.envelope import FileType, Header, header_bytes, open_envelope, read_header, seal
from icechunk.format.segments import GAP, Segmentation

REPOS = Path(__file__).parent.parent / "golden" / "repos"
MAGIC = bytes.fromhex("494345f09fa78a4348554e4b")
INITIAL_V1 = bytes.fromhex(
    "494345f09fa78a4348554e4b69632d302e332e323420202020202020202020202020202001010128b52ffd0058f5030092c81b2990b799"
    "0357bd5f71ef3bacaaaadeb71c56d9da612cb4114c7a9aa38a2e2e2b1e12dd9bb037440492147ff61e56557f5ef02614ea8c428fde2cb9"
    "045c05e23267715300f632877997eb71c5c74250682058b875eaed8dba1a090c031980038376b8b45d4c9c22ee6494522611c7a7040075"
    "88681b6e5140fb0272"
)


def frame(payload: bytes, **options: object) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(payload)  # type: ignore[arg-type]


def streamed(payload: bytes) -> bytes:
    """A frame without content size, as 1.x writes them."""
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()
    return compressor.compress(payload) + compressor.flush()


def a_file(body: bytes, *, spec: int = 1, file_type: int = 2, compression: int = 1, magic: bytes = MAGIC) -> bytes:
    return magic + b"ic-0.3.24".ljust(24) + bytes((spec, file_type, compression)) + body


def test_the_header_is_39_bytes_of_known_layout() -> None:
    written = header_bytes(FileType.REPO_INFO, 2)
    assert len(written) == 39
    assert written[:12] == MAGIC
    assert written[36:] == b"\x02\x06\x01"
    assert read_header(written, "repo") == Header(2, FileType.REPO_INFO, 1, "icpy-0.1")


def test_a_snapshot_of_the_reference_opens() -> None:
    header, payload = open_envelope(INITIAL_V1, FileType.SNAPSHOT, "snapshots/X")
    assert header == Header(1, FileType.SNAPSHOT, 1, "ic-0.3.24")
    assert len(payload) == 160
    assert bytes(payload[4:8]) == b"Ichk"


@pytest.mark.parametrize("kind, folder", [(FileType.SNAPSHOT, "snapshots"), (FileType.MANIFEST, "manifests")])
def test_every_file_of_the_fixtures_opens(kind: FileType, folder: str) -> None:
    paths = [path for path in REPOS.glob(f"*/{folder}/*") if path.is_file()]
    assert len(paths) > 20
    for path in paths:
        header, payload = open_envelope(path.read_bytes(), kind, path.name)
        assert header.spec in (1, 2)
        assert bytes(payload[4:8]) == b"Ichk"


@given(st.binary(max_size=3000), st.sampled_from([1, 2]), st.integers(1, 19), st.sampled_from(list(FileType)))
def test_sealed_files_open_to_the_same_payload(payload: bytes, spec: int, level: int, kind: FileType) -> None:
    data = seal(payload, kind, spec=spec, level=level)
    header, opened = open_envelope(data, kind, "x")
    assert (header.spec, header.file_type, bytes(opened)) == (spec, kind, payload)


def test_sealed_files_are_one_frame_with_its_content_size() -> None:
    data = seal(b"abc" * 1000, FileType.MANIFEST, spec=1, level=3)
    assert zstandard.frame_content_size(data[39:]) == 3000
    decoder = zstandard.ZstdDecompressor().decompressobj()
    assert decoder.decompress(data[39:]) == b"abc" * 1000
    assert decoder.eof and not decoder.unused_data


def test_segments_are_read_as_one_payload() -> None:
    payload = b"a" * 5000 + bytes(GAP) + b"b" * 3000
    data = seal(payload, FileType.MANIFEST, spec=1, level=3, segments=Segmentation((5000,)))
    assert bytes(open_envelope(data, FileType.MANIFEST, "x")[1]) == payload


@pytest.mark.parametrize(
    "body",
    [
        frame(b"hello"),
        streamed(b"hello"),
        frame(b"hello", write_checksum=True),
        frame(b"he") + streamed(b"llo"),
        b"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz" + frame(b"hello") + b"\x5f\x2a\x4d\x18\x00\x00\x00\x00",
        frame(b"hello") + frame(b""),
    ],
    ids=["sized", "streamed", "checksum", "two frames", "skippable frames", "empty frame"],
)
def test_frames_of_any_kind_are_accepted(body: bytes) -> None:
    assert bytes(open_envelope(a_file(body), FileType.MANIFEST, "x")[1]) == b"hello"


def test_an_uncompressed_payload_is_accepted() -> None:
    assert bytes(open_envelope(a_file(b"hello", compression=0), FileType.MANIFEST, "x")[1]) == b"hello"


def test_large_payloads_open_whether_or_not_they_tell_their_size() -> None:
    payload = b"".join(struct.pack("<I", number * 2654435761 % 2**32) for number in range(700_000))
    for body in (frame(payload), streamed(payload)):
        assert bytes(open_envelope(a_file(body), FileType.MANIFEST, "x")[1]) == payload


def test_any_writer_name_will_do() -> None:
    data = MAGIC + b"\xff\xfe" * 12 + b"\x01\x02\x00"
    assert read_header(data, "x").writer == "\ufffd" * 24


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "invalid icechunk header size, got 0 bytes"),
        (header_bytes(FileType.MANIFEST, 1)[:38], "got 38 bytes, expected at least 39"),
        (a_file(b"", magic=b"NOTICECHUNK!"), "invalid magic numbers"),
        (a_file(b"", file_type=9), "unknown file type code 9"),
        (a_file(b"", file_type=1), "expected Manifest got Snapshot"),
        (a_file(b"", file_type=4), "expected Manifest got TransactionLog"),
        (a_file(b"", compression=2), "invalid compression algorithm"),
        (a_file(b""), "zstd frame at byte 39 is broken or cut off"),
        (a_file(b"this is no zstd frame"), "zstd frame at byte 39 is broken"),
        (a_file(frame(b"hello" * 100)[:-1]), "broken or cut off"),
        (a_file(streamed(b"hello" * 100)[:-1]), "broken or cut off"),
        (a_file(frame(b"hello") + b"garbage bytes"), "broken or cut off"),
    ],
)
def test_defects_are_format_errors_that_name_the_file(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=rf"^manifests/ABC: .*{message}") as caught:
        open_envelope(data, FileType.MANIFEST, "manifests/ABC")
    assert caught.value.kind is ErrorKind.INVALID_FILE_FORMAT


@pytest.mark.parametrize("spec", [0, 3, 255])
def test_newer_formats_ask_for_a_newer_library(spec: int) -> None:
    with pytest.raises(FormatError, match=f"format version {spec}, .* up to version 2") as caught:
        read_header(a_file(b"", spec=spec), "x")
    assert caught.value.kind is ErrorKind.UNSUPPORTED_SPEC_VERSION


def test_a_frame_that_states_more_than_it_can_hold_is_refused() -> None:
    body = b"\x28\xb5\x2f\xfd" + bytes((0b1110_0000,)) + struct.pack("<Q", 1 << 40) + b"\x01\x00\x00"
    with pytest.raises(FormatError, match="cannot hold 1099511627776"):
        open_envelope(a_file(body), FileType.MANIFEST, "x")


def test_a_bomb_is_stopped_at_the_largest_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "MAX_PAYLOAD", 1 << 20)
    for body in (frame(bytes(2 << 20)), streamed(bytes(2 << 20)), frame(bytes(1 << 19)) * 3):
        with pytest.raises(FormatError, match="expands to more than 1048576 bytes"):
            open_envelope(a_file(body), FileType.MANIFEST, "x")


@given(st.integers(0, 2**32), st.data())
def test_damage_never_ends_in_anything_but_a_format_error(seed: int, data: st.DataObject) -> None:
    payload = struct.pack("<I", seed) * 40 + bytes(range(200))
    body = bytearray(data.draw(st.sampled_from([frame(payload), streamed(payload)])))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        open_envelope(a_file(bytes(body)), FileType.MANIFEST, "x")
    except FormatError:
        pass
