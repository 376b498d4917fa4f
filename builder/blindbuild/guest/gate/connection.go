package main

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxConnections bounds memory: a connection costs about 100 KiB besides its request and answer.
const maxConnections = 64

// connection is one accepted TCP connection, as crypto/tls wants it. It is an os.File and not a net.TCPConn: package
// net would ask for socket options and addresses, and none of those calls is in the gate's allow-list.
type connection struct {
	file  *os.File
	table *table
	// The rest belongs to the table's lock.
	waitingSince time.Time // since when the gate waits for the client; zero while the gate itself works
	attested     bool      // evidence was given on it
	holdsBody    bool
}

type noAddress struct{}

func (noAddress) Network() string { return "tcp" }
func (noAddress) String() string  { return "" }

func (c *connection) Read(b []byte) (int, error)         { return c.file.Read(b) }
func (c *connection) Write(b []byte) (int, error)        { return c.file.Write(b) }
func (c *connection) Close() error                       { return c.file.Close() }
func (c *connection) LocalAddr() net.Addr                { return noAddress{} }
func (c *connection) RemoteAddr() net.Addr               { return noAddress{} }
func (c *connection) SetDeadline(t time.Time) error      { return c.file.SetDeadline(t) }
func (c *connection) SetReadDeadline(t time.Time) error  { return c.file.SetReadDeadline(t) }
func (c *connection) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }

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
	mutex     sync.Mutex
	open      map[*connection]bool
	maxBodies int // how many connections may hold a request of a recipe route
}

func newTable(maxBodies int) *table {
	return &table{open: map[*connection]bool{}, maxBodies: maxBodies}
}

// add takes a connection in, evicting another if it must; false means that there is no room.
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

// evict closes the connection of those wanted that has waited longest, one without evidence first.
func (t *table) evict(wanted func(*connection) bool) bool {
	var victim *connection
	for c := range t.open {
		if c.waitingSince.IsZero() || !wanted(c) {
			continue
		}
		earlier := victim == nil || c.waitingSince.Before(victim.waitingSince)
		if victim == nil || (c.attested == victim.attested && earlier) || (!c.attested && victim.attested) {
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
	t.mutex.Lock()
	delete(t.open, c)
	t.mutex.Unlock()
	_ = c.Close()
}

// claimBody asks for the right to hold a request's body in memory.
func (t *table) claimBody(c *connection) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	held := 0
	for other := range t.open {
		if other.holdsBody {
			held++
		}
	}
	if held >= t.maxBodies && !t.evict(func(other *connection) bool { return other.holdsBody && other != c }) {
		return false
	}
	c.holdsBody = true
	return true
}

func (t *table) releaseBody(c *connection) {
	t.mutex.Lock()
	c.holdsBody = false
	t.mutex.Unlock()
}

// waits notes that it is the client's turn, until the deadline.
func (c *connection) waits(deadline time.Time) {
	c.table.mutex.Lock()
	c.waitingSince = time.Now()
	c.table.mutex.Unlock()
	_ = c.SetDeadline(deadline)
}

// works notes that it is the gate's turn: the connection is not evicted now.
func (c *connection) works() {
	c.table.mutex.Lock()
	c.waitingSince = time.Time{}
	c.table.mutex.Unlock()
}

func (c *connection) markAttested() {
	c.table.mutex.Lock()
	c.attested = true
	c.table.mutex.Unlock()
}

func (c *connection) isAttested() bool {
	c.table.mutex.Lock()
	defer c.table.mutex.Unlock()
	return c.attested
}
