package main

import (
	"crypto/rand"
	"errors"
	"time"
)

// The words of an answer 422 (docs/spec/evidence.md).
var (
	errBank       = errors.New("bank")
	errCredential = errors.New("credential")
	errTPM        = errors.New("tpm")
	errBusy       = errors.New("busy")
)

const (
	turnPatience = 10 * time.Second // for the little that does not stand in line (line.go)
	secretBytes  = 32
)

// ekCertificateIndices are where the EK certificates are: RSA-2048, then ECC P-384.
//
// Source: TCG EK Credential Profile 2.5, section 2.2.1.4 and 2.2.1.5.
var ekCertificateIndices = []uint32{0x01c00002, 0x01c00016}

type certificate struct {
	index   uint32
	content []byte
}

// attester is the only user of the TPM. It loads two keys and keeps them, and a credential's activation opens one
// session: a resource manager and the smallest TPM have room for three.
type attester struct {
	device       transport
	turn         chan struct{}
	ek, ak       key
	certificates []certificate
}

func newAttester(device transport) *attester {
	return &attester{device: device, turn: make(chan struct{}, 1)}
}

// withTPM runs work while nobody else uses the TPM, with keys and certificates there. Its errors are the four words.
func (a *attester) withTPM(work func() error) error {
	patience := time.NewTimer(turnPatience)
	defer patience.Stop()
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-patience.C:
		return errBusy
	}
	err := a.prepare()
	if err == nil {
		err = work()
	}
	if err == nil || err == errBank || err == errCredential {
		return err
	}
	return errTPM
}

// prepare loads what is not there yet. Nothing is ever loaded again: a TPM that forgot the keys was reset, and then the
// registers no longer say what was started.
func (a *attester) prepare() (err error) {
	if a.ek.public == nil {
		if a.certificates, err = a.readCertificates(); err != nil {
			return err
		}
		if a.ek, err = a.device.createPrimary(ekTemplate(), ekUniqueBytes); err != nil {
			return err
		}
	}
	if a.ak.public == nil {
		a.ak, err = a.device.createPrimary(akTemplate(), akUniqueBytes)
	}
	return err
}

func (a *attester) readCertificates() (certificates []certificate, err error) {
	chunk, err := a.device.nvChunk()
	for _, index := range ekCertificateIndices {
		var content []byte
		if err == nil {
			content, err = a.device.readNV(index, chunk)
		}
		if content != nil {
			certificates = append(certificates, certificate{index, content})
		}
	}
	return certificates, err
}

// activate opens a credential that somebody made for this EK and the AK's name.
func (a *attester) activate(blob, encryptedSecret []byte) ([]byte, error) {
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	session, err := a.device.startPolicySession(nonce)
	if err != nil {
		return nil, err
	}
	secret, err := a.activateIn(session, blob, encryptedSecret)
	if err != nil {
		_ = a.device.flush(session) // it only ends by itself when the command succeeds
	}
	return secret, err
}

func (a *attester) activateIn(session uint32, blob, encryptedSecret []byte) ([]byte, error) {
	if err := a.device.policySecret(session); err != nil {
		return nil, err
	}
	secret, err := a.device.activateCredential(a.ak.handle, a.ek.handle, session, blob, encryptedSecret)
	// The TPM looked at it and found it wrong. What it then says differs: swtpm says TPM_RC_FAILURE to a wrong padding.
	if code, refused := err.(responseCode); refused && !code.isWarning() && !code.is(rcHandle) {
		return nil, errCredential
	}
	if err == nil && len(secret) != secretBytes {
		clear(secret)
		return nil, errCredential
	}
	return secret, err
}
