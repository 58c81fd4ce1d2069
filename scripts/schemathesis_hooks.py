"""Changes to the requests that schemathesis generates."""

import uuid

import schemathesis


@schemathesis.hook
def map_headers(context, headers):
    """Makes each valid Idempotency-Key another one.

    schemathesis uses the example of the description, and other keys, again and again. A repeated request is answered as the
    first one was, also when the webhook that it made has been deleted since. schemathesis then reports that what was created
    is not there. Keys that are not valid stay as they are.
    """
    key = (headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 1 <= len(key) <= 200 and key.isascii() and key.isprintable():
        headers["Idempotency-Key"] = f"{key}-{uuid.uuid4()}"
    return headers
