package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
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
	takeInt(o, "version", 1, 1)
	if take[string](o, "profile") != profile {
		return r, errEvidenceRequest
	}
	r.bankName = take[string](o, "bank")
	if _, known := banks[r.bankName]; !known {
		return r, errEvidenceRequest
	}
	if !decodeDigest(r.nonce[:], take[string](o, "nonce")) || !decodeDigest(r.statement[:], take[string](o, "statement")) {
		return r, errEvidenceRequest
	}
	if r.credential = o.has("credentialBlob") || o.has("encryptedSecret"); r.credential {
		r.credentialBlob = decodeSized(take[string](o, "credentialBlob"), maxCredential)
		r.encryptedSecret = decodeSized(take[string](o, "encryptedSecret"), maxSecret)
		if r.credentialBlob == nil || r.encryptedSecret == nil {
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

// decodeSized reads canonical base64 of a TPM2B whose size field is right; nil if it is anything else.
func decodeSized(text string, longest int) []byte {
	raw, err := base64.StdEncoding.DecodeString(text)
	r := &reader{rest: raw}
	r.sized()
	if err != nil || len(raw) > longest || encode(raw) != text || r.end() != nil {
		return nil
	}
	return raw
}

// bindingDigest is the extraData of a quote.
//
// Source: docs/spec/evidence.md; SPEC.md decision 4.
func bindingDigest(nonce, key, statement [32]byte) []byte {
	var w writer
	w.sized([]byte(bindingLabel)).sized(nonce[:]).sized(key[:]).sized(statement[:]).sized([]byte(bindingRole))
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
		certificates := make([]string, len(e.attester.certificates))
		for i, c := range e.attester.certificates {
			certificates[i] = fmt.Sprintf(`{"nvIndex":"0x%08x","certificate":"%s"}`, c.index, encode(c.content))
		}
		fmt.Fprintf(&body, `{"version":1,"ekCertificates":[%s],"ekPublic":"%s","akPublic":"%s"}`,
			strings.Join(certificates, ","), encode(e.attester.ek.public), encode(e.attester.ak.public))
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
	values := make([]string, registers)
	for i, value := range result.values {
		values[i] = fmt.Sprintf(`"%x"`, value)
	}
	fmt.Fprintf(body, `{"version":1,"profile":"%s","bank":"%s","quote":"%s","signature":"%s","pcrs":[%s],"eventLog":"%s"`,
		profile, bankName, encode(result.attest), encode(result.signature), strings.Join(values, ","), e.eventLog)
	if secret != nil {
		fmt.Fprintf(body, `,"activatedSecret":"%s"`, encode(secret))
	}
	body.WriteByte('}')
}

func encode(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }
