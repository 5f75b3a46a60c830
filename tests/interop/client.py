"""A client by Python's http.client and urllib: `client.py HOST PORT`. Every method and size, over one connection
that is kept and over new ones. Says what went wrong, as JSON."""

import http.client
import json
import sys
import urllib.request

host, port = sys.argv[1], int(sys.argv[2])
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
SIZES = [0, 1, 1000, 70000, 1 << 20]

tried, failures = 0, []
kept = http.client.HTTPConnection(host, port)


def by_client(method, path, body=None, chunked=False):
    kept.request(method, path, iter([body]) if chunked else body, encode_chunked=chunked)
    answer = kept.getresponse()
    return answer.status, answer.read()


def by_urllib(method, path, body=None, chunked=False):
    request = urllib.request.Request(f"http://{host}:{port}{path}", body, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def expect(what, holds, ask, *args, **more):
    global tried
    tried += 1
    try:
        status, body = ask(*args, **more)
        if not holds(status, body):
            failures.append(f"{what}: {status}, {len(body)} bytes")
    except Exception as error:
        failures.append(f"{what}: {error!r}")
        kept.close()


for name, ask in {"http.client": by_client, "urllib": by_urllib}.items():
    for method in METHODS:
        for size in SIZES if method in ("POST", "PUT", "PATCH") else [0]:
            for chunked in [False, True] if size and name == "http.client" else [False]:

                def holds(status, body):
                    if status != 200 or method == "HEAD":
                        return status == 200
                    seen = json.loads(body)
                    return seen["method"] == method and seen["body_bytes"] == size

                body = b"x" * size if size else None
                expect(f"{name} {method} {size} {chunked}", holds, ask, method, "/echo", body, chunked=chunked)
    for size in SIZES:
        expect(f"{name} /bytes {size}", lambda s, b: s == 200 and len(b) == size, ask, "GET", f"/bytes?count={size}")
    for code in [204, 304, 404, 500]:
        expect(f"{name} {code}", lambda s, b: s == code, ask, "GET", f"/status?code={code}")
print(json.dumps({"tried": tried, "failures": failures}))
