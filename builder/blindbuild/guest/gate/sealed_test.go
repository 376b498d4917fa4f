package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

const otherRoute = "POST /v1/other HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"

// sealedServer is a gate with one session, and what that session's requests are bound to.
func sealedServer(t *testing.T) (*server, sessionID, [32]byte) {
	t.Helper()
	s, err := newSealer()
	if err != nil {
		t.Fatal(err)
	}
	source := &evidenceSource{profile: sealedProfile, sealer: s, keyDigest: sha256.Sum256(s.spki)}
	id := s.begin(evidenceRequest{nonce: [32]byte{1}, statement: [32]byte{2}}, source.keyDigest)
	gate := &server{routes: map[string]bool{"/v1/hello": true}, maxRequestBytes: 100, evidence: source}
	return gate, id, s.sessions[id].info
}

// The SubjectPublicKeyInfo of X25519 keys is 12 fixed bytes and the key (RFC 8410 section 4).
func TestTheKeyIsGivenInTheFormOfItsRFC(t *testing.T) {
	gate, id, info := sealedServer(t)
	s := gate.evidence.sealer
	if want := append(unhex(t, "302a300506032b656e032100"), s.private.PublicKey().Bytes()...); !bytes.Equal(s.spki, want) {
		t.Errorf("%x", s.spki)
	}
	key := sha256.Sum256(s.spki)
	parts := "\x00\x20blindbuild/hpke-quote/v1/request\x00\x20" + string([]byte{1}) + strings.Repeat("\x00", 31) + "\x00\x20" +
		string(key[:]) + "\x00\x20" + string([]byte{2}) + strings.Repeat("\x00", 31) + "\x00\x06client"
	if info != sha256.Sum256([]byte(parts)) || id == (sessionID{}) {
		t.Errorf("%x", info)
	}
}

// The vectors are those of docs/spec/hpke-channel.md.
func TestWhatIsBoundIsThatOfTheContract(t *testing.T) {
	var nonce [32]byte
	for i := range nonce {
		nonce[i] = byte(i)
	}
	key, statement := sha256.Sum256([]byte("spki")), sha256.Sum256([]byte("statement"))
	for _, c := range [][3]string{
		{bindingLabels[sealedProfile], "server", "01fd3521c3a8169913f6cd77b635137f98050d459c44db1fe8d75aaef95971c2"},
		{requestLabel, "client", "57d2646c4f6b1312afc365bc3ac5b1b0ee47f32ac1526da3c76081b35e68d566"},
	} {
		got := bindingDigest([]byte(c[0]), nonce[:], key[:], statement[:], []byte(c[1]))
		if hex.EncodeToString(got[:]) != c[2] {
			t.Errorf("%s: %x", c[0], got)
		}
	}
}

func TestARequestIsAnsweredSealed(t *testing.T) {
	gate, id, info := sealedServer(t)
	for text, want := range map[string]string{
		otherRoute:                          "HTTP/1.1 404 ",
		strings.TrimSuffix(otherRoute, "c"): "HTTP/1.1 400 ",
		"GET /v1/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n":                                              "HTTP/1.1 404 ",
		"POST /v1/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n" + strings.Repeat("a", 101):                "HTTP/1.1 413 ",
		"POST /v1/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nabc":                                          "HTTP/1.1 400 ",
		"POST /v1/hello HTTP/1.1\r\nHost: a\r\n\r\nabc":                                                               "HTTP/1.1 400 ",
		"POST /v1/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc":                  "HTTP/1.1 400 ",
		"POST /v1/hello HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc":                                                     "HTTP/1.1 400 ",
		"POST /.well-known/blindbuild/evidence HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}":                    "HTTP/1.1 404 ",
		"POST /.well-known/blindbuild/sealed HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}":                      "HTTP/1.1 404 ",
		"POST /v1/hello HTTP/1.1\r\nHost: a" + strings.Repeat("a", maxHeadBytes) + "\r\nContent-Length: 3\r\n\r\nabc": "HTTP/1.1 400 ",
		"": "HTTP/1.1 400 ",
	} {
		client := newSender(t, gate.evidence.sealer.private.PublicKey(), info[:])
		outer := gate.answerSealed(nil, client.body(id[:], packed(1, text, 99)))
		inner := client.openAnswer(t, outer.body)
		if outer.status != "200 OK" || outer.contentType != binaryType || !bytes.HasPrefix(inner, []byte(want)) {
			t.Errorf("%q: %s, %.40q", text, outer.status, inner)
		}
		if bytes.Contains(inner, []byte("close")) || len(outer.marshal()) != kib {
			t.Errorf("%q: %q, %d bytes outside", text, inner, len(outer.marshal()))
		}
	}
}

