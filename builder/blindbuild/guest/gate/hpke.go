package main

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// This file is the receiving half of HPKE in base mode, with DHKEM(X25519, HKDF-SHA256) and HKDF-SHA256, for one message a
// context. Go 1.24 has no public package for it.
//
// Source: RFC 9180; section numbers below are its.

const (
	hpkeVersion = "HPKE-v1"
	kemSuite    = "KEM\x00\x20"          // 4.1: DHKEM(X25519, HKDF-SHA256)
	hpkeSuite   = "HPKE\x00\x20\x00\x01" // 5.1: that KEM, HKDF-SHA256; the AEAD's identifier comes behind it
	hpkeBase    = 0                      // 5: mode_base
	keyBytes    = 32                     // 7.1: Npk, Nenc and Nsecret of the KEM
	hashBytes   = 32                     // 7.2: Nh
	nonceBytes  = 12                     // 7.3: Nn
)

// hpkeAEAD is an AEAD of section 7.3: AES-GCM with keys of some length.
type hpkeAEAD struct {
	identifier uint16
	keyBytes   int
}

var aes256GCM = hpkeAEAD{0x0002, 32}

// labels derives keys under one suite's name (section 4). What goes wrong first stays in err.
type labels struct {
	suite string
	err   error
}

func (l *labels) extract(salt []byte, label string, material []byte) []byte {
	key, err := hkdf.Extract(sha256.New, slices.Concat([]byte(hpkeVersion+l.suite+label), material), salt)
	l.err = cmp.Or(l.err, err)
	return key
}

func (l *labels) expand(secret []byte, label string, info []byte, length int) []byte {
	size := binary.BigEndian.AppendUint16(nil, uint16(length))
	key, err := hkdf.Expand(sha256.New, secret, string(size)+hpkeVersion+l.suite+label+string(info), length)
	l.err = cmp.Or(l.err, err)
	return key
}

// decapsulate returns what the sender and the owner of the key share (section 4.1). A point of small order, whose shared
// secret would be zero, is an error of package ecdh, as section 7.1.4 wants it.
func decapsulate(private *ecdh.PrivateKey, encapsulated []byte) ([]byte, error) {
	ephemeral, err := ecdh.X25519().NewPublicKey(encapsulated)
	if err != nil {
		return nil, err
	}
	secret, err := private.ECDH(ephemeral)
	if err != nil {
		return nil, err
	}
	l := &labels{suite: kemSuite}
	context := slices.Concat(encapsulated, private.PublicKey().Bytes())
	return l.expand(l.extract(nil, "eae_prk", secret), "shared_secret", context, keyBytes), l.err
}

// hpkeContext opens one message, and derives secrets that its sender can derive too.
type hpkeContext struct {
	labels
	aead     cipher.AEAD
	nonce    []byte
	exporter []byte
}

// receive is SetupBaseR and the key schedule (section 5.1).
func (a hpkeAEAD) receive(private *ecdh.PrivateKey, encapsulated, info []byte) (*hpkeContext, error) {
	shared, err := decapsulate(private, encapsulated)
	if err != nil {
		return nil, err
	}
	c := &hpkeContext{labels: labels{suite: hpkeSuite + string(binary.BigEndian.AppendUint16(nil, a.identifier))}}
	schedule := slices.Concat([]byte{hpkeBase}, c.extract(nil, "psk_id_hash", nil), c.extract(nil, "info_hash", info))
	secret := c.extract(shared, "secret", nil)
	key := c.expand(secret, "key", schedule, a.keyBytes)
	c.nonce = c.expand(secret, "base_nonce", schedule, nonceBytes)
	c.exporter = c.expand(secret, "exp", schedule, hashBytes)
	if c.err != nil {
		return nil, c.err
	}
	c.aead, err = newGCM(key)
	return c, err
}

// open returns the context's first message, in the place of its ciphertext.
func (c *hpkeContext) open(additional, ciphertext []byte) ([]byte, error) {
	return c.aead.Open(ciphertext[:0], c.nonce, ciphertext, additional)
}

// export returns a secret for another use (section 5.3).
func (c *hpkeContext) export(use string, length int) ([]byte, error) {
	secret := c.expand(c.exporter, "sec", []byte(use), length)
	return secret, c.err
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
