package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Constants of TPM 2.0 Part 2 (revision 1.59) that the wire form needs.
const (
	tagNoSessions = 0x8001 // TPM_ST_NO_SESSIONS
	tagSessions   = 0x8002 // TPM_ST_SESSIONS
	handleNull    = 0x40000007
	passwordAuth  = 0x40000009 // TPM_RS_PW
	headerBytes   = 10
	maxReplyBytes = 4096 // the largest buffer of any TPM's command interface

	rcYielded responseCode = 0x908
	rcTesting responseCode = 0x90a
	rcRetry   responseCode = 0x922
	// A format-one code is 0x080 + error, plus parameter (0x040), session (0x800) and their number (0xf00).
	rcFormatOne     = 0x080
	rcFormatOneMask = 0x0bf
	rcHash          = 0x083
	rcHandle        = 0x08b
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

// isFormatOne reports whether the code is about a handle, a session or a parameter of the command.
func (c responseCode) isFormatOne() bool { return uint32(c)&^0xfff == 0 && uint32(c)&rcFormatOne != 0 }

// is reports whether the code is the given format-one error, whatever handle, session or parameter it is about.
func (c responseCode) is(formatOne uint32) bool {
	return c.isFormatOne() && uint32(c)&rcFormatOneMask == formatOne
}

// writer builds TPM structures: everything big-endian, without padding (Part 1, "Canonical form").
type writer struct{ bytes []byte }

func (w *writer) raw(b ...byte) *writer  { w.bytes = append(w.bytes, b...); return w }
func (w *writer) u16(v uint16) *writer   { w.bytes = binary.BigEndian.AppendUint16(w.bytes, v); return w }
func (w *writer) u32(v uint32) *writer   { w.bytes = binary.BigEndian.AppendUint32(w.bytes, v); return w }
func (w *writer) sized(b []byte) *writer { return w.u16(uint16(len(b))).raw(b...) } // TPM2B_*

// reader takes structures apart. The first thing that is wrong stays its error for good, and all reads after it give
// zeros; end has to be asked at last.
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

// command is one TPM command. Every session is a password session with the empty password or a policy session, so none
// carries a nonce or an HMAC.
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
	w := new(writer).u16(c.tag()).u32(0).u32(c.code)
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

func (c command) tag() uint16 {
	if len(c.sessions) > 0 {
		return tagSessions
	}
	return tagNoSessions
}

// parseReply returns a reader over the reply's parameters; its error is a responseCode if the TPM refused.
func (c command) parseReply(reply []byte) *reader {
	r := &reader{rest: reply}
	tag, size, code := r.u16(), r.u32(), r.u32()
	r.expect(size == uint32(len(reply)))
	if code != 0 {
		r.expect(tag == tagNoSessions)
		if r.end() == nil {
			r.err = responseCode(code)
		}
		return r
	}
	r.expect(tag == c.tag())
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
	return func(command []byte) ([]byte, error) {
		if n, err := uninterrupted(syscall.Write, descriptor, command); err != nil || n != len(command) {
			return nil, errReply
		}
		reply := make([]byte, maxReplyBytes)
		for got, want := 0, headerBytes; ; {
			n, err := uninterrupted(syscall.Read, descriptor, reply[got:])
			if got += n; err != nil || n == 0 {
				return nil, errReply
			}
			if got >= headerBytes {
				want = int(binary.BigEndian.Uint32(reply[2:]))
			}
			switch {
			case got > want || want > maxReplyBytes:
				return nil, errReply
			case got == want && got >= headerBytes:
				return reply[:got], nil
			}
		}
	}, syscall.SetNonblock(descriptor, false)
}

// uninterrupted repeats a call that a signal broke off; the Go runtime sends signals to its own threads.
func uninterrupted(call func(int, []byte) (int, error), descriptor int, bytes []byte) (int, error) {
	for {
		n, err := call(descriptor, bytes)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