func TestWhatDoesNotOpenIsRefusedInOneWord(t *testing.T) {
	gate, id, info := sealedServer(t)
	public, other := gate.evidence.sealer.private.PublicKey(), sessionID{9}
	right := newSender(t, public, info[:])
	whole := right.body(id[:], packed(1, otherRoute, 8))
	flipped := func(at int) []byte {
		body := bytes.Clone(whole)
		body[at] ^= 1
		return body
	}
	foreign, err := newSealer()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		body []byte
		want error
	}{
		"empty":             {nil, errSealed},
		"of another boot":   {right.body(other[:], packed(1, otherRoute, 0)), errSession},
		"no ciphertext":     {whole[:sessionBytes+keyBytes], errSealed},
		"cut":               {whole[:len(whole)-1], errSealed},
		"longer":            {append(bytes.Clone(whole), 0), errSealed},
		"its key flipped":   {flipped(sessionBytes), errSealed},
		"its text flipped":  {flipped(sessionBytes + keyBytes), errSealed},
		"its tag flipped":   {flipped(len(whole) - 1), errSealed},
		"its id flipped":    {flipped(0), errSession},
		"for another key":   {newSender(t, foreign.private.PublicKey(), info[:]).body(id[:], packed(1, otherRoute, 0)), errSealed},
		"for another nonce": {newSender(t, public, info[:31]).body(id[:], packed(1, otherRoute, 0)), errSealed},
		"reflected":         {gate.answerSealed(nil, bytes.Clone(whole)).body, errSession},
	} {
		if _, err := gate.evidence.sealer.open(bytes.Clone(c.body)); err != c.want {
			t.Errorf("%s: %v", name, err)
		}
		if a := gate.answerSealed(nil, bytes.Clone(c.body)); a.status[:3] != "422" || !bytes.Contains(a.body, []byte(c.want.Error())) {
			t.Errorf("%s: %s %s", name, a.status, a.body)
		}
	}
	for cut := range whole {
		if _, err := gate.evidence.sealer.open(bytes.Clone(whole[:cut])); err == nil {
			t.Errorf("%d bytes of it were taken", cut)
		}
	}
	second := gate.evidence.sealer.begin(evidenceRequest{nonce: [32]byte{3}, statement: [32]byte{2}}, gate.evidence.keyDigest)
	if _, err := gate.evidence.sealer.open(right.body(second[:], packed(1, otherRoute, 0))); err != errSealed {
		t.Errorf("another client's session: %v", err)
	}
}

