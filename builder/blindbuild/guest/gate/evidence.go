package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

const (
	profile          = "tls-spki-quote-v1"
	bindingLabel     = "blindbuild/tls-spki-quote/v1"
	bindingRole      = "server"
	maxEvidenceBytes = 64 << 10 // of a request
	maxCredential    = 2 + 2 + 64 + 2 + 64
	maxSecret        = 2 + 512
)

var errEvidenceRequest = errors.New("not an evidence request")

// evidenceRequest is the body of POST /.well-known/blindbuild/evidence.
type evidenceRequest struct {
	nonce           [32]byte
	statement       [32]byte // the digest the client judges by; copied, never interpreted
	bankName        string
	credential      bool
	credentialBlob  []byte
	encryptedSecret []byte
}

func parseEvidenceRequest(body []byte) (evidenceRequest, error) {
	var r evidenceRequest
	o, err := parseObject(body)
	if err != nil {
		return r, err
	}
	o.takeIntIn("version", 1, 1)
	if o.takeText("profile") != profile {
		return r, errEvidenceRequest
	}
	r.bankName = o.takeText("bank")
	if _, known := banks[r.bankName]; !known {
		return r, errEvidenceRequest
	}
	if !decodeDigest(r.nonce[:], o.takeText("nonce")) || !decodeDigest(r.statement[:], o.takeText("statement")) {
		return r, errEvidenceRequest
	}
	if r.credential = o.has("credentialBlob") || o.has("encryptedSecret"); r.credential {
		var wellFormed [2]bool
		r.credentialBlob, wellFormed[0] = decodeSized(o.takeText("credentialBlob"), maxCredential)
		r.encryptedSecret, wellFormed[1] = decodeSized(o.takeText("encryptedSecret"), maxSecret)
		if !wellFormed[0] || !wellFormed[1] {
			return r, errEvidenceRequest
		}
	}
	return r, o.end()
}

// decodeDigest reads lower-case hex of exactly the length of into.
func decodeDigest(into []byte, text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && copy(into, raw) == len(into) && hex.EncodeToString(into) == text
}

// decodeSized reads canonical base64 of a TPM2B whose size field is right.
func decodeSized(text string, longest int) ([]byte, bool) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) > longest || base64.StdEncoding.EncodeToString(raw) != text {
		return nil, false
	}
	r := &reader{rest: raw}
	r.sized()
	return raw, r.end() == nil
}

// bindingDigest is the extraData of a quote.
//
// Source: docs/spec/evidence.md; SPEC.md decision 4.
func bindingDigest(nonce, key, statement [32]byte) []byte {
	var w writer
	w.sized([]byte(bindingLabel))
	w.sized(nonce[:])
	w.sized(key[:])
	w.sized(statement[:])
	w.sized([]byte(bindingRole))
	digest := sha256.Sum256(w.bytes)
	return digest[:]
}

// evidenceSource gives the two answers of docs/spec/evidence.md.
type evidenceSource struct {
	attester  *attester
	keyDigest [32]byte // SHA-256 of the TLS key's SubjectPublicKeyInfo
	eventLog  string   // base64
}

// endorsement returns the body of GET /.well-known/blindbuild/endorsement.
func (e *evidenceSource) endorsement() ([]byte, error) {
	var body bytes.Buffer
	err := e.attester.withTPM(func() error {
		body.WriteString(`{"version":1,"ekCertificates":[`)
		for i, c := range e.attester.certificates {
			if i > 0 {
				body.WriteByte(',')
			}
			fmt.Fprintf(&body, `{"nvIndex":"0x%08x","certificate":"%s"}`, c.index, encode(c.content))
		}
		fmt.Fprintf(&body, `],"ekPublic":"%s","akPublic":"%s"}`, encode(e.attester.ek.public), encode(e.attester.ak.public))
		return nil
	})
	return body.Bytes(), err
}

// evidence returns the body of the answer to an evidence request.
func (e *evidenceSource) evidence(r evidenceRequest) ([]byte, error) {
	var body bytes.Buffer
	err := e.attester.withTPM(func() error {
		var secret []byte
		if r.credential {
			var err error
			if secret, err = e.attester.activate(r.credentialBlob, r.encryptedSecret); err != nil {
				return err
			}
		}
		extraData := bindingDigest(r.nonce, e.keyDigest, r.statement)
		result, err := e.attester.attest(extraData, banks[r.bankName])
		if err != nil {
			return err
		}
		e.write(&body, r.bankName, result, secret)
		clear(secret)
		return nil
	})
	return body.Bytes(), err
}

func (e *evidenceSource) write(body *bytes.Buffer, bankName string, result attestation, secret []byte) {
	fmt.Fprintf(body, `{"version":1,"profile":"%s","bank":"%s","quote":"%s","signature":"%s","pcrs":[`,
		profile, bankName, encode(result.attest), encode(result.signature))
	for i, value := range result.values {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(body, `"%x"`, value)
	}
	fmt.Fprintf(body, `],"eventLog":"%s"`, e.eventLog)
	if secret != nil {
		fmt.Fprintf(body, `,"activatedSecret":"%s"`, encode(secret))
	}
	body.WriteByte('}')
}

func encode(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }
