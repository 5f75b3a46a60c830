"""A gRPC server for the tests, with the standard health service.

    server.py NAME [CERTIFICATE KEY]

Prints its port as one line of JSON. Each line it reads is a command in JSON, answered by one line:

    {"serving": {"SERVICE": "SERVING" | "NOT_SERVING"}}     what the health service says from now on
    {"cancelled": null}                                     how many calls were cancelled so far

It ends when its standard input does. Messages are plain UTF-8, so nothing has to be generated.
"""

import json
import sys
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

NAME = sys.argv[1]

cancelled = 0
lock = threading.Lock()


def begin(context):
    """Says who answers, and what it was asked with, in the metadata before the first message."""
    seen = {
        key: value.hex() if isinstance(value, bytes) else value
        for key, value in context.invocation_metadata()
    }
    # Without a deadline, what remains is nothing or longer than anybody lives.
    remaining = context.time_remaining()
    seen["deadline"] = remaining is not None and remaining < 3600
    context.send_initial_metadata(
        (("x-server", NAME), ("x-seen", json.dumps(seen)), ("x-first-bin", b"\x00\xff\x01"))
    )
    context.set_trailing_metadata((("x-last", "the end"), ("x-last-bin", b"\xfe\x00\xfd")))


def note_cancellation(context):
    def ended():
        global cancelled
        if context.code() is None:
            with lock:
                cancelled += 1

    context.add_callback(ended)


def say(request, context):
    begin(context)
    return request


def fail(request, context):
    """Fails with the status it is asked for: `CODE details`."""
    begin(context)
    code, _, details = request.decode().partition(" ")
    context.abort(grpc.StatusCode[code], details)


def fail_late(request, context):
    """The same after two messages."""
    begin(context)
    yield b"one"
    yield b"two"
    code, _, details = request.decode().partition(" ")
    context.abort(grpc.StatusCode[code], details)


def count(request, context):
    begin(context)
    for number in range(int(request)):
        yield str(number).encode()


def tick(request, context):
    """Numbers until the client has had enough."""
    begin(context)
    ended = threading.Event()
    context.add_callback(ended.set)
    number = 0
    while not ended.wait(0.01):
        yield str(number).encode()
        number += 1


def total(requests, context):
    begin(context)
    lengths = [len(request) for request in requests]
    return json.dumps({"messages": len(lengths), "bytes": sum(lengths)}).encode()


def chat(requests, context):
    begin(context)
    for request in requests:
        yield NAME.encode() + b" heard " + request


def hang(request, context):
    """Says nothing until the client gives up."""
    note_cancellation(context)
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait()
    return b""


def command(line, servicer):
    if "serving" in line:
        for service, status in line["serving"].items():
            servicer.set(service, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
        return True
    with lock:
        return cancelled


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Hang": grpc.unary_unary_rpc_method_handler(hang),
        "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Tick": grpc.unary_stream_rpc_method_handler(tick),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }
    handler = grpc.method_handlers_generic_handler("talk.Talk", methods)
    server.add_generic_rpc_handlers((handler,))
    servicer = health.HealthServicer()
    servicer.set("talk.Talk", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if len(sys.argv) > 2:
        with open(sys.argv[2], "rb") as certificate, open(sys.argv[3], "rb") as key:
            pair = (key.read(), certificate.read())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps(port), flush=True)
    for line in sys.stdin:
        print(json.dumps(command(json.loads(line), servicer)), flush=True)
    server.stop(None)


main()
