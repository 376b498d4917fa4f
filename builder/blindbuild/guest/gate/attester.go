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

// certifiedKey is where a cloud leaves the certificate of an attestation key, and how the key itself is had: made in the
// endorsement hierarchy from the template in an NV index, or kept by the TPM at a handle.
type certifiedKey struct{ certificate, template, handle uint32 }

// certifiedKeys are looked for in this order: ECC is the faster one where a cloud has both.
//
// Source: google/go-tpm-tools, client/handles.go and client/keys.go; microsoft/openvmm, vm/devices/tpm/tpm_protocol.
var certifiedKeys = []certifiedKey{
	{certificate: 0x01c10002, template: 0x01c10003}, // Google Compute Engine, ECC P-256
	{certificate: 0x01c10000, template: 0x01c10001}, // the same, RSA-2048
	{certificate: 0x01c101d0, handle: 0x81000003},   // Azure, RSA-2048
}

// attester is the only user of the TPM. It loads two keys and keeps them, and a credential's activation opens one
// session: a resource manager and the smallest TPM have room for three.
type attester struct {
	device       transport
	turn         chan struct{}
	ek, ak       key
	certificates []certificate
	akCertified  []byte // the certificate of a key that is not our own
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

// prepare loads what is not there yet, the attestation key at last. Nothing is ever loaded again: a TPM that forgot the
// keys was reset, and then the registers no longer say what was started.
func (a *attester) prepare() error {
	if a.ak.public != nil {
		return nil
	}
	chunk, err := a.device.nvChunk()
	if err != nil {
		return err
	}
	if a.ek.public == nil {
		if a.certificates, err = a.device.readCertificates(chunk); err != nil {
			return err
		}
		if a.ek, err = a.device.createPrimary(ekTemplate()); err != nil {
			return err
		}
	}
	a.ak, a.akCertified, err = a.device.loadAttestationKey(chunk)
	return err
}

func (t transport) readCertificates(chunk int) (certificates []certificate, err error) {
	for _, index := range ekCertificateIndices {
		content, err := t.readNV(index, chunk, maxCertificate)
		if err != nil {
			return nil, err
		}
		if content != nil {
			certificates = append(certificates, certificate{index, content})
		}
	}
	return certificates, nil
}

// loadAttestationKey returns the first key that has a certificate, and the certificate; or else our own key. Half of a
// pair counts for nothing, but a pair that does not work is an error and never passed over for another key: whoever
// fills the TPM's memory decides whether it attests, not how strong the key is. That is for the client to judge.
func (t transport) loadAttestationKey(chunk int) (key, []byte, error) {
	for _, place := range certifiedKeys {
		content, err := t.readNV(place.certificate, chunk, maxCertificate)
		if err != nil {
			return key{}, nil, err
		}
		if content == nil {
			continue
		}
		if ak, err := t.loadCertified(place, chunk); err != nil || ak.public != nil {
			return ak, content, err
		}
	}
	ak, err := t.createPrimary(akTemplate())
	return ak, nil, err
}

// loadCertified returns the key of a pair, without a public area if it is not there.
func (t transport) loadCertified(place certifiedKey, chunk int) (key, error) {
	if place.handle != 0 {
		return t.readPublic(place.handle)
	}
	template, err := t.readNV(place.template, chunk, maxTemplate)
	if template == nil {
		return key{}, err
	}
	return t.createPrimary(template)
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
