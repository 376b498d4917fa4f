package main

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
)

// Profile hpke-quote-v1: somebody else ends TLS, so a request is sealed to a key that the quote binds, and its answer to
// the request. Contract: docs/spec/hpke-channel.md.

const (
	sealedProfile = "hpke-quote-v1"
	requestLabel  = "blindbuild/hpke-quote/v1/request"
	answerLabel   = "blindbuild/hpke-quote/v1/answer"
	sealedPath    = "/.well-known/blindbuild/sealed"
	sessionBytes  = 16
	maxSessions   = 8192    // 1 MiB; a TPM makes at most some dozen quotes a second, and each begins one
	window        = 64      // how far behind the highest number a request may come, when several are under way
	lengthsBytes  = 8 + 4   // a request's number and length, before it
	sealedReserve = kib / 4 // what is around a sealed message in its bucket: nonce, tag, and the head outside
)

// The words of an answer 422 (docs/spec/hpke-channel.md).
var (
	errSession = errors.New("session") // of another boot, or forgotten
	errSealed  = errors.New("sealed")  // nothing that this key opens
)

var replayed = answer{status: "409 Conflict"}

type sessionID [sessionBytes]byte

// sealedSession is what the gate remembers of a client to whom it gave evidence.
type sealedSession struct {
	info    [32]byte // what the client's requests are bound to
	used    uint64   // when, counted in uses of any session
	highest uint64   // number of a request
	seen    uint64   // bit n: number highest-n was there
}

// fresh takes a request's number; false if it was there before, or may have been.
func (s *sealedSession) fresh(number uint64) bool {
	if number > s.highest {
		s.seen = s.seen<<(number-s.highest) | 1 // in Go, a shift by 64 or more gives zero
		s.highest = number
		return true
	}
	bit := uint64(1) << (s.highest - number)
	first := number > 0 && s.highest-number < window && s.seen&bit == 0
	s.seen |= bit
	return first
}

// sealer has the HPKE key of this boot.
type sealer struct {
	private  *ecdh.PrivateKey
	spki     []byte
	mutex    sync.Mutex
	sessions map[sessionID]*sealedSession
	uses     uint64
}

func newSealer() (*sealer, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(private.PublicKey())
	return &sealer{private: private, spki: spki, sessions: map[sessionID]*sealedSession{}}, err
}

// begin opens a session for a client that gets evidence. The id is drawn here: if a client chose it, somebody could have a
// session that was forgotten begin anew, and with it every request of the old one.
func (s *sealer) begin(r evidenceRequest, key [32]byte) (id sessionID) {
	_, _ = rand.Read(id[:]) // it never fails: it ends the program instead
	info := bindingDigest([]byte(requestLabel), r.nonce[:], key[:], r.statement[:], []byte("client"))
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.sessions) >= maxSessions {
		s.forget()
	}
	s.uses++
	s.sessions[id] = &sealedSession{info: info, used: s.uses}
	return id
}

// forget drops the session that was not used for longest. Its requests are refused from then on: they are of no session.
func (s *sealer) forget() {
	var oldest sessionID
	used := s.uses + 1
	for id, session := range s.sessions {
		if session.used < used {
			oldest, used = id, session.used
		}
	}
	delete(s.sessions, oldest)
}

func (s *sealer) find(id []byte) *sealedSession {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.sessions[sessionID(id)]
}

// take marks a request as come; false if it came before, or its session was forgotten meanwhile.
func (s *sealer) take(id []byte, number uint64) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	session := s.sessions[sessionID(id)]
	if session == nil {
		return false
	}
	s.uses++
	session.used = s.uses
	return session.fresh(number)
}

// opened is a request that was sealed to this gate's key.
type opened struct {
	session      []byte
	encapsulated []byte
	context      *hpkeContext
	message      []byte // in the place of what was sealed
}

