package main

import (
	"bytes"
	"encoding/hex"
	"math/bits"
)

// Command codes, handles, algorithms and properties of TPM 2.0 Part 2 (revision 1.59).
const (
	ccCreatePrimary      = 0x131
	ccActivateCredential = 0x147
	ccNVRead             = 0x14e
	ccPolicySecret       = 0x151
	ccQuote              = 0x158
	ccFlushContext       = 0x165
	ccNVReadPublic       = 0x169
	ccReadPublic         = 0x173
	ccStartAuthSession   = 0x176
	ccGetCapability      = 0x17a
	ccPCRRead            = 0x17e

	handleOwner, handleEndorsement, handleNull = 0x40000001, 0x4000000b, 0x40000007

	algRSA, algECC, algAES, algCFB, algNull = 0x0001, 0x0023, 0x0006, 0x0043, 0x0010
	algSHA256, algSHA384, algSHA512         = 0x000b, 0x000c, 0x000d
	algRSASSA, algECDSA                     = 0x0014, 0x0018
	curveP256, sessionPolicy                = 0x0003, 0x01
	capProperties, propertyNVBuffer         = 6, 0x12c         // TPM_PT_NV_BUFFER_MAX
	nvOwnerRead, nvAuthRead                 = 1 << 17, 1 << 18 // TPMA_NV_OWNERREAD, TPMA_NV_AUTHREAD
)

const (
	registers      = 24
	allRegisters   = 1<<registers - 1
	maxCertificate = 8 << 10 // of one certificate's NV index; real ones have 1 to 4 KiB
	maxTemplate    = 512     // of an attestation key's template in NV; Google's have 88 and 280 bytes
	maxNVChunk     = 1024    // a reply has to fit into the smallest buffer
	maxPCRReadings = 24      // three make a set; more only if registers move
	rsaBytes       = 256     // of a modulus and a signature of RSA-2048
	p256Bytes      = 32
)

// password authorises one handle with the empty password.
var password = []uint32{passwordAuth}

// ekPolicy is PolicySecret(TPM_RH_ENDORSEMENT), the authPolicy of the L templates.
//
// Source: TCG EK Credential Profile 2.5, section B.6.2, "PolicyA" for SHA-256.
var ekPolicy, _ = hex.DecodeString("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")

// ekTemplate is template L-1: RSA-2048, nameAlg SHA-256, with the default all-zero unique field.
//
// Source: TCG EK Credential Profile 2.5, section B.3.3.
func ekTemplate() []byte {
	// Attributes: fixedTPM fixedParent sensitiveDataOrigin adminWithPolicy restricted decrypt.
	w := new(writer).u16(algRSA).u16(algSHA256).u32(0x000300b2).sized(ekPolicy)
	w.u16(algAES).u16(128).u16(algCFB) // symmetric
	w.u16(algNull)                     // scheme
	w.u16(2048).u32(0)                 // bits, default exponent
	return w.sized(make([]byte, rsaBytes)).bytes
}

// akTemplate is our own attestation key of docs/spec/evidence.md: nothing in it is free, so it is the same at every boot.
func akTemplate() []byte {
	// Attributes: fixedTPM fixedParent sensitiveDataOrigin userWithAuth restricted sign. No policy.
	w := new(writer).u16(algECC).u16(algSHA256).u32(0x00050072).sized(nil)
	w.u16(algNull)                                             // symmetric
	w.u16(algECDSA).u16(algSHA256).u16(curveP256).u16(algNull) // scheme, curve, kdf
	return w.sized(nil).sized(nil).bytes                       // x, y
}

// key is a key the TPM has loaded or keeps, and its TPM2B_PUBLIC.
type key struct {
	handle uint32
	public []byte
}

// createPrimary makes a key in the endorsement hierarchy; it must repeat the template up to the unique field.
func (t transport) createPrimary(template []byte) (key, error) {
	unique, err := uniqueOffset(template)
	if err != nil {
		return key{}, err
	}
	w := new(writer).sized(make([]byte, 4)) // inSensitive: no userAuth, no data
	w.sized(template).sized(nil).u32(0)     // inPublic, outsideInfo, creationPCR
	r := t.run(command{ccCreatePrimary, []uint32{handleEndorsement}, password, w.bytes, true})
	public := readCreatedPrimary(r)
	r.expect(bytes.HasPrefix(public, template[:unique]))
	if r.end() != nil {
		if r.handle != 0 {
			_ = t.flush(r.handle) // a key of another kind would take up room at every try
		}
		return key{}, r.err
	}
	return key{handle: r.handle, public: new(writer).sized(public).bytes}, nil
}

