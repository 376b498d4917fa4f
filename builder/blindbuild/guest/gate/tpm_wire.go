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

	rcYielded = 0x908
	rcTesting = 0x90a
	rcRetry   = 0x922
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

func (w *writer) u8(v byte)      { w.bytes = append(w.bytes, v) }
func (w *writer) u16(v uint16)   { w.bytes = binary.BigEndian.AppendUint16(w.bytes, v) }
func (w *writer) u32(v uint32)   { w.bytes = binary.BigEndian.AppendUint32(w.bytes, v) }
func (w *writer) raw(b []byte)   { w.bytes = append(w.bytes, b...) }
func (w *writer) sized(b []byte) { w.u16(uint16(len(b))); w.raw(b) } // TPM2B_*

// reader takes TPM structures apart. The first read past the end makes it failed for good; end must be asked at last.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) raw(n int) []byte {
	if r.failed || n > len(r.rest) {
		r.failed = true
		return make([]byte, min(n, 8)) // the integers below need their bytes
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() byte      { return r.raw(1)[0] }
func (r *reader) u16() uint16   { return binary.BigEndian.Uint16(r.raw(2)) }
func (r *reader) u32() uint32   { return binary.BigEndian.Uint32(r.raw(4)) }
func (r *reader) u64() uint64   { return binary.BigEndian.Uint64(r.raw(8)) }
func (r *reader) sized() []byte { return r.raw(int(r.u16())) }

// expect fails the reader unless got is want.
func (r *reader) expect(got, want uint32) {
	if got != want {
		r.failed = true
	}
}

func (r *reader) end() error {
	if r.failed || len(r.rest) != 0 {
		return errReply
	}
	return nil
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
	var w writer
	w.u16(c.tag())
	w.u32(0)
	w.u32(c.code)
	for _, handle := range c.handles {
		w.u32(handle)
	}
	if len(c.sessions) > 0 {
		var area writer
		for _, session := range c.sessions {
			area.u32(session)
			area.sized(nil) // nonce
			area.u8(0)      // attributes: the session ends with the command
			area.sized(nil) // hmac: the empty password
		}
		w.u32(uint32(len(area.bytes)))
		w.raw(area.bytes)
	}
	w.raw(c.parameters)
	binary.BigEndian.PutUint32(w.bytes[2:], uint32(len(w.bytes)))
	return w.bytes
}

func (c command) tag() uint16 {
	if len(c.sessions) > 0 {
		return tagSessions
	}
	return tagNoSessions
}

// parseReply returns the reply's handle, if the command has one, and its parameters; responseCode if the TPM refused.
func (c command) parseReply(reply []byte) (uint32, []byte, error) {
	r := &reader{rest: reply}
	tag, size, code := r.u16(), r.u32(), r.u32()
	r.expect(size, uint32(len(reply)))
	if !r.failed && code != 0 {
		if tag != tagNoSessions || len(r.rest) != 0 {
			return 0, nil, errReply
		}
		return 0, nil, responseCode(code)
	}
	r.expect(uint32(tag), uint32(c.tag()))
	var handle uint32
	if c.newHandle {
		handle = r.u32()
	}
	if len(c.sessions) == 0 {
		parameters := r.raw(len(r.rest))
		return handle, parameters, r.end()
	}
	length := r.u32()
	if uint64(length) > uint64(len(r.rest)) {
		return 0, nil, errReply
	}
	parameters := r.raw(int(length))
	for range c.sessions {
		r.sized() // nonce
		r.u8()    // attributes
		r.sized() // hmac
	}
	return handle, parameters, r.end()
}

// transport sends one command and returns the whole reply.
type transport func(command []byte) ([]byte, error)

// run sends the command, again as long as the TPM asks for it.
func (t transport) run(c command) (uint32, []byte, error) {
	bytes, pause := c.marshal(), firstPause
	for tries := 1; ; tries++ {
		reply, err := t(bytes)
		if err != nil {
			return 0, nil, err
		}
		handle, parameters, err := c.parseReply(reply)
		code, refused := err.(responseCode)
		again := refused && (code == rcRetry || code == rcYielded || code == rcTesting)
		if !again || tries == maxTries {
			return handle, parameters, err
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
	if err := syscall.SetNonblock(descriptor, false); err != nil {
		return nil, err
	}
	return func(command []byte) ([]byte, error) {
		if n, err := uninterrupted(syscall.Write, descriptor, command); err != nil || n != len(command) {
			return nil, errReply
		}
		reply, want := make([]byte, maxReplyBytes), headerBytes
		for got := 0; ; {
			n, err := uninterrupted(syscall.Read, descriptor, reply[got:])
			if err != nil || n == 0 {
				return nil, errReply
			}
			if got += n; got >= headerBytes {
				want = int(binary.BigEndian.Uint32(reply[2:]))
			}
			if want < headerBytes || want > maxReplyBytes || got > want {
				return nil, errReply
			}
			if got >= headerBytes && got == want {
				return reply[:got], nil
			}
		}
	}, nil
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
