// Beside a snippet: calls its `verify` for each case on stdin, and prints the results.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
)

type request struct {
	Secret  string
	Body    []byte
	Headers map[string]string
}

func main() {
	var cases []request
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	results := []any{}
	for _, one := range cases {
		results = append(results, result(one))
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		panic(err)
	}
}

func result(one request) (found any) {
	defer func() {
		if problem := recover(); problem != nil {
			found = fmt.Sprint("it raised ", problem)
		}
	}()
	header := http.Header{}
	for name, value := range one.Headers {
		header.Set(name, value)
	}
	switch verify := any(verify).(type) {
	case func(string, []byte, string) bool:
		return verify(one.Secret, one.Body, header.Get("X-Webhook-Signature"))
	case func(string, []byte, http.Header) bool:
		return verify(one.Secret, one.Body, header)
	}
	return "verify has other parameters"
}
