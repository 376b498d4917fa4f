package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestARequestHeadIsRead(t *testing.T) {
	r, err := parseHead([]byte("POST /v1/hello HTTP/1.1\r\nHOST: a\r\ncontent-LENGTH:\t12 \r\nConnection: Close\r\n" +
		"Expect: 100-continue\r\nX-Other:\r\nX-Other: again"))
	if err != nil || r != (request{"POST", "/v1/hello", 12, true, true}) {
		t.Errorf("%+v %v", r, err)
	}
	r, err = parseHead([]byte("GET / HTTP/1.1\r\nHost:"))
	if err != nil || r != (request{"GET", "/", -1, false, false}) {
		t.Errorf("%+v %v", r, err)
	}
}

var refusedHeads = []string{
	"", "GET", "GET /", "GET / HTTP/1.0\r\nHost: a", "GET / HTTP/2\r\nHost: a", "GET  / HTTP/1.1\r\nHost: a",
	"GET / HTTP/1.1 \r\nHost: a", " GET / HTTP/1.1\r\nHost: a", "G(T / HTTP/1.1\r\nHost: a", "GET /a b HTTP/1.1\r\nHost: a",
	"GET / HTTP/1.1", "GET / HTTP/1.1\r\nHost: a\r\nHost: a", "GET / HTTP/1.1\r\nHost : a", "GET / HTTP/1.1\r\n Host: a",
	"GET / HTTP/1.1\r\nHost: a\r\n folded", "GET / HTTP/1.1\nHost: a", "GET / HTTP/1.1\r\nHost: a\nX: b",
	"GET / HTTP/1.1\r\nHost: a\rX: b", "GET / HTTP/1.1\r\nHost: a\r\n: b", "GET / HTTP/1.1\r\nHost: a\r\nnocolon",
	"GET / HTTP/1.1\r\nHost: a\x00", "GET /\x80 HTTP/1.1\r\nHost: a", "GET / HTTP/1.1\r\nHost: \xff",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12345678901",
	"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c", "GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok",
	"GET / HTTP/1.1\r\nHost: a" + strings.Repeat("\r\nX: a", maxHeaderLines),
}

func TestAnyOtherHeadIsRefused(t *testing.T) {
	for _, head := range refusedHeads {
		if r, err := parseHead([]byte(head)); err != errRequest {
			t.Errorf("%.80q: %+v, %v", head, r, err)
		}
	}
}

func FuzzHead(f *testing.F) {
	for _, head := range refusedHeads {
		f.Add([]byte(head))
	}
	f.Add([]byte("POST /v1/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 3"))
	f.Fuzz(func(t *testing.T, head []byte) {
		r, err := parseHead(head)
		if err == nil && (r.contentLength < -1 || r.path == "" || strings.ContainsAny(r.method+r.path, " \r\n\t")) {
			t.Errorf("%q gave %+v", head, r)
		}
	})
}

// TestRequestsComeApartWhereverTheStreamIsCut reads two requests byte by byte, and as one piece.
func TestRequestsComeApartWhereverTheStreamIsCut(t *testing.T) {
	const text = "POST /v1/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, stream := range []io.Reader{iotest.OneByteReader(strings.NewReader(text)), strings.NewReader(text)} {
		s := &source{stream: stream, firstBytes: func() {}, progress: func(int) {}}
		first, err := s.readHead()
		if err != nil || first.path != "/v1/a" {
			t.Fatal(first, err)
		}
		body := make([]byte, first.contentLength)
		if err := s.readBody(body); err != nil || string(body) != "hello" {
			t.Fatal(string(body), err)
		}
		if second, err := s.readHead(); err != nil || second.path != "/b" {
			t.Fatal(second, err)
		}
		if _, err := s.readHead(); err != io.EOF {
			t.Error(err)
		}
		if !bytes.Equal(s.buffer[:], make([]byte, maxHeadBytes)) {
			t.Error("the buffer still holds what came")
		}
	}
}

func TestAnEndlessHeadIsRefused(t *testing.T) {
	s := &source{stream: strings.NewReader(strings.Repeat("a", 2*maxHeadBytes)), firstBytes: func() {}, progress: func(int) {}}
	if _, err := s.readHead(); err != errRequest {
		t.Error(err)
	}
}

func TestACutBodyIsAnError(t *testing.T) {
	s := &source{stream: strings.NewReader("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell"), firstBytes: func() {}, progress: func(int) {}}
	if _, err := s.readHead(); err != nil {
		t.Fatal(err)
	}
	if err := s.readBody(make([]byte, 5)); err == nil {
		t.Error(err)
	}
}

func TestEveryAnswerFillsABucket(t *testing.T) {
	buckets := map[int]bool{1 << 10: true, 4 << 10: true, 16 << 10: true}
	for _, status := range []string{"200 OK", healthy.status, goOn.status} {
		for size := 0; size < 300_000; size += 1 + size/50 {
			message := answer{status: status, contentType: jsonType, body: make([]byte, size)}.marshal()
			if !buckets[len(message)] && len(message)%(64<<10) != 0 {
				t.Fatalf("a body of %d bytes gives %d", size, len(message))
			}
			checkPadding(t, message, size)
		}
	}
}

func checkPadding(t *testing.T, message []byte, size int) {
	t.Helper()
	head, body, _ := bytes.Cut(message, []byte("\r\n\r\n"))
	if len(body) != size {
		t.Fatalf("expected a body of %d bytes, got %d", size, len(body))
	}
	lines := strings.Split(string(head), "\r\n")
	names := map[string]bool{}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		if names[name] || len(line) > paddingLineLength || value == "" {
			t.Fatalf("line %.40q of %d bytes", line, len(line))
		}
		names[name] = true
		if strings.HasPrefix(name, "Padding") && strings.Trim(value, "0") != "" {
			t.Fatalf("padding of %.40q", value)
		}
	}
	if !names["Padding"] {
		t.Fatal("no padding")
	}
}

func TestBodiesAroundABucketsEdgeGoIntoTheNext(t *testing.T) {
	empty := len(answer{status: "200 OK"}.marshal())
	if empty != 1<<10 {
		t.Fatal(empty)
	}
	for _, edge := range []int{1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10} {
		seen := map[int]bool{}
		for size := edge - 300; size < edge+20; size++ {
			message := answer{status: "200 OK", body: make([]byte, size)}.marshal()
			checkPadding(t, message, size)
			seen[len(message)] = true
		}
		if len(seen) != 2 || !seen[edge] {
			t.Errorf("around %d: %v", edge, seen)
		}
	}
}

func TestTheRequestEndsTheConnectionAfterAnError(t *testing.T) {
	for _, a := range []answer{notFound, badRequest, tooLarge} {
		message := string(a.marshal())
		if !strings.Contains(message, "\r\nConnection: close\r\n") || !strings.Contains(message, "\r\nContent-Length: 0\r\n") {
			t.Errorf("%.80q", message)
		}
	}
}
