package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
)

const (
	maxEvidenceBytes = 64 << 10 // of a request
	maxCredential    = 2 + 2 + 64 + 2 + 64
	maxSecret        = 2 + 512
)

// bindingLabels are the profiles there are, each with the label of its quotes. An image has one of them.
var bindingLabels = map[string]string{
	"tls-spki-quote-v1": "blindbuild/tls-spki-quote/v1",
	sealedProfile:       "blindbuild/hpke-quote/v1",
}

// evidenceRequest is the body of POST /.well-known/blindbuild/evidence.
type evidenceRequest struct {
	nonce           [32]byte
	statement       [32]byte // the digest the client judges by; copied, never interpreted
	bankName        string
	credential      bool
	credentialBlob  []byte
	encryptedSecret []byte
}

func parseEvidenceRequest(body []byte, profile string) (evidenceRequest, error) {
	var r evidenceRequest
	o, err := parseObject(body)
	if err != nil {
		return r, err
	}
	takeInt(o, "version", 1, 1)
	o.expect(take[string](o, "profile") == profile)
	r.bankName = take[string](o, "bank")
	_, known := banks[r.bankName]
	o.expect(known)
	o.expect(decodeDigest(r.nonce[:], take[string](o, "nonce")))
	o.expect(decodeDigest(r.statement[:], take[string](o, "statement")))
	if r.credential = o.has("credentialBlob") || o.has("encryptedSecret"); r.credential {
		r.credentialBlob = decodeSized(take[string](o, "credentialBlob"), maxCredential)
		r.encryptedSecret = decodeSized(take[string](o, "encryptedSecret"), maxSecret)
		o.expect(r.credentialBlob != nil && r.encryptedSecret != nil)
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

// bindingDigest is SHA-256 over parts, each with its length in front, so that no two lists of parts give the same bytes.
//
// Source: docs/spec/evidence.md; SPEC.md decision 4.
func bindingDigest(parts ...[]byte) [32]byte {
	var w writer
	for _, part := range parts {
		w.sized(part)
	}
	return sha256.Sum256(w.bytes)
}

// evidenceSource gives the two answers of docs/spec/evidence.md.
type evidenceSource struct {
	attester  *attester
	profile   string
	keyDigest [32]byte // SHA-256 of the SubjectPublicKeyInfo of the key that the profile binds
	sealer    *sealer  // of hpke-quote-v1; nil where the TLS key is bound
	eventLog  string   // base64
}

// endorsement returns the body of GET /.well-known/blindbuild/endorsement.
func (e *evidenceSource) endorsement() ([]byte, error) {
	var body bytes.Buffer
	err := e.attester.withTPM(func() error {
		body.WriteString(`{"version":1,"ekCertificates":[`)
		for i, c := range e.attester.certificates {
			fmt.Fprintf(&body, `%s{"nvIndex":"0x%08x","certificate":"%s"}`, comma(i), c.index, encode(c.content))
		}
		fmt.Fprintf(&body, `],"ekPublic":"%s","akPublic":"%s"`, encode(e.attester.ek.public), encode(e.attester.ak.public))
		if e.attester.akCertified != nil {
			fmt.Fprintf(&body, `,"akCertificate":"%s"`, encode(e.attester.akCertified))
		}
		body.WriteByte('}')
		return nil
	})
	return body.Bytes(), err
}

// evidence returns the body of the answer to an evidence request. Nobody else has the TPM, so nothing moves between
// reading the registers and quoting them; if it did the client would see it.
func (e *evidenceSource) evidence(r evidenceRequest) ([]byte, error) {
	var body bytes.Buffer
	err := e.attester.withTPM(func() (err error) {
		var secret []byte
		if r.credential {
			if secret, err = e.attester.activate(r.credentialBlob, r.encryptedSecret); err != nil {
				return err
			}
		}
		values, err := e.attester.device.readPCRs(banks[r.bankName])
		if err != nil {
			return err
		}
		label := []byte(bindingLabels[e.profile])
		extraData := bindingDigest(label, r.nonce[:], e.keyDigest[:], r.statement[:], []byte("server"))
		attest, signature, err := e.attester.device.quote(e.attester.ak.handle, extraData[:], banks[r.bankName])
		if err != nil {
			return err
		}
		fmt.Fprintf(&body, `{"version":1,"profile":"%s","bank":"%s","quote":"%s","signature":"%s","pcrs":[`,
			e.profile, r.bankName, encode(attest), encode(signature))
		for i, value := range values {
			fmt.Fprintf(&body, `%s"%x"`, comma(i), value)
		}
		fmt.Fprintf(&body, `],"eventLog":"%s"`, e.eventLog)
		if secret != nil {
			fmt.Fprintf(&body, `,"activatedSecret":"%s"`, encode(secret))
		}
		if e.sealer != nil {
			fmt.Fprintf(&body, `,"hpkeKey":"%s","session":"%x"`, encode(e.sealer.spki), e.sealer.begin(r, e.keyDigest))
		}
		body.WriteByte('}')
		return nil
	})
	return body.Bytes(), err
}

// comma stands before every item but the first.
func comma(item int) string { return ","[:min(item, 1)] }

func encode(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }
