package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"time"
)

// makeTLSConfig draws the TLS key and returns the server's configuration with the SHA-256 of the key's
// SubjectPublicKeyInfo. The key lives in this process only; a quote binds it, so the certificate around it says nothing:
// all of it but key and signature is the same in every image.
func makeTLSConfig() (*tls.Config, [32]byte, error) {
	var digest [32]byte
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, digest, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, digest, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),      // fixed: the machine need not know the time
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 4.1.2.5: no expiry
		DNSNames:     []string{"gate.invalid"},                         // RFC 5280 4.1.2.6: a name, as the subject is empty
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, digest, err
	}
	config := &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		SessionTicketsDisabled: true, // no resumption, hence no 0-RTT: every connection proves the key anew
		// Lengths of records depend on the length of the answer alone, and that is a bucket's.
		DynamicRecordSizingDisabled: true,
	}
	leakConfig(config)
	return config, sha256.Sum256(spki), nil
}
