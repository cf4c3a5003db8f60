"""The wire format: what a message is, how large it is, and that no bytes whatever do harm."""

import os
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fed_rebel.offload.wire import MOST_CODES, Hello, Labels, Logits, Queries, Welcome, WireError, WrongVersion

SIZE, CLASSES = 867, 100
FUZZ = settings(max_examples=int(os.environ.get("FUZZ", "100")), deadline=None)
"""Examples of 32 inputs each; `FUZZ=31250` tries a million."""

finite = st.floats(-1e6, 1e6, width=32)
fingerprints, sessions = st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8)


def float32(*shape, elements=finite):
    return arrays.arrays(np.float32, shape, elements=elements)


@st.composite
def hellos(draw):
    low = draw(float32(3))
    high = low + draw(float32(3, elements=st.floats(1, 1e6, width=32)))
    prior = draw(st.none() | st.integers(1, 20).flatmap(float32))
    return Hello(draw(fingerprints), draw(st.sampled_from(["labels", "logits"])), low, high, prior)


welcomes = st.builds(Welcome, sessions, st.integers(1, 65535))
queries = st.integers(1, 5).flatmap(
    lambda count: st.builds(Queries, fingerprints, sessions, arrays.arrays(np.uint8, (count, SIZE)))
)
seconds = st.floats(0, 1e6, width=32)
labels = st.builds(
    Labels,
    arrays.arrays(np.int64, 3, elements=st.integers(0, CLASSES - 1)),
    float32(3, elements=st.floats(0, 1, width=32)),
    seconds,
)
logits = st.builds(Logits, float32(3, CLASSES), seconds)

DECODERS = {
    "hello": (hellos(), Hello.decode),
    "welcome": (welcomes, Welcome.decode),
    "queries": (queries, lambda message: Queries.decode(message, SIZE)),
    "labels": (labels, lambda message: Labels.decode(message, 3, CLASSES)),
    "logits": (logits, lambda message: Logits.decode(message, 3, CLASSES)),
}


@pytest.mark.parametrize("kind", DECODERS)
@settings(max_examples=50)
@given(data=st.data())
def test_a_message_comes_out_as_it_went_in(kind, data):
    messages, decode = DECODERS[kind]
    message = data.draw(messages)
    again = decode(message.encode())
    for name, value in vars(message).items():
        np.testing.assert_array_equal(getattr(again, name), value)


RNG = np.random.default_rng(0)
RANGE = np.zeros(3, np.float32), np.ones(3, np.float32)
WHOLE = [
    message.encode()
    for message in (
        Hello(RNG.bytes(32), "labels", *RANGE),
        Hello(RNG.bytes(32), "logits", *RANGE, RNG.normal(size=CLASSES).astype(np.float32)),
        Welcome(RNG.bytes(8), CLASSES),
        Queries(RNG.bytes(32), RNG.bytes(8), RNG.integers(0, 256, (2, SIZE), np.uint8)),
        Labels(RNG.integers(0, CLASSES, 3), RNG.random(3, np.float32), 0.25),
        Logits(RNG.normal(size=(3, CLASSES)).astype(np.float32), 0.25),
    )
]
mended = st.tuples(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=4),
    st.none() | st.integers(0, 2000),
    st.binary(max_size=8),
)


def mend(message, changes, end, more):
    """A message with some of its first bytes changed, cut off somewhere, and with bytes behind it."""
    content = bytearray(message)
    for place, value in changes:
        content[place % len(content)] = value
    return bytes(content[:end]) + more


def further(content, seed, inputs=32):
    """The bytes themselves, and others that differ from them in up to three places or in length."""
    yield content
    rng = random.Random(seed)
    for _ in range(inputs - 1):
        changes = [(rng.randrange(80), rng.randrange(256)) for _ in range(rng.randrange(1, 4))]
        yield mend(content or b"R", changes, rng.choice((None, None, rng.randrange(2000))), b"")


@FUZZ
@given(content=st.binary(max_size=100) | mended.map(lambda parts: mend(*parts)), seed=st.integers(0, 2**64))
def test_whatever_the_bytes_a_decoder_gives_what_encodes_to_them_or_a_wire_error(content, seed):
    for tried in further(content, seed):
        for _, decode in DECODERS.values():
            told = None
            try:
                message = decode(tried)
            except WireError as error:
                told = str(error)
            else:
                assert message.encode() == tried
            assert told is None or len(told.splitlines()) == 1


def test_a_batch_is_867_bytes_a_code_and_a_header_of_47():
    for count in (1, 64, MOST_CODES):
        batch = Queries(bytes(32), bytes(8), np.zeros((count, SIZE), np.uint8)).encode()
        assert len(batch) == 47 + 867 * count
        assert len(Labels(np.zeros(count, int), np.zeros(count, np.float32), 0).encode()) == 13 + 6 * count
        assert len(Logits(np.zeros((count, CLASSES), np.float32), 0).encode()) == 13 + 4 * CLASSES * count


def test_the_range_and_the_prior_where_it_is_told_go_over_at_connect():
    low, high = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert len(Hello(bytes(32), "labels", low, high).encode()) == 64
    assert len(Hello(bytes(32), "labels", low, high, np.zeros(CLASSES, np.float32)).encode()) == 64 + 4 * CLASSES
    assert len(Welcome(bytes(8), CLASSES).encode()) == 15


def test_the_header_of_a_batch_is_as_documented():
    batch = Queries(b"m" * 32, b"s" * 8, np.full((2, SIZE), 7, np.uint8)).encode()
    assert batch[:47] == struct.pack("<3sBB32s8sH", b"RBL", 1, 3, b"m" * 32, b"s" * 8, 2)
    assert batch[47:] == bytes([7]) * 2 * SIZE


GOOD = Queries(bytes(32), bytes(8), np.zeros((2, SIZE), np.uint8)).encode()


@pytest.mark.parametrize(
    ("message", "error", "told"),
    [
        (b"", WireError, "too short"),
        (b"PNG" + GOOD[3:], WireError, "does not begin with RBL"),
        (GOOD[:3] + b"\x02" + GOOD[4:], WrongVersion, "version 2"),
        (GOOD[:4] + b"\x01" + GOOD[5:], WireError, "kind 1"),
        (GOOD[:40], WireError, "too short"),
        (GOOD[:-1], WireError, "expected 1734"),
        (GOOD + b"\0", WireError, "expected 1734"),
        (GOOD[:45] + b"\0\0", WireError, "0 codes"),
        (GOOD[:45] + b"\xff\xff" + GOOD[47:], WireError, "65535 codes: must be from 1 to 256"),
    ],
)
def test_what_is_wrong_with_a_batch_is_told_in_one_line(message, error, told):
    with pytest.raises(error, match=told):
        Queries.decode(message, SIZE)


@pytest.mark.parametrize(
    ("low", "high"), [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (-3e38, 3e38)], ids=lambda value: str(value)
)
def test_a_code_range_that_is_none_is_refused(low, high):
    good = Hello(bytes(32), "labels", np.zeros(3, np.float32), np.ones(3, np.float32)).encode()
    forged = good[:38] + struct.pack("<6f", low, 0, 0, high, 1, 1) + good[62:]
    with pytest.raises(WireError, match="code range"):
        Hello.decode(forged)


def test_answers_of_another_number_or_class_are_refused():
    message = Labels(np.array([3, 4]), np.ones(2, np.float32), 0.5).encode()
    assert Labels.decode(message, 2, 5).seconds == 0.5
    for count, classes in ((1, 5), (3, 5), (2, 4)):
        with pytest.raises(WireError):
            Labels.decode(message, count, classes)
