
# Behind a snippet: calls its `verify` for each case on stdin, and prints the results.
require "json"

results = JSON.parse($stdin.read).map do |one|
  # As Rack has them: bytes, under names in upper case.
  env = one["headers"].to_h { |name, value| ["HTTP_#{name.upcase.tr("-", "_")}", value.b] }
  third = ARGV[0] == "simple" ? env["HTTP_X_WEBHOOK_SIGNATURE"] : env
  verify(one["secret"], one["body"].unpack1("m"), third)
rescue => error
  "it raised #{error.inspect}"
end
puts JSON.generate(results)