// uniqueOffset returns where the unique field of a TPMT_PUBLIC begins.
//
// Source: TPM 2.0 Part 2, 12.2.4 and 12.2.3; a signing key has no key derivation.
func uniqueOffset(public []byte) (int, error) {
	r := &reader{rest: public}
	kind := r.u16()
	r.expect(kind == algRSA || kind == algECC)
	r.raw(6)  // nameAlg, objectAttributes
	r.sized() // authPolicy
	if r.u16() != algNull {
		r.raw(4) // symmetric: keyBits, mode
	}
	if r.u16() != algNull {
		r.raw(2) // scheme: hash
	}
	if kind == algRSA {
		r.raw(6) // keyBits, exponent
	} else {
		r.u16() // curve
		r.expect(r.u16() == algNull)
	}
	return len(public) - len(r.rest), r.err
}

// readPublic returns a key that the TPM keeps at a handle, without a public area if there is none.
func (t transport) readPublic(handle uint32) (key, error) {
	r := t.run(command{ccReadPublic, []uint32{handle}, nil, nil, false})
	if code, refused := r.err.(responseCode); refused && code.is(rcHandle) {
		return key{}, nil
	}
	public := readKeptPublic(r)
	if r.end() != nil {
		return key{}, r.err
	}
	return key{handle: handle, public: new(writer).sized(public).bytes}, nil
}

// readKeptPublic returns the TPMT_PUBLIC out of TPM2_ReadPublic's answer.
func readKeptPublic(r *reader) []byte {
	public := r.sized()
	r.sized() // name
	r.sized() // qualifiedName
	return public
}

// readCreatedPrimary returns the TPMT_PUBLIC out of TPM2_CreatePrimary's answer.
func readCreatedPrimary(r *reader) []byte {
	public := r.sized()
	r.sized() // creationData
	r.sized() // creationHash
	r.raw(6)  // creationTicket: tag, hierarchy
	r.sized() // its digest
	r.sized() // name
	return public
}

// nvChunk asks how many bytes one NV_Read may return.
func (t transport) nvChunk() (int, error) {
	w := new(writer).u32(capProperties).u32(propertyNVBuffer).u32(1)
	r := t.run(command{ccGetCapability, nil, nil, w.bytes, false})
	r.raw(1) // moreData
	r.expect(r.u32() == capProperties && r.u32() == 1 && r.u32() == propertyNVBuffer)
	limit := r.u32()
	r.expect(limit > 0)
	return int(min(limit, maxNVChunk)), r.end()
}

// readNV returns the content of an NV index, or nil if there is none.
func (t transport) readNV(index uint32, chunk, longest int) ([]byte, error) {
	r := t.run(command{ccNVReadPublic, []uint32{index}, nil, nil, false})
	if code, refused := r.err.(responseCode); refused && code.is(rcHandle) {
		return nil, nil
	}
	attributes, size := readNVPublic(r, index)
	if r.expect(size <= longest); r.end() != nil {
		return nil, r.err
	}
	// As the owner first: of Azure's certificate only the platform knows the index's own password.
	authorisation := uint32(handleOwner)
	if attributes&nvOwnerRead == 0 {
		authorisation = index
	}
	content, err := t.readNVAs(authorisation, index, size, chunk)
	code, refused := err.(responseCode)
	// The owner has a password, or firmware has switched the owner off.
	if refused && (code.is(rcBadAuth) || code.is(rcHierarchy)) && attributes&nvAuthRead != 0 {
		content, err = t.readNVAs(index, index, size, chunk)
	}
	return content, err
}

// readNVAs reads size bytes of an NV index with the empty password of the owner or of the index itself.
func (t transport) readNVAs(authorisation, index uint32, size, chunk int) ([]byte, error) {
	content := make([]byte, 0, size)
	for len(content) < size {
		part := uint16(min(chunk, size-len(content)))
		w := new(writer).u16(part).u16(uint16(len(content)))
		r := t.run(command{ccNVRead, []uint32{authorisation, index}, password, w.bytes, false})
		r.expect(r.u16() == part)
		content = append(content, r.raw(int(part))...)
		if r.end() != nil {
			return nil, r.err
		}
	}
	return content, nil
}