func (s *sealer) open(body []byte) (*opened, error) {
	if len(body) < sessionBytes+keyBytes {
		return nil, errSealed
	}
	o := &opened{session: body[:sessionBytes], encapsulated: body[sessionBytes : sessionBytes+keyBytes]}
	session := s.find(o.session)
	if session == nil {
		return nil, errSession
	}
	var err error
	if o.context, err = aes256GCM.receive(s.private, o.encapsulated, session.info[:]); err != nil {
		return nil, errSealed
	}
	if o.message, err = o.context.open(o.session, body[sessionBytes+keyBytes:]); err != nil {
		return nil, errSealed
	}
	return o, nil
}

// request returns the number and the HTTP request in the message; behind it are zeros, so that it fills a bucket.
func (o *opened) request() (number uint64, text []byte, err error) {
	if len(o.message) < lengthsBytes {
		return 0, nil, errRequest
	}
	text = o.message[lengthsBytes:]
	length := uint64(binary.BigEndian.Uint32(o.message[8:]))
	if length > uint64(len(text)) || len(bytes.TrimLeft(text[length:], "\x00")) != 0 {
		return 0, nil, errRequest
	}
	return binary.BigEndian.Uint64(o.message), text[:length], nil
}

// seal puts an answer into one for outside, that only who made the request can open.
func (o *opened) seal(a answer) (answer, error) {
	salt := make([]byte, aes256GCM.keyBytes)
	_, _ = rand.Read(salt) // as above
	secret, err := o.context.export(answerLabel, len(salt))
	if err != nil {
		return answer{}, err
	}
	aead, nonce, err := aes256GCM.answering(secret, o.encapsulated, salt)
	if err != nil {
		return answer{}, err
	}
	a.closing = false // that is between the gate and whoever is before it
	message := a.marshalWith(sealedReserve)
	clear(a.body)
	defer clear(message)
	return answer{status: "200 OK", contentType: binaryType, body: aead.Seal(salt, nonce, message, nil)}, nil
}

// answering returns what seals the answer to one request: a key and a nonce of its own.
//
// Source: RFC 9458 section 4.4; the salt has max(Nn, Nk) bytes.
func (a hpkeAEAD) answering(secret, encapsulated, salt []byte) (cipher.AEAD, []byte, error) {
	base, failure := hkdf.Extract(sha256.New, secret, slices.Concat(encapsulated, salt))
	key, keyFailure := hkdf.Expand(sha256.New, base, "key", a.keyBytes)
	nonce, nonceFailure := hkdf.Expand(sha256.New, base, "nonce", nonceBytes)
	if err := errors.Join(failure, keyFailure, nonceFailure); err != nil {
		return nil, nil, err
	}
	aead, err := newGCM(key)
	return aead, nonce, err
}

// answerSealed opens a request and seals what it is answered. What cannot be opened has nobody to seal for.
func (s *server) answerSealed(c *connection, body []byte) answer {
	o, err := s.evidence.sealer.open(body)
	if err != nil {
		return jsonAnswer(nil, err)
	}
	sealed, err := o.seal(s.answerOpened(c, o))
	if err != nil {
		return noAnswer
	}
	return sealed
}

// answerOpened answers the request inside: a POST to a route of the recipe, as it would be without a seal.
func (s *server) answerOpened(c *connection, o *opened) answer {
	number, text, err := o.request()
	head, body, found := bytes.Cut(text, []byte(lineEnd+lineEnd))
	if err != nil || !found || len(head) > maxHeadBytes {
		return badRequest
	}
	r, err := parseHead(head)
	switch {
	case err != nil || r.contentLength != len(body) || r.expectContinue:
		return badRequest
	case r.method != "POST" || !s.routes[r.path]:
		return notFound
	case len(body) > s.maxRequestBytes:
		return tooLarge
	case !s.evidence.sealer.take(o.session, number):
		return replayed
	}
	s.table.attest(c) // behind a load balancer this may be another connection than the one with the evidence
	return s.answerRecipe(c, body)
}
