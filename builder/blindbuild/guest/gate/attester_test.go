package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"testing"
)

// Templates as Google's two indices have them, by size and kind (88 and 280 bytes), with a unique field that is not empty.
var (
	gceECC = "0023 000b 00050072 0000 0010 0018 000b 0003 0010 0020" + twice("a1", 32) + "0020" + twice("a2", 32)
	gceRSA = "0001 000b 00050072 0000 0010 0014 000b 0800 00000000 0100" + twice("a3", 256)
	// azureKey is the public area of Azure's key: noDA is set.
	azureKey = "0001 000b 00050472 0000 0010 0014 000b 0800 00000000 0100" + twice("b1", 256)
)

func twice(digits string, times int) string { return string(bytes.Repeat([]byte(digits), times)) }

// fakeTPM keeps NV indices and keys, and makes a primary key of every template that it takes.
type fakeTPM struct {
	t          *testing.T
	nv         map[uint32][]byte
	attributes uint32 // of every index
	owner      uint32 // what it says to a read as the owner, or 0
	kept       map[uint32][]byte
	refuse     uint32                             // what it says to CreatePrimary of anything but our own templates, or 0
	make       func(template, made []byte) []byte // what it makes of a template
	loaded     map[uint32]bool
	codes      []uint32
}

func (f *fakeTPM) transport(command []byte) ([]byte, error) {
	r := &reader{rest: command[6:]}
	code := r.u32()
	f.codes = append(f.codes, code)
	switch code {
	case ccGetCapability:
		return reply(false, nil, new(writer).raw(0).u32(capProperties).u32(1).u32(propertyNVBuffer).u32(64).bytes), nil
	case ccNVReadPublic:
		index := r.u32()
		content, there := f.nv[index]
		if !there {
			return refusal(0x18b), nil
		}
		public := new(writer).u32(index).u16(algSHA256).u32(f.attributes).sized(nil).u16(uint16(len(content)))
		return reply(false, nil, new(writer).sized(public.bytes).sized([]byte("name")).bytes), nil
	case ccNVRead:
		authorisation, index := r.u32(), r.u32()
		if authorisation == handleOwner && f.owner != 0 {
			return refusal(f.owner), nil
		}
		r.raw(4 + 9)
		size, offset := r.u16(), r.u16()
		return reply(true, nil, new(writer).sized(f.nv[index][offset:offset+size]).bytes), nil
	case ccReadPublic:
		public, there := f.kept[r.u32()]
		if !there {
			return refusal(0x18b), nil
		}
		return reply(false, nil, new(writer).sized(public).sized([]byte("name")).sized([]byte("qualified")).bytes), nil
	case ccCreatePrimary:
		r.raw(4 + 4 + 9)
		r.sized()
		return f.createPrimary(r.sized())
	case ccFlushContext:
		delete(f.loaded, r.u32())
		return reply(false, nil, nil), nil
	}
	f.t.Errorf("command 0x%x", code)
	return refusal(0x143), nil
}

func (f *fakeTPM) createPrimary(template []byte) ([]byte, error) {
	own := bytes.Equal(template, akTemplate()) || bytes.Equal(template, ekTemplate())
	if !own && f.refuse != 0 {
		return refusal(f.refuse), nil
	}
	unique, _ := uniqueOffset(template)
	made := append(bytes.Clone(template[:unique]), unhex(f.t, "0002 c1c1")...)
	if binary.BigEndian.Uint16(template) == algECC {
		made = append(made, unhex(f.t, "0002 c2c2")...)
	}
	if !own && f.make != nil {
		made = f.make(template, made)
	}
	handle := 0x80000000 + uint32(len(f.codes))
	f.loaded[handle] = true
	w := new(writer).sized(made).sized(nil).sized(nil).raw(0x80, 0x21, 0x40, 0, 0, 0x0b).sized(nil).sized(nil)
	return reply(true, new(writer).u32(handle).bytes, w.bytes), nil
}

func newFakeTPM(t *testing.T, nv map[uint32]string) *fakeTPM {
	f := &fakeTPM{t: t, nv: map[uint32][]byte{}, attributes: 0x62072001, kept: map[uint32][]byte{}, loaded: map[uint32]bool{}}
	for index, content := range nv {
		f.nv[index] = unhex(t, content)
	}
	return f
}

