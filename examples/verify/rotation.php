<?php
// $rawBody: file_get_contents('php://input'), Laravel and Symfony $request->getContent()
// $server: $_SERVER
function verify(string $secret, string $rawBody, array $server): bool {
    $id = $server['HTTP_WEBHOOK_ID'] ?? '';
    $sent = $server['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    if (abs(time() - (int) $sent) > 300) return false;
    $key = base64_decode(str_replace('whsec_', '', $secret));
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$sent.$rawBody", $key, true));
    foreach (explode(' ', $server['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $given) {
        if (hash_equals($expected, $given)) return true;
    }
    return false;
}