func TestAMessageHasOneReading(t *testing.T) {
	for name, message := range map[string][]byte{
		"nothing": nil, "half a number": make([]byte, 7), "no length": make([]byte, 11),
		"longer than it is": packed(1, "abc", 0)[:14], "something behind it": append(packed(1, "abc", 5), 1),
	} {
		if _, _, err := (&opened{message: message}).request(); err != errRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	number, text, err := (&opened{message: packed(7, "abc", 100)}).request()
	if number != 7 || string(text) != "abc" || err != nil {
		t.Errorf("%d %q %v", number, text, err)
	}
}

func TestANumberIsTakenOnceAndNotLongAfterItsTurn(t *testing.T) {
	s := &sealedSession{}
	for i, c := range []struct {
		number uint64
		want   bool
	}{
		{0, false}, {1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {3, false}, {66, true}, {4, true}, {4, false},
		{3, false}, {2, false}, {67, true}, {3, false}, {1 << 40, true}, {67, false}, {1<<40 - 63, true}, {1<<40 - 64, false},
		{1<<64 - 1, true}, {1<<64 - 1, false}, {1 << 40, false}, {0, false},
	} {
		if got := s.fresh(c.number); got != c.want {
			t.Errorf("%d: number %d: %v", i, c.number, got)
		}
	}
}

func TestAReplayedRequestIsRefusedAndItsSenderToldSo(t *testing.T) {
	gate, id, info := sealedServer(t)
	s := gate.evidence.sealer
	if !s.take(id[:], 1) {
		t.Fatal("the first is no replay")
	}
	client := newSender(t, s.private.PublicKey(), info[:])
	text := strings.Replace(otherRoute, "other", "hello", 1)
	outer := gate.answerSealed(nil, client.body(id[:], packed(1, text, 0))) // a workload would need a launcher, and there is none
	if inner := client.openAnswer(t, outer.body); !bytes.HasPrefix(inner, []byte("HTTP/1.1 409 ")) {
		t.Errorf("%.40q", inner)
	}
}

func TestSessionsAreBoundedAndWhatIsForgottenStaysRefused(t *testing.T) {
	gate, id, info := sealedServer(t)
	s := gate.evidence.sealer
	idle := s.begin(evidenceRequest{}, gate.evidence.keyDigest)
	if !s.take(id[:], 1) {
		t.Fatal("not taken")
	}
	for range maxSessions - 1 {
		s.begin(evidenceRequest{nonce: [32]byte{1}, statement: [32]byte{2}}, gate.evidence.keyDigest)
	}
	if len(s.sessions) != maxSessions || s.find(idle[:]) != nil || s.find(id[:]) == nil {
		t.Errorf("%d sessions, idle %v, used %v", len(s.sessions), s.find(idle[:]), s.find(id[:]))
	}
	s.begin(evidenceRequest{nonce: [32]byte{1}, statement: [32]byte{2}}, gate.evidence.keyDigest)
	whole := newSender(t, s.private.PublicKey(), info[:]).body(id[:], packed(2, otherRoute, 0))
	if _, err := s.open(whole); err != errSession || s.take(id[:], 2) {
		t.Errorf("a session came back: %v", err)
	}
}

func TestAnImageHasTheRoutesOfItsProfileOnly(t *testing.T) {
	gate, _, _ := sealedServer(t)
	for _, path := range []string{"/v1/hello", "/v1/hello/"} {
		r := request{method: "POST", path: path, contentLength: 3}
		if a := gate.answer(&connection{}, nil, nil, r); a.status != notFound.status {
			t.Errorf("%s without a seal: %s", path, a.status)
		}
	}
	gate.evidence.sealer = nil
	if a := gate.answer(&connection{}, nil, nil, request{method: "POST", path: sealedPath}); a.status != notFound.status {
		t.Errorf("a seal where TLS is attested: %s", a.status)
	}
	tls := strings.Replace(rightRequest, "tls-spki", "hpke", 1)
	for body, right := range map[string]string{rightRequest: "tls-spki-quote-v1", tls: sealedProfile} {
		for name := range bindingLabels {
			if _, err := parseEvidenceRequest([]byte(body), name); (err == nil) != (name == right) {
				t.Errorf("%s asked for %s: %v", name, right, err)
			}
		}
	}
}

func FuzzSealedBody(f *testing.F) {
	gate, id, info := sealedServer(&testing.T{})
	client := newSender(&testing.T{}, gate.evidence.sealer.private.PublicKey(), info[:])
	f.Add(client.body(id[:], packed(1, otherRoute, 8)), []byte(nil))
	f.Add(make([]byte, 100), packed(1, otherRoute, 8))
	f.Fuzz(func(t *testing.T, body, message []byte) {
		if _, err := gate.evidence.sealer.open(bytes.Clone(body)); err != nil && err != errSealed && err != errSession {
			t.Error(err)
		}
		if bytes.Contains(message, []byte("/v1/hello")) {
			return // it could be answered, and that needs a launcher
		}
		// what is inside may be anything too: whoever asks for evidence may seal
		outer := gate.answerSealed(nil, client.body(id[:], message))
		if outer.status != "200 OK" || !bytes.HasPrefix(client.openAnswer(t, outer.body), []byte("HTTP/1.1 4")) {
			t.Errorf("%s", outer.status)
		}
	})
}
