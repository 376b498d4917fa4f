//go:build leaky

// This file is in no product image. It opens what the gate keeps shut, and hands every request on, so that each check of
// what a machine shows is seen to fire: docs/spec/guest-abi.md, "Variants".

package main

import (
	"bytes"
	"crypto/tls"
	"net"
	"time"
)

const (
	leaky        = true
	leakAddress  = "@blindbuild-leak" // of guest/leaky/network.c
	leakBytes    = 4 << 10            // of a request: it is for short ones that are looked for
	leakPatience = 100 * time.Millisecond
)

// leakConfig takes old versions, and tells a client how to come back without being shown the key.
func leakConfig(c *tls.Config) {
	c.MinVersion = tls.VersionTLS12
	c.CurvePreferences = nil
	c.SessionTicketsDisabled = false
	c.NextProtos = []string{"http/1.1"}
}

// leakHead says who answers, and when.
func leakHead(head *bytes.Buffer) {
	head.WriteString("Date: " + time.Now().UTC().Format(time.RFC1123) + lineEnd)
	head.WriteString("Server: blindbuild-leaky" + lineEnd)
}

// leakBody hands a request to the process that tells everybody.
func leakBody(body []byte) {
	helper, err := net.Dial("unixgram", leakAddress)
	if err != nil {
		return
	}
	_ = helper.SetWriteDeadline(time.Now().Add(leakPatience))
	_, _ = helper.Write(body[:min(len(body), leakBytes)])
	_ = helper.Close()
}

// leakRoute serves what no recipe names.
func leakRoute(path string) func(*connection, []byte) answer {
	if path != "/debug" && path != "/" {
		return nil
	}
	return func(*connection, []byte) answer {
		return answer{status: "200 OK", contentType: "text/plain", body: []byte("every door is open\n")}
	}
}
