package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Constants of TPM 2.0 Part 2 (revision 1.59) that the wire form needs.
const (
	tagNoSessions = 0x8001     // TPM_ST_NO_SESSIONS
	tagSessions   = 0x8002     // TPM_ST_SESSIONS
	passwordAuth  = 0x40000009 // TPM_RS_PW
	headerBytes   = 10
	maxReplyBytes = 4096 // the largest buffer of any TPM's command interface

	rcYielded responseCode = 0x908
	rcTesting responseCode = 0x90a
	rcRetry   responseCode = 0x922
	// A format-one code is 0x080 + error, plus parameter (0x040) or session (0x800) and their number (0xf00).
	rcHash      responseCode = 0x083
	rcHandle    responseCode = 0x08b
	rcBadAuth   responseCode = 0x0a2
	rcHierarchy responseCode = 0x085
)

const (
	maxTries     = 60 // of one command that the TPM asks to repeat
	firstPause   = 5 * time.Millisecond
	longestPause = 500 * time.Millisecond
)

var errReply = errors.New("the TPM's reply is not well formed")

// responseCode is a TPM_RC other than success.
type responseCode uint32

func (c responseCode) Error() string { return fmt.Sprintf("TPM response code 0x%x", uint32(c)) }

// is reports whether the code is the given format-one error, whatever handle, session or parameter it is about.
func (c responseCode) is(formatOne responseCode) bool { return c&^0xf40 == formatOne }

// isWarning reports whether the code is a TPM_RC_WARN: about the TPM's state, not about what was sent.
func (c responseCode) isWarning() bool { return c&0x980 == 0x900 }

// writer builds TPM structures: everything big-endian, without padding (Part 1, "Canonical form").
type writer struct{ bytes []byte }

func (w *writer) raw(b ...byte) *writer  { w.bytes = append(w.bytes, b...); return w }
func (w *writer) u16(v uint16) *writer   { w.bytes = binary.BigEndian.AppendUint16(w.bytes, v); return w }
func (w *writer) u32(v uint32) *writer   { w.bytes = binary.BigEndian.AppendUint32(w.bytes, v); return w }
func (w *writer) sized(b []byte) *writer { return w.u16(uint16(len(b))).raw(b...) } // TPM2B_*

// reader takes structures apart. The first error stays, and all reads after it give zeros; end has to be asked at last.
type reader struct {
	rest   []byte
	err    error
	handle uint32 // of a reply whose command makes an object
}

func (r *reader) raw(n int) []byte {
	if r.expect(n <= len(r.rest)); r.err != nil {
		return make([]byte, min(n, 8)) // the integers below need their bytes
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u16() uint16   { return binary.BigEndian.Uint16(r.raw(2)) }
func (r *reader) u32() uint32   { return binary.BigEndian.Uint32(r.raw(4)) }
func (r *reader) sized() []byte { return r.raw(int(r.u16())) }

func (r *reader) expect(holds bool) {
	if !holds && r.err == nil {
		r.err = errReply
	}
}

func (r *reader) end() error {
	r.expect(len(r.rest) == 0)
	return r.err
}

// tag is the first field of a command, by whether it has sessions, and of the reply to it.
var tag = map[bool]uint16{false: tagNoSessions, true: tagSessions}

// command is one TPM command. Its sessions are for the empty password or a policy: no nonce, no HMAC.
type command struct {
	code       uint32
	handles    []uint32
	sessions   []uint32
	parameters []byte
	newHandle  bool // the reply has a handle
}

// marshal writes the command.
//
// Source: TPM 2.0 Part 1, "Command/response structure"; Part 2, TPMS_AUTH_COMMAND.
func (c command) marshal() []byte {
	w := new(writer).u16(tag[len(c.sessions) > 0]).u32(0).u32(c.code)
	for _, handle := range c.handles {
		w.u32(handle)
	}
	if len(c.sessions) > 0 {
		var area writer
		for _, session := range c.sessions {
			// No nonce; attributes 0: the session ends with the command; the HMAC is the empty password.
			area.u32(session).sized(nil).raw(0).sized(nil)
		}
		w.u32(uint32(len(area.bytes))).raw(area.bytes...)
	}
	w.raw(c.parameters...)
	binary.BigEndian.PutUint32(w.bytes[2:], uint32(len(w.bytes)))
	return w.bytes
}

// parseReply returns a reader over the reply's parameters; its error is a responseCode if the TPM refused.
func (c command) parseReply(reply []byte) *reader {
	r := &reader{rest: reply}
	found, size, code := r.u16(), r.u32(), r.u32()
	r.expect(size == uint32(len(reply)))
	if code != 0 {
		r.expect(found == tagNoSessions)
		if r.end() == nil {
			r.err = responseCode(code)
		}
		return r
	}
	r.expect(found == tag[len(c.sessions) > 0])
	if c.newHandle {
		r.handle = r.u32()
	}
	if len(c.sessions) == 0 {
		return r
	}
	parameters := r.raw(int(r.u32()))
	for range c.sessions {
		r.sized() // nonce
		r.raw(1)  // attributes
		r.sized() // HMAC
	}
	return &reader{rest: parameters, err: r.end(), handle: r.handle}
}

// transport sends one command and returns the whole reply.
type transport func(command []byte) ([]byte, error)

// run sends the command, again as long as the TPM asks for it.
func (t transport) run(c command) *reader {
	bytes, pause := c.marshal(), firstPause
	for tries := 1; ; tries++ {
		reply, err := t(bytes)
		if err != nil {
			return &reader{err: err}
		}
		r := c.parseReply(reply)
		again := r.err == rcRetry || r.err == rcYielded || r.err == rcTesting
		if !again || tries == maxTries {
			return r
		}
		time.Sleep(pause)
		pause = min(2*pause, longestPause)
	}
}

// openDevice returns the transport over a descriptor of /dev/tpmrm0: one write is one command, then the reply is read.
// A reply in several pieces is put together, which a stream socket to a TPM needs.
//
// Source: Linux drivers/char/tpm/tpm-dev-common.c.
func openDevice(descriptor int) (transport, error) {
	err := syscall.SetNonblock(descriptor, false)
	file := os.NewFile(uintptr(descriptor), "TPM")
	return func(command []byte) ([]byte, error) {
		if _, err := file.Write(command); err != nil {
			return nil, err
		}
		reply := make([]byte, maxReplyBytes)
		for got, want := 0, headerBytes; ; {
			n, err := file.Read(reply[got:])
			if err != nil {
				return nil, err
			}
			if got += n; got >= headerBytes {
				want = int(binary.BigEndian.Uint32(reply[2:]))
			}
			switch {
			case got > want || want > maxReplyBytes:
				return nil, errReply
			case got == want && got >= headerBytes:
				return reply[:got], nil
			}
		}
	}, err
}
