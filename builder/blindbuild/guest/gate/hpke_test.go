package main

import (
	"bytes"
	"crypto/ecdh"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

var aes128GCM = hpkeAEAD{0x0001, 16} // what the RFCs' vectors for X25519 have

func privateKey(t *testing.T, text string) *ecdh.PrivateKey {
	t.Helper()
	key, err := ecdh.X25519().NewPrivateKey(unhex(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// RFC 9180 appendix A.1.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, base mode.
func TestHPKEGivesTheValuesOfItsRFC(t *testing.T) {
	private := privateKey(t, "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
	encapsulated := unhex(t, "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431")
	shared, err := decapsulate(private, encapsulated)
	if hex.EncodeToString(shared) != "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc" || err != nil {
		t.Errorf("shared secret %x, %v", shared, err)
	}
	c, err := aes128GCM.receive(private, encapsulated, unhex(t, "4f6465206f6e2061204772656369616e2055726e"))
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(c.exporter) != "45ff1c2e220db587171952c0592d5f5ebe103f1561a2614e38f2ffd47e99e3f8" {
		t.Errorf("exporter secret %x", c.exporter)
	}
	if hex.EncodeToString(c.nonce) != "56d890e5accaaf011cff4b7d" {
		t.Errorf("base nonce %x", c.nonce)
	}
	sealed := unhex(t, "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9 6d8770ac83d07bea87e13c512a")
	if text, err := c.open([]byte("Count-0"), sealed); string(text) != "Beauty is truth, truth beauty" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	for use, want := range map[string]string{
		"":            "3853fe2b4035195a573ffc53856e77058e15d9ea064de3e59f4961d0095250ee",
		"\x00":        "2e8f0b54673c7029649d4eb9d5e33bf1872cf76d623ff164ac185da9e88c21a5",
		"TestContext": "e9e43065102c3836401bed8c3c3c75ae46be1639869391d62c61f1ec7af54931",
	} {
		if secret, err := c.export(use, 32); hex.EncodeToString(secret) != want || err != nil {
			t.Errorf("exported for %q: %x, %v", use, secret, err)
		}
	}
}

// RFC 9458 appendix A: a whole request and its answer.
func TestAnAnswerIsSealedAsInTheRFCOfObliviousHTTP(t *testing.T) {
	private := privateKey(t, "3c168975674b2fa8e465970b79c8dcf09f1c741626480bd4c6162fc5b6a98e1a")
	encapsulated := unhex(t, "4b28f881333e7c164ffc499ad9796f877f4e1051ee6d31bad19dec96c208b472")
	info := unhex(t, "6d6573736167652f626874747020726571756573740001002000010001")
	c, err := aes128GCM.receive(private, encapsulated, info)
	if err != nil {
		t.Fatal(err)
	}
	request, err := c.open(nil, unhex(t, "6374e469135906992e1268c594d2a10c695d858c40a026e7965e7d86b83dd440b2c0185204b4d63525"))
	if hex.EncodeToString(request) != "00034745540568747470730b6578616d706c652e636f6d012f" || err != nil {
		t.Errorf("%x, %v", request, err)
	}
	secret, err := c.export("message/bhttp response", aes128GCM.keyBytes)
	if hex.EncodeToString(secret) != "62d87a6ba569ee81014c2641f52bea36" || err != nil {
		t.Errorf("secret %x, %v", secret, err)
	}
	salt := unhex(t, "c789e7151fcba46158ca84b04464910d")
	aead, nonce, err := aes128GCM.answering(secret, encapsulated, salt)
	if hex.EncodeToString(nonce) != "f6bf1aeb88d6df87007fa263" || err != nil {
		t.Fatalf("nonce %x, %v", nonce, err)
	}
	answer := aead.Seal(salt, nonce, unhex(t, "0140c8"), nil)
	if want := "c789e7151fcba46158ca84b04464910d86f9013e404feea014e7be4a441f234f857fbd"; hex.EncodeToString(answer) != want {
		t.Errorf("answer %x", answer)
	}
}

// A point of small order gives the same secret to everybody (RFC 7748 section 6.1, RFC 9180 section 7.1.4).
func TestAKeyThatWouldGiveAKnownSecretIsRefused(t *testing.T) {
	private := privateKey(t, "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
	for _, point := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p - 1
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800", // of order 8
		"00",
	} {
		if _, err := aes256GCM.receive(private, unhex(t, point), nil); err == nil {
			t.Errorf("%s was taken", point)
		}
	}
}

// sender is the other half, for tests: SetupBaseS of RFC 9180 section 5.1.1.
type sender struct {
	*hpkeContext
	encapsulated []byte
}

func newSender(t *testing.T, recipient *ecdh.PublicKey, info []byte) sender {
	t.Helper()
	ephemeral := privateKey(t, "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
	secret, err := ephemeral.ECDH(recipient)
	if err != nil {
		t.Fatal(err)
	}
	l := &labels{suite: kemSuite}
	encapsulated := ephemeral.PublicKey().Bytes()
	shared := l.expand(l.extract(nil, "eae_prk", secret), "shared_secret", append(bytes.Clone(encapsulated), recipient.Bytes()...), 32)
	c := &hpkeContext{labels: labels{suite: hpkeSuite + "\x00\x02"}}
	schedule := append([]byte{0}, append(c.extract(nil, "psk_id_hash", nil), c.extract(nil, "info_hash", info)...)...)
	base := c.extract(shared, "secret", nil)
	c.nonce, c.exporter = c.expand(base, "base_nonce", schedule, 12), c.expand(base, "exp", schedule, 32)
	if c.aead, err = newGCM(c.expand(base, "key", schedule, 32)); err != nil {
		t.Fatal(err)
	}
	return sender{c, encapsulated}
}

// body is what the client POSTs: docs/spec/hpke-channel.md.
func (s sender) body(session, message []byte) []byte {
	return s.aead.Seal(append(bytes.Clone(session), s.encapsulated...), s.nonce, message, session)
}

// openAnswer is the client's part of RFC 9458 section 4.4.
func (s sender) openAnswer(t *testing.T, body []byte) []byte {
	t.Helper()
	secret, _ := s.export(answerLabel, 32)
	aead, nonce, err := aes256GCM.answering(secret, s.encapsulated, body[:32])
	if err != nil {
		t.Fatal(err)
	}
	text, err := aead.Open(nil, nonce, body[32:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// packed is a request's number and length, then itself, then zeros.
func packed(number uint64, text string, zeros int) []byte {
	message := binary.BigEndian.AppendUint64(nil, number)
	message = binary.BigEndian.AppendUint32(message, uint32(len(text)))
	return append(append(message, text...), make([]byte, zeros)...)
}