// readNVPublic returns the attributes and the data size of a TPM2B_NV_PUBLIC that has a name behind it.
func readNVPublic(r *reader, index uint32) (attributes uint32, size int) {
	public := &reader{rest: r.sized()}
	r.sized() // name
	public.expect(public.u32() == index)
	public.u16() // nameAlg
	attributes = public.u32()
	public.sized() // authPolicy
	size = int(public.u16())
	r.expect(public.end() == nil)
	return attributes, size
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
func (b bank) appendSelection(w *writer, selected uint32) *writer {
	return w.u32(1).u16(b.algorithm).raw(3, byte(selected), byte(selected>>8), byte(selected>>16))
}

// readSelection reads a TPML_PCR_SELECTION of this bank alone and returns its bits; none for an empty list.
func (b bank) readSelection(r *reader) uint32 {
	count := r.u32()
	if count == 0 {
		return 0
	}
	r.expect(count == 1 && r.u16() == b.algorithm)
	head := r.raw(4)
	r.expect(head[0] == 3)
	return uint32(head[1]) | uint32(head[2])<<8 | uint32(head[3])<<16
}

// readReadings reads an answer of TPM2_PCR_Read: the update counter, which registers it has, and their values.
func (b bank) readReadings(r *reader) (counter, selected uint32, values [][]byte) {
	counter, selected = r.u32(), b.readSelection(r)
	r.expect(int(r.u32()) == bits.OnesCount32(selected))
	for range bits.OnesCount32(selected) {
		r.expect(int(r.u16()) == b.digestSize)
		values = append(values, r.raw(b.digestSize))
	}
	return counter, selected, values
}

// readPCRs returns all registers of a bank as they were at one moment: TPM2_PCR_Read gives eight at a time, so all are
// read again if the update counter moved in between. An unallocated bank is errBank.
func (t transport) readPCRs(b bank) (all [registers][]byte, err error) {
	var first uint32
	missing := uint32(allRegisters)
	for range maxPCRReadings {
		r := t.run(command{ccPCRRead, nil, nil, b.appendSelection(new(writer), missing).bytes, false})
		if code, refused := r.err.(responseCode); refused && code.is(rcHash) {
			return all, errBank // the TPM does not know the algorithm at all
		}
		counter, selected, values := b.readReadings(r)
		if r.expect(selected&^missing == 0); r.end() != nil {
			return all, r.err
		}
		if selected == 0 {
			return all, errBank
		}
		if missing != allRegisters && counter != first {
			missing = allRegisters
			continue
		}
		first = counter
		missing &^= selected
		for i := range all {
			if selected>>i&1 == 1 {
				all[i], values = values[0], values[1:]
			}
		}
		if missing == 0 {
			return all, nil
		}
	}
	return all, errReply
}

// quote has the key sign all registers of the bank and returns TPMS_ATTEST and TPMT_SIGNATURE.
func (t transport) quote(ak uint32, extraData []byte, b bank) (attest, signature []byte, err error) {
	w := new(writer).sized(extraData).u16(algNull) // the key's own scheme
	b.appendSelection(w, allRegisters)
	r := t.run(command{ccQuote, []uint32{ak}, password, w.bytes, false})
	attest, signature = readQuote(r)
	return attest, signature, r.end()
}

func readQuote(r *reader) (attest, signature []byte) {
	attest = r.sized()
	signature = r.rest
	scheme := r.u16()
	r.expect(r.u16() == algSHA256)
	switch scheme {
	case algECDSA:
		r.expect(len(r.sized()) <= p256Bytes && len(r.sized()) <= p256Bytes)
	case algRSASSA:
		r.expect(len(r.sized()) <= rsaBytes)
	default:
		r.expect(false)
	}
	return attest, signature
}

// startPolicySession opens a policy session without salt or binding.
func (t transport) startPolicySession(nonce []byte) (uint32, error) {
	w := new(writer).sized(nonce).sized(nil) // nonceCaller, encryptedSalt
	w.raw(sessionPolicy).u16(algNull).u16(algSHA256)
	r := t.run(command{ccStartAuthSession, []uint32{handleNull, handleNull}, nil, w.bytes, true})
	r.sized() // nonceTPM
	return r.handle, r.end()
}

// policySecret proves the endorsement hierarchy's (empty) password to the session, which is the EK's policy.
func (t transport) policySecret(session uint32) error {
	w := new(writer).sized(nil).sized(nil).sized(nil).u32(0) // nonceTPM, cpHashA, policyRef, expiration
	r := t.run(command{ccPolicySecret, []uint32{handleEndorsement, session}, password, w.bytes, false})
	r.sized() // timeout
	r.raw(6)  // policyTicket: tag, hierarchy
	r.sized() // its digest
	return r.end()
}

// activateCredential returns what a credential made for the AK's name holds. The session ends if it succeeds.
func (t transport) activateCredential(ak, ek, session uint32, blob, secret []byte) ([]byte, error) {
	w := new(writer).raw(blob...).raw(secret...)
	r := t.run(command{ccActivateCredential, []uint32{ak, ek}, []uint32{passwordAuth, session}, w.bytes, false})
	activated := r.sized()
	return activated, r.end()
}

// flush removes a key or a session. The handle is a parameter here (Part 3, TPM2_FlushContext).
func (t transport) flush(handle uint32) error {
	return t.run(command{ccFlushContext, nil, nil, new(writer).u32(handle).bytes, false}).end()
}
