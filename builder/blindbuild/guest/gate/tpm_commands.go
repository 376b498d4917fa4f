package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"math/bits"
)

// Command codes, handles and properties of TPM 2.0 Part 2 (revision 1.59).
const (
	ccCreatePrimary      = 0x131
	ccActivateCredential = 0x147
	ccNVRead             = 0x14e
	ccPolicySecret       = 0x151
	ccQuote              = 0x158
	ccFlushContext       = 0x165
	ccNVReadPublic       = 0x169
	ccStartAuthSession   = 0x176
	ccGetCapability      = 0x17a
	ccPCRRead            = 0x17e

	handleOwner       = 0x40000001
	handleEndorsement = 0x4000000b

	algAES    = 0x0006
	algRSA    = 0x0001
	algNull   = 0x0010
	algSHA256 = 0x000b
	algSHA384 = 0x000c
	algSHA512 = 0x000d
	algECDSA  = 0x0018
	algECC    = 0x0023
	algCFB    = 0x0043
	curveP256 = 0x0003

	sessionPolicy     = 0x01
	capProperties     = 6
	propertyNVBuffer  = 0x12c // TPM_PT_NV_BUFFER_MAX
	nvOwnerRead       = 1 << 17
	nvAuthRead        = 1 << 18
	generatedMagic    = 0xff544347
	attestQuote       = 0x8018
	registers         = 24
	maxCertificate    = 8 << 10 // of one EK certificate's NV index; real ones have 1 to 4 KiB
	defaultNVChunk    = 512
	maxPCRReadings    = 8 // before the registers are said to be moving
	endorsementSize   = 256
	policyNonceLength = 32
)

// ekPolicy is PolicySecret(TPM_RH_ENDORSEMENT), the authPolicy of the L templates.
//
// Source: TCG EK Credential Profile 2.5, section B.6.2, "PolicyA" for SHA-256.
var ekPolicy = []byte{
	0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
	0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
}

// ekTemplate is template L-1: RSA-2048, nameAlg SHA-256, with the default all-zero unique field.
//
// Source: TCG EK Credential Profile 2.5, section B.3.3.
func ekTemplate() []byte {
	var w writer
	w.u16(algRSA)
	w.u16(algSHA256)
	w.u32(0x000300b2) // fixedTPM fixedParent sensitiveDataOrigin adminWithPolicy restricted decrypt
	w.sized(ekPolicy)
	w.u16(algAES)
	w.u16(128)
	w.u16(algCFB)
	w.u16(algNull) // scheme
	w.u16(2048)
	w.u32(0) // exponent 65537
	w.sized(make([]byte, endorsementSize))
	return w.bytes
}

// akTemplate is the attestation key of docs/spec/evidence.md: nothing in it is free, so the key is the same at every boot.
func akTemplate() []byte {
	var w writer
	w.u16(algECC)
	w.u16(algSHA256)
	w.u32(0x00050072) // fixedTPM fixedParent sensitiveDataOrigin userWithAuth restricted sign
	w.sized(nil)      // authPolicy
	w.u16(algNull)    // symmetric
	w.u16(algECDSA)
	w.u16(algSHA256)
	w.u16(curveP256)
	w.u16(algNull) // kdf
	w.sized(nil)   // x
	w.sized(nil)   // y
	return w.bytes
}

// key is a loaded primary key and its TPM2B_PUBLIC.
type key struct {
	handle uint32
	public []byte
}

// createPrimary makes a primary key in the endorsement hierarchy; fixed is how much of the template the key must repeat.
func (t transport) createPrimary(template []byte, fixed int) (key, error) {
	var w writer
	w.sized([]byte{0, 0, 0, 0}) // inSensitive: no userAuth, no data
	w.sized(template)
	w.sized(nil) // outsideInfo
	w.u32(0)     // creationPCR
	handle, reply, err := t.run(command{
		code: ccCreatePrimary, handles: []uint32{handleEndorsement}, sessions: []uint32{passwordAuth},
		parameters: w.bytes, newHandle: true,
	})
	if err != nil {
		return key{}, err
	}
	public, err := parseCreatedPrimary(reply)
	if err != nil || !bytes.HasPrefix(public[2:], template[:fixed]) {
		return key{}, errReply
	}
	return key{handle: handle, public: public}, nil
}

// parseCreatedPrimary returns the TPM2B_PUBLIC out of TPM2_CreatePrimary's answer.
func parseCreatedPrimary(reply []byte) ([]byte, error) {
	r := &reader{rest: reply}
	var public writer
	public.sized(r.sized())
	r.sized() // creationData
	r.sized() // creationHash
	r.u16()   // creationTicket: tag
	r.u32()   // hierarchy
	r.sized() // digest
	r.sized() // name
	return public.bytes, r.end()
}

