import hashlib, hmac

# raw_body: Flask request.get_data(), Django request.body, FastAPI await request.body()
# signature: request.headers.get("X-Webhook-Signature")
def verify(secret, raw_body, signature):
    expected = hmac.new(secret.encode(), raw_body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), (signature or "").encode())
