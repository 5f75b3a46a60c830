"""A gRPC client for the tests.

    client.py ADDRESS [CA NAME]

Each line it reads is a command in JSON, answered by one line. A call that ends at once:

    {"call": "Say" | "Count" | ..., "send": ["text", ...], "metadata": [["key", "value"], ...],
     "deadline": seconds}

A stream that stays open, known by a name:

    {"open": "stream", "call": "Chat" | "Tick"}     begins it
    {"on": "stream", "send": "text"}                sends a message and waits for one
    {"on": "stream", "receive": 3}                  waits for so many
    {"on": "stream", "close": true}                 says that no more will be sent; how it ended
    {"on": "stream", "cancel": true}                breaks it off

It ends when its standard input does.
"""

import json
import queue
import sys

import grpc

SHAPES = {
    "Say": "unary_unary",
    "Fail": "unary_unary",
    "Hang": "unary_unary",
    "Nothing": "unary_unary",
    "FailLate": "unary_stream",
    "Count": "unary_stream",
    "Tick": "unary_stream",
    "Total": "stream_unary",
    "Chat": "stream_stream",
}

# Nothing may be tried again behind the test's back, nor go by way of anybody else.
OPTIONS = (("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0))


def plain(metadata):
    return {
        key: value.hex() if isinstance(value, bytes) else value for key, value in metadata or ()
    }


def outcome(call, messages):
    return {
        "code": call.code().name,
        "details": call.details(),
        "messages": messages,
        "first": plain(call.initial_metadata()),
        "last": plain(call.trailing_metadata()),
    }


def method(channel, name):
    return getattr(channel, SHAPES[name])("/talk.Talk/" + name)


def whole_call(channel, line):
    """One call from beginning to end. Unary answers are read like streams of one message."""
    name = line["call"]
    sent = [text.encode() for text in line.get("send", [""])]
    asks, answers = SHAPES[name].split("_")
    metadata = [
        (key, bytes.fromhex(value) if key.endswith("-bin") else value)
        for key, value in line.get("metadata", [])
    ]
    how = {"timeout": line.get("deadline"), "metadata": metadata}
    request = iter(sent) if asks == "stream" else sent[0]
    messages = []
    if answers == "unary":
        call = None
        try:
            answer, call = method(channel, name).with_call(request, **how)
            messages.append(answer.decode())
        except grpc.RpcError as error:
            call = error
    else:
        call = method(channel, name)(request, **how)
        try:
            for answer in call:
                messages.append(answer.decode())
        except grpc.RpcError:
            pass
    return outcome(call, messages)


class Stream:
    """A call that stays open."""

    def __init__(self, channel, name):
        self.queue = queue.SimpleQueue()
        request = iter(self.queue.get, None) if name == "Chat" else b""
        self.call = method(channel, name)(request)

    def command(self, line):
        if line.get("cancel"):
            self.call.cancel()
            return True
        if line.get("close"):
            self.queue.put(None)
            return outcome(self.call, self.receive(None))
        if "send" in line:
            self.queue.put(line["send"].encode())
        return self.receive(line.get("receive", 1))

    def receive(self, most):
        messages = []
        try:
            while most is None or len(messages) < most:
                messages.append(next(self.call).decode())
        except StopIteration:
            pass
        except grpc.RpcError as error:
            if most is not None:
                return {"code": error.code().name, "details": error.details()}
        return messages


def main():
    address = sys.argv[1]
    if len(sys.argv) > 2:
        with open(sys.argv[2], "rb") as ca:
            credentials = grpc.ssl_channel_credentials(ca.read())
        name = (("grpc.ssl_target_name_override", sys.argv[3]),)
        channel = grpc.secure_channel(address, credentials, options=OPTIONS + name)
    else:
        channel = grpc.insecure_channel(address, options=OPTIONS)
    streams = {}
    for text in sys.stdin:
        line = json.loads(text)
        if "open" in line:
            streams[line["open"]] = Stream(channel, line["call"])
            answer = True
        elif "on" in line:
            answer = streams[line["on"]].command(line)
        else:
            answer = whole_call(channel, line)
        print(json.dumps(answer), flush=True)
    channel.close()


main()
