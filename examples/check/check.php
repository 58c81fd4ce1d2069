
// Behind a snippet: calls its `verify` for each case on stdin, and prints the results.
function result(array $case, string $form): bool|string {
    $server = [];
    foreach ($case['headers'] as $name => $value) $server['HTTP_' . strtoupper(strtr($name, '-', '_'))] = $value;
    $third = $form === 'simple' ? $server['HTTP_X_WEBHOOK_SIGNATURE'] ?? null : $server;
    try {
        return verify($case['secret'], base64_decode($case['body']), $third);
    } catch (Throwable $error) {
        return "it raised $error";
    }
}

// A warning is a failure, too.
set_error_handler(fn ($level, $text) => throw new ErrorException($text));
$cases = json_decode(stream_get_contents(STDIN), true);
echo json_encode(array_map(fn ($case) => result($case, $argv[1]), $cases)), "\n";
