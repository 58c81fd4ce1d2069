<?php
// $rawBody: file_get_contents('php://input'), Laravel and Symfony $request->getContent()
// $signature: $_SERVER['HTTP_X_WEBHOOK_SIGNATURE'] ?? null
function verify(string $secret, string $rawBody, ?string $signature): bool {
    return hash_equals(hash_hmac('sha256', $rawBody, $secret), $signature ?? '');
}
