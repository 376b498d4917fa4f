package main

import (
	"sync"
	"time"
)

const (
	// Two sets of places, so that strangers displace strangers and nobody who has evidence. One connection costs at most
	// 64 KiB besides what its places in the lines are for.
	maxStrangers = 256
	maxAttested  = 128
	fairShare    = 4 // an address with more than a fourth of the places makes room first

	busyPatience = time.Second
	busyRate     = 64 * kib // bytes a second that keep a transfer going when others want its place
	busySeconds  = 60       // in which the longest body must be through then
)

// places are how many connections there may be, by whether they have evidence.
var places = map[bool]int{false: maxStrangers, true: maxAttested}

// host is one address while it has connections. Behind a load balancer all have the same, so that its numbers only ever
// decide between addresses.
type host struct {
	open map[bool]int  // connections, by whether they have evidence
	last [lines]uint64 // when it got its last turn in each line
}

// table holds all open connections. When it is full somebody makes room: of those without evidence who came first, as
// activity alone shall keep nobody in; of those with evidence who has been silent longest. Nobody does for whom the gate
// works, or who has a place in a line and keeps the pace: lines are short, so that there is always somebody else.
type table struct {
	mutex sync.Mutex
	now   func() time.Time
	turns chan struct{} // handshakes that compute at the same time
	open  map[*connection]bool
	count map[bool]int // open ones, by whether they have evidence
	hosts map[[4]byte]*host
	clock uint64 // grows with every arrival and every turn
	lines [lines]line
}

func newTable(capacity [lines]int, processors int) *table {
	t := &table{
		now: time.Now, turns: make(chan struct{}, processors), open: map[*connection]bool{}, count: map[bool]int{},
		hosts: map[[4]byte]*host{},
	}
	for i := range t.lines {
		t.lines[i].capacity = capacity[i]
	}
	return t
}

// tick numbers what happens, in order.
func (t *table) tick() uint64 {
	t.clock++
	return t.clock
}

// add takes a connection in, evicting another if it must; false means that there is no room now.
func (t *table) add(c *connection) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if !t.hasRoom(false) {
		return false
	}
	if t.hosts[c.address] == nil {
		t.hosts[c.address] = &host{open: map[bool]int{}}
	}
	c.table, c.from, c.came, c.since = t, t.hosts[c.address], t.tick(), t.now()
	t.open[c] = true
	t.register(c, 1)
	return true
}

// register counts a connection in or out.
func (t *table) register(c *connection, change int) {
	t.count[c.attested] += change
	c.from.open[c.attested] += change
}

// attest notes that evidence was given on a connection.
func (t *table) attest(c *connection) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if c.gone || c.attested || !t.hasRoom(true) {
		return
	}
	t.register(c, -1)
	c.attested = true
	t.register(c, 1)
}

// hasRoom reports whether there is a place for one more, and closes a connection if there was none.
func (t *table) hasRoom(attested bool) bool {
	if t.count[attested] < places[attested] {
		return true
	}
	greedy := func(c *connection) bool { return c.from.open[attested] > places[attested]/fairShare }
	var victim *connection
	for c := range t.open {
		if c.attested != attested || c.since.IsZero() || c.holds != [lines]bool{} && t.lateness(c) <= 0 {
			continue
		}
		if victim == nil || greedy(c) && !greedy(victim) || greedy(c) == greedy(victim) && c.olderThan(victim) {
			victim = c
		}
	}
	return t.drop(victim)
}

func (c *connection) olderThan(other *connection) bool {
	if c.attested {
		return c.since.Before(other.since)
	}
	return c.came < other.came
}

// lateness is how long ago the client would have had to be through with what it has taken or given, at the busy rate.
func (t *table) lateness(c *connection) time.Duration {
	if c.since.IsZero() {
		return 0
	}
	return t.now().Sub(c.since) - busyPatience - time.Duration(c.moved)*time.Second/time.Duration(max(c.pace, 1))
}

// drop closes a connection and gives its places to others.
func (t *table) drop(c *connection) bool {
	if c == nil || c.gone {
		return false
	}
	c.gone = true
	delete(t.open, c)
	t.register(c, -1)
	if c.from.open[false]+c.from.open[true] == 0 {
		delete(t.hosts, c.address)
	}
	_ = c.Close()
	for l := range t.lines {
		t.release(c, l)
	}
	return true
}

// remove closes a connection; one that was evicted is closed already.
func (t *table) remove(c *connection) {
	t.locked(func() { t.drop(c) })
}

func (t *table) isGone(c *connection) (gone bool) {
	t.locked(func() { gone = c.gone })
	return gone
}

func (t *table) locked(do func()) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	do()
}
