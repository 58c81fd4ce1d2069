package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// rawBody: io.ReadAll(r.Body); signature: r.Header.Get("X-Webhook-Signature")
func verify(secret string, rawBody []byte, signature string) bool {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(rawBody)
	expected := hex.EncodeToString(mac.Sum(nil))
	return hmac.Equal([]byte(expected), []byte(signature))
}
