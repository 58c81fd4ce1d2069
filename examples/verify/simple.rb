require "openssl"

# raw_body: Rails request.raw_post, Sinatra request.body.read
# signature: request.env["HTTP_X_WEBHOOK_SIGNATURE"]
def verify(secret, raw_body, signature)
  expected = OpenSSL::HMAC.hexdigest("SHA256", secret, raw_body)
  OpenSSL.secure_compare(expected, signature.to_s)
end
