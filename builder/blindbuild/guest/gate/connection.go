package main

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	maxConnections = 64                     // bounds memory: one costs about 100 KiB besides its request and answer
	stallLimit     = 500 * time.Millisecond // a client that made the gate wait less is not evicted
)

// connection is one accepted TCP connection, as crypto/tls wants it. It is an os.File and not a net.TCPConn: package
// net would ask for socket options and addresses, and none of those calls is in the gate's allow-list.
type connection struct {
	*os.File
	table *table
	// The rest belongs to the table's lock.
	waitingSince time.Time // since when the gate waits for the client; zero while the gate itself works
	attested     bool      // evidence was given on it
	holds        burden
}

// burden is what of a recipe's request is in memory for a connection.
type burden byte

const (
	upload burden = iota + 1 // a long body that is still coming
	work                     // a whole body, then its answer
)

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

// table holds all open connections. When it is full, the connection that has kept the gate waiting longest makes room:
// somebody who opens connections and stays silent then displaces himself, and not those who speak.
type table struct {
	mutex   sync.Mutex
	open    map[*connection]bool
	maxHeld int // how many connections may have the same burden
}

func newTable(maxHeld int) *table {
	return &table{open: map[*connection]bool{}, maxHeld: maxHeld}
}

// add takes a connection in, evicting another if it must; false means that there is no room now.
func (t *table) add(c *connection) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if len(t.open) >= maxConnections && !t.evict(func(*connection) bool { return true }) {
		return false
	}
	c.table, c.waitingSince = t, time.Now()
	t.open[c] = true
	return true
}

// evict closes the connection of those wanted that has stalled longest, one without evidence first.
func (t *table) evict(wanted func(*connection) bool) bool {
	var victim *connection
	for c := range t.open {
		if c.waitingSince.IsZero() || time.Since(c.waitingSince) < stallLimit || !wanted(c) {
			continue
		}
		if victim == nil || victim.attested && !c.attested ||
			victim.attested == c.attested && c.waitingSince.Before(victim.waitingSince) {
			victim = c
		}
	}
	if victim == nil {
		return false
	}
	delete(t.open, victim)
	_ = victim.Close()
	return true
}

// remove closes a connection; one that was evicted is closed already.
func (t *table) remove(c *connection) {
	c.note(func() { delete(t.open, c) })
	_ = c.Close()
}

// claim asks for the right to have a burden, instead of the one it has.
func (t *table) claim(c *connection, wanted burden) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	held := 0
	for other := range t.open {
		if other.holds == wanted {
			held++
		}
	}
	if held >= t.maxHeld && !t.evict(func(other *connection) bool { return other.holds == wanted }) {
		return false
	}
	c.holds = wanted
	return true
}

// waits notes that it is the client's turn, for so long.
func (c *connection) waits(limit time.Duration) {
	now := time.Now()
	c.note(func() { c.waitingSince = now })
	_ = c.SetDeadline(now.Add(limit))
}

// works notes that it is the gate's turn: the connection is not evicted now.
func (c *connection) works() { c.note(func() { c.waitingSince = time.Time{} }) }

// progress notes that the client took or gave another piece.
func (c *connection) progress() {
	c.note(func() {
		if !c.waitingSince.IsZero() {
			c.waitingSince = time.Now()
		}
	})
}

// Write is called once a TLS record.
func (c *connection) Write(b []byte) (int, error) {
	n, err := c.File.Write(b)
	c.progress()
	return n, err
}

// note changes what the table knows of the connection.
func (c *connection) note(change func()) {
	c.table.mutex.Lock()
	defer c.table.mutex.Unlock()
	change()
}
