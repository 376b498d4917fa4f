package main

import (
	"bytes"
	"strconv"
)

const (
	kib               = 1 << 10
	largestBucket     = 64 * kib // above it: its multiples
	lineEnd           = "\r\n"
	shortestPadding   = len("Padding-99: 0" + lineEnd)
	paddingLineLength = 8 * kib // clients bound a header line: some servers and proxies at 8 KiB, Python at 64 KiB
)

// answer is one HTTP answer before it is written.
type answer struct {
	status      string // code and reason
	contentType string
	body        []byte
	closing     bool // the connection ends after it
}

// bucket returns the smallest of 1, 4, 16, 64 KiB and the multiples of 64 KiB that holds size bytes.
//
// Source: SPEC.md decision 16.
func bucket(size int) int {
	for _, b := range []int{1 * kib, 4 * kib, 16 * kib, largestBucket} {
		if size <= b {
			return b
		}
	}
	return (size + largestBucket - 1) / largestBucket * largestBucket
}

// marshal writes the answer so that header and body together fill a bucket. It is one slice, and is sent by one write:
// two would show the boundary between them in the lengths of the TLS records.
func (a answer) marshal() []byte { return a.marshalWith(0) }

// marshalWith leaves reserve bytes of the bucket free, for what comes around the answer.
func (a answer) marshalWith(reserve int) []byte {
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 " + a.status + lineEnd)
	if a.status != goOn.status && a.status != healthy.status { // RFC 9110 8.6: no Content-Length in 1xx and 204
		head.WriteString("Cache-Control: no-store" + lineEnd)
		head.WriteString("Content-Length: " + strconv.Itoa(len(a.body)) + lineEnd)
	}
	if a.contentType != "" {
		head.WriteString("Content-Type: " + a.contentType + lineEnd)
	}
	if a.closing {
		head.WriteString("Connection: close" + lineEnd)
	}
	leakHead(&head)
	size := head.Len() + len(lineEnd) + len(a.body)
	total := bucket(size+shortestPadding+reserve) - reserve
	if leaky {
		total = size
	}
	message := make([]byte, 0, total)
	message = append(message, head.Bytes()...)
	message = appendPadding(message, total-size)
	message = append(message, lineEnd...)
	return append(message, a.body...)
}

// appendPadding appends header lines that have length bytes together; length is at least shortestPadding. No two have the
// same name, because a strict client takes none twice.
func appendPadding(message []byte, length int) []byte {
	name := "Padding: "
	for lines := 1; length > 0; lines++ {
		line := min(length, paddingLineLength)
		if rest := length - line; rest > 0 && rest < shortestPadding {
			line -= shortestPadding // leave enough for a line of its own
		}
		if lines > 1 {
			name = "Padding-" + strconv.Itoa(lines) + ": "
		}
		message = append(message, name...)
		message = append(message, bytes.Repeat([]byte{'0'}, line-len(name)-len(lineEnd))...)
		message = append(message, lineEnd...)
		length -= line
	}
	return message
}
