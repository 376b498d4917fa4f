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
	*os.File
	table *table
	// The rest belongs to the table's lock.
	waitingSince time.Time // since when the gate waits for the client; zero while the gate itself works
	attested     bool      // evidence was given on it
	holdsBody    bool
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
	c.note(func() { delete(t.open, c) })
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

// waits notes that it is the client's turn, for so long.
func (c *connection) waits(limit time.Duration) {
	now := time.Now()
	c.note(func() { c.waitingSince = now })
	_ = c.SetDeadline(now.Add(limit))
}

// note changes what the table knows of the connection.
func (c *connection) note(change func()) {
	c.table.mutex.Lock()
	defer c.table.mutex.Unlock()
	change()
}
