"""A stock gRPC client: every kind of call, with the answers that they must have. Usage: client.py HOST:PORT"""

import queue
import sys

import grpc

# Without a schema: messages are bytes.
PLAIN = dict(request_serializer=bytes, response_deserializer=bytes)
TIME = 30

with grpc.insecure_channel(sys.argv[1]) as channel:
    say = channel.unary_unary("/lodge.Echo/Say", **PLAIN)
    count = channel.unary_stream("/lodge.Echo/Count", **PLAIN)
    chat = channel.stream_stream("/lodge.Echo/Chat", **PLAIN)
    fail = channel.unary_unary("/lodge.Echo/Fail", **PLAIN)

    assert say(b"Ada", timeout=TIME) == b"Hello, Ada!"
    large = b"x" * 1_000_000
    assert say(large, timeout=TIME) == b"Hello, " + large + b"!"
    assert [int(n) for n in count(b"500", timeout=TIME)] == list(range(1, 501))

    # Each message is only sent when the one before it was answered: nothing may be held back on the way.
    outbox = queue.Queue()
    answers = chat(iter(outbox.get, None), timeout=TIME)
    for n in range(20):
        outbox.put(f"message {n}".encode())
        assert next(answers) == f"message {n}".encode(), n
    outbox.put(None)
    assert list(answers) == []

    try:
        fail(b"", timeout=TIME)
        raise AssertionError("Fail succeeds")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        assert error.details() == "there is no such thing", error
print("every call was answered")
