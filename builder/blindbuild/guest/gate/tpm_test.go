package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

// unhex decodes hex with spaces.
func unhex(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(text), []byte(" "), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// reply frames parameters as a TPM does, without or with one session.
func reply(session bool, handle []byte, parameters []byte) []byte {
	w := new(writer).u16(tagNoSessions).u32(0).u32(0).raw(handle...)
	if session {
		w = new(writer).u16(tagSessions).u32(0).u32(0).raw(handle...).u32(uint32(len(parameters)))
	}
	w.raw(parameters...)
	if session {
		w.sized(nil).raw(1).sized(nil)
	}
	return setSize(w.bytes)
}

func refusal(code uint32) []byte {
	return setSize(new(writer).u16(tagNoSessions).u32(0).u32(code).bytes)
}

func setSize(message []byte) []byte {
	copy(message[2:], new(writer).u32(uint32(len(message))).bytes)
	return message
}

// The first four commands are those seen in swtpm's log when tpm2-tools 5.4 sends them (tpm2_pcrread sha256:all,
// tpm2_flushcontext 0x80000001, tpm2_nvreadpublic 0x1c00002, tpm2_readpublic -c 0x81000003). The quote is written after
// Part 3: the tool uses a session.
func TestCommandsHaveTheBytesOtherToolsSend(t *testing.T) {
	var sent []byte
	record := transport(func(command []byte) ([]byte, error) {
		sent = command
		return nil, errors.New("recorded")
	})
	_, _ = record.readPCRs(banks["sha256"])
	if want := unhex(t, "8001 00000014 0000017e 00000001 000b 03 ffffff"); !bytes.Equal(sent, want) {
		t.Errorf("TPM2_PCR_Read: %x", sent)
	}
	_ = record.flush(0x80000001)
	if want := unhex(t, "8001 0000000e 00000165 80000001"); !bytes.Equal(sent, want) {
		t.Errorf("TPM2_FlushContext: %x", sent)
	}
	_, _ = record.readNV(0x01c00002, 512, maxCertificate)
	if want := unhex(t, "8001 0000000e 00000169 01c00002"); !bytes.Equal(sent, want) {
		t.Errorf("TPM2_NV_ReadPublic: %x", sent)
	}
	_, _ = record.readPublic(0x81000003)
	if want := unhex(t, "8001 0000000e 00000173 81000003"); !bytes.Equal(sent, want) {
		t.Errorf("TPM2_ReadPublic: %x", sent)
	}
	_, _, _ = record.quote(0x80000001, []byte{1, 2, 3}, banks["sha384"])
	want := "8002 0000002c 00000158 80000001 00000009 40000009 0000 00 0000 0003 010203 0010 00000001 000c 03 ffffff"
	if !bytes.Equal(sent[10:], unhex(t, want)[10:]) || len(sent) != int(sent[5]) {
		t.Errorf("TPM2_Quote: %x", sent)
	}
}

func TestTheTemplatesAreThoseOfTheProfiles(t *testing.T) {
	// Seen in swtpm's log for tpm2_createprimary -C e -G ecc256:ecdsa-sha256:null
	// -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign'.
	ak := "0023 000b 00050072 0000 0010 0018 000b 0003 0010 0000 0000"
	if got := akTemplate(); !bytes.Equal(got, unhex(t, ak)) {
		t.Errorf("AK: %x", got)
	}
	ek := "0001 000b 000300b2 0020 837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa" +
		"0006 0080 0043 0010 0800 00000000 0100" + hex.EncodeToString(make([]byte, 256))
	if got := ekTemplate(); !bytes.Equal(got, unhex(t, ek)) {
		t.Errorf("EK: %x", got)
	}
}

// wellFormed holds for every reply of the exchange one that is right, and how it is read.
func wellFormed(t *testing.T) map[string]struct {
	bytes []byte
	read  func([]byte) error
} {
	return map[string]struct {
		bytes []byte
		read  func([]byte) error
	}{
		"CreatePrimary": {unhex(t, "0002 aaaa 0001 bb 0002 cccc 8021 4000000b 0002 dddd 0003 eeeeee"), func(b []byte) error {
			r := &reader{rest: b}
			readCreatedPrimary(r)
			return r.end()
		}},
		"NV_ReadPublic": {unhex(t, "000e 01c00002 000b 62072001 0000 03f8 0002 abcd"), func(b []byte) error {
			r := &reader{rest: b}
			attributes, size := readNVPublic(r, 0x01c00002)
			r.expect(attributes == 0x62072001 && size == 0x3f8)
			return r.end()
		}},
		"PCR_Read": {unhex(t, "00000007 00000001 000b 03 010080 00000002"+
			"0020"+hex.EncodeToString(make([]byte, 32))+"0020"+hex.EncodeToString(make([]byte, 32))), func(b []byte) error {
			r := &reader{rest: b}
			counter, selected, values := banks["sha256"].readReadings(r)
			r.expect(counter == 7 && selected == 1<<0|1<<23 && len(values) == 2)
			return r.end()
		}},
		"ReadPublic": {unhex(t, "0002 aaaa 0003 bbbbbb 0001 cc"), func(b []byte) error {
			r := &reader{rest: b}
			r.expect(bytes.Equal(readKeptPublic(r), []byte{0xaa, 0xaa}))
			return r.end()
		}},
		"Quote with ECDSA": {unhex(t, "0003 aabbcc 0018 000b 0002 0102 0001 03"), func(b []byte) error {
			r := &reader{rest: b}
			readQuote(r)
			return r.end()
		}},
		"Quote with RSASSA": {unhex(t, "0003 aabbcc 0014 000b 0002 0102"), func(b []byte) error {
			r := &reader{rest: b}
			readQuote(r)
			return r.end()
		}},
	}
}

func TestEveryCutOrLongerReplyIsRefused(t *testing.T) {
	for name, form := range wellFormed(t) {
		if err := form.read(form.bytes); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for i := range form.bytes {
			if err := form.read(form.bytes[:i]); err != errReply {
				t.Errorf("%s cut after %d: %v", name, i, err)
			}
		}
		if err := form.read(append(bytes.Clone(form.bytes), 0)); err != errReply {
			t.Errorf("%s with a byte more: %v", name, err)
		}
	}
}

func TestASignatureOfAnotherSchemeIsNoQuotes(t *testing.T) {
	long := hex.EncodeToString(make([]byte, rsaBytes+1))
	for _, signature := range []string{
		"0016 000b 0002 0102", "0014 0004 0002 0102", "0018 000c 0001 01 0001 01", "0010", "0005 000b 0001 01",
		"0014 000b 0101" + long, "0018 000b 0021" + long[:66] + "0001 01",
	} {
		r := &reader{rest: unhex(t, "0001 aa"+signature)}
		if readQuote(r); r.end() != errReply {
			t.Errorf("%s was taken", signature)
		}
	}
}

func TestReplyFramesAreStrict(t *testing.T) {
	plain, withSession := command{code: ccPCRRead}, command{code: ccQuote, sessions: password, newHandle: true}
	for _, form := range []struct {
		command command
		bytes   []byte
	}{{plain, reply(false, nil, []byte{1, 2})}, {withSession, reply(true, []byte{8, 0, 0, 1}, []byte{1, 2})}} {
		r := form.command.parseReply(form.bytes)
		if r.raw(2); r.end() != nil {
			t.Fatal(r.err)
		}
		for i := range form.bytes {
			if r := form.command.parseReply(form.bytes[:i]); r.end() != errReply {
				t.Errorf("cut after %d: %v", i, r.err)
			}
			changed := bytes.Clone(form.bytes)
			changed[min(i, 5)] ^= 0x10 // tag or size
			if r := form.command.parseReply(changed); r.end() != errReply {
				t.Errorf("byte %d changed: %v", i, r.err)
			}
		}
	}
	if r := plain.parseReply(refusal(0x101)); r.err != responseCode(0x101) {
		t.Error(r.err)
	}
	if r := plain.parseReply(setSize(append(refusal(0x101), 0))); r.err != errReply {
		t.Error(r.err)
	}
}

func TestATPMThatAsksToTryAgainIsAskedAgain(t *testing.T) {
	answers := [][]byte{refusal(0x922), refusal(0x908), refusal(0x90a), reply(false, nil, nil)}
	device := transport(func([]byte) ([]byte, error) {
		next := answers[0]
		answers = answers[1:]
		return next, nil
	})
	if err := device.flush(1); err != nil || len(answers) != 0 {
		t.Error(err)
	}
}

// fakePCRs answers TPM2_PCR_Read with eight registers at a time.
type fakePCRs struct {
	counter  uint32
	moves    int // how often a register is extended between two commands
	bankName string
}

func (f *fakePCRs) transport(command []byte) ([]byte, error) {
	b := banks[f.bankName]
	r := &reader{rest: command[10:]}
	asked := b.readSelection(r)
	if r.err != nil {
		return reply(false, nil, new(writer).u32(f.counter).u32(0).u32(0).bytes), nil
	}
	var given uint32
	count := 0
	values := new(writer)
	for i := range registers {
		if asked>>i&1 == 1 && count < 8 {
			given |= 1 << i
			count++
			values.sized(bytes.Repeat([]byte{byte(i), byte(f.counter)}, b.digestSize/2))
		}
	}
	w := b.appendSelection(new(writer).u32(f.counter), given).u32(uint32(count)).raw(values.bytes...)
	if f.moves > 0 {
		f.moves--
		f.counter++
	}
	return reply(false, nil, w.bytes), nil
}

func TestRegistersAreReadAgainWhenTheyMoved(t *testing.T) {
	for _, moves := range []int{0, 1, 2, 5} {
		f := &fakePCRs{moves: moves, bankName: "sha384"}
		values, err := transport(f.transport).readPCRs(banks["sha384"])
		if err != nil {
			t.Fatal(err)
		}
		for i, value := range values {
			if !bytes.Equal(value, bytes.Repeat([]byte{byte(i), byte(moves)}, 24)) {
				t.Errorf("%d moves: register %d is %x", moves, i, value)
			}
		}
	}
	f := &fakePCRs{moves: 1000, bankName: "sha256"}
	if _, err := transport(f.transport).readPCRs(banks["sha256"]); err != errReply {
		t.Error(err)
	}
}

func TestABankThatIsNotThereIsNamed(t *testing.T) {
	other := &fakePCRs{bankName: "sha256"}
	if _, err := transport(other.transport).readPCRs(banks["sha384"]); err != errBank {
		t.Error(err)
	}
	unknown := transport(func([]byte) ([]byte, error) { return refusal(0x1c3), nil })
	if _, err := unknown.readPCRs(banks["sha512"]); err != errBank {
		t.Error(err)
	}
}

func FuzzReply(f *testing.F) {
	f.Add(reply(false, nil, []byte{1, 2, 3}))
	f.Add(reply(true, []byte{1, 2, 3, 4}, []byte{0, 3, 1, 2, 3}))
	f.Add(refusal(0x922))
	f.Fuzz(func(_ *testing.T, bytes []byte) {
		for _, c := range []command{{}, {newHandle: true}, {sessions: password}, {sessions: []uint32{1, 2}, newHandle: true}} {
			readCreatedPrimary(c.parseReply(bytes))
			readKeptPublic(c.parseReply(bytes))
			readNVPublic(c.parseReply(bytes), 1)
			readQuote(c.parseReply(bytes))
			banks["sha512"].readReadings(c.parseReply(bytes))
		}
	})
}
