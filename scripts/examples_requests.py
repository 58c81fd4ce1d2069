#!/usr/bin/env python3
"""Usage: examples_requests.py record PORT FILE | cases FILE OLD_SECRET NEW_SECRET |
       asked CASES FORM | compare CASES LANGUAGE FORM

record: a receiver that writes each request into FILE, as a line of JSON.
cases:  from three recorded requests (signed with the old secret; with both; with the new one alone) makes requests that are
        genuine and requests that are not, and prints what the two forms of `verify` must say of each.
asked:  prints the cases of one form of `verify`.
compare: reads the results of one program on stdin; says which are wrong, and fails if any is.
"""

import base64
import copy
import hashlib
import hmac
import http.server
import json
import sys
import time

SIMPLE = "x-webhook-signature"
ROTATION = "webhook-signature"


class Recorder(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with open(sys.argv[3], "a", encoding="utf-8") as file:
            print(json.dumps({"body": base64.b64encode(body).decode(), "headers": headers}), file=file)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def signed_again(request, secret, age):
    """The request as if it had been sent `age` seconds ago."""
    request = copy.deepcopy(request)
    headers, body = request["headers"], base64.b64decode(request["body"])
    headers["webhook-timestamp"] = str(int(time.time()) - age)
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    headers[ROTATION] = "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return request


def cases(file, old, new):
    with open(file, encoding="utf-8") as lines:
        before, during, after = [json.loads(line) for line in lines][:3]
    found = []

    def case(name, request, secret, **expected):
        """`expected` names the forms that are asked, and what each must say."""
        found.append({"name": name, "secret": secret, "expected": expected, **copy.deepcopy(request)})

    def changed(name, header, value):
        """A genuine request whose header is another one, or is missing."""
        request = copy.deepcopy(during)
        request["headers"].pop(header)
        if value is not None:
            request["headers"][header] = value
        case(name, request, new, **{"simple" if header == SIMPLE else "rotation": False})

    case("before the change, the old secret", before, old, simple=True, rotation=True)
    case("during the grace time, the new secret", during, new, simple=True, rotation=True)
    case("during the grace time, the old secret", during, old, simple=False, rotation=True)
    case("after the grace time, the new secret", after, new, simple=True, rotation=True)
    case("after the grace time, the old secret", after, old, simple=False, rotation=False)
    body = base64.b64decode(during["body"])
    for name, bytes in [
        ("another body", body.replace(b"Hello", b"Hullo")),
        ("a body written again", json.dumps(json.loads(body)).encode()),
        ("a trailing newline", body + b"\n"),
        ("no body", b""),
        ("a body that is no UTF-8", b"\xff\xfe" + body),
    ]:
        assert bytes != body, name
        case(name, {**during, "body": base64.b64encode(bytes).decode()}, new, simple=False, rotation=False)

    signature = during["headers"][SIMPLE]
    for value in [None, "", "0", "not hex", "é" * 32, signature[:-1], signature + "0", signature.upper(), "sha256=" + signature]:
        changed(f"{SIMPLE}: {value}", SIMPLE, value)
    one = during["headers"][ROTATION].split(" ")[0]
    for value in [None, "", " ", "v1", "v1,", "v1,!", "é", one[3:], one[:-1], one + "=", one.replace("v1,", "v2,"), "v1," + "A" * 9000]:
        changed(f"{ROTATION}: {value}"[:60], ROTATION, value)
    sent = during["headers"]["webhook-timestamp"]
    for value in [None, "", "soon", "-1", "1e9", "9" * 20, "9" * 5000, "٣" * 10, f"{sent}.0", f"{sent}000", str(int(sent) + 1)]:
        changed(f"webhook-timestamp: {value}"[:60], "webhook-timestamp", value)
    for value in [None, "", "evt_another", "é"]:
        changed(f"webhook-id: {value}", "webhook-id", value)
    case("a minute old", signed_again(during, new, 60), new, rotation=True)
    case("ten minutes old", signed_again(during, new, 600), new, rotation=False)
    case("ten minutes ahead", signed_again(during, new, -600), new, rotation=False)
    return found


def compare(file, language, form):
    with open(file, encoding="utf-8") as text:
        asked = [case for case in json.load(text) if form in case["expected"]]
    said = sys.stdin.read()
    results = json.loads(said) if said else ["nothing"] * len(asked)
    wrong = [(case["name"], result) for case, result in zip(asked, results, strict=True) if result is not case["expected"][form]]
    for name, result in wrong:
        print(f"  {language}, {form}: said {result} of: {name}")
    print(f"  {'✗' if wrong else '✓'} {language}, {form}: {len(asked) - len(wrong)} of {len(asked)} requests judged rightly")
    sys.exit(1 if wrong else 0)


match sys.argv[1:]:
    case ["record", port, _]:
        http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Recorder).serve_forever()
    case ["cases", *rest]:
        print(json.dumps(cases(*rest)))
    case ["asked", file, form]:
        with open(file, encoding="utf-8") as text:
            print(json.dumps([case for case in json.load(text) if form in case["expected"]]))
    case ["compare", *rest]:
        compare(*rest)
    case _:
        sys.exit(__doc__)
