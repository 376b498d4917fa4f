package main

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

// The vector is the one of docs/spec/evidence.md.
func TestTheBindingDigestIsThatOfTheContract(t *testing.T) {
	var nonce [32]byte
	for i := range nonce {
		nonce[i] = byte(i)
	}
	key, statement := sha256.Sum256([]byte("spki")), sha256.Sum256([]byte("statement"))
	label := []byte(bindingLabels["tls-spki-quote-v1"])
	got := bindingDigest(label, nonce[:], key[:], statement[:], []byte("server"))
	if want := "e3887c8beb4d3097f68bec8be432f3243c5ad9c063a60e9f561e371c8fcc91d7"; hex.EncodeToString(got[:]) != want {
		t.Errorf("got %x", got)
	}
}

const rightRequest = `{"version":1,"profile":"tls-spki-quote-v1","bank":"sha256",` +
	`"nonce":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",` +
	`"statement":"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",` +
	`"credentialBlob":"AAIBAg==","encryptedSecret":"AAEB"}`

func TestEvidenceRequestsAreStrict(t *testing.T) {
	r, err := parseEvidenceRequest([]byte(rightRequest), "tls-spki-quote-v1")
	if err != nil || r.nonce[31] != 31 || r.statement[0] != 0xff || !r.credential || len(r.credentialBlob) != 4 {
		t.Fatalf("%+v %v", r, err)
	}
	for _, change := range [][2]string{
		{`"version":1`, `"version":2`}, {`quote-v1`, `quote-v2`}, {`"sha256"`, `"sha1"`}, {`"sha256"`, `"SHA256"`},
		{`"0001`, `"00`}, {`0a0b`, `0A0b`}, {`1e1f"`, `1e1f00"`}, {`0001`, `zz01`}, {`"nonce"`, `"Nonce"`}, {`ffff"`, `ff"`},
		{`,"encryptedSecret":"AAEB"`, ``}, {`"credentialBlob":"AAIBAg==",`, ``}, {`AAIBAg==`, `AAIBAg`}, {`AAIBAg==`, `AAIBAh==`},
		{`AAIBAg==`, `AAMBAg==`}, {`AAEB`, `AAEBAA==`}, {`AAEB`, `-_EB`}, {`"AAEB"`, `""`}, {`"AAEB"`, `1`}, {`}`, `,"extra":1}`},
		{`AAEB`, strings.Repeat("A", 1000)},
	} {
		changed := strings.Replace(rightRequest, change[0], change[1], 1)
		if _, err := parseEvidenceRequest([]byte(changed), "tls-spki-quote-v1"); err == nil || changed == rightRequest {
			t.Errorf("%v was accepted", change)
		}
	}
}

func FuzzEvidenceRequest(f *testing.F) {
	f.Add([]byte(rightRequest))
	f.Fuzz(func(t *testing.T, body []byte) {
		if r, err := parseEvidenceRequest(body, "tls-spki-quote-v1"); err == nil && banks[r.bankName].digestSize == 0 {
			t.Error("an unknown bank was accepted")
		}
	})
}

// deadTPM refuses everything.
func deadTPM([]byte) ([]byte, error) { return refusal(0x101), nil }

func TestABrokenTPMIsSaidSoInOneWord(t *testing.T) {
	a := newAttester(deadTPM)
	if err := a.withTPM(func() error { t.Error("there are no keys"); return nil }); err != errTPM {
		t.Error(err)
	}
}