// attested returns the public area of the key that quotes, without its size and unique field, and its certificate.
func attested(t *testing.T, f *fakeTPM) (public, certificate string) {
	t.Helper()
	a := newAttester(f.transport)
	if err := a.withTPM(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	area := a.ak.public[2:]
	unique, err := uniqueOffset(area)
	if err != nil || int(binary.BigEndian.Uint16(a.ak.public)) != len(area) {
		t.Fatalf("%x %v", a.ak.public, err)
	}
	return fmt.Sprintf("%x", area[:unique]), string(a.akCertified)
}

const ownKey, rsaKey = "0023000b00050072000000100018000b00030010", "0001000b00050072000000100014000b080000000000"

var certificateText = hex.EncodeToString([]byte("certificate")) + "0000"

func TestTheKeyThatACloudCertifiedIsTaken(t *testing.T) {
	for name, c := range map[string]struct {
		nv   map[uint32]string
		kept bool
		want string
		none bool // no certificate
	}{
		"nothing":                     {want: ownKey, none: true},
		"Google's ECC key":            {nv: map[uint32]string{0x01c10002: certificateText, 0x01c10003: gceECC}, want: ownKey},
		"Google's RSA key":            {nv: map[uint32]string{0x01c10000: certificateText, 0x01c10001: gceRSA}, want: rsaKey},
		"Google's RSA key, half ECC":  {nv: map[uint32]string{0x01c10002: "aa", 0x01c10000: certificateText, 0x01c10001: gceRSA}, want: rsaKey},
		"ECC before RSA":              {nv: map[uint32]string{0x01c10002: certificateText, 0x01c10003: gceECC, 0x01c10000: "aa", 0x01c10001: gceRSA}, want: ownKey},
		"Azure's key":                 {nv: map[uint32]string{0x01c101d0: certificateText}, kept: true, want: "0001000b00050472000000100014000b080000000000"},
		"a kept key, no certificate":  {kept: true, want: ownKey, none: true},
		"a certificate, no kept key":  {nv: map[uint32]string{0x01c101d0: certificateText}, want: ownKey, none: true},
		"a template, no certificate":  {nv: map[uint32]string{0x01c10003: gceECC, 0x01c10001: gceRSA}, want: ownKey, none: true},
		"a certificate, no template":  {nv: map[uint32]string{0x01c10002: "aa", 0x01c10000: "aa"}, want: ownKey, none: true},
		"an unrestricted template":    {nv: map[uint32]string{0x01c10002: certificateText, 0x01c10003: "0023 000b 00040072 0000 0010 0018 000b 0003 0010 0000 0000"}, want: "0023000b00040072000000100018000b00030010"},
		"a template with a policy":    {nv: map[uint32]string{0x01c10002: certificateText, 0x01c10003: "0023 000b 00050072 0002 abcd 0010 0018 000b 0003 0010 0000 0000"}, want: "0023000b000500720002abcd00100018000b00030010"},
		"a template with a symmetric": {nv: map[uint32]string{0x01c10002: certificateText, 0x01c10003: "0023 000b 00030072 0000 0006 0080 0043 0010 0003 0010 0000 0000"}, want: "0023000b0003007200000006008000430010" + "00030010"},
	} {
		f := newFakeTPM(t, c.nv)
		if c.kept {
			f.kept[0x81000003] = unhex(t, azureKey)
		}
		want := "certificate\x00\x00"
		if c.none {
			want = ""
		}
		if public, certificate := attested(t, f); public != c.want || certificate != want {
			t.Errorf("%s: %s, certificate %q", name, public, certificate)
		}
	}
}

// A key that a certificate names and that cannot be had is never passed over for our own, which would be a different claim.
func TestAPairThatDoesNotWorkIsAnError(t *testing.T) {
	pair := func(template string) map[uint32]string {
		return map[uint32]string{0x01c10002: certificateText, 0x01c10003: template}
	}
	flip := func(at int) func(template, made []byte) []byte {
		return func(_, made []byte) []byte { made[at] ^= 1; return made }
	}
	for name, c := range map[string]*fakeTPM{
		"an empty template":          newFakeTPM(t, pair("")),
		"a template of another kind": newFakeTPM(t, pair("0008 000b 00050072 0000 0010 0018 000b 0003 0010 0000 0000")),
		"a template that is cut":     newFakeTPM(t, pair("0023 000b 00050072 0000 0010 0018 000b")),
		"a key derivation":           newFakeTPM(t, pair("0023 000b 00050072 0000 0010 0018 000b 0003 0020 000b 0000 0000")),
		"a template of 513 bytes":    newFakeTPM(t, pair(gceRSA+twice("00", 233))),
		"a certificate of 8 KiB":     newFakeTPM(t, map[uint32]string{0x01c10002: twice("00", 8193), 0x01c10003: gceECC}),
		"a template that is refused": {refuse: 0x2c3},
		"other attributes":           {make: flip(6)},
		"another curve":              {make: flip(17)},
		"nothing made":               {make: func(_, _ []byte) []byte { return nil }},
	} {
		f := c
		if f.t == nil {
			f = newFakeTPM(t, pair(gceECC))
			f.refuse, f.make = c.refuse, c.make
		}
		a := newAttester(f.transport)
		for range 3 {
			if err := a.withTPM(func() error { t.Error("there is no key"); return nil }); err != errTPM {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(f.loaded) != 1 { // the endorsement key
			t.Errorf("%s: %d keys are loaded", name, len(f.loaded))
		}
	}
	kept := newFakeTPM(t, map[uint32]string{0x01c101d0: certificateText})
	broken := newAttester(func(command []byte) ([]byte, error) {
		if binary.BigEndian.Uint32(command[6:]) == ccReadPublic {
			return refusal(0x101), nil
		}
		return kept.transport(command)
	})
	if err := broken.withTPM(func() error { return nil }); err != errTPM {
		t.Error(err)
	}
}

func TestATemplateOf512BytesIsRead(t *testing.T) {
	f := newFakeTPM(t, map[uint32]string{0x01c10002: certificateText, 0x01c10003: gceRSA + twice("00", 232)})
	if public, _ := attested(t, f); public != rsaKey {
		t.Error(public)
	}
}

// TPM_RC_BAD_AUTH of session 1: the owner has a password, or the index has one.
func TestAnIndexIsReadByWhoeverMay(t *testing.T) {
	const byOwner, byIndex, byBoth = nvOwnerRead, nvAuthRead, nvOwnerRead | nvAuthRead
	for _, c := range []struct {
		attributes, owner uint32
		want              error
	}{
		{byBoth, 0, nil}, {byOwner, 0, nil}, {byIndex, 0, nil}, {byIndex, 0x9a2, nil}, {byBoth, 0x9a2, nil}, {byBoth, 0x185, nil},
		{byOwner, 0x9a2, responseCode(0x9a2)}, {byOwner, 0x185, responseCode(0x185)}, {byBoth, 0x101, responseCode(0x101)},
	} {
		f := newFakeTPM(t, map[uint32]string{0x01c101d0: twice("ab", 150)})
		f.attributes, f.owner = c.attributes, c.owner
		content, err := transport(f.transport).readNV(0x01c101d0, 64, 150)
		if err != c.want || err == nil && !bytes.Equal(content, bytes.Repeat([]byte{0xab}, 150)) {
			t.Errorf("attributes %x, owner %x: %x %v", c.attributes, c.owner, content, err)
		}
	}
}

func TestKeysAreMadeOnce(t *testing.T) {
	f := newFakeTPM(t, map[uint32]string{0x01c10002: certificateText, 0x01c10003: gceECC})
	a := newAttester(f.transport)
	for range 3 {
		if err := a.withTPM(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	made := 0
	for _, code := range f.codes {
		if code == ccCreatePrimary {
			made++
		}
	}
	if made != 2 {
		t.Errorf("%d keys were made", made)
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add(akTemplate())
	f.Add(ekTemplate())
	f.Fuzz(func(t *testing.T, template []byte) {
		if unique, err := uniqueOffset(template); err == nil && (unique < 20 || unique > len(template)) {
			t.Errorf("%d of %d", unique, len(template))
		}
	})
}
