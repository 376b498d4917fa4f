package main

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

const (
	maxHeadBytes   = 8 << 10 // request line and header fields; bounds a connection's memory
	maxHeaderLines = 32
)

var errRequest = errors.New("not an HTTP/1.1 request this server takes")

// request is the head of an HTTP/1.1 request with Content-Length: a smaller grammar has fewer corners.
type request struct {
	method         string
	path           string
	contentLength  int // -1: none was sent
	closing        bool
	expectContinue bool
}

// parseHead reads a request head without its empty last line.
//
// Source: RFC 9112 sections 2.2 to 6.3. Refused on purpose: bare LF, line folding, white space before a colon,
// HTTP/1.0, Transfer-Encoding, more than one Host or Content-Length.
func parseHead(head []byte) (request, error) {
	r := request{contentLength: -1}
	for _, c := range head {
		if c != '\r' && c != '\n' && c != '\t' && (c < 0x20 || c > 0x7e) {
			return r, errRequest
		}
	}
	lines := strings.Split(string(head), lineEnd)
	if len(lines) > 1+maxHeaderLines || strings.ContainsAny(strings.Join(lines, ""), lineEnd) {
		return r, errRequest
	}
	parts := strings.Split(lines[0], " ")
	if len(parts) != 3 || !isToken(parts[0]) || parts[1] == "" || parts[2] != "HTTP/1.1" {
		return r, errRequest
	}
	r.method, r.path = parts[0], parts[1]
	seen := map[string]bool{}
	for _, line := range lines[1:] {
		if err := r.takeField(line, seen); err != nil {
			return r, err
		}
	}
	if !seen["host"] { // RFC 9112 3.2
		return r, errRequest
	}
	return r, nil
}

// takeField reads one header field. Those that change what the bytes mean may be there once only.
func (r *request) takeField(line string, seen map[string]bool) error {
	name, text, found := strings.Cut(line, ":")
	if !found || !isToken(name) {
		return errRequest
	}
	name, text = strings.ToLower(name), strings.Trim(text, " \t")
	switch name {
	case "host", "content-length", "connection", "expect":
		if seen[name] {
			return errRequest
		}
		seen[name] = true
	}
	switch name {
	case "content-length":
		return r.takeContentLength(text)
	case "connection":
		r.closing = strings.EqualFold(text, "close")
	case "expect":
		r.expectContinue = strings.EqualFold(text, "100-continue")
		if !r.expectContinue {
			return errRequest
		}
	case "transfer-encoding", "upgrade", "trailer":
		return errRequest
	}
	return nil
}

func (r *request) takeContentLength(text string) (err error) {
	if len(text) > 10 || strings.Trim(text, "0123456789") != "" { // ten digits are more than maxBodyBytes ever has
		return errRequest
	}
	if r.contentLength, err = strconv.Atoi(text); err != nil {
		return errRequest
	}
	return nil
}

// isToken reports whether text is a token of RFC 9110 section 5.6.2.
func isToken(text string) bool {
	const tokenBytes = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return text != "" && strings.Trim(text, tokenBytes) == ""
}

// source reads requests from a connection through one buffer of fixed size.
type source struct {
	stream     io.Reader
	firstBytes func()    // called when the first bytes of a head have come
	progress   func(int) // called with the length of another piece of a body
	buffer     [maxHeadBytes]byte
	filled     int
}

// readHead returns the next request head. io.EOF means that the client closed between two requests.
func (s *source) readHead() (request, error) {
	const headEnd = lineEnd + lineEnd
	if s.filled > 0 {
		s.firstBytes()
	}
	for {
		if end := bytes.Index(s.buffer[:s.filled], []byte(headEnd)); end >= 0 {
			r, err := parseHead(s.buffer[:end])
			s.drop(end + len(headEnd))
			return r, err
		}
		if s.filled == len(s.buffer) {
			return request{}, errRequest
		}
		n, err := s.stream.Read(s.buffer[s.filled:])
		if s.filled == 0 && n > 0 {
			s.firstBytes()
		}
		s.filled += n
		if err != nil {
			return request{}, err
		}
	}
}

// readBody fills body with the bytes behind the head.
func (s *source) readBody(body []byte) error {
	n := copy(body, s.buffer[:s.filled])
	s.drop(n)
	for n < len(body) {
		piece := body[n:min(n+slowestRate, len(body))]
		if _, err := io.ReadFull(s.stream, piece); err != nil {
			return err
		}
		n += len(piece)
		s.progress(len(piece))
	}
	return nil
}

// drop forgets the first n bytes of the buffer and wipes what it no longer needs.
func (s *source) drop(n int) {
	copy(s.buffer[:], s.buffer[n:s.filled])
	clear(s.buffer[s.filled-n : s.filled])
	s.filled -= n
}
