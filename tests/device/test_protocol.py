"""Messages survive the way there; anything else is refused before it can do harm."""

import io
import json

import numpy as np
import pytest

from mnv4_deploy.profiles.agent.protocol import ProtocolError, read_message, write_message


def sent(*args, **kwargs):
    stream = io.BytesIO()
    write_message(stream, *args, **kwargs)
    stream.seek(0)
    return stream


class Trickle(io.BytesIO):
    """A pipe that gives a byte at a time."""

    def read(self, size=-1):
        return super().read(min(size, 1))


def test_bodies_and_arrays_come_back():
    arrays: tuple[np.ndarray, ...] = (
        np.arange(6, dtype=np.int8).reshape(2, 3),
        np.array([[1.5, -0.0, np.inf]], np.float32),
        np.zeros((0, 4), np.int64),
        np.array(7, np.uint8),
    )
    stream = sent("run", {"name": "a\nb'$(x)"}, arrays=arrays)
    message = read_message(Trickle(stream.getvalue()))
    assert (message.kind, message.body) == ("run", {"name": "a\nb'$(x)"})
    for got, wanted in zip(message.arrays(), arrays, strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        assert got.tobytes() == wanted.tobytes()


def test_several_messages_follow_each_other():
    stream = sent("file", payload=b"\n{}\n")
    stream.seek(0, io.SEEK_END)
    write_message(stream, "bye")
    stream.seek(0)
    assert read_message(stream).payload == b"\n{}\n"
    assert read_message(stream).kind == "bye"
    assert read_message(stream) is None


def test_arrays_that_are_not_contiguous_are_sent_in_their_own_order():
    array = np.arange(6).reshape(2, 3).T
    np.testing.assert_array_equal(read_message(sent("run", arrays=[array])).arrays()[0], array)


def test_a_received_array_may_be_written():
    array = read_message(sent("run", arrays=[np.ones(3)])).arrays()[0]
    array[0] = 2.0


@pytest.mark.parametrize("cut", [1, 10, 60, -1])
def test_half_a_message_is_refused(cut):
    whole = sent("run", {"threads": 1}, arrays=[np.ones(8)]).getvalue()
    with pytest.raises(ProtocolError):
        read_message(io.BytesIO(whole[:cut]))


HEAD = {"kind": "run", "body": {}, "arrays": [], "bytes": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": -1},
        {"bytes": 1 << 40},
        {"bytes": "many"},
        {"arrays": [{"dtype": "object", "shape": [1]}]},
        {"arrays": [{"dtype": "float32", "shape": [-1]}]},
        {"arrays": [{"dtype": "float32"}]},
        {"arrays": None},
        {"body": 3},
    ],
)
def test_impossible_heads_are_refused(change):
    with pytest.raises(ProtocolError):
        read_message(io.BytesIO(json.dumps({**HEAD, **change}).encode() + b"\n"))


@pytest.mark.parametrize("line", [b"Welcome to the device!\n", b"[]\n", b"{}\n", b"\xff\xfe\n"])
def test_what_is_no_message_is_refused(line):
    with pytest.raises(ProtocolError, match="no message"):
        read_message(io.BytesIO(line))


def test_arrays_longer_than_their_bytes_are_refused():
    line = {**HEAD, "arrays": [{"dtype": "float64", "shape": [2]}], "bytes": 8}
    message = read_message(io.BytesIO(json.dumps(line).encode() + b"\n" + b"12345678"))
    with pytest.raises(ProtocolError, match="shorter"):
        message.arrays()