// nvChunk asks how many bytes one NV_Read may return.
func (t transport) nvChunk() (int, error) {
	var w writer
	w.u32(capProperties)
	w.u32(propertyNVBuffer)
	w.u32(1)
	_, reply, err := t.run(command{code: ccGetCapability, parameters: w.bytes})
	if err != nil {
		return 0, err
	}
	r := &reader{rest: reply}
	r.u8() // moreData
	r.expect(r.u32(), capProperties)
	if r.u32() == 0 {
		return defaultNVChunk, r.end()
	}
	property, limit := r.u32(), r.u32()
	if property != propertyNVBuffer || limit == 0 {
		limit = defaultNVChunk
	}
	return int(min(limit, 1024)), r.end()
}

// readNV returns the content of an NV index, or nil if there is none.
func (t transport) readNV(index uint32, chunk int) ([]byte, error) {
	_, reply, err := t.run(command{code: ccNVReadPublic, handles: []uint32{index}})
	if code, refused := err.(responseCode); refused && code.is(rcHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	attributes, size, err := parseNVPublic(reply, index)
	if err != nil || size > maxCertificate {
		return nil, errReply
	}
	authorisation := index
	if attributes&nvAuthRead == 0 && attributes&nvOwnerRead != 0 {
		authorisation = handleOwner
	}
	content := make([]byte, 0, size)
	for len(content) < size {
		piece, err := t.readNVPiece(authorisation, index, min(chunk, size-len(content)), len(content))
		if err != nil {
			return nil, err
		}
		content = append(content, piece...)
	}
	return content, nil
}

// parseNVPublic returns the attributes and the data size of a TPM2B_NV_PUBLIC and the name behind it.
func parseNVPublic(reply []byte, index uint32) (uint32, int, error) {
	outer := &reader{rest: reply}
	r := &reader{rest: outer.sized()}
	outer.sized() // name
	r.expect(r.u32(), index)
	r.u16() // nameAlg
	attributes := r.u32()
	r.sized() // authPolicy
	size := int(r.u16())
	if outer.end() != nil {
		return 0, 0, errReply
	}
	return attributes, size, r.end()
}

func (t transport) readNVPiece(authorisation, index uint32, size, offset int) ([]byte, error) {
	var w writer
	w.u16(uint16(size))
	w.u16(uint16(offset))
	_, reply, err := t.run(command{
		code: ccNVRead, handles: []uint32{authorisation, index}, sessions: []uint32{passwordAuth}, parameters: w.bytes,
	})
	if err != nil {
		return nil, err
	}
	r := &reader{rest: reply}
	piece := r.sized()
	r.expect(uint32(len(piece)), uint32(size))
	return piece, r.end()
}

// bank is one PCR bank a client may ask for.
type bank struct {
	algorithm  uint16
	digestSize int
}

var banks = map[string]bank{
	"sha256": {algSHA256, 32},
	"sha384": {algSHA384, 48},
	"sha512": {algSHA512, 64},
}

// appendSelection writes a TPML_PCR_SELECTION of one bank.
func (b bank) appendSelection(w *writer, selected uint32) {
	w.u32(1)
	w.u16(b.algorithm)
	w.u8(3)
	w.raw([]byte{byte(selected), byte(selected >> 8), byte(selected >> 16)})
}

// readSelection reads a TPML_PCR_SELECTION of this bank alone and returns its bits; none for an empty list.
func (b bank) readSelection(r *reader) uint32 {
	count := r.u32()
	if count == 0 {
		return 0
	}
	r.expect(count, 1)
	r.expect(uint32(r.u16()), uint32(b.algorithm))
	r.expect(uint32(r.u8()), 3)
	mask := r.raw(3)
	return uint32(mask[0]) | uint32(mask[1])<<8 | uint32(mask[2])<<16
}

// parsePCRs takes one answer of TPM2_PCR_Read apart: the update counter, which registers there are, and their values.
func (b bank) parsePCRs(reply []byte) (uint32, uint32, [][]byte, error) {
	r := &reader{rest: reply}
	counter := r.u32()
	selected := b.readSelection(r)
	count := r.u32()
	r.expect(count, uint32(bits.OnesCount32(selected)))
	var values [][]byte
	for i := uint32(0); i < count && !r.failed; i++ {
		value := r.sized()
		r.expect(uint32(len(value)), uint32(b.digestSize))
		values = append(values, value)
	}
	return counter, selected, values, r.end()
}

// readPCRs returns all registers of a bank as they were at one moment: TPM2_PCR_Read gives eight at a time, so they are
// read again if the update counter moved in between. An unallocated bank is errBank.
func (t transport) readPCRs(b bank) ([registers][]byte, error) {
	for range maxPCRReadings {
		values, stable, err := t.readPCRsOnce(b)
		if err != nil || stable {
			return values, err
		}
	}
	return [registers][]byte{}, errTPM
}

func (t transport) readPCRsOnce(b bank) (all [registers][]byte, stable bool, err error) {
	var first uint32
	for missing := uint32(1<<registers - 1); missing != 0; {
		var w writer
		b.appendSelection(&w, missing)
		_, reply, err := t.run(command{code: ccPCRRead, parameters: w.bytes})
		if code, refused := err.(responseCode); refused && code.is(rcHash) {
			return all, false, errBank // the TPM does not know the algorithm at all
		}
		if err != nil {
			return all, false, err
		}
		counter, got, values, err := b.parsePCRs(reply)
		if err != nil || got&^missing != 0 {
			return all, false, errReply
		}
		if got == 0 {
			return all, false, errBank
		}
		if missing == 1<<registers-1 {
			first = counter
		} else if counter != first {
			return all, false, nil
		}
		missing &^= got
		for i := range registers {
			if got>>i&1 == 1 {
				all[i], values = values[0], values[1:]
			}
		}
	}
	return all, true, nil
}

// quote has the key sign all registers of the bank and returns TPMS_ATTEST and TPMT_SIGNATURE.
func (t transport) quote(ak uint32, extraData []byte, b bank) (attest, signature []byte, err error) {
	var w writer
	w.sized(extraData)
	w.u16(algNull) // the key's own scheme
	b.appendSelection(&w, 1<<registers-1)
	_, reply, err := t.run(command{
		code: ccQuote, handles: []uint32{ak}, sessions: []uint32{passwordAuth}, parameters: w.bytes,
	})
	if err != nil {
		return nil, nil, err
	}
	return parseQuote(reply)
}

func parseQuote(reply []byte) (attest, signature []byte, err error) {
	r := &reader{rest: reply}
	attest = r.sized()
	signature = r.rest
	r.expect(uint32(r.u16()), algECDSA)
	r.expect(uint32(r.u16()), algSHA256)
	if len(r.sized()) > 32 || len(r.sized()) > 32 {
		return nil, nil, errReply
	}
	return attest, signature, r.end()
}

// checkAttest says whether a TPMS_ATTEST is a quote over extraData and exactly these values. The client checks it all
// again; the gate only makes sure that the registers did not move between reading and quoting.
func checkAttest(attest, extraData []byte, b bank, values [registers][]byte) error {
	r := &reader{rest: attest}
	r.expect(r.u32(), generatedMagic)
	r.expect(uint32(r.u16()), attestQuote)
	r.sized() // qualifiedSigner
	if !bytes.Equal(r.sized(), extraData) {
		return errReply
	}
	r.raw(17) // clockInfo
	r.u64()   // firmwareVersion
	r.expect(b.readSelection(r), 1<<registers-1)
	digest := r.sized()
	hash := sha256.New() // of the signature scheme, not of the bank
	for _, value := range values {
		hash.Write(value)
	}
	if subtle.ConstantTimeCompare(digest, hash.Sum(nil)) != 1 {
		return errReply
	}
	return r.end()
}

// startPolicySession opens a policy session without salt or binding.
func (t transport) startPolicySession(nonce []byte) (uint32, error) {
	var w writer
	w.sized(nonce)
	w.sized(nil) // encryptedSalt
	w.u8(sessionPolicy)
	w.u16(algNull) // symmetric
	w.u16(algSHA256)
	session, reply, err := t.run(command{
		code: ccStartAuthSession, handles: []uint32{handleNull, handleNull}, parameters: w.bytes, newHandle: true,
	})
	if err != nil {
		return 0, err
	}
	r := &reader{rest: reply}
	r.sized() // nonceTPM
	return session, r.end()
}

// policySecret proves the endorsement hierarchy's (empty) password to the session, which is the EK's policy.
func (t transport) policySecret(session uint32) error {
	var w writer
	w.sized(nil) // nonceTPM
	w.sized(nil) // cpHashA
	w.sized(nil) // policyRef
	w.u32(0)     // expiration
	_, reply, err := t.run(command{
		code: ccPolicySecret, handles: []uint32{handleEndorsement, session}, sessions: []uint32{passwordAuth},
		parameters: w.bytes,
	})
	if err != nil {
		return err
	}
	r := &reader{rest: reply}
	r.sized() // timeout
	r.u16()   // ticket: tag
	r.u32()   // hierarchy
	r.sized() // digest
	return r.end()
}

// activateCredential returns what a credential made for the AK's name holds. The session ends with it if it succeeds.
func (t transport) activateCredential(ak, ek, session uint32, blob, secret []byte) ([]byte, error) {
	parameters := bytes.Join([][]byte{blob, secret}, nil) // both are TPM2B as the client sent them
	_, reply, err := t.run(command{
		code: ccActivateCredential, handles: []uint32{ak, ek}, sessions: []uint32{passwordAuth, session},
		parameters: parameters,
	})
	if err != nil {
		return nil, err
	}
	r := &reader{rest: reply}
	activated := r.sized()
	return activated, r.end()
}

func (t transport) flush(handle uint32) error {
	var w writer
	w.u32(handle) // flushHandle is a parameter, not a handle (Part 3, TPM2_FlushContext)
	_, reply, err := t.run(command{code: ccFlushContext, parameters: w.bytes})
	if err == nil && len(reply) != 0 {
		err = errReply
	}
	return err
}
