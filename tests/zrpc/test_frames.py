from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc.frames import DEFAULT_LIMIT, LARGE_FRAME, STRANGER_LIMIT, FrameReader, frame


def read(reader, *pieces):
    return [content for piece in pieces for content in reader.feed(piece)]


def contents_and_fault(data, step):
    """What a stranger's reader makes of `data` in pieces of `step` bytes."""
    reader, contents = FrameReader(), []
    try:
        for start in range(0, len(data), step):
            for content in reader.feed(data[start:start + step]):
                contents.append(content)  # noqa: PERF402 - what came before the fault counts
    except ProtocolError as error:
        return contents, str(error)
    return contents, reader.buffered


def test_frame_is_the_length_of_four_bytes_and_the_content():
    assert frame(b'') == b'\0\0\0\0'
    assert frame(b'Z5') == b'\0\0\0\x02Z5'
    assert frame(bytes(0x10203))[:4] == b'\0\x01\x02\x03'


@pytest.mark.parametrize('contents', [[b''], [b'Z5'], [b'a', b'', b'bcd'], [b'x' * 1024, b'y' * 1024]])
def test_contents_come_out_as_they_went_in_whole_and_split_at_each_byte(contents):
    data = b''.join(map(frame, contents))
    assert read(FrameReader(), data) == contents
    assert read(FrameReader(), *(data[i:i + 1] for i in range(len(data)))) == contents
    for split in range(len(data)):
        reader = FrameReader()
        assert read(reader, data[:split], data[split:]) == contents
        assert reader.buffered == 0


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 30), max_size=40))
def test_pieces_of_any_sizes_make_the_same_contents(contents, sizes):
    data, pieces = b''.join(map(frame, contents)), []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    assert read(FrameReader(), *pieces, data) == contents


def test_a_large_frame_is_known_from_its_first_bytes_to_its_last():
    reader = FrameReader(1 << 20)
    data = frame(bytes(LARGE_FRAME + 1))
    assert not reader.is_large
    assert read(reader, data[:3]) == []
    assert not reader.is_large
    assert read(reader, data[3:1000]) == []
    assert reader.is_large
    assert read(reader, data[1000:] + frame(bytes(100))[:50]) == [data[4:]]
    assert not reader.is_large


def test_part_of_a_frame_gives_nothing_yet():
    reader = FrameReader()
    assert read(reader, b'\0\0\0') == []
    assert read(reader, b'\x03ab') == []
    assert reader.buffered == 6
    assert read(reader, b'c\0') == [b'abc']
    assert reader.buffered == 1


def test_length_up_to_the_limit_is_accepted_and_one_more_refused():
    """N7."""
    assert read(FrameReader(5), frame(b'12345')) == [b'12345']
    with pytest.raises(ProtocolError, match='a frame of 6 bytes is announced; the limit is 5'):
        read(FrameReader(5), frame(b'123456'))


def test_length_is_refused_before_the_content_arrives():
    """N7."""
    reader = FrameReader()
    assert read(reader, b'\xff\xff\xff') == []
    with pytest.raises(ProtocolError, match='of 4294967295 bytes is announced; the limit is 1024'):
        read(reader, b'\xff')


def test_limits_are_small_for_strangers():
    """N7."""
    assert FrameReader().limit == STRANGER_LIMIT == 1024
    assert DEFAULT_LIMIT >= 1 << 24


def test_limit_changed_by_the_first_of_two_frames_holds_for_the_second():
    reader = FrameReader(5)
    contents = reader.feed(frame(b'login') + frame(b'a large one'))
    assert next(contents) == b'login'
    reader.limit = 100
    assert list(contents) == [b'a large one']


def test_frames_before_one_that_is_refused_are_delivered():
    data = frame(b'first') + frame(b'second') + frame(bytes(2000)) + frame(b'never')
    whole = contents_and_fault(data, len(data))
    assert whole[0] == [b'first', b'second']
    assert '2000 bytes' in whole[1]
    assert contents_and_fault(data, 1) == whole


@given(st.binary(max_size=3000), st.integers(1, 20))
def test_any_bytes_give_the_same_whole_and_in_pieces(data, step):
    """S5."""
    assert contents_and_fault(data, max(1, len(data))) == contents_and_fault(data, step)


@pytest.mark.parametrize(('head', 'what'), [
    (b'\x16\x03\x01\x02\0\x01', 'TLS'), (b'\x15\x03\x03\0\x02\x02', 'TLS'),
    (b'GET / HTTP/1.1\r\n', 'HTTP'), (b'POST /RPC2 HTTP/1.0\r\n', 'HTTP'), (b'HTTP/1.1 400 Bad', 'HTTP'),
    (b'SSH-2.0-OpenSSH', 'SSH'),
])
def test_peer_that_speaks_something_well_known_is_told_by_name(head, what):
    with pytest.raises(ProtocolError, match=f'the limit is 1024; the peer seems to speak {what}'):
        read(FrameReader(), head)


@pytest.mark.parametrize('step', [1000, 65536, 1 << 30])
def test_large_frame_is_put_together_in_memory_of_its_own_size(step):
    """S5a: in linear time, too: a copy of all that has come so far per piece would take hours here."""
    size = 16 << 20
    content = bytes(size)
    data, reader = frame(content), FrameReader(DEFAULT_LIMIT)
    tracemalloc.start()
    try:
        found = read(reader, *(data[i:i + step] for i in range(0, len(data), step)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [content]
    assert reader.buffered == 0
    assert peak < 5 * size


def test_frame_that_comes_byte_by_byte_is_linear():
    """S5a: 400,000 bytes one by one; copying what is there for each would be 80,000,000,000 bytes."""
    content = bytes(400_000)
    data, reader = frame(content), FrameReader(DEFAULT_LIMIT)
    assert read(reader, *(data[i:i + 1] for i in range(len(data)))) == [content]


def test_memory_grows_with_what_arrived_not_with_what_was_announced():
    """N7."""
    reader = FrameReader(DEFAULT_LIMIT)
    tracemalloc.start()
    try:
        assert read(reader, DEFAULT_LIMIT.to_bytes(4, 'big'), *[bytes(1000)] * 10) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.buffered == 10_004
    assert peak < 100_000
