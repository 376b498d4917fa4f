package main

import (
	"crypto/tls"
	"io"
	"syscall"
	"time"
)

const (
	handshakeLimit = 10 * time.Second
	headLimit      = 10 * time.Second // from a head's first byte to its last
	strangerIdle   = 10 * time.Second // between two requests, before any evidence was given
	attestedIdle   = 2 * time.Minute
	bodyGrace      = 10 * time.Second
	slowestRate    = 16 * kib        // bytes a second a client must take or give
	drainLimit     = 2 * time.Second // after an answer that does not wait for the rest of a request
	drainBytes     = 1 << 20
	spareBodies    = 2  // requests that may come in while all slots are busy
	roomTries      = 50 // with acceptPause between: longer than stallLimit
)

const (
	endorsementPath = "/.well-known/blindbuild/endorsement"
	evidencePath    = "/.well-known/blindbuild/evidence"
	healthPath      = "/healthz"
	jsonType        = "application/json"
	binaryType      = "application/octet-stream"
)

var (
	goOn       = answer{status: "100 Continue"}
	healthy    = answer{status: "204 No Content"}
	notFound   = answer{status: "404 Not Found", closing: true}
	badRequest = answer{status: "400 Bad Request", closing: true}
	tooLarge   = answer{status: "413 Content Too Large", closing: true}
	noRoom     = answer{status: "503 Service Unavailable", closing: true}
	noSlot     = answer{status: "503 Service Unavailable"}
	noAnswer   = answer{status: "502 Bad Gateway"}
)

type server struct {
	routes          map[string]bool
	maxRequestBytes int
	tls             *tls.Config
	evidence        *evidenceSource
	launcher        *launcher
	table           *table
}

// serve takes connections for ever; its error is the listener's.
func (s *server) serve(listener syscall.RawConn) error {
	for {
		c, err := accept(listener)
		if err != nil {
			return err
		}
		for !s.table.add(c) {
			time.Sleep(acceptPause) // the kernel's backlog holds the others
		}
		go s.talk(c)
	}
}

// talk serves one connection. A mistake of ours that panics costs this connection, not the machine.
func (s *server) talk(c *connection) {
	defer s.table.remove(c)
	defer func() { _ = recover() }()
	c.waits(handshakeLimit)
	stream := tls.Server(c, s.tls)
	if stream.Handshake() != nil {
		return
	}
	requests := &source{stream: stream, firstBytes: func() { c.waits(headLimit) }, progress: c.progress}
	for {
		idle := strangerIdle
		if c.attested { // nobody else sets it
			idle = attestedIdle
		}
		c.waits(idle)
		r, err := requests.readHead()
		a := badRequest
		if err == nil {
			a = s.answer(c, stream, requests, r)
			a.closing = a.closing || r.closing
		} else if err != errRequest {
			return
		}
		sent := s.send(c, stream, a)
		c.note(func() { c.holds = 0 })
		if !sent {
			return
		}
		if a.closing {
			s.hangUp(c, stream)
			return
		}
	}
}

// send writes an answer in one piece and wipes it.
func (s *server) send(c *connection, stream io.Writer, a answer) bool {
	message := a.marshal()
	clear(a.body)
	c.waits(transferLimit(len(message)))
	_, err := stream.Write(message)
	clear(message)
	return err == nil
}

// transferLimit is how long a body of size bytes may take.
func transferLimit(size int) time.Duration {
	return bodyGrace + time.Duration(size/slowestRate)*time.Second
}

// hangUp ends the gate's half, then takes what the client still sends: a reset could cost the client the answer.
func (s *server) hangUp(c *connection, stream *tls.Conn) {
	c.waits(drainLimit)
	if stream.CloseWrite() != nil || shutdownWrite(c.File) != nil {
		return
	}
	scrap := make([]byte, 16*kib)
	for taken := 0; taken < drainBytes; {
		n, err := c.Read(scrap)
		if err != nil {
			return
		}
		taken += n
	}
}

// answer finds the route, reads the body if there is to be one, and answers.
func (s *server) answer(c *connection, stream io.Writer, requests *source, r request) answer {
	var handle func(*connection, []byte) answer
	limit := 0
	switch {
	case r.method == "GET" && r.path == healthPath:
		handle = func(*connection, []byte) answer { return healthy }
	case r.method == "GET" && r.path == endorsementPath:
		handle = func(*connection, []byte) answer { return jsonAnswer(s.evidence.endorsement()) }
	case r.method == "GET" && probeRoute != nil && r.path == probePath:
		handle = func(c *connection, _ []byte) answer { return probeRoute(s, c) }
	case r.method == "POST" && r.path == evidencePath:
		handle, limit = s.answerEvidence, maxEvidenceBytes
	case r.method == "POST" && r.path == sealedPath && s.evidence.sealer != nil:
		handle, limit = s.answerSealed, bucket(s.maxRequestBytes+maxHeadBytes+kib)
	case r.method == "POST" && s.routes[r.path] && s.evidence.sealer == nil:
		handle, limit = s.answerRecipe, s.maxRequestBytes
	default:
		if handle = leakRoute(r.path); handle == nil {
			return notFound
		}
	}
	if r.method == "GET" && r.contentLength > 0 || r.method == "POST" && r.contentLength < 0 {
		return badRequest
	}
	if r.contentLength > limit {
		return tooLarge
	}
	if r.contentLength > maxEvidenceBytes && !s.claim(c, upload) {
		return noRoom
	}
	if r.expectContinue && !s.send(c, stream, goOn) {
		return badRequest
	}
	body := make([]byte, max(r.contentLength, 0))
	defer clear(body)
	c.waits(transferLimit(len(body)))
	if requests.readBody(body) != nil {
		return badRequest
	}
	c.works()
	return handle(c, body)
}

// claim waits a moment for the right to hold a request in memory; it ends when the answer is out.
func (s *server) claim(c *connection, wanted burden) bool {
	c.works()
	for range roomTries {
		if s.table.claim(c, wanted) {
			return true
		}
		time.Sleep(acceptPause)
	}
	return false
}

func (s *server) answerEvidence(c *connection, body []byte) answer {
	r, err := parseEvidenceRequest(body, s.evidence.profile)
	if err != nil {
		return badRequest
	}
	text, err := s.evidence.evidence(r)
	c.note(func() { c.attested = c.attested || err == nil })
	return jsonAnswer(text, err)
}

// jsonAnswer is a TPM's answer, or the word for why there is none.
func jsonAnswer(body []byte, err error) answer {
	if err != nil {
		body = []byte(`{"version":1,"error":"` + err.Error() + `"}`)
		return answer{status: "422 Unprocessable Content", contentType: jsonType, body: body}
	}
	return answer{status: "200 OK", contentType: jsonType, body: body}
}

func (s *server) answerRecipe(c *connection, body []byte) answer {
	if !s.claim(c, work) {
		return noSlot
	}
	leakBody(body)
	text, err := s.launcher.run(body)
	switch err {
	case errSlots:
		return noSlot
	case errWorkload:
		return noAnswer
	}
	exitOn(err, 30) // the launcher is lost
	contentType := binaryType
	if len(text) > 0 && (text[0] == '{' || text[0] == '[') {
		contentType = jsonType
	}
	return answer{status: "200 OK", contentType: contentType, body: text}
}
