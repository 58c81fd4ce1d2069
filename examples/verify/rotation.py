import base64, hashlib, hmac, time

# raw_body: Flask request.get_data(), Django request.body, FastAPI await request.body()
# headers: request.headers
def verify(secret, raw_body, headers):
    event, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not sent.isdecimal() or len(sent) > 12 or abs(time.time() - int(sent)) > 300:
        return False
    key = base64.b64decode(secret.replace("whsec_", ""))
    mac = hmac.new(key, f"{event}.{sent}.".encode() + raw_body, hashlib.sha256)
    expected = b"v1," + base64.b64encode(mac.digest())
    given = headers.get("webhook-signature", "").encode()
    return any(hmac.compare_digest(expected, one) for one in given.split(b" "))
