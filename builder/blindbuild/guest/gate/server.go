package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"sync/atomic"
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
	spareBodies    = 2        // requests that may be there while all slots are busy
	freeBodyBytes  = 16 * kib // of a request that needs no place in line to come in
	replyBudget    = 8 << 20  // for the evidence that is on its way
	maxReplies     = 16
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
	endorsement     atomic.Pointer[[]byte]
	launcher        *launcher
	table           *table
}

// capacities is how many connections may have a place in each line: memory is set aside for so many.
func capacities(concurrency, eventLogBytes int) (c [lines]int) {
	c[uploads], c[works] = concurrency+spareBodies, concurrency+spareBodies
	c[replies] = max(2, min(maxReplies, replyBudget/(2*bucket(eventLogBytes)))) // an answer is there twice: plain and padded
	c[quotes] = 1
	return c
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
	defer c.arrive()
	c.waits(handshakeLimit)
	stream := tls.Server(c, s.tls)
	if stream.Handshake() != nil {
		return
	}
	c.arrive()
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
		s.table.leave(c, uploads, works, replies)
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
	c.transfers(len(message), transferLimit(len(message)))
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
		handle = s.answerEndorsement
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
	if r.contentLength > freeBodyBytes && !s.table.enter(c, uploads) {
		return noRoom
	}
	if r.expectContinue && !s.send(c, stream, goOn) {
		return badRequest
	}
	body := make([]byte, max(r.contentLength, 0))
	defer clear(body)
	c.transfers(len(body), transferLimit(len(body)))
	if requests.readBody(body) != nil {
		return badRequest
	}
	c.works()
	return handle(c, body)
}

func (s *server) answerEvidence(c *connection, body []byte) answer {
	r, err := parseEvidenceRequest(body, s.evidence.profile)
	if err != nil {
		return badRequest
	}
	if !s.table.enter(c, replies) || !s.table.enter(c, quotes) {
		return jsonAnswer(nil, errBusy)
	}
	defer s.table.leave(c, quotes)
	text, err := s.evidence.evidence(r)
	if err == nil {
		s.table.attest(c)
	}
	return jsonAnswer(text, err)
}

// answerEndorsement needs the TPM for the first time only.
func (s *server) answerEndorsement(c *connection, _ []byte) answer {
	if known := s.endorsement.Load(); known != nil {
		return jsonAnswer(bytes.Clone(*known), nil)
	}
	if !s.table.enter(c, replies) || !s.table.enter(c, quotes) {
		return jsonAnswer(nil, errBusy)
	}
	defer s.table.leave(c, quotes)
	return jsonAnswer(s.learnEndorsement())
}

// learnEndorsement asks the TPM for what never changes, and keeps it.
func (s *server) learnEndorsement() ([]byte, error) {
	text, err := s.evidence.endorsement()
	if err == nil {
		known := bytes.Clone(text) // an answer is wiped once it is out
		s.endorsement.Store(&known)
	}
	return text, err
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
	if !s.table.enter(c, works) {
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
