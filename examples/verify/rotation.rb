require "openssl"

# raw_body: Rails request.raw_post, Sinatra request.body.read; env: request.env
def verify(secret, raw_body, env)
  sent = env["HTTP_WEBHOOK_TIMESTAMP"].to_s
  return false if (Time.now.to_i - sent.to_i).abs > 300
  key = secret.delete_prefix("whsec_").unpack1("m")
  signed = "#{env["HTTP_WEBHOOK_ID"]}.#{sent}.".b + raw_body.b
  expected = "v1," + [OpenSSL::HMAC.digest("SHA256", key, signed)].pack("m0")
  given = env["HTTP_WEBHOOK_SIGNATURE"].to_s.b.split(" ")
  given.any? { |one| OpenSSL.secure_compare(expected, one) }
end
