package main

import (
	"net"
	"os"
	"syscall"
	"time"
)

// maxHandshakeBytes is what a client may send before its handshake is done; one with every extension sends 4 KiB.
const maxHandshakeBytes = 16 * kib

// connection is one accepted TCP connection, as crypto/tls wants it. It is an os.File and not a net.TCPConn: package
// net would ask for socket options and addresses, and none of those calls is in the gate's allow-list.
type connection struct {
	*os.File
	address [4]byte // compared, never shown
	table   *table

	// These belong to the connection's own goroutine.
	arrived   bool // the handshake is done
	taken     int  // bytes before that
	computing bool // it has one of the turns

	// The rest belongs to the table's lock.
	from     *host
	came     uint64 // its number in the order of arrival
	attested bool   // evidence was given on it
	gone     bool
	since    time.Time // since when the client is waited for; zero while the gate itself works
	moved    int       // bytes it has taken or given since then
	pace     int       // bytes a second it must keep to hold its places when others want them
	holds    [lines]bool
	last     [lines]uint64 // when it got its last turn in each line
}

func (c *connection) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (c *connection) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// shutdownWrite ends the gate's half of the stream.
func shutdownWrite(file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_WR) })
}

// waits notes that it is the client's turn, for so long.
func (c *connection) waits(limit time.Duration) { c.transfers(0, limit) }

// transfers notes that the client shall take or give size bytes, within a time.
func (c *connection) transfers(size int, limit time.Duration) {
	c.table.locked(func() { c.since, c.moved, c.pace = c.table.now(), 0, max(busyRate, size/busySeconds) })
	_ = c.SetDeadline(time.Now().Add(limit))
}

// works notes that it is the gate's turn: the connection is not evicted now.
func (c *connection) works() { c.table.locked(func() { c.since = time.Time{} }) }

// progress notes that the client took or gave another piece.
func (c *connection) progress(size int) { c.table.locked(func() { c.moved += size }) }

// Write is called once a TLS record.
func (c *connection) Write(b []byte) (int, error) {
	c.endTurn()
	n, err := c.File.Write(b)
	c.progress(n)
	return n, err
}

// Read takes a turn with what came before the handshake is done: key exchange and signature are dear, and a flood of
// them shall leave the processors to those who are in. Who was evicted meanwhile costs no more.
func (c *connection) Read(b []byte) (int, error) {
	if c.arrived {
		return c.File.Read(b)
	}
	c.endTurn()
	if c.taken >= maxHandshakeBytes {
		return 0, errRequest
	}
	n, err := c.File.Read(b[:min(len(b), maxHandshakeBytes-c.taken)])
	c.taken += n
	if err == nil {
		c.table.turns <- struct{}{}
		c.computing = true
		if c.table.isGone(c) {
			return 0, os.ErrClosed
		}
	}
	return n, err
}

// arrive notes that the handshake is over, one way or the other.
func (c *connection) arrive() {
	c.endTurn()
	c.arrived = true
}

func (c *connection) endTurn() {
	if c.computing {
		c.computing = false
		<-c.table.turns
	}
}
